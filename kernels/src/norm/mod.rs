//! Normalisation: layer, adaptive layer, RMS and group norm, forward and backward.
//!
//! All of them are y = gain·x̂ + shift with x̂ = (x − μ)/√(σ² + ε), over a row:
//!
//! | | row | μ | gain | shift |
//! |---|---|---|---|---|
//! | layer norm | \[C\] | mean | 1 | 0 |
//! | adaptive layer norm | \[C\] | mean | 1 + scale of the sample | shift of the sample |
//! | RMS norm | \[C\] | 0 | weight | 0 |
//! | group norm | \[C/G, H, W\] | mean | weight of the channel | bias of the channel |
//!
//! A row is read twice for its statistics (the mean first: a one-pass variance cancels) and once
//! for its answer, all from cache. The forward pass leaves μ and 1/σ; x̂ is made again from x.
//!
//! Sources: Ba et al., "Layer normalization", 2016; Zhang and Sennrich, "Root mean square layer
//! normalization", 2019; Wu and He, "Group normalization", 2018; Peebles and Xie, "Scalable
//! diffusion models with transformers", 2023, §3.2 (adaLN).

mod group;
pub mod ptx;
mod reference;
mod rows;
mod statistics;
#[cfg(test)]
mod tests;

pub use group::{Group, group_norm, group_norm_backward};
pub use reference::{Reference, group_reference, rows_reference};
pub use rows::{Affine, Rows, Slopes, normalize, normalize_backward};
