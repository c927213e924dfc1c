//! A run from its first step to its last, with whoever watches it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use tensor::{Error, Result};

use super::config::{RunConfig, Task};
use super::log::StepReport;
use super::setup::{AUTOENCODER_RUN, MODEL, find_vae};
use super::trainer::{Subject, Trainer};
use crate::pipeline::Pipeline;

/// Scores by name.
pub type Scores = Vec<(String, f64)>;

/// Whoever watches a run.
pub struct Watch<'a> {
    /// Set from elsewhere, by a signal handler say, it makes the run save and stop after the step
    /// under way.
    pub stop: &'a AtomicBool,
    /// Is told what happens.
    pub observe: &'a mut dyn FnMut(Event),
    /// Scores the model every `run.validate_every` steps; the scores go into the log.
    pub validate: Option<&'a mut dyn FnMut(&Pipeline) -> Result<Scores>>,
}

/// What happens in a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A run begins, or goes on.
    Begin {
        /// What is trained.
        task: Task,
        /// Steps done before.
        done: u64,
        /// Steps in all.
        steps: u64,
    },
    /// Pictures have been encoded.
    Encoded {
        /// How many.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// A step has been made.
    Step {
        /// What it did.
        report: &'a StepReport,
        /// Pictures and texts in it.
        pairs: usize,
        /// Floating-point operations in it: those of products of matrices.
        flops: f64,
    },
    /// A file or folder has been written: a checkpoint, a sample sheet, the finished model.
    Wrote(&'a Path),
    /// The model has been scored.
    Scored(&'a Scores),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With its last step; the finished model is in this folder.
    Finished(PathBuf),
    /// Before it, with a checkpoint of the step reached.
    Stopped {
        /// Why.
        reason: Stop,
        /// The step reached.
        step: u64,
        /// What to resume.
        run: PathBuf,
    },
}

/// Why a run ended before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it.
    Asked,
    /// `run.max_minutes` are over.
    TimeIsUp,
}

/// Trains from the beginning, into the folder `out`.
///
/// Errors: there is a run in `out` already; those of [`Trainer`].
pub fn start(config: RunConfig, out: &Path, watch: &mut Watch) -> Result<Outcome> {
    let settings = out.join("config.toml");
    if settings.exists() {
        let error = Error::value("train", "there is a run in this folder already").path(out);
        return Err(error.note(format!("go on with it: train --resume {}", out.display())));
    }
    write_settings(&config, out)?;
    Run { config, out: out.to_owned(), deadline: None }.go(watch)
}

/// Goes on with the run in the folder `out`, from its newest checkpoint, as if it had never
/// stopped. `overrides` of the form `key=value` change its settings from here on.
///
/// Errors: there is no run in `out`; those of [`Trainer`].
pub fn resume(out: &Path, overrides: &[String], watch: &mut Watch) -> Result<Outcome> {
    let config = RunConfig::read(out.join("config.toml"), overrides)?;
    write_settings(&config, out)?;
    Run { config, out: out.to_owned(), deadline: None }.go(watch)
}

fn write_settings(config: &RunConfig, out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(|error| Error::io("create", out, error))?;
    tensor::io::atomic_write(out.join("config.toml"), config.to_toml())
}

/// Settings, a folder, and until when.
struct Run {
    config: RunConfig,
    out: PathBuf,
    deadline: Option<Instant>,
}

impl Run {
    fn go(mut self, watch: &mut Watch) -> Result<Outcome> {
        let limit = Duration::try_from_secs_f64(60.0 * self.config.run.max_minutes);
        if let Ok(limit) = limit
            && !limit.is_zero()
            && self.deadline.is_none()
        {
            self.deadline = Instant::now().checked_add(limit);
        }
        let trains_autoencoder =
            self.config.task == Task::Dual && self.config.autoencoder.source == "train";
        if trains_autoencoder && let Some(stopped) = self.train_autoencoder(watch)? {
            return Ok(stopped);
        }
        self.train(watch)
    }

    /// Trains the autoencoder that the latents are of, unless that is done; how it ended, if
    /// before its last step.
    fn train_autoencoder(&self, watch: &mut Watch) -> Result<Option<Outcome>> {
        let out = self.out.join(AUTOENCODER_RUN);
        if find_vae(&out.join(MODEL)).is_some() {
            return Ok(None);
        }
        let settings = out.join("config.toml");
        let config = if settings.exists() {
            RunConfig::read(&settings, &[])?
        } else {
            let preset = RunConfig::load(&self.config.autoencoder.preset, &[])?;
            if preset.task != Task::Vae {
                let error = Error::value("config", "is not the preset of an autoencoder");
                return Err(error.key("autoencoder.preset"));
            }
            let Self { config, .. } = self;
            let (data, autoencoder) = (config.data.clone(), config.autoencoder.clone());
            let config = RunConfig { seed: config.seed, data, autoencoder, ..preset };
            write_settings(&config, &out)?;
            config
        };
        let outcome = Run { config, out, deadline: self.deadline }.train(watch)?;
        Ok(match outcome {
            Outcome::Finished(_) => None,
            // It is the whole run that is to be resumed.
            Outcome::Stopped { reason, step, .. } => {
                Some(Outcome::Stopped { reason, step, run: self.out.clone() })
            }
        })
    }

    fn train(&self, watch: &mut Watch) -> Result<Outcome> {
        let Self { config, out, deadline } = self;
        let mut trainer = Trainer::open(config.clone(), out, &mut |done, total| {
            (watch.observe)(Event::Encoded { done, total });
        })?;
        let (task, steps) = (config.task, config.run.steps);
        (watch.observe)(Event::Begin { task, done: trainer.steps_done(), steps });
        let (pairs, flops) = work(&trainer);
        let (begun, before) = (Instant::now(), trainer.state.seconds);
        while trainer.steps_done() < steps {
            let reason = if watch.stop.load(Ordering::Relaxed) {
                Some(Stop::Asked)
            } else {
                deadline.filter(|&end| Instant::now() >= end).map(|_| Stop::TimeIsUp)
            };
            if let Some(reason) = reason {
                (watch.observe)(Event::Wrote(&trainer.save()?));
                let step = trainer.steps_done();
                return Ok(Outcome::Stopped { reason, step, run: out.clone() });
            }
            trainer.state.seconds = before + begun.elapsed().as_secs_f64();
            let report = trainer.step()?;
            (watch.observe)(Event::Step { report: &report, pairs, flops });
            after_step(&mut trainer, watch)?;
        }
        let model = trainer.export()?;
        (watch.observe)(Event::Wrote(&model));
        Ok(Outcome::Finished(model))
    }
}

/// What is due after the step just made: samples, scores, and last the checkpoint, which then
/// knows of the others.
fn after_step(trainer: &mut Trainer, watch: &mut Watch) -> Result<()> {
    let run = trainer.config().run.clone();
    if trainer.is_due(run.sample_every) {
        (watch.observe)(Event::Wrote(&trainer.write_samples()?));
    }
    if trainer.is_due(run.validate_every)
        && let Some(validate) = &mut watch.validate
        && let Some(pipeline) = trainer.pipeline()?
    {
        let scores = validate(&pipeline)?;
        let line = scores.iter().map(|(name, score)| (name.clone(), json!(score)));
        trainer.write_log("scores", Map::from_iter(line).into())?;
        (watch.observe)(Event::Scored(&scores));
    }
    if trainer.is_due(run.checkpoint_every) {
        (watch.observe)(Event::Wrote(&trainer.save()?));
    }
    Ok(())
}

/// Pictures and texts, and floating-point operations, of a step.
fn work(trainer: &Trainer) -> (usize, f64) {
    let batch = &trainer.config().batch;
    match &trainer.subject {
        Subject::Autoencoder(autoencoder) => (batch.images, autoencoder.flops()),
        Subject::Dual(dual) => (batch.images + batch.texts, dual.flops()),
    }
}
