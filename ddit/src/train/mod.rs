//! Training: from settings to a finished model.
//!
//! | file | what it knows |
//! |---|---|
//! | [`config`], [`presets`] | the settings of a run, and how they are put together |
//! | [`limits`] | which settings, sizes and networks there may be |
//! | [`run`], [`watch`] | a run from its first step to its last; its watcher |
//! | [`trainer`] | the parts of a run, a step of it |
//! | [`dual`], [`autoencoder`] | what a step is made of, for the two things there are to train |
//! | [`beginning`], [`frozen`] | what a transformer's run begins with; latents |
//! | [`trainable`], [`networks`] | which weights learn; the networks on them |
//! | [`learner`], [`schedule`] | weights, optimiser, moving average; the learning rate |
//! | [`place`] | where it computes |
//! | [`checkpoint`], [`log`] | what is written on the way, so that a killed run goes on |
//! | [`finish`] | sample sheets, the finished model |
//! | [`curves`] | the log as a picture |
//! | [`progress`] | all this on a terminal |
//!
//! A run is a function of its settings: the order of the data and every random number follow from
//! the seed and the step, and no sum depends on the number of threads. A run that was stopped,
//! or killed, and resumed has the same losses and weights as one that was not, to the last bit.
//!
//! ```text
//! OUT/config.toml        the settings, every key
//! OUT/log.jsonl          losses and scores
//! OUT/curves.svg         the same as curves
//! OUT/checkpoints/       what to resume from
//! OUT/samples/           what the model draws and writes on the way
//! OUT/latents.safetensors    the data as latents, computed once
//! OUT/vae-run/           the run of the autoencoder, where one is trained first
//! OUT/model/             the finished model, in the official layout
//! ```

pub mod autoencoder;
pub mod beginning;
pub mod checkpoint;
pub mod config;
pub mod curves;
pub mod dual;
pub mod finish;
pub mod frozen;
pub mod learner;
pub mod limits;
pub mod log;
pub mod networks;
pub mod place;
pub mod presets;
pub mod progress;
pub mod run;
pub mod samples;
pub mod schedule;
pub mod setup;
pub mod trainable;
pub mod trainer;
pub mod watch;

#[cfg(test)]
mod tests;

pub use config::{RunConfig, Task};
pub use place::Place;
pub use presets::PRESETS;
pub use progress::Progress;
pub use run::{is_resumable, resume, start};
pub use trainer::{DIVERGED, Trainer};
pub use watch::{Candidate, Event, Outcome, Scores, Stop, Watch};
