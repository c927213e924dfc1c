//! Normalisation for the GPU: the CPU's order of summation and bits.
//!
//! A [`Team`](crate::ptx::Team) takes a row, and a block of threads each part of a group. Sums end
//! in float64, and so does 1/√(σ² + ε): a few instructions a row.

mod group;
mod rows;

pub use group::{
    PART, group_apply, group_backward, group_backward_sums, group_channel_sums, group_parts,
    group_slopes, group_statistics,
};
pub use rows::{Gain, RowNorm};
