//! A training run: its parts, a step of it, its checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use autograd::Var;
use kernels::count;
use serde_json::{Map, Value, json};
use tensor::{DType, Device, Error, Result, Tensor};

use super::autoencoder::Autoencoder;
use super::beginning::{self, Start, latent_shape};
use super::checkpoint::{Checkpoint, State};
use super::config::{RunConfig, Task};
use super::dual::Dual;
use super::frozen::latents;
use super::learner::Learner;
use super::log::{self, Log, StepReport, Window};
use super::networks;
use super::place::Place;
use super::setup::{AUTOENCODER_RUN, check_latents, latent_side, open_vae, vae_geometry};
use super::watch::Event;
use crate::config::VaeConfig;
use crate::data::{Dataset, Shelf};
use crate::folder::Component;
use crate::objective::ByNoise;
use crate::vae;

/// Where a run keeps its checkpoints.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// The [operation](Error::op) that errors of numbers which are none name: nothing is gained by
/// going on from there with the same settings.
pub const DIVERGED: &str = "diverged";

/// What was seen on the way down.
pub struct Seen {
    /// Losses by name, the minimised one first.
    pub losses: Vec<(&'static str, f64)>,
    /// Losses of pictures and of texts by noise level, where there is any.
    pub by_noise: Vec<(&'static str, ByNoise)>,
    /// Pictures and texts that went in.
    pub pairs: u64,
    /// Tokens of the texts.
    pub text_tokens: u64,
}

impl Seen {
    fn is_finite(&self) -> bool {
        self.losses.iter().all(|(_, loss)| loss.is_finite())
    }
}

/// What is trained, with its data.
pub(super) enum Subject {
    Autoencoder(Box<Autoencoder>),
    Dual(Box<Dual>),
}

/// A training run at one of its steps.
pub struct Trainer {
    pub(super) config: RunConfig,
    pub(super) out: PathBuf,
    pub(super) device: Device,
    pub(super) subject: Subject,
    pub(super) learner: Learner,
    /// The autoencoder that a transformer's latents are of.
    pub(super) frozen: Option<Component<VaeConfig>>,
    pub(super) state: State,
    /// The state that was last written, or gone on from.
    saved: Option<State>,
    window: Window,
    timed: Timed,
    log: Log,
}

/// What was done since the last line of the log, in this process.
#[derive(Default)]
struct Timed {
    steps: u64,
    pairs: u64,
    flops: u64,
    seconds: f64,
}

impl Trainer {
    /// The run in the folder `out`: at its newest checkpoint, or at its beginning. Its networks
    /// learn on a device, which also makes the latents that they learn from. Where data are to be
    /// read, or latents to be made, `progress` is told how many are done, and of how many; an error
    /// of its ends that.
    ///
    /// Errors: data, models or checkpoints that cannot be read, or do not fit each other; fewer
    /// steps than have been made.
    pub fn open(
        config: RunConfig,
        out: &Path,
        device: &Device,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        let mut tell = |event: Event| match event {
            Event::Read { done, total } | Event::Encoded { done, total } => progress(done, total),
            _ => Ok(()),
        };
        Self::open_with(config, out, device, &mut Shelf::default(), &mut tell)
    }

    /// The same, with the data that may have been read already, and told of by events. What can be
    /// wrong is looked for before anything takes time.
    pub(super) fn open_with(
        config: RunConfig,
        out: &Path,
        device: &Device,
        data: &mut Shelf,
        tell: Tell,
    ) -> Result<Self> {
        let found = Checkpoint::newest(&out.join(CHECKPOINTS))?;
        let made = found.as_ref().map_or(0, |(_, checkpoint)| checkpoint.state.step);
        if made > config.run.steps {
            let steps = config.run.steps;
            let message = format!("is {steps}, but the run has made {made} steps already");
            return Err(Error::value("config", message).key("run.steps"));
        }
        let (subject, mut learner, frozen) = match config.task {
            Task::Vae => autoencoder(&config, device, data, tell)?,
            Task::Dual => dual(&config, out, device, data, tell)?,
        };
        let mut state = State { seed: config.seed, ..State::default() };
        let mut window = Window::default();
        let saved = found.as_ref().map(|(_, checkpoint)| checkpoint.state.clone());
        if let Some((path, Checkpoint { model, optimizer, state: reached, .. })) = found {
            window = Window::from_tensors(&optimizer);
            learner.restore(model, optimizer).map_err(|error| error.path(&path))?;
            state = reached;
        }
        fs::create_dir_all(out).map_err(|error| Error::io("create", out, error))?;
        let log = Log::open(&out.join(log::FILE), state.log_length)?;
        let (out, device, timed) = (out.to_owned(), device.clone(), Timed::default());
        Ok(Self { config, out, device, subject, learner, frozen, state, saved, window, timed, log })
    }

    /// The settings.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.state.step
    }

    /// Where steps are made.
    pub(super) fn place(&self) -> Place {
        Place::of(&self.device)
    }

    /// Weights of the step reached, by their [full names](super::trainable).
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        self.learner.weights()
    }

    /// Makes a step, and writes a line of the log where one is due.
    ///
    /// Errors: a loss or a gradient that is no number: weights take up no such gradient; those of
    /// data, model and log.
    pub fn step(&mut self) -> Result<StepReport> {
        let (begun, before, step) = (Instant::now(), count::flops(), self.state.step);
        let lost = "the loss or its gradient is no number";
        let learning_rate = self.config.optimizer.rate(step, self.config.run.steps);
        let (seen, clipped) = match (&mut self.subject, &self.device) {
            (Subject::Dual(dual), Device::Cuda(gpu)) => {
                dual.step_on(gpu, &mut self.learner, step, learning_rate)?
            }
            (subject, _) => {
                let (grads, seen) = match subject {
                    Subject::Autoencoder(autoencoder) => autoencoder.gradient(step)?,
                    Subject::Dual(dual) => dual.gradient(step)?,
                };
                if !seen.is_finite() {
                    return Err(self.diverged(lost));
                }
                (seen, self.learner.update(&grads, learning_rate)?)
            }
        };
        if !(seen.is_finite() && clipped.norm.is_finite()) {
            return Err(self.diverged(lost));
        }
        self.state.step += 1;
        self.state.pairs += seen.pairs;
        self.state.text_tokens += seen.text_tokens;
        let mut report = StepReport {
            step: self.state.step,
            losses: seen.losses,
            by_noise: seen.by_noise,
            learning_rate,
            grad_norm: clipped.norm,
            clipped: clipped.factor < 1.0,
            pairs: seen.pairs,
            flops: count::flops() - before,
            line: None,
        };
        self.window.add(&report);
        let seconds = begun.elapsed().as_secs_f64();
        self.state.seconds += seconds;
        self.timed.steps += 1;
        self.timed.pairs += report.pairs;
        self.timed.flops += report.flops;
        self.timed.seconds += seconds;
        if self.is_due(self.config.run.log_every) {
            let mut line = self.window.finish(&report);
            self.add_counts(&mut line);
            self.log.write(&line)?;
            report.line = Some(line);
        }
        Ok(report)
    }

    /// Why a GPU does not repeat a recorded step, if it does not: told once.
    pub fn refusal(&mut self) -> Option<Error> {
        match &mut self.subject {
            Subject::Dual(dual) => dual.refusal(),
            Subject::Autoencoder(_) => None,
        }
    }

    /// Whether a GPU repeats a recorded step from here on.
    pub fn is_recorded(&self) -> bool {
        matches!(&self.subject, Subject::Dual(dual) if dual.is_recorded())
    }

    /// The error of a run that led nowhere, and where to go on from.
    fn diverged(&self, what: &str) -> Error {
        let message = format!("{what} at step {}", self.state.step);
        let whence = match &self.saved {
            Some(saved) => format!("resume from the checkpoint of step {}", saved.step),
            None => "begin again".to_owned(),
        };
        let help = format!("{whence} with a lower optimizer.learning_rate");
        Error::value(DIVERGED, message).note(help)
    }

    /// Refuses weights that a step has spoilt, and averages, as they will be stored: numbers that
    /// are none, or whose squares overflow, which no network computes with. Losses and gradients
    /// tell of those only at the next step.
    pub(super) fn check_weights(&self) -> Result<()> {
        let stored = self.stored();
        let average = self.learner.average().into_iter();
        let average = average.map(|(name, mean)| (name, mean.to_dtype(stored)));
        for (name, weight) in self.learner.trained().into_iter().chain(average) {
            if !Var::constant(weight).square()?.sum_all()?.item()?.is_finite() {
                return Err(self.diverged("a weight or its average is no number").key(name));
            }
        }
        Ok(())
    }

    /// Adds what the log says of work done and its speed.
    fn add_counts(&mut self, line: &mut Map<String, Value>) {
        let Timed { steps, pairs, flops, seconds } = std::mem::take(&mut self.timed);
        let left = self.config.run.steps.saturating_sub(self.state.step);
        let counts = [
            ("seconds", json!(rounded(self.state.seconds, 1e3))),
            ("pairs", json!(self.state.pairs)),
            ("text_tokens", json!(self.state.text_tokens)),
            ("pairs_per_s", json!(rounded(pairs as f64 / seconds, 10.0))),
            ("gflops", json!(rounded(flops as f64 / seconds / 1e9, 10.0))),
            ("left_s", json!(rounded(left as f64 * seconds / steps as f64, 1.0))),
        ];
        line.extend(counts.map(|(name, value)| (name.to_owned(), value)));
    }

    /// Whether there is a checkpoint of the state reached, or none needed to go on from it.
    pub(super) fn is_saved(&self) -> bool {
        self.state.step == 0 || self.saved.as_ref() == Some(&self.state)
    }

    /// Whether something done every `interval` steps, and after the last one, is due now.
    pub(super) fn is_due(&self, interval: u64) -> bool {
        let step = self.state.step;
        interval > 0 && step > 0 && (step.is_multiple_of(interval) || step == self.config.run.steps)
    }

    /// Appends the scores of the step reached to the log.
    ///
    /// Errors: the operating system's.
    pub(super) fn log_scores(&mut self, scores: &[(String, f64)]) -> Result<()> {
        self.state.scored = self.state.step;
        self.log.write(&log::scored(self.state.step, scores))
    }

    /// Writes a checkpoint of the step reached; its folder.
    ///
    /// Errors: weights that are no numbers; the operating system's.
    pub fn save(&mut self) -> Result<PathBuf> {
        self.check_weights()?;
        self.state.place = Some(self.place());
        self.state.log_length = self.log.sync()?;
        let mut optimizer = self.learner.memory();
        optimizer.extend(self.window.to_tensors());
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            config: self.config.to_toml(),
            model: self.learner.trained(),
            optimizer,
        };
        let path = checkpoint.save(&self.out.join(CHECKPOINTS), self.config.run.keep)?;
        self.saved = Some(checkpoint.state);
        Ok(path)
    }
}

/// A number of which the log needs no finer part than 1/`parts`.
fn rounded(x: f64, parts: f64) -> f64 {
    (x * parts).round() / parts
}

/// Who is told how far reading data and making latents are, and can end it.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Event) -> Result<()>;

/// The data of a run.
fn read(config: &RunConfig, data: &mut Shelf, tell: Tell) -> Result<Arc<Dataset>> {
    let mut progress = |done, total| tell(Event::Read { done, total });
    data.open(&config.data, config.seed, &mut progress)
}

type Parts = (Subject, Learner, Option<Component<VaeConfig>>);

/// The parts of an autoencoder's run.
fn autoencoder(config: &RunConfig, device: &Device, data: &mut Shelf, tell: Tell) -> Result<Parts> {
    let found = match config.init.as_str() {
        "" => {
            let geometry = vae_geometry(&config.autoencoder, config.data.size);
            geometry.check()?;
            let weights = vae::inventory(&geometry).fresh(config.seed, DType::F32)?;
            Component { config: geometry, weights }
        }
        path => {
            let Component { config, weights } = open_vae(Path::new(path))?;
            let config = VaeConfig { scaling_factor: 1.0, shift_factor: Some(0.0), ..config };
            Component { config, weights }
        }
    };
    let geometry = found.config.clone();
    latent_side(config.data.size, &geometry)?;
    let learner = networks::autoencoder(found, config, device)?;
    let params = learner.params().scope(networks::VAE);
    let dataset = read(config, data, tell)?;
    let autoencoder = Autoencoder::new(config, geometry, &params, dataset)?;
    Ok((Subject::Autoencoder(Box::new(autoencoder)), learner, None))
}

/// The parts of a transformer's run.
fn dual(
    config: &RunConfig,
    out: &Path,
    device: &Device,
    data: &mut Shelf,
    tell: Tell,
) -> Result<Parts> {
    let init = beginning::init(config)?;
    let frozen = match (config.autoencoder.source.as_str(), &init) {
        ("none", _) => None,
        ("init", Some(model)) => model.vae.clone(),
        ("train", _) => Some(open_vae(&out.join(AUTOENCODER_RUN))?),
        (path, _) => Some(open_vae(Path::new(path))?),
    };
    let starts = init.as_ref().map(|model| &model.transformer.config);
    let vae = frozen.as_ref().map(|vae| &vae.config);
    check_latents(config, starts, vae)?;
    let shape = latent_shape(config, vae);
    let start = match init {
        Some(model) => Start::from_model(model, shape)?,
        // Its vocabulary is the data's.
        None => Start::fresh(config, &*read(config, data, tell)?, shape)?,
    };
    let Start { transformer, text_encoder, tokenizer } = start;
    let mask = tokenizer.mask();
    let (learner, model) = networks::dual(transformer, text_encoder, mask, config, device)?;
    // Last, as it takes time: mistakes in the settings have been found by now.
    let dataset = read(config, data, tell)?;
    let latents = latents(config, out, frozen.as_ref(), &dataset, device, tell)?;
    let dual = Dual::new(config, model, tokenizer, dataset, latents)?;
    Ok((Subject::Dual(Box::new(dual)), learner, frozen))
}
