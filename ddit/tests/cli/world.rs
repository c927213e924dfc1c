//! A folder with a model and pictures, and the program run in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ddit::config::{GenerationConfig, Recipe, SchedulerConfig, TransformerConfig, VaeConfig};
use ddit::data::decode::read_picture;
use ddit::folder::{Component, Folder};
use ddit::shapes::{Picture, WORDS};
use ddit::text::Tokenizer;
use ddit::train::config::Alpha;
use ddit::train::samples::write_png;
use ddit::{mmdit, vae};
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::DType;

/// Side of the model's pictures.
pub const SIDE: usize = 8;

/// A folder with a model, a picture, and whatever commands put there.
pub struct World {
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        save_model(&world.path("model"));
        write_png(&Picture::filled(11, 9, [200, 30, 30]), &world.path("red.png")).unwrap();
        write_png(&Picture::filled(8, 8, [30, 30, 200]), &world.path("blue.png")).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn picture(&self, name: &str) -> Picture {
        read_picture(self.path(name), Alpha::Drop).unwrap()
    }

    /// Runs the program in the folder.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        command_in(self.folder.path(), arguments)
    }

    /// Names of all files that a command may have left half written.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.') || name.ends_with(".tmp")).collect()
    }
}

/// The program about to be run in a folder.
pub fn command_in(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddit"));
    command.args(arguments).current_dir(folder).env_remove("DDIT_ISA").env_remove("DDIT_PROFILE");
    command
}

/// A model that works on pixels, with weights as they are before training.
pub fn save_model(path: &Path) {
    fresh_model(3, None).save(path).unwrap();
}

/// A model that works on latents, each of two by two pixels.
pub fn save_latent_model(path: &Path) {
    let config: VaeConfig = serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [4, 8], "layers_per_block": 1,
        "latent_channels": 4, "norm_num_groups": 2, "scaling_factor": 1.0,
    }))
    .unwrap();
    let weights = vae::inventory(&config).fresh(1, DType::BF16).unwrap();
    fresh_model(4, Some(Component { config, weights })).save(path).unwrap();
}

fn fresh_model(channels: usize, vae: Option<Component<VaeConfig>>) -> Folder {
    let tokenizer = Tokenizer::of_words(WORDS).unwrap();
    let config = TransformerConfig {
        vocab_size: tokenizer.len(),
        sample_size: SIDE,
        patch_size: 2,
        in_channels: channels,
        out_channels: channels,
        num_layers: 1,
        attention_head_dim: 8,
        num_attention_heads: 2,
        joint_attention_dim: 16,
        caption_projection_dim: 16,
        pooled_projection_dim: 0,
        pos_embed_max_size: SIDE / 2,
        text_embedding: true,
        max_text_length: Some(12),
        other: Default::default(),
    };
    let weights = mmdit::inventory(&config).fresh(7, DType::F32).unwrap();
    let generation = GenerationConfig {
        recipe: Recipe::Paper,
        steps: 2,
        guidance: 2.0,
        prompt_length: 12,
        text_length: 12,
        text_steps: 3,
        ..GenerationConfig::default()
    };
    let transformer = Component { config, weights };
    let scheduler = SchedulerConfig::new(1.0);
    Folder { transformer, text_encoder: None, vae, tokenizer, scheduler, generation }
}

/// What a run of the program came to.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// What a run came to that is given `input` to read.
    pub fn reading(mut command: Command, input: &str) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Self::from(child.wait_with_output().unwrap())
    }

    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran =
            Self { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Exit code 2, nothing on standard output, and an error that says all of `told`.
    #[track_caller]
    pub fn failed(self, told: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (2, ""), "{}", self.stderr);
        for told in told {
            assert!(self.stderr.contains(told), "{told} is not in: {}", self.stderr);
        }
    }

    /// Standard output as lines of JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

#[track_caller]
pub fn keys(line: &Value) -> Vec<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}
