//! `ddit train`: a model from scratch, further, or on from where a run was stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use autograd::is_autocast;
use ddit::eval::reconstruction::validate_autoencoder;
use ddit::eval::run::validate;
use ddit::pipeline;
use ddit::train::config::Source;
use ddit::train::{self, Candidate, Event, PRESETS, Progress, RunConfig, Stop, Watch};
use serde_json::{Map, Value, json};
use tensor::Device;

use super::Outcome;
use super::output::Output;

/// The shell's exit code for a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// Train a model, or resume a run that was stopped
///
/// Ctrl-C saves a checkpoint and stops; --resume goes on as if nothing had happened, to the last
/// bit. Ctrl-C twice stops at once.
///
/// With --json, standard output has the lines that the run's log.jsonl gets, and how the run ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Settings: a preset's name, or a TOML file
    #[arg(value_name = "PRESET|FILE.toml", required_unless_present = "resume", requires = "out",
        help = preset_help())]
    preset: Option<String>,
    /// Folder for checkpoints, log, samples and the finished model
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of the run to resume
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "out"])]
    resume: Option<PathBuf>,
    /// Where the networks learn: cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    /// Change a setting, as in run.steps=500; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn preset_help() -> String {
    let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
    format!("Settings: a TOML file, or one of the presets {}", names.join(", "))
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let device: Device = args.device.parse()?;
    let config = match (&args.resume, &args.preset) {
        (Some(run), _) => RunConfig::read(run.join("config.toml"), &args.set)?,
        (None, Some(preset)) => RunConfig::load(preset, &args.set)?,
        (None, None) => unreachable!("clap demands a preset or a run to resume"),
    };
    let stop = stop_on_ctrl_c()?;
    let mut shown = Progress::new();
    // Whoever reads our lines may go; training goes on, and the error is told at its end.
    let mut printed = Ok(());
    let mut observe = |event: Event| {
        if output.is_json()
            && printed.is_ok()
            && let Some(line) = log_line(&event)
        {
            printed = output.line(line);
        }
        shown.observe(event);
    };
    let mut score = |candidate: &Candidate, progress: pipeline::Progress| match candidate {
        Candidate::Model(pipeline) => validate(pipeline, config.data.questions > 0.0, progress),
        Candidate::Autoencoder(vae) => validate_autoencoder(vae, progress),
    };
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    if config.data.source == Source::Shapes {
        watch.validate = Some(&mut score);
    }
    let outcome = match (&args.resume, &args.out) {
        (Some(run), _) => train::resume(run, &args.set, &device, &mut watch)?,
        (None, Some(out)) => train::start(config.clone(), out, &device, &mut watch)?,
        (None, None) => unreachable!("clap demands --out with a preset"),
    };
    drop(shown);
    printed?;
    match outcome {
        train::Outcome::Finished(model) => {
            let path = model.display().to_string();
            output.result(|| json!({ "finished": path }), format_args!("finished: {path}"))?;
        }
        train::Outcome::Stopped { reason, step, run } => {
            let reason = match reason {
                Stop::Asked => "asked to",
                Stop::TimeIsUp => "time is up",
            };
            let run = run.display().to_string();
            let device = match device {
                Device::Cpu => String::new(),
                Device::Cuda(gpu) => format!(" --device {gpu}"),
            };
            let bf16 = if is_autocast() { " --bf16" } else { "" };
            let text = format!(
                "stopped at step {step}: {reason}\nddit train --resume {run}{device}{bf16}"
            );
            output.result(|| json!({ "stopped": run, "step": step, "reason": reason }), text)?;
        }
    }
    Ok(Outcome::Done)
}

/// The line that the log gets on an event, if it gets one.
fn log_line(event: &Event) -> Option<Value> {
    match event {
        Event::Step(report) => report.line.clone().map(Value::Object),
        Event::Scored { step, scores } => {
            let scores = scores.iter().map(|(name, score)| (name.clone(), json!(score)));
            Some(json!({ "step": step, "scores": Map::from_iter(scores) }))
        }
        _ => None,
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let handle = move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    };
    ctrlc::set_handler(handle).context("Ctrl-C cannot be caught")?;
    Ok(stop)
}
