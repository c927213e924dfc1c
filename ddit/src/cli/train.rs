//! `ddit train`: a model from scratch, further, or on from where a run was stopped.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use ddit::eval::reconstruction::validate_autoencoder;
use ddit::eval::run::validate;
use ddit::objective::QUARTERS;
use ddit::pipeline;
use ddit::train::config::Source;
use ddit::train::curves::Curves;
use ddit::train::log;
use ddit::train::{
    self, Candidate, DIVERGED, Event, PRESETS, Place, Progress, RunConfig, Stop, Watch,
};
use serde_json::{Map, Value, json};
use tensor::Device;

use super::Outcome;
use super::output::Output;

/// The shell's exit code for a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// Train a model, or resume a run that was stopped
///
/// Ctrl-C, or a batch system's SIGTERM, saves a checkpoint and stops; --resume goes on as if nothing
/// had happened, to the last bit. The second one stops at once.
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
    let run = args.resume.as_ref().or(args.out.as_ref());
    let run = run.expect("clap demands --out with a preset");
    let way_on = way_on(run, &device);
    match args.train(run, &device, &way_on, output)? {
        train::Outcome::Finished(model) => tell_of_finished(run, &model, output)?,
        train::Outcome::Stopped { reason, step, run } => {
            let reason = match reason {
                Stop::Asked => "asked to",
                Stop::TimeIsUp => "time is up",
            };
            let run = run.display().to_string();
            let text = format!("stopped at step {step}: {reason}\n{way_on}");
            output.result(|| json!({ "stopped": run, "step": step, "reason": reason }), text)?;
        }
    }
    Ok(Outcome::Done)
}

impl Args {
    /// Begins the run, or goes on with it, with progress on standard error and, where results are
    /// JSON, the lines of its log on standard output.
    fn train(
        &self,
        run: &Path,
        device: &Device,
        way_on: &str,
        output: &Output,
    ) -> Result<train::Outcome> {
        let config = self.config()?;
        let stop = stop_on_ctrl_c()?;
        let mut shown = Progress::new();
        // Whoever reads our lines may go; training goes on, and the error is told at its end.
        let mut printed = Ok(());
        let mut has_begun = false;
        let mut observe = |event: Event| {
            has_begun |= matches!(event, Event::Begin { .. });
            if output.is_json()
                && printed.is_ok()
                && let Some(line) = log_line(&event)
            {
                printed = output.line(Value::Object(line));
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
        let outcome = match &self.resume {
            Some(_) => train::resume(run, &self.set, device, &mut watch),
            None => train::start(config.clone(), run, device, &mut watch),
        };
        drop(shown);
        let outcome = outcome.map_err(|error| {
            // With the same settings it would diverge again.
            match has_begun && error.op() != DIVERGED && train::is_resumable(run) {
                true => error.note(format!("go on from the last checkpoint: {way_on}")),
                false => error,
            }
        })?;
        printed?;
        Ok(outcome)
    }

    fn config(&self) -> Result<RunConfig> {
        Ok(match (&self.resume, &self.preset) {
            (Some(run), _) => RunConfig::read(run.join("config.toml"), &self.set)?,
            (None, Some(preset)) => RunConfig::load(preset, &self.set)?,
            (None, None) => unreachable!("clap demands a preset or a run to resume"),
        })
    }
}

/// Tells where the finished model is, and how large its losses were in the end.
fn tell_of_finished(run: &Path, model: &Path, output: &Output) -> Result<()> {
    let by_noise = Curves::read(run)?.by_noise();
    let path = model.display().to_string();
    let mut record = json!({ "finished": path });
    for (name, means) in &by_noise {
        record[format!("{name}_loss_by_noise")] = json!(means);
    }
    if !by_noise.is_empty() {
        output.text(noise_table(&by_noise))?;
    }
    output.result(|| record, format_args!("finished: {path}"))
}

/// The command that goes on with a run as it was under way: the device is no setting of it.
fn way_on(run: &Path, device: &Device) -> String {
    let place = match device {
        Device::Cpu => String::new(),
        Device::Cuda(_) => format!(" {}", Place::of(device)),
    };
    format!("ddit train --resume {}{place}", run.display())
}

/// Losses by quarter of the noise level, for people.
///
/// ```text
/// loss at noise   0 to ¼   ¼ to ½   ½ to ¾   ¾ to 1
///   image          1.412    0.934    0.871    1.102
/// ```
fn noise_table(by_noise: &[(&str, [Option<f64>; QUARTERS])]) -> String {
    let mut table = "loss at noise   0 to ¼   ¼ to ½   ½ to ¾   ¾ to 1\n".to_owned();
    for (name, means) in by_noise {
        let cell = |mean: &Option<f64>| mean.map_or("none".to_owned(), |mean| format!("{mean:.3}"));
        let cells = means.iter().map(|mean| format!("{:>9}", cell(mean)));
        table += &format!("  {name:<11}{}\n", cells.collect::<String>());
    }
    table
}

/// The line that the log gets on an event, if it gets one.
fn log_line(event: &Event) -> Option<Map<String, Value>> {
    match event {
        Event::Step(report) => report.line.clone(),
        Event::Scored { step, scores } => Some(log::scored(*step, scores)),
        _ => None,
    }
}

/// A flag that Ctrl-C sets, or a signal to terminate; a second one ends the program.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let handle = move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        // A step may take minutes, and nothing else would be seen to happen.
        let text = "\nstopping after what is under way; Ctrl-C again stops at once";
        let _ = writeln!(io::stderr(), "{text}");
    };
    ctrlc::set_handler(handle).context("Ctrl-C cannot be caught")?;
    Ok(stop)
}
