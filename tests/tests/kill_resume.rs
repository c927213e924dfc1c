//! Training that is killed goes on as if nothing had happened.
//!
//! A process of its own trains a small model and is killed with SIGKILL, again and again, at
//! moments that nobody chose: a transformer on pixels; an autoencoder, the encoding of its latents
//! and a transformer on them. Resumed to the end, its logs equal, line by line, those of a run
//! nobody touched: every loss of every step, to the last bit.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddit::train::log::TIMES;
use ddit::train::{Event, Outcome, RunConfig, Watch, resume, start};
use serde_json::Value;
use tensor::Device;

/// Tells the child process which folder to train in.
const OUT: &str = "DDIT_KILL_RESUME_OUT";

/// Tells the child process which settings to begin with.
const SETTINGS: &str = "DDIT_KILL_RESUME_SETTINGS";

/// How often a run is killed.
const KILLS: usize = 4;

/// Lines of the logs that a kill waits for, at least.
const PROGRESS: usize = 12;

/// Small steps, many checkpoints: a kill is likely to fall into the writing of one.
const PIXELS: &str = r#"
preset = "tiny"
autoencoder = { source = "none" }
model = { blocks = 1, patch = 16 }
batch = { images = 4, texts = 4 }
run = { steps = 300, log_every = 1, checkpoint_every = 5 }
"#;

/// The same for an autoencoder.
const AUTOENCODER: &str = r#"
preset = "tiny-vae"
batch = { images = 2 }
run = { steps = 40, log_every = 1, checkpoint_every = 5 }
"#;

/// A transformer on the latents of such an autoencoder, whose settings are in AUTOENCODER.
const LATENTS: &str = r#"
preset = "tiny"
autoencoder = { preset = "AUTOENCODER" }
model = { blocks = 1 }
batch = { images = 2, texts = 2 }
run = { steps = 60, log_every = 1, checkpoint_every = 5 }
"#;

fn train(settings: &Path, out: &Path) -> Outcome {
    let (stop, mut observe) = (AtomicBool::new(false), |_: Event| {});
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    if out.join("config.toml").exists() {
        return resume(out, &[], &Device::Cpu, &mut watch).unwrap();
    }
    let config = RunConfig::load(settings.to_str().unwrap(), &[]).unwrap();
    start(config, out, &Device::Cpu, &mut watch).unwrap()
}

/// The process that is killed: this program, asked for this test alone.
#[test]
#[ignore = "trains for the other tests, as a process of its own"]
fn child() {
    let [settings, out] =
        [SETTINGS, OUT].map(|name| std::env::var_os(name).expect("the other tests say"));
    train(Path::new(&settings), Path::new(&out));
}

fn spawn(settings: &Path, out: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored"])
        .env(SETTINGS, settings)
        .env(OUT, out)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whole lines of the logs, the autoencoder's first, without their times.
fn log(out: &Path) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("kills leave whole lines");
        TIMES.iter().for_each(|key| drop(line.as_object_mut().unwrap().remove(*key)));
        line
    };
    let lines = |path: &str| {
        let text = fs::read_to_string(out.join(path)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(line).collect::<Vec<_>>()
    };
    [lines("vae-run/log.jsonl"), lines("log.jsonl")].concat()
}

/// Trains in `folder` without a break, and with kills.
fn kill(folder: &Path, settings: &str) {
    let (straight, killed) = (folder.join("straight"), folder.join("killed"));
    let path = folder.join("settings.toml");
    fs::write(&path, settings).unwrap();
    train(&path, &straight);
    for _ in 0..KILLS {
        let before = log(&killed).len();
        let mut child = spawn(&path, &killed);
        while log(&killed).len() < before + PROGRESS {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            sleep(Duration::from_millis(2));
        }
        // Anywhere within a step or the writing of a checkpoint.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        sleep(Duration::from_micros(u64::from(now.subsec_nanos()) % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(log(&killed).len() < log(&straight).len(), "killed {KILLS} times before its end");
    assert_eq!(train(&path, &killed), Outcome::Finished(killed.join("model")));
    assert_eq!(log(&killed), log(&straight));
    let model = |out: &Path| {
        fs::read(out.join("model/transformer/diffusion_pytorch_model.safetensors")).unwrap()
    };
    assert_eq!(model(&killed), model(&straight));
}

#[test]
fn a_killed_run_goes_on_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    kill(folder.path(), PIXELS);
}

#[test]
fn a_killed_autoencoder_and_what_follows_go_on_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let autoencoder = folder.path().join("autoencoder.toml");
    fs::write(&autoencoder, AUTOENCODER).unwrap();
    kill(folder.path(), &LATENTS.replace("AUTOENCODER", autoencoder.to_str().unwrap()));
}
