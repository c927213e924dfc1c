//! Whoever watches a run: what it is told, what it may ask for, and how a run ends.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tensor::{Error, Result};

use super::config::Task;
use super::log::StepReport;
use super::place::Place;
use crate::pipeline::{Pipeline, Progress};
use crate::vae::AutoencoderKl;

/// Scores by name.
pub type Scores = Vec<(String, f64)>;

/// Whoever scores a model, step by step.
pub type Validate<'a> = &'a mut dyn FnMut(&Candidate, Progress) -> Result<Scores>;

/// Whoever watches a run.
pub struct Watch<'a> {
    /// Set from elsewhere, by a signal handler say, it makes the run save and stop after the step
    /// that is under way: of training, or of samples, scores or an autoencoder's measuring, which a
    /// resumed run then makes anew; or after the picture that is being read, or the batch that is being encoded.
    pub stop: &'a AtomicBool,
    /// Is told what happens.
    pub observe: &'a mut dyn FnMut(Event),
    /// Scores the model every `run.validate_every` steps; the scores go into the log.
    pub validate: Option<Validate<'a>>,
}

/// What a run has trained so far, ready for use.
pub enum Candidate<'a> {
    /// A transformer, with all it needs.
    Model(&'a Pipeline),
    /// An autoencoder.
    Autoencoder(&'a AutoencoderKl),
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
    /// Lines of a list of pictures have been read, and the pictures.
    Read {
        /// How many.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// Pictures have been encoded.
    Encoded {
        /// How many.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// The latents of a finished autoencoder have been measured, as its scale is part of it.
    Measured {
        /// Of how many pictures.
        done: usize,
        /// Of how many they are to be.
        total: usize,
    },
    /// A step has been made.
    Step(&'a StepReport),
    /// A step could not be recorded, and is asked of the GPU kernel by kernel.
    Unrecorded(&'a Error),
    /// A file or folder has been written: a checkpoint, a sample sheet, the finished model.
    Wrote(&'a Path),
    /// The log could not be drawn as curves; the run goes on.
    NotDrawn(&'a Error),
    /// The model has been scored.
    Scored {
        /// After this step.
        step: u64,
        /// The scores.
        scores: &'a Scores,
    },
    /// The steps before were made elsewhere, with other rounding.
    Moved {
        /// There.
        from: &'a Place,
        /// Where they are made now.
        to: &'a Place,
    },
    /// Captions are longer than the rows they are learnt from.
    Cut {
        /// How many.
        captions: usize,
        /// Of how many.
        of: usize,
        /// Tokens of a row.
        length: usize,
    },
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
