//! Mean and standard deviation of a row.

use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd};

/// Elements summed in lanes before the sum goes to float64: a group of a large picture has
/// millions of elements, and a lane of float32 should not add up more than a few hundred.
pub(super) const BLOCK: usize = 4096;

/// μ and 1/√(σ² + ε) of a row, or 0 and 1/√(mean x² + ε) if it is not to be `centered`.
#[inline(always)]
pub(super) fn statistics<S: Simd>(isa: S, x: &[S::T], eps: f64, centered: bool) -> [S::T; 2] {
    let n = x.len() as f64;
    let mean = if centered { S::T::from_f64(sum_of(isa, x, Term::Itself) / n) } else { S::T::ZERO };
    let variance = sum_of(isa, x, Term::SquareFrom(mean)) / n;
    [mean, S::T::from_f64(1.0 / (variance + eps).sqrt())]
}

/// What is summed.
#[derive(Clone, Copy)]
enum Term<T> {
    /// x.
    Itself,
    /// (x − this)².
    SquareFrom(T),
}

#[inline(always)]
fn sum_of<S: Simd>(isa: S, x: &[S::T], term: Term<S::T>) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(BLOCK) {
        let mut sum = isa.splat(S::T::ZERO);
        for chunk in block.chunks(LANES) {
            match term {
                Term::Itself => sum = sum + isa.load_head(chunk, S::T::ZERO),
                // Lanes beyond the row are at the mean.
                Term::SquareFrom(mean) => {
                    let d = isa.load_head(chunk, mean) - isa.splat(mean);
                    sum = d.mul_add(d, sum);
                }
            }
        }
        total += isa.sum(sum).to_f64();
    }
    total
}
