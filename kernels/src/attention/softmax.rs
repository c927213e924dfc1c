//! The pointwise half of attention: exponentials of score tiles, forward and backward.

use super::head::Tile;
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// One step of the online softmax on a tile of scores s, row by row:
///
/// ```text
/// m′ = max(m, max s)     s ← p = exp(s − m′)     l ← l·α + Σ p     o ← o·α,  α = exp(m − m′)
/// ```
///
/// with zero for a p below e⁻⁸⁷.
pub(super) struct Step<'a, 't, T> {
    /// Scores, replaced by p.
    pub tile: &'a mut Tile<'t, T>,
    /// Running maximum m of each row.
    pub max: &'a mut [T],
    /// Running sum l of each row.
    pub sum: &'a mut [T],
    /// Unnormalised answers, `padded` for each row.
    pub o: &'a mut [T],
    /// Distance between rows of `o`; whole sixteens.
    pub padded: usize,
    /// Whether this is the rows' first tile: m, l and o hold nothing yet.
    pub first: bool,
}

impl<T: Real> Task<T> for Step<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Tile { ref mut data, rows, columns } = *self.tile;
        let padded = columns.next_multiple_of(LANES);
        // Two loops of short bodies, so that the processor works on several rows at once.
        for i in 0..rows {
            let row = &mut data[i][..padded];
            row[columns..].fill(T::NEG_INFINITY);
            let old = if self.first { T::NEG_INFINITY } else { self.max[i] };
            let max = old.max(largest(isa, row.as_chunks().0));
            self.max[i] = max;
            if !self.first {
                let alpha = (old - finite(max)).exp();
                self.sum[i] = self.sum[i] * alpha;
                scale(isa, self.o[i * self.padded..][..self.padded].as_chunks_mut().0, alpha);
            }
        }
        for i in 0..rows {
            let row = data[i][..padded].as_chunks_mut().0;
            let sum = exponentials(isa, row, finite(self.max[i]));
            self.sum[i] = if self.first { sum } else { self.sum[i] + sum };
        }
    }
}

/// The number itself; zero for −∞, the maximum of a row without any score: 0 avoids −∞ − −∞.
#[inline(always)]
fn finite<T: Real>(max: T) -> T {
    if max == T::NEG_INFINITY { T::ZERO } else { max }
}

/// Ends the online softmax: o ← o / l, and the log-sum-exp m + ln l into `max`.
pub(super) struct Finish<'a, T> {
    /// Maximum m of each row, replaced by the log-sum-exp.
    pub max: &'a mut [T],
    /// Sum l of each row.
    pub sum: &'a [T],
    /// Answers, `padded` for each row.
    pub o: &'a mut [T],
    /// Distance between rows of `o`; whole sixteens.
    pub padded: usize,
}

impl<T: Real> Task<T> for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        for (i, o) in self.o.chunks_exact_mut(self.padded).enumerate() {
            // A row whose scores are all −∞ has attended to nothing.
            let some = self.max[i] != T::NEG_INFINITY;
            scale(isa, o.as_chunks_mut().0, if some { T::ONE / self.sum[i] } else { T::ZERO });
            self.max[i] = if some { self.max[i] + self.sum[i].ln() } else { self.max[i] };
        }
    }
}

/// The gradient of the scores, row by row: p = exp(s − LSE), ds = p·(dp − Δ). Zero for a p below
/// e⁻⁸⁷, as before.
pub(super) struct Backward<'a, 't, T> {
    /// Scores, replaced by p.
    pub p: &'a mut Tile<'t, T>,
    /// Gradient of p, replaced by that of the scores.
    pub ds: &'a mut Tile<'t, T>,
    /// Log-sum-exp of each row.
    pub lse: &'a [T],
    /// Δ = Σ o·do of each row.
    pub delta: &'a [T],
}

impl<T: Real> Task<T> for Backward<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let padded = self.p.columns.next_multiple_of(LANES);
        for i in 0..self.p.rows {
            let (p, ds) = (&mut self.p.data[i][..padded], &mut self.ds.data[i][..padded]);
            let lse = isa.splat(finite(self.lse[i]));
            let delta = isa.splat(self.delta[i]);
            for (p, ds) in p.as_chunks_mut().0.iter_mut().zip(ds.as_chunks_mut().0) {
                let e = exp_or_zero(isa.load(p) - lse);
                isa.store(e, p);
                isa.store(e * (isa.load(ds) - delta), ds);
            }
        }
    }
}

/// Δ = Σ o·do of each row.
pub(super) struct Delta<'a, T> {
    /// Answers, `padded` for each row.
    pub o: &'a [T],
    /// Their gradient.
    pub d_o: &'a [T],
    /// Distance between rows of both; whole sixteens.
    pub padded: usize,
    /// The sums.
    pub delta: &'a mut [T],
}

impl<T: Real> Task<T> for Delta<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let rows = self.o.chunks_exact(self.padded).zip(self.d_o.chunks_exact(self.padded));
        for (delta, (o, d_o)) in self.delta.iter_mut().zip(rows) {
            let mut sum = isa.splat(T::ZERO);
            for (o, d_o) in o.as_chunks().0.iter().zip(d_o.as_chunks().0) {
                sum = isa.load(o).mul_add(isa.load(d_o), sum);
            }
            *delta = isa.sum(sum);
        }
    }
}

/// Largest element.
#[inline(always)]
fn largest<T: Real, S: Simd<T = T>>(isa: S, row: &[[T; LANES]]) -> T {
    let mut max = isa.splat(T::NEG_INFINITY);
    for x in row {
        max = isa.load(x).max(max);
    }
    isa.largest(max)
}

/// Replaces each element by exp(element − shift) and answers their sum.
#[inline(always)]
fn exponentials<T: Real, S: Simd<T = T>>(isa: S, row: &mut [[T; LANES]], shift: T) -> T {
    let shift = isa.splat(shift);
    let mut sum = isa.splat(T::ZERO);
    for x in row {
        let p = exp_or_zero(isa.load(x) - shift);
        isa.store(p, x);
        sum = sum + p;
    }
    isa.sum(sum)
}

/// eˣ for x that is not above zero, or zero below e⁻⁸⁷, which is about the least normal number of
/// f32. For a result below that an Intel core stops for a hundred cycles and more, and the room
/// behind a row's last key has one. (On the way back that room holds any number, and so does the
/// answer, which nobody reads.)
#[inline(always)]
fn exp_or_zero<N: Num>(x: N) -> N {
    let least = x.lift(-87.0);
    N::select(x.lt(least), x.lift(0.0), least.max(x).exp_normal())
}

/// Multiplies each element by a number.
#[inline(always)]
fn scale<T: Real, S: Simd<T = T>>(isa: S, row: &mut [[T; LANES]], factor: T) {
    let factor = isa.splat(factor);
    for x in row {
        let v = isa.load(x) * factor;
        isa.store(v, x);
    }
}
