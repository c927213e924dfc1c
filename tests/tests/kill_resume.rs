//! Training that is killed goes on as if nothing had happened.
//!
//! A process of its own trains a small model and is killed with SIGKILL, again and again, at
//! moments that nobody chose. Resumed to the end, its log equals, line by line, that of a run
//! nobody touched: every loss of every step, to the last bit.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddit::train::{Event, Outcome, RunConfig, Watch, resume, start};
use serde_json::Value;

/// Tells the child process where to train.
const OUT: &str = "DDIT_KILL_RESUME_OUT";

/// How often the run is killed.
const KILLS: usize = 4;

/// Steps between two lines of the log that a kill waits for, at least.
const PROGRESS: usize = 12;

/// Small steps, many checkpoints: a kill is likely to fall into the writing of one.
fn config() -> RunConfig {
    let overrides = [
        "autoencoder.source=none",
        "model.blocks=1",
        "model.patch=16",
        "batch.images=4",
        "batch.texts=4",
        "run.steps=300",
        "run.log_every=1",
        "run.checkpoint_every=5",
    ];
    RunConfig::load("tiny", &overrides.map(str::to_owned)).unwrap()
}

fn train(out: &Path) -> Outcome {
    let (stop, mut observe) = (AtomicBool::new(false), |_: Event| {});
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    match out.join("config.toml").exists() {
        true => resume(out, &[], &mut watch).unwrap(),
        false => start(config(), out, &mut watch).unwrap(),
    }
}

/// The process that is killed: this program, asked for this test alone.
#[test]
#[ignore = "trains for the other test, as a process of its own"]
fn child() {
    train(Path::new(&std::env::var_os(OUT).expect("the other test says where")));
}

fn spawn(out: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored"])
        .env(OUT, out)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whole lines of the log without their times.
fn log(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("kills leave whole lines");
        line.as_object_mut().unwrap().remove("seconds");
        line
    };
    whole.lines().map(line).collect()
}

#[test]
fn a_killed_run_goes_on_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, killed) = (folder.path().join("straight"), folder.path().join("killed"));
    train(&straight);

    let last_step = |out: &Path| log(out).last().map_or(0, |line| line["step"].as_u64().unwrap());
    for _ in 0..KILLS {
        let before = last_step(&killed) as usize;
        let mut child = spawn(&killed);
        while (last_step(&killed) as usize) < before + PROGRESS {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            sleep(Duration::from_millis(2));
        }
        // Anywhere within a step or the writing of a checkpoint.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        sleep(Duration::from_micros(u64::from(now.subsec_nanos()) % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let reached = last_step(&killed);
    assert!(reached < 300, "killed {KILLS} times by step {reached}");
    assert_eq!(train(&killed), Outcome::Finished(killed.join("model")));
    assert_eq!(log(&killed), log(&straight));
    let model = |out: &Path| {
        fs::read(out.join("model/transformer/diffusion_pytorch_model.safetensors")).unwrap()
    };
    assert_eq!(model(&killed), model(&straight));
}
