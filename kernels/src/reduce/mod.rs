//! Reductions along one axis: sums, maxima, and the sum of squares that a gradient norm is made of.
//!
//! Any set of adjacent axes is the middle one of \[outer, n, inner\]: a row sum has inner = 1, the
//! column sum of a bias gradient outer = 1. The order of additions follows from these three
//! numbers alone, and is a tree rather than a chain, so that rounding errors grow with the
//! logarithm of n.

mod cpu;
pub mod ptx;

pub use cpu::{max, spread, sum, sum_products, sum_squares};

/// Σ x as if added in twice the precision: what references add with, where a chain of additions
/// would err more than what it is to judge.
///
/// Source: Neumaier 1974, algorithm IV.
pub fn compensated_sum(x: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for x in x {
        let next = sum + x;
        lost += if sum.abs() >= x.abs() { (sum - next) + x } else { (x - next) + sum };
        sum = next;
    }
    sum + lost
}

/// Float64 sums over the middle axis: what [`sum`] is checked against.
pub fn reference_sum(x: &[f64], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
    let column = |o: usize, j: usize| (0..n).map(move |i| x[(o * n + i) * inner + j]);
    let sums = (0..outer).flat_map(|o| (0..inner).map(move |j| compensated_sum(column(o, j))));
    sums.collect()
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
