//! Masked diffusion: tokens turn into masks as time runs from 0 to 1, and back as a sampler runs.
//!
//! * [`LogLinear`], [`stratified_times`], [`corrupt`]: the forward process and its times.
//! * [`subs_log_probs`], [`posterior`]: the reverse process, one step of it.
//! * [`TwoStage`], [`DdpmCache`], [`Confidence`]: samplers over a [`Canvas`] of tokens and holes.
//! * [`Likelihood`]: how probable given tokens are, exactly or by estimate.
//!
//! Which sampler?
//!
//! | sampler | law | random numbers | denoiser calls for a row |
//! | --- | --- | --- | --- |
//! | [`TwoStage`] | the reverse process | ≤ 2 a hole and step | ≤ min(steps, holes) |
//! | [`DdpmCache`] | the same but for `f32` | V a hole and step | ≤ min(steps + 1, holes) |
//! | [`Confidence`] | another: the surest first | ≤ 2 a hole and step | ≤ min(steps, holes) |
//!
//! Each row of a batch draws from a generator of its own and the denoiser is asked about a row only
//! when it changed, so a row comes out the same bit for bit in any company.
//!
//! Source: Sahoo et al. 2024 (MDLM), whose equations the paper takes over.

use tensor::rng::Rng;
use tensor::{Error, Result};

mod canvas;
mod categorical;
mod confidence;
mod ddpm_cache;
mod likelihood;
mod noise;
mod predictions;
mod reverse;
mod two_stage;

pub use canvas::{Canvas, Query, TextStep};
pub use categorical::Decoding;
pub use confidence::{Confidence, Pace, Score};
pub use ddpm_cache::{DdpmCache, Draw};
pub use likelihood::{Estimate, Likelihood};
pub use noise::{LogLinear, MIN_TIME, corrupt, stratified_times};
pub use reverse::{posterior, subs_log_probs};
pub use two_stage::TwoStage;

/// Errors: `steps` is 0.
#[track_caller]
fn check_steps(steps: usize) -> Result<()> {
    match steps {
        0 => Err(Error::value("sample", "sampling takes at least one step")),
        _ => Ok(()),
    }
}

/// Errors: not as many generators as rows.
#[track_caller]
fn check_generators(canvas: &Canvas, rngs: &[Rng]) -> Result<()> {
    if rngs.len() != canvas.batch() {
        let message = format!("{} generators for {} rows", rngs.len(), canvas.batch());
        return Err(Error::value("sample", message));
    }
    Ok(())
}
