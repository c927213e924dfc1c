//! The samplers against exact oracles: closed-form flows, and denoisers so small that every outcome
//! can be enumerated.
//!
//! Statistical tests have fixed seeds and so one outcome each; their thresholds are such that a
//! right sampler would fail one seed in a million, a wrong one nearly all.

mod flow;
mod forward;
mod law;
mod likelihood;
mod rows;
mod stats;
mod table;
