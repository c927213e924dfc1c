//! Flow matching: an ordinary differential equation that carries noise to data.
//!
//! One convention throughout: σ = 1 is noise, σ = 0 is data, `x_σ = (1 − σ)·x₀ + σ·ε`, and the
//! velocity is `dx/dσ`, so the network learns `ε − x₀` and a sampler walks σ down from 1 to 0.
//!
//! * [`interpolate`], [`velocity_target`], [`ImageLoss`]: what training regresses.
//! * [`logit_normal_level`], [`training_sigma`]: which noise levels it sees.
//! * [`Schedule`], [`Solver`], [`Guidance`]: how a sample is drawn.
//!
//! Source: Liu et al. 2022 (rectified flow); Esser et al. 2024 (time density and shift).

mod guidance;
mod interpolant;
mod schedule;
mod solver;

pub use guidance::{Guidance, Pass, guide};
pub use interpolant::{ImageLoss, estimate_clean, interpolate, velocity_target};
pub use schedule::{
    Schedule, TRAINING_LEVELS, logit_normal_level, shift, shifted_training_sigma, timestep,
    training_sigma,
};
pub use solver::{FlowStep, Solver};
