//! A run from its first step to its last, with whoever watches it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tensor::{Device, Error, Result};

use super::beginning;
use super::checkpoint;
use super::config::{RunConfig, Task};
use super::setup::{AUTOENCODER_RUN, MODEL, find_vae};
use super::trainer::{CHECKPOINTS, Subject, Trainer};
use super::watch::{Candidate, Event, Outcome, Scores, Stop, Validate, Watch};
use crate::data::Shelf;
use crate::pipeline::Progress;

/// Trains from the beginning, on a device, into the folder `out`, which is empty or does not exist.
/// A run that cannot begin leaves nothing there.
///
/// Errors: there is a run in `out` already, or anything else; those of [`Trainer`].
pub fn start(config: RunConfig, out: &Path, device: &Device, watch: &mut Watch) -> Result<Outcome> {
    if out.join(SETTINGS).exists() {
        let error = Error::value("train", "there is a run in this folder already").path(out);
        return Err(error.note(format!("go on with it: train --resume {}", out.display())));
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let error = Error::value("train", "the folder is not empty, and there is no run in it");
        return Err(error.path(out).note("name one that is empty or does not exist"));
    }
    let is_ours = !out.exists();
    fs::create_dir_all(out).map_err(|error| Error::io("create", out, error))?;
    let _lock = lock(out)?;
    let (folder, device) = (out.to_owned(), device.clone());
    let run = Run { config, out: folder, device, deadline: None, is_new: true };
    let outcome = run.go(watch);
    if outcome.is_err() && is_ours {
        // Refused, as it should be, where something has been written.
        let _ = fs::remove_dir(out);
    }
    outcome
}

/// Goes on with the run in the folder `out`, from its newest checkpoint, as if it had never
/// stopped; on another device than before, with that one's rounding. `overrides` of the form
/// `key=value` change its settings from here on, and are written down when the run has been opened
/// with them.
///
/// Errors: there is no run in `out`, or another program trains it; fewer steps than it has made;
/// those of [`Trainer`].
pub fn resume(
    out: &Path,
    overrides: &[String],
    device: &Device,
    watch: &mut Watch,
) -> Result<Outcome> {
    let config = RunConfig::read(out.join(SETTINGS), overrides)?;
    let _lock = lock(out)?;
    let (out, device) = (out.to_owned(), device.clone());
    Run { config, out, device, deadline: None, is_new: false }.go(watch)
}

/// Whether there is a checkpoint in the folder `out` to go on from: of the run, or of the
/// autoencoder's that it begins with.
pub fn is_resumable(out: &Path) -> bool {
    let runs = [out.to_owned(), out.join(AUTOENCODER_RUN)];
    let reached = |run: &PathBuf| checkpoint::reached(&run.join(CHECKPOINTS));
    runs.iter().any(|run| reached(run).is_ok_and(|step| step > 0))
}

/// The settings in a run's folder.
const SETTINGS: &str = "config.toml";

fn write_settings(config: &RunConfig, out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(|error| Error::io("create", out, error))?;
    tensor::io::atomic_write(out.join(SETTINGS), config.to_toml())
}

/// Keeps other programs from training in a folder while what is returned is alive; the operating
/// system frees the folder of a program that was killed. Where folders cannot be opened or locked
/// nothing is kept.
fn lock(out: &Path) -> Result<Option<File>> {
    if !cfg!(unix) {
        return Ok(None);
    }
    let folder = File::open(out).map_err(|error| Error::io("open", out, error))?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::Error(_)) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            Err(Error::value("train", "another program is training in this folder").path(out))
        }
    }
}

/// Settings, a folder, where it computes, and until when.
struct Run {
    config: RunConfig,
    out: PathBuf,
    device: Device,
    deadline: Option<Instant>,
    /// Whether the settings are not in the folder yet.
    is_new: bool,
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
        let mut data = Shelf::default();
        if trains_autoencoder && let Some(stopped) = self.train_autoencoder(watch, &mut data)? {
            return Ok(stopped);
        }
        self.train(watch, &mut data, &[&self])
    }

    /// Trains the autoencoder that the latents are of, unless that is done; how it ended, if
    /// before its last step.
    fn train_autoencoder(&self, watch: &mut Watch, data: &mut Shelf) -> Result<Option<Outcome>> {
        let out = self.out.join(AUTOENCODER_RUN);
        if find_vae(&out.join(MODEL)).is_some() {
            return Ok(None);
        }
        beginning::check(&self.config)?;
        let settings = out.join(SETTINGS);
        let is_new = !settings.exists();
        let config = if !is_new {
            RunConfig::read(&settings, &[])?
        } else {
            let preset = RunConfig::load(&self.config.autoencoder.preset, &[])?;
            if preset.task != Task::Vae {
                let error = Error::value("config", "is not the preset of an autoencoder");
                return Err(error.key("autoencoder.preset"));
            }
            let Self { config, .. } = self;
            let (data, autoencoder) = (config.data.clone(), config.autoencoder.clone());
            RunConfig { seed: config.seed, data, autoencoder, ..preset }
        };
        let (device, deadline) = (self.device.clone(), self.deadline);
        let run = Run { config, out, device, deadline, is_new };
        Ok(match run.train(watch, data, &[self, &run])? {
            Outcome::Finished(_) => None,
            // It is the whole run that is to be resumed.
            Outcome::Stopped { reason, step, .. } => {
                Some(Outcome::Stopped { reason, step, run: self.out.clone() })
            }
        })
    }

    /// Does all that is left to do, in a run that is the `beginning` of others; see
    /// [`open`](Self::open).
    fn train(&self, watch: &mut Watch, data: &mut Shelf, beginning: &[&Run]) -> Result<Outcome> {
        let Self { config, out, .. } = self;
        let stopped = |reason, step| Outcome::Stopped { reason, step, run: out.clone() };
        let mut trainer = match self.open(watch, data, beginning)? {
            Ok(trainer) => trainer,
            Err(reason) => {
                return Ok(stopped(reason, checkpoint::reached(&out.join(CHECKPOINTS))?));
            }
        };
        let (task, done, steps) = (config.task, trainer.steps_done(), config.run.steps);
        (watch.observe)(Event::Begin { task, done, steps });
        tell_of_another_place(&trainer, watch);
        tell_of_cut_captions(&trainer, watch)?;
        loop {
            if let Some(reason) = self.reason_to_stop(watch.stop) {
                if !trainer.is_saved() {
                    save(&mut trainer, watch)?;
                }
                return Ok(stopped(reason, trainer.steps_done()));
            }
            if let Some(model) = self.do_next(&mut trainer, watch)? {
                return Ok(Outcome::Finished(model));
            }
        }
    }

    /// The trainer, unless it is time to stop before it is there. The settings of the runs that this
    /// is the `beginning` of are written as soon as there is something to go on with: not before, so
    /// that a mistake in them leaves nothing, and spoils no run that was there.
    fn open(
        &self,
        watch: &mut Watch,
        data: &mut Shelf,
        beginning: &[&Run],
    ) -> Result<Result<Trainer, Stop>> {
        let Self { config, out, device, .. } = self;
        let settle = || beginning.iter().try_for_each(|run| write_settings(&run.config, &run.out));
        let mut is_unsettled = self.is_new;
        let opened = self.unless_stopped(watch.stop, |go_on| {
            let mut tell = |event: Event| {
                let (done, total) = match event {
                    Event::Read { done, total } => (done, total),
                    Event::Encoded { done, total } => {
                        if std::mem::take(&mut is_unsettled) {
                            settle()?;
                        }
                        (done, total)
                    }
                    _ => return Ok(()),
                };
                (watch.observe)(event);
                go_on(done, total)
            };
            Trainer::open_with(config.clone(), out, device, data, &mut tell)
        })?;
        // Who stopped it is told how to go on.
        if opened.is_ok() || is_unsettled {
            settle()?;
        }
        Ok(opened)
    }

    /// Does what comes next; the finished model, if it is that.
    fn do_next(&self, trainer: &mut Trainer, watch: &mut Watch) -> Result<Option<PathBuf>> {
        let stop = watch.stop;
        match due(trainer, watch.validate.is_some()) {
            Due::Step => {
                let report = trainer.step()?;
                (watch.observe)(Event::Step(&report));
                if let Some(why) = trainer.refusal() {
                    (watch.observe)(Event::Unrecorded(&why));
                }
            }
            Due::Samples => {
                if let Ok(path) = self.unless_stopped(stop, |on| trainer.write_samples(on))? {
                    (watch.observe)(Event::Wrote(&path));
                }
            }
            Due::Scores => {
                let scores = |on: Progress| score(trainer, watch.validate.as_mut(), on);
                if let Ok(scores) = self.unless_stopped(stop, scores)? {
                    trainer.log_scores(&scores)?;
                    draw_curves(trainer, watch);
                    let step = trainer.steps_done();
                    (watch.observe)(Event::Scored { step, scores: &scores });
                }
            }
            Due::Checkpoint => save(trainer, watch)?,
            Due::Model => {
                let export = |on: Progress| {
                    trainer.export_with(&mut |done, total| {
                        (watch.observe)(Event::Measured { done, total });
                        on(done, total)
                    })
                };
                if let Ok(model) = self.unless_stopped(stop, export)? {
                    if let Some(curves) = draw_curves(trainer, watch) {
                        (watch.observe)(Event::Wrote(&curves));
                    }
                    (watch.observe)(Event::Wrote(&model));
                    return Ok(Some(model));
                }
            }
        }
        Ok(None)
    }

    /// Does `work`, or its beginning: when it is time to stop, the progress it tells of ends it,
    /// and what is left is the reason.
    fn unless_stopped<T>(
        &self,
        stop: &AtomicBool,
        work: impl FnOnce(Progress) -> Result<T>,
    ) -> Result<Result<T, Stop>> {
        let mut interrupted = None;
        let worked = work(&mut |done, total| {
            interrupted = self.reason_to_stop(stop).filter(|_| done < total);
            match interrupted {
                Some(_) => Err(Error::value("train", "asked to stop")),
                None => Ok(()),
            }
        });
        match interrupted {
            Some(reason) => Ok(Err(reason)),
            None => worked.map(Ok),
        }
    }

    fn reason_to_stop(&self, stop: &AtomicBool) -> Option<Stop> {
        if stop.load(Ordering::Relaxed) {
            return Some(Stop::Asked);
        }
        self.deadline.filter(|&end| Instant::now() >= end).map(|_| Stop::TimeIsUp)
    }
}

/// What comes next in a run.
enum Due {
    Samples,
    Scores,
    Checkpoint,
    Step,
    /// The finished model.
    Model,
}

/// What comes next. Of what is made at intervals, and after the last step, the state remembers when
/// it was made, so that a resumed run makes up for what a stopped one left out. `scored` says
/// whether there is anybody who scores.
fn due(trainer: &Trainer, scored: bool) -> Due {
    let (run, state) = (&trainer.config().run, &trainer.state);
    let is_last = state.step == run.steps;
    if trainer.is_due(run.sample_every) && state.sampled < state.step {
        Due::Samples
    } else if scored && trainer.is_due(run.validate_every) && state.scored < state.step {
        Due::Scores
    } else if (is_last || trainer.is_due(run.checkpoint_every)) && !trainer.is_saved() {
        Due::Checkpoint
    } else if is_last {
        Due::Model
    } else {
        Due::Step
    }
}

/// Writes a checkpoint of the step reached, and draws the log so far.
fn save(trainer: &mut Trainer, watch: &mut Watch) -> Result<()> {
    (watch.observe)(Event::Wrote(&trainer.save()?));
    draw_curves(trainer, watch);
    Ok(())
}

/// Draws the log so far; the file, unless that fails, which is no reason to end a run.
fn draw_curves(trainer: &Trainer, watch: &mut Watch) -> Option<PathBuf> {
    let drawn = trainer.write_curves();
    drawn.inspect_err(|error| (watch.observe)(Event::NotDrawn(error))).ok()
}

/// Scores of the model as it is now, if anybody scores it.
fn score(trainer: &Trainer, validate: Option<&mut Validate>, progress: Progress) -> Result<Scores> {
    let Some(validate) = validate else { return Ok(Scores::new()) };
    if let Some(pipeline) = trainer.pipeline()? {
        validate(&Candidate::Model(&pipeline), progress)
    } else if let Some(vae) = trainer.vae()? {
        validate(&Candidate::Autoencoder(&vae), progress)
    } else {
        Ok(Scores::new())
    }
}

fn tell_of_another_place(trainer: &Trainer, watch: &mut Watch) {
    let Some(from) = &trainer.state.place else { return };
    let to = trainer.place();
    if !from.rounds_like(&to) {
        (watch.observe)(Event::Moved { from, to: &to });
    }
}

fn tell_of_cut_captions(trainer: &Trainer, watch: &mut Watch) -> Result<()> {
    let Subject::Dual(dual) = &trainer.subject else { return Ok(()) };
    let (captions, of) = dual.cut_captions()?;
    if captions > 0 {
        (watch.observe)(Event::Cut { captions, of, length: dual.text_length() });
    }
    Ok(())
}
