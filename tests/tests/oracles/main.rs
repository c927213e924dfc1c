//! The paper's equations against exact answers: closed-form flows, and denoisers so small that
//! every outcome can be enumerated. Tests are named after the equation they hold to;
//! `docs/equations.md` is the table of them.
//!
//! Statistical tests have fixed seeds and so one outcome each; their thresholds are such that a
//! right sampler would fail one seed in a million, a wrong one nearly all.

mod flow;
mod forward;
mod law;
mod likelihood;
mod model;
mod rows;
mod times;
