//! Reductions along one axis: sums, maxima, and the sum of squares that a gradient norm is made of.
//!
//! Any set of adjacent axes is the middle one of \[outer, n, inner\]: a row sum has inner = 1, the
//! column sum of a bias gradient outer = 1. The order of additions follows from these three
//! numbers alone, and is a tree rather than a chain, so that rounding errors grow with the
//! logarithm of n.

mod cpu;

pub use cpu::{max, spread, sum, sum_squares};

/// Plain float64 sums over the middle axis: what [`sum`] is checked against.
pub fn reference_sum(x: &[f64], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![0.0; outer * inner];
    for o in 0..outer {
        for i in 0..n {
            for j in 0..inner {
                y[o * inner + j] += x[(o * n + i) * inner + j];
            }
        }
    }
    y
}

/// Plain float64 maxima over the middle axis: what [`max`] is checked against.
pub fn reference_max(x: &[f64], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![f64::NEG_INFINITY; outer * inner];
    for o in 0..outer {
        for i in 0..n {
            for j in 0..inner {
                let y = &mut y[o * inner + j];
                *y = y.max(x[(o * n + i) * inner + j]);
            }
        }
    }
    y
}
