//! Which random numbers belong to which choice.
//!
//! Every choice of a run draws from a stream of its own, named by what it is for and by a step and
//! a row, or a sample. No choice then depends on how many numbers another one used up, nor on how
//! a batch is cut into parts; and a step can be done again without doing those before it.

use tensor::rng::Rng;

/// What random numbers are for. Numbers below 16 are the purposes of the
/// [objective's draws](crate::objective::Draws).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The scenes of the training set.
    Scene = 16,
    /// The order of samples in the image pass.
    ImageOrder,
    /// The order of samples in the text pass.
    TextOrder,
    /// Which caption a picture of the image pass gets.
    ImageCaption,
    /// Whether a row of the text pass is a question, and which caption or question it is.
    Text,
    /// What sample sheets show.
    Samples,
}

/// The stream for `purpose` at `step` (below 2³⁶) and `row` (below 2²⁰), or for a sample as `step`.
pub fn stream(seed: u64, purpose: Purpose, step: u64, row: usize) -> Rng {
    debug_assert!(step < 1 << 36 && row < 1 << 20, "streams would be shared");
    Rng::new(seed).stream((purpose as u64) << 56 | step << 20 | row as u64)
}
