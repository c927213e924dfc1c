//! The pointwise half of attention: exponentials of score tiles, forward and backward.
//!
//! Scores and their log-sum-exp are in [bits](BITS): p = 2ˢ.

use super::BITS;
use super::head::Tile;
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// How far scores of a later tile may exceed the maximum m before m is raised, and sums and answers
/// are scaled: a p is at most about 2⁸ then, which costs no precision, and few rows ever are
/// scaled. Source: Zadouri et al., "FlashAttention-4", 2026.
const SLACK: f64 = 8.0;

/// One step of the online softmax on a tile of scores s, row by row:
///
/// ```text
/// m′ = max s if that is above m + 8, else m     s ← p = 2^(s − m′)
/// l ← l·α + Σ p     o ← o·α,  α = 2^(m − m′)
/// ```
///
/// with zero for a p below 2⁻¹²⁶.
pub(super) struct Step<'a, 't, T> {
    /// Scores, replaced by p.
    pub tile: &'a mut Tile<'t, T>,
    /// What each row's scores are relative to, m.
    pub shift: &'a mut [T],
    /// Running sum l of each row, by lanes.
    pub sum: &'a mut [[T; LANES]],
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
        let slack = T::from_f64(SLACK);
        // Two loops of short bodies, so that the processor works on several rows at once.
        for i in 0..rows {
            let row = &mut data[i][..padded];
            row[columns..].fill(T::NEG_INFINITY);
            let (max, old) = (largest(isa, row.as_chunks().0), self.shift[i]);
            if self.first {
                self.shift[i] = max;
                self.sum[i] = [T::ZERO; LANES];
            } else if max > old + slack {
                self.shift[i] = max;
                let alpha = exp2_or_zero(old - max);
                scale(isa, std::slice::from_mut(&mut self.sum[i]), alpha);
                scale(isa, self.o[i * self.padded..][..self.padded].as_chunks_mut().0, alpha);
            }
        }
        for i in 0..rows {
            let row = data[i][..padded].as_chunks_mut().0;
            exponentials(isa, row, finite(self.shift[i]), &mut self.sum[i]);
        }
    }
}

/// The number itself; zero for −∞, the maximum of a row without any score: 0 avoids −∞ − −∞.
#[inline(always)]
fn finite<T: Real>(max: T) -> T {
    if max == T::NEG_INFINITY { T::ZERO } else { max }
}

/// Ends the online softmax: o ← o / l, and the log-sum-exp m + log₂ l, in bits, into `shift`.
pub(super) struct Finish<'a, T> {
    /// What each row's scores are relative to, m; replaced by the log-sum-exp.
    pub shift: &'a mut [T],
    /// Sum l of each row, by lanes.
    pub sum: &'a [[T; LANES]],
    /// Answers, `padded` for each row.
    pub o: &'a mut [T],
    /// Distance between rows of `o`; whole sixteens.
    pub padded: usize,
}

impl<T: Real> Task<T> for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let rows = self.shift.chunks_mut(LANES).zip(self.sum.chunks(LANES));
        for ((shift, sum), o) in rows.zip(self.o.chunks_mut(LANES * self.padded)) {
            let mut sums = [T::ONE; LANES];
            for (total, sum) in sums.iter_mut().zip(sum) {
                *total = isa.sum(isa.load(sum));
            }
            let (l, m) = (isa.load(&sums), isa.load_head(shift, T::ZERO));
            // A row whose scores are all −∞ has attended to nothing.
            let some = isa.splat(T::NEG_INFINITY).lt(m);
            let lse = l.ln().mul_add(l.lift(BITS), m);
            isa.store_head(S::V::select(some, lse, m), shift);
            let mut factors = [T::ZERO; LANES];
            isa.store(S::V::select(some, l.recip(), m.lift(0.0)), &mut factors);
            for (o, &factor) in o.chunks_exact_mut(self.padded).zip(&factors) {
                scale(isa, o.as_chunks_mut().0, factor);
            }
        }
    }
}

/// The gradient of the scores, row by row: p = 2^(s − LSE), ds = p·(dp − Δ). Zero for a p below
/// 2⁻¹²⁶, as before.
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
                let e = exp2_or_zero(isa.load(p) - lse);
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

/// Replaces each element x by 2^(x − shift) and adds them to `sum`, lane by lane.
#[inline(always)]
fn exponentials<T: Real, S: Simd<T = T>>(
    isa: S,
    row: &mut [[T; LANES]],
    shift: T,
    sum: &mut [T; LANES],
) {
    let shift = isa.splat(shift);
    let mut total = isa.load(sum);
    for x in row {
        let p = exp2_or_zero(isa.load(x) - shift);
        isa.store(p, x);
        total = total + p;
    }
    isa.store(total, sum);
}

/// 2ˣ for x that is not above 127, or zero below −126, where f32 has no more normal numbers. For a
/// result below that an Intel core stops for a hundred cycles and more, and the room behind a row's
/// last key has one. (On the way back that room holds any number, and so does the answer, which
/// nobody reads.)
#[inline(always)]
fn exp2_or_zero<N: Num>(x: N) -> N {
    let least = x.lift(-126.0);
    N::select(x.lt(least), x.lift(0.0), least.max(x).exp2_normal())
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
