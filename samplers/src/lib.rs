//! The two diffusions of the paper as algorithms over closures: this crate knows no model.
//!
//! * [`flow`] turns noise into latents: an ordinary differential equation whose velocity the
//!   caller's closure supplies.
//! * [`masked`] turns masks into tokens: a Markov chain whose denoiser the caller's closure
//!   supplies; and it says how likely given tokens are.
//!
//! Both run from time 1 (nothing but noise, nothing but masks) to time 0 (data). Because the model
//! is a closure, the tests put closed forms in its place: Gaussian mixtures with known velocity,
//! and small tables whose every outcome can be enumerated.

pub mod flow;
pub mod masked;
