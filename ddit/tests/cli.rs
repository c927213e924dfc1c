//! The program as its users meet it: arguments, exit codes, lines of JSON, files, mistakes.
//!
//! Everything runs on a tiny model with fresh weights: what it draws and writes is noise, but it is
//! drawn, written and reported as any model's.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ddit::config::{GenerationConfig, Recipe, SchedulerConfig, TransformerConfig};
use ddit::data::decode::read_picture;
use ddit::folder::{Component, Folder};
use ddit::mmdit;
use ddit::shapes::{Picture, WORDS};
use ddit::text::Tokenizer;
use ddit::train::config::Alpha;
use ddit::train::samples::write_png;
use serde_json::Value;
use tempfile::TempDir;
use tensor::DType;

/// Side of the model's pictures.
const SIDE: usize = 8;

/// A folder with a model, a picture, and whatever commands put there.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        save_model(&world.path("model"));
        write_png(&Picture::filled(11, 9, [200, 30, 30]), &world.path("red.png")).unwrap();
        write_png(&Picture::filled(8, 8, [30, 30, 200]), &world.path("blue.png")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn picture(&self, name: &str) -> Picture {
        read_picture(self.path(name), Alpha::Drop).unwrap()
    }

    /// Runs the program in the folder.
    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddit"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("DDIT_ISA");
        command
    }

    /// Names of all files that a command may have left half written.
    fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.') || name.ends_with(".tmp")).collect()
    }
}

/// A model that works on pixels, with weights as they are before training.
fn save_model(path: &Path) {
    let tokenizer = Tokenizer::of_words(WORDS).unwrap();
    let config = TransformerConfig {
        vocab_size: tokenizer.len(),
        sample_size: SIDE,
        patch_size: 2,
        in_channels: 3,
        out_channels: 3,
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
    Folder { transformer, vae: None, tokenizer, scheduler, generation }.save(path).unwrap();
}

/// What a run of the program came to.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran =
            Self { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Exit code 2, nothing on standard output, and an error that says all of `told`.
    #[track_caller]
    fn failed(self, told: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (2, ""), "{}", self.stderr);
        for told in told {
            assert!(self.stderr.contains(told), "{told} is not in: {}", self.stderr);
        }
    }

    /// Standard output as lines of JSON.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

#[track_caller]
fn keys(line: &Value) -> Vec<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn usage_errors_are_code_2_and_help_is_0() {
    let world = World::new();
    for arguments in [
        &[][..],
        &["draw"],
        &["generate"],
        &["generate", "a circle", "--steps", "0"],
        &["generate", "a circle", "--size", "64"],
        &["generate", "a circle", "--sampler", "magic"],
        &["generate", "a circle", "--prompts", "list.txt"],
        &["caption"],
        &["ask", "red.png"],
        &["train", "tiny"],
        &["train", "--resume", "run", "--out", "run"],
        &["eval", "everything"],
        &["bench", "step", "--case", "huge"],
    ] {
        world.run(arguments).failed(&["Usage"]);
    }
    let help = world.run(&["--help"]).succeeded().stdout;
    for command in ["demo", "train", "generate", "caption", "ask", "fill", "eval", "inspect"] {
        assert!(help.contains(command), "{help}");
        assert!(!world.run(&[command, "--help"]).succeeded().stdout.is_empty());
    }
}

#[test]
fn pictures_are_numbered_and_each_can_be_drawn_alone() {
    let world = World::new();
    world.write("list.txt", "a circle\n\na red square\nthree triangles\n");
    let base = ["generate", "--model", "model", "--json"];
    let many = [&base[..], &["--prompts", "list.txt", "-o", "all", "--seed", "5"]].concat();
    let lines = world.run(&many).succeeded().lines();
    for (i, (line, prompt)) in
        lines.iter().zip(["a circle", "a red square", "three triangles"]).enumerate()
    {
        assert_eq!(keys(line), ["prompt", "file", "seed"]);
        assert_eq!((&line["prompt"], &line["seed"]), (&prompt.into(), &(5 + i).into()));
        let file = format!("all/00{i}.png");
        assert_eq!(Path::new(line["file"].as_str().unwrap()), Path::new(&file));
        assert_eq!(world.picture(&file).width(), SIDE);
    }
    assert_eq!(lines.len(), 3);

    let alone = [&base[..], &["three triangles", "-o", "one.png", "--seed", "7"]].concat();
    world.run(&alone).succeeded();
    assert_eq!(world.picture("one.png"), world.picture("all/002.png"));
    let text = world.run(&["generate", "--model", "model", "a circle"]).succeeded().stdout;
    assert!(text.contains("000.png") && world.path("000.png").exists(), "{text}");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn options_of_drawing_matter_and_threads_do_not() {
    let world = World::new();
    let draw = |name: &str, more: &[&str]| {
        let base = ["generate", "a circle", "--model", "model", "-o", name];
        world.run(&[&base, more].concat()).succeeded();
        world.picture(name)
    };
    let plain = draw("plain.png", &["--threads", "1"]);
    assert_eq!(draw("threads.png", &["--threads", "3"]), plain);
    assert_ne!(draw("seed.png", &["--seed", "1"]), plain);
    assert_eq!(draw("size.png", &["--size", "4x8"]).width(), 4);
    draw("heun.png", &["--sampler", "heun", "--steps", "3", "--cfg", "1", "--negative", "a"]);

    let mut portable = world.command(&["generate", "a circle", "--model", "model"]);
    portable.args(["-o", "portable.png"]).env("DDIT_ISA", "portable");
    Ran::of(portable).succeeded();
    assert_eq!(world.picture("portable.png"), plain);

    let size = ["generate", "a circle", "--model", "model", "--size", "7x8"];
    world.run(&size).failed(&["7 x 8", "multiples of 2"]);
}

#[test]
fn a_trace_is_a_strip_and_a_file_about_it() {
    let world = World::new();
    let ran = world.run(&[
        "generate", "a circle", "--model", "model", "-o", "t", "--trace", "--steps", "4", "--json",
    ]);
    let line = &ran.succeeded().lines()[0];
    assert_eq!(keys(line), ["prompt", "file", "seed", "trace"]);
    let strip = world.picture(line["trace"].as_str().unwrap());
    assert_eq!((strip.width(), strip.height()), (4 * (SIDE + 2) + 2, SIDE + 4));
    let about = std::fs::read(world.path("t/000.trace.json")).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    assert_eq!(about["steps"].as_array().unwrap().len(), 4);
    assert_eq!(about["steps"][0]["sigma"], 1.0);
}

#[test]
fn texts_are_lines_with_their_seeds() {
    let world = World::new();
    let caption = ["caption", "red.png", "blue.png", "--model", "model", "--json", "--seed", "3"];
    let lines = world.run(&caption).succeeded().lines();
    assert_eq!(keys(&lines[0]), ["file", "text", "seed"]);
    assert_eq!((&lines[1]["file"], &lines[1]["seed"]), (&"blue.png".into(), &4.into()));
    let alone = ["caption", "blue.png", "--model", "model", "--seed", "4"];
    let text = world.run(&alone).succeeded().stdout;
    assert_eq!(text.trim_end_matches('\n'), lines[1]["text"].as_str().unwrap());

    world.write("q.txt", "red.png\tis there a circle?\nblue.png\thow many squares are there?\n");
    let lines = world.run(&["ask", "--questions", "q.txt", "--model", "model", "--json"]);
    let lines = lines.succeeded().lines();
    assert_eq!(keys(&lines[1]), ["file", "question", "answer", "seed"]);
    assert_eq!(lines[1]["question"], "how many squares are there?");
    world.run(&["ask", "red.png", "is there a circle?", "--model", "model"]).succeeded();

    let fill = ["fill", "a _ circle", "--image", "red.png", "--model", "model", "--json"];
    let line = &world.run(&fill).succeeded().lines()[0];
    assert_eq!(keys(line), ["file", "template", "text", "seed"]);
    assert!(line["text"].as_str().unwrap().ends_with("circle"), "{line}");
    let line = &world.run(&["fill", "_{3}", "--model", "model", "--json"]).succeeded().lines()[0];
    assert_eq!(line["file"], Value::Null);
}

#[test]
fn a_text_is_shown_being_unmasked() {
    let world = World::new();
    for sampler in ["exact", "ddpm-cache", "confidence"] {
        let base = ["caption", "red.png", "--model", "model", "--trace", "--sampler", sampler];
        let line = &world.run(&[&base[..], &["--json"]].concat()).succeeded().lines()[0];
        let steps = line["trace"].as_array().unwrap();
        let last = steps.last().unwrap()["tokens"].as_array().unwrap();
        assert!(last.iter().all(Value::is_string), "{sampler}: {line}");
        let text = world.run(&base).succeeded().stdout;
        assert_eq!(text.lines().count(), 1 + steps.len() + 2, "{text}");
    }
}

#[test]
fn unknown_words_are_pointed_out_and_drawn_all_the_same() {
    let world = World::new();
    let ran = world.run(&["generate", "a cirlce and a zebra", "--model", "model", "-o", "a.png"]);
    let stderr = ran.succeeded().stderr;
    assert!(stderr.contains("\"cirlce\"") && stderr.contains("\"circle\""), "{stderr}");
    assert!(stderr.contains("\"zebra\""), "{stderr}");
    assert!(world.path("a.png").exists());
    let long = "a circle and a circle and a circle and a circle";
    let stderr = world.run(&["generate", long, "--model", "model"]).succeeded().stderr;
    assert!(stderr.contains("cut off"), "{stderr}");
}

#[test]
fn bad_input_is_one_clear_error() {
    let world = World::new();
    world.write("empty.txt", "\n \n");
    world.write("list.txt", "red.png is there a circle?\n");
    world.write("text.png", "no picture at all");
    world.write("file", "");
    std::fs::create_dir(world.path("nothing")).unwrap();
    save_model(&world.path("broken"));
    let weights = "broken/transformer/diffusion_pytorch_model.safetensors";
    std::fs::write(world.path(weights), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    for (line, told) in [
        ("caption none.png --model model", &["none.png"][..]),
        ("caption text.png --model model", &["text.png", "PNG and JPEG"]),
        ("caption red.png --model nowhere", &["nowhere"]),
        ("caption red.png --model nothing", &["nothing"]),
        ("caption red.png --model broken", &["safetensors"]),
        ("generate --prompts none.txt --model model", &["none.txt"]),
        ("generate --prompts empty.txt --model model", &["empty.txt", "one prompt a line"]),
        ("generate a b --model model -o x.png", &["x.png", "2 pictures"]),
        ("generate a --model model -o x.jpg", &["x.jpg", "PNG"]),
        ("generate a --model model -o file/x.png", &["file"]),
        ("ask --questions list.txt --model model", &["list.txt, line 1", "tab"]),
        ("fill circle --model model", &["circle", "no hole"]),
        ("fill _{40} --model model", &["12 tokens"]),
        ("inspect nowhere", &["nowhere", "does not exist"]),
        ("inspect red.png", &["red.png"]),
        ("gradcheck tahn", &["tahn", "tanh"]),
        ("train shape --out run", &["shape", "did you mean `shapes`?"]),
        ("train tiny --out run --set run.step=1", &["run.step", "`steps`"]),
        ("train tiny --out run --set run.steps=no", &["run.steps"]),
        ("train --resume nowhere", &["nowhere"]),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let ran = world.run(&arguments);
        assert!(ran.stderr.starts_with("error: "), "{line}: {}", ran.stderr);
        ran.failed(told);
    }
    assert!(!world.path("run").exists(), "a run that cannot begin leaves nothing");
    assert!(!world.path("x.png").exists());

    let mut command = world.command(&["gradcheck", "tanh"]);
    command.env("DDIT_ISA", "quantum");
    Ran::of(command).failed(&["DDIT_ISA", "quantum", "portable"]);
}

#[test]
fn suites_are_scored_by_kind() {
    let world = World::new();
    for (suite, kinds) in [("shapes-geneval", 6), ("shapes-caption", 4), ("shapes-vqa", 5)] {
        let base = ["eval", suite, "--model", "model", "--per-kind", "1", "--steps", "1"];
        let ran = world.run(&[&base[..], &["--json", "--out", "scores"]].concat()).succeeded();
        let lines = ran.lines();
        let seen: Vec<&Value> = lines.iter().filter(|line| line["part"] == "seen").collect();
        assert_eq!(seen.len(), kinds + 1, "{suite}");
        assert_eq!(seen[kinds]["kind"], "overall");
        for line in &lines {
            let [low, rate, high] = ["low", "rate", "high"].map(|key| line[key].as_f64().unwrap());
            assert!(low <= rate + 1e-12 && rate <= high + 1e-12, "{line}");
        }
        let items = std::fs::read_to_string(world.path("scores/items.jsonl")).unwrap();
        let total: u64 = lines
            .iter()
            .filter(|line| line["kind"] == "overall")
            .map(|line| line["total"].as_u64().unwrap())
            .sum();
        assert_eq!(items.lines().count() as u64, total);
        assert!(world.path("scores/wrong.png").exists(), "fresh weights get something wrong");
        let text = world.run(&base).succeeded().stdout;
        assert!(text.contains("overall") && text.contains("novel"), "{text}");
    }
}

#[test]
fn the_demonstration_is_one_page() {
    let world = World::new();
    let lines = world.run(&["demo", "--model", "model", "-o", "d/e", "--json"]).succeeded().lines();
    let page = std::fs::read_to_string(world.path("d/e/index.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(!page.contains("http") && page.matches("data:image/png;base64,").count() > 24);
    assert_eq!(lines.iter().filter(|line| line.get("prompt").is_some()).count(), 24);
    assert!(lines.iter().any(|line| line.get("question").is_some()));
    assert!(lines.last().unwrap()["page"].as_str().unwrap().ends_with("index.html"));
    let text = world.run(&["demo", "--model", "model"]).succeeded().stdout;
    assert!(text.contains("24 pictures") && text.contains("ddit-demo"), "{text}");
}

#[test]
fn files_tell_what_they_hold() {
    let world = World::new();
    let lines = world.run(&["inspect", "model", "--json"]).succeeded().lines();
    let (whole, tensors) = lines.split_last().unwrap();
    assert_eq!(keys(&tensors[0]), ["part", "tensor", "dtype", "shape", "bytes"]);
    assert_eq!(whole["tensors"], tensors.len());
    assert!(whole["model"].as_str().unwrap().starts_with("dual diffusion transformer"));
    let numbers = |line: &Value| {
        let lengths = line["shape"].as_array().unwrap().iter();
        lengths.map(|length| length.as_u64().unwrap()).product::<u64>()
    };
    assert_eq!(whole["parameters"], tensors.iter().map(numbers).sum::<u64>());

    let file = "model/transformer/diffusion_pytorch_model.safetensors";
    let text = world.run(&["inspect", file, "--summary"]).succeeded().stdout;
    assert!(text.contains("transformer_blocks") && !text.contains("transformer_blocks.0"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let mut command = world.command(&["inspect", "model"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(String::from_utf8(stderr).unwrap(), "");
}

#[test]
fn operations_are_checked() {
    let world = World::new();
    let lines = world.run(&["gradcheck", "tanh", "--cases", "3", "--json"]).succeeded().lines();
    assert_eq!(
        (lines.len(), &lines[0]["op"], &lines[0]["passed"]),
        (1, &"tanh".into(), &true.into())
    );
    assert!(lines[0]["gradient_f64"].as_f64().unwrap() < 1e-6);
    let text = world.run(&["gradcheck", "tanh", "--cases", "1"]).succeeded().stdout;
    assert!(text.contains("all of 1 operations pass"), "{text}");
}

#[test]
fn speed_is_a_line_and_can_be_compared() {
    let world = World::new();
    let other = r#"echo '{"median_s": 1000}'"#;
    let base = ["bench", "forward", "--case", "nano", "--iters", "1", "--threads", "2"];
    let ran = world.run(&[&base[..], &["--vs", other, "--rounds", "2"]].concat()).succeeded();
    let line = &ran.lines()[0];
    let first = [
        "case",
        "mode",
        "threads",
        "median_s",
        "min_s",
        "gflops",
        "gflops_done",
        "peak_gflops",
        "share_of_peak",
        "peak_rss_mb",
    ];
    assert_eq!(keys(line)[..first.len()], first);
    assert_eq!((&line["threads"], &line["mode"]), (&2.into(), &"forward".into()));
    assert_eq!(line["ratios"].as_array().unwrap().len(), 2);
    let slower = line["ratio"].as_f64().unwrap() * line["median_s"].as_f64().unwrap();
    assert!((slower / 1000.0 - 1.0).abs() < 0.5, "{line}");
    let failing = [&base[..], &["--vs", "echo nothing"]].concat();
    world.run(&failing).failed(&["median_s", "echo nothing"]);
}

#[test]
fn training_tells_its_steps_and_does_not_overwrite_a_run() {
    let world = World::new();
    let train = ["train", "tiny-vae", "--out", "run", "--set", "run.steps=2", "--json"];
    let lines = world.run(&train).succeeded().lines();
    let steps: Vec<&Value> = lines.iter().filter_map(|line| line.get("step")).collect();
    assert_eq!(steps, [&Value::from(1), &Value::from(2)]);
    assert!(lines.last().unwrap()["finished"].as_str().unwrap().contains("run"));
    world.run(&train).failed(&["run", "--resume"]);
    let more = ["train", "--resume", "run", "--set", "run.steps=3", "--json"];
    let lines = world.run(&more).succeeded().lines();
    assert!(lines.iter().any(|line| line["step"] == 3) && lines.iter().all(|l| l["step"] != 2));
}
