//! Layer, adaptive layer and RMS norm: normalisation along the last axis.

use super::statistics::statistics;
use crate::lane::LANES;
use crate::num::Num;
use crate::par::{self, Cells};
use crate::{Real, Simd, Task, scratch};

/// Rows that a task takes; partial sums of the parameters' gradients are added in this grain.
pub(super) const ROWS: usize = 64;

/// Nanoseconds an element takes, for the decision whether to split the work.
const NS: usize = 1;

/// What normalised rows are multiplied by, and what is added to them.
#[derive(Clone, Copy, Debug)]
pub enum Affine<'a, T> {
    /// y = x̂: layer norm.
    Identity,
    /// y = (1 + scale)·x̂ + shift, with one \[C\] of each for every sample: adaptive layer norm.
    Modulation {
        /// Sample b's numbers are `scale[b·stride..][..C]`.
        scale: &'a [T],
        /// As `scale`.
        shift: &'a [T],
        /// Distance between samples: 6·C where both are parts of one modulation.
        stride: usize,
    },
    /// y = weight·x̂.
    Weight(&'a [T]),
}

/// A normalisation of rows of x \[B, S, C\].
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    /// C, the length of a row; at least one.
    pub width: usize,
    /// S, the rows of a sample.
    pub rows_per_sample: usize,
    /// ε.
    pub eps: f64,
    /// Whether the mean is subtracted; if not, this is RMS norm.
    pub centered: bool,
    /// What becomes of the normalised rows.
    pub affine: Affine<'a, T>,
}

impl<'a, T: Real> Rows<'a, T> {
    /// The affine map of a sample: added to the gain, the gain, the shift.
    #[inline(always)]
    fn affine_of(&self, sample: usize) -> (T, Option<&'a [T]>, Option<&'a [T]>) {
        match self.affine {
            Affine::Identity => (T::ONE, None, None),
            Affine::Weight(weight) => (T::ZERO, Some(&weight[..self.width]), None),
            Affine::Modulation { scale, shift, stride } => (
                T::ONE,
                Some(&scale[sample * stride..][..self.width]),
                Some(&shift[sample * stride..][..self.width]),
            ),
        }
    }
}

/// Writes y like x, and μ and 1/σ of each row.
///
/// Cost: 8 flop an element, x read once and y written once from memory.
/// Panics when the slices do not have the sizes that `norm` implies.
pub fn normalize<T: Real>(norm: &Rows<T>, x: &[T], y: &mut [T], mean: &mut [T], rstd: &mut [T]) {
    let len = norm.width * ROWS;
    assert_eq!(x.len(), y.len(), "norm: x and y");
    assert_eq!(x.len(), mean.len() * norm.width, "norm: one mean for each row");
    assert_eq!(mean.len(), rstd.len(), "norm: one deviation for each row");
    par::chunks3_mut((y, len), (mean, ROWS), (rstd, ROWS), NS * x.len(), |i, y, mean, rstd| {
        let x = &x[i * len..][..y.len()];
        T::dispatch(Forward { norm, first: i * ROWS, x, y, mean, rstd });
    });
}

/// Some rows of the forward pass, from row `first` on.
struct Forward<'a, T> {
    norm: &'a Rows<'a, T>,
    first: usize,
    x: &'a [T],
    y: &'a mut [T],
    mean: &'a mut [T],
    rstd: &'a mut [T],
}

impl<T: Real> Task<T> for Forward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Rows { width, rows_per_sample, eps, centered, .. } = *self.norm;
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for (i, (x, y)) in rows.enumerate() {
            let [mean, rstd] = statistics(isa, x, eps, centered);
            (self.mean[i], self.rstd[i]) = (mean, rstd);
            let (mean, rstd) = (isa.splat(mean), isa.splat(rstd));
            let (plus, gain, shift) = self.norm.affine_of((self.first + i) / rows_per_sample);
            let plus = isa.splat(plus);
            for (c, (x, y)) in x.chunks(LANES).zip(y.chunks_mut(LANES)).enumerate() {
                let mut v = (isa.load_head(x, T::ZERO) - mean) * rstd;
                if let Some(gain) = gain {
                    let gain = plus + isa.load_head(part(gain, c), T::ZERO);
                    let shift = match shift {
                        Some(shift) => isa.load_head(part(shift, c), T::ZERO),
                        None => isa.splat(T::ZERO),
                    };
                    v = v.mul_add(gain, shift);
                }
                isa.store_head(v, y);
            }
        }
    }
}

/// The `c`-th run of lanes of a row.
#[inline(always)]
fn part<T>(row: &[T], c: usize) -> &[T] {
    let row = &row[c * LANES..];
    &row[..row.len().min(LANES)]
}

/// Where the gradients of an affine map go.
#[derive(Debug)]
pub struct Slopes<'a, T> {
    /// \[B, C\] of the scale, or \[1, C\] of the weight.
    pub gain: &'a mut [T],
    /// \[B, C\] of the shift; empty where there is none.
    pub shift: &'a mut [T],
}

/// Writes the gradient of x, and of the affine map where it has numbers of its own.
///
/// With d = gain·dy, and means over the row:
///
/// ```text
/// dx = (d − mean(d) − x̂·mean(d·x̂))/σ      dgain = Σ dy·x̂      dshift = Σ dy
/// ```
///
/// where the sums are over the rows of a sample (of all samples for RMS norm, where the term
/// mean(d) is absent): 64 rows at a time, the partial sums added in order. If it `adds`, the
/// gradient of x is added to what dx holds.
/// Cost: 16 flop an element; x and dy read once, dx written once (and read, if it `adds`) from memory.
/// Panics when the slices do not have the sizes that `norm` implies.
pub fn normalize_backward<T: Real>(
    norm: &Rows<T>,
    x: &[T],
    [mean, rstd]: [&[T]; 2],
    dy: &[T],
    (dx, adds): (&mut [T], bool),
    slopes: Option<Slopes<T>>,
) {
    let width = norm.width;
    assert_eq!([x.len(), dy.len()], [dx.len(); 2], "norm: x, dy and dx");
    assert_eq!([mean.len() * width, rstd.len() * width], [x.len(); 2], "norm: statistics");
    // Rows whose parameter gradients are summed together.
    let rows = match norm.affine {
        Affine::Modulation { .. } => norm.rows_per_sample,
        Affine::Identity | Affine::Weight(_) => mean.len(),
    };
    let (samples, chunks) = (mean.len().checked_div(rows).unwrap_or(0), rows.div_ceil(ROWS));
    let sums = if slopes.is_some() { 2 * width } else { 0 };
    scratch::with([samples * chunks * sums], |[partial]| {
        let partials = Cells::new(partial, [1, sums], [1, sums]);
        let cells = Cells::new(dx, [rows, width], [ROWS, width]);
        par::for_each(samples * chunks, 2 * NS * x.len(), |task| {
            let mut dx = cells.take(task / chunks, [task % chunks, 0]);
            let mut partial = (sums > 0).then(|| partials.take(task, [0, 0]));
            let partial = partial.as_mut().map(|p| p.row(0).split_at_mut(width));
            let first = task / chunks * rows + task % chunks * ROWS;
            let dx = &mut dx;
            T::dispatch(Backward { norm, first, x, mean, rstd, dy, dx, adds, partial });
        });
        if let Some(Slopes { gain, shift }) = slopes {
            let per_sample = (chunks * sums).max(1);
            for (partial, gain) in partial.chunks(per_sample).zip(gain.chunks_mut(width)) {
                add_up(partial.chunks(sums).map(|p| &p[..width]), gain);
            }
            for (partial, shift) in partial.chunks(per_sample).zip(shift.chunks_mut(width)) {
                add_up(partial.chunks(sums).map(|p| &p[width..]), shift);
            }
            if samples * chunks == 0 {
                gain.fill(T::ZERO);
                shift.fill(T::ZERO);
            }
        }
    });
}

/// The sum of slices, in order.
fn add_up<'a, T: Real>(parts: impl Iterator<Item = &'a [T]>, out: &mut [T]) {
    out.fill(T::ZERO);
    for part in parts {
        out.iter_mut().zip(part).for_each(|(o, &p)| *o += p);
    }
}

/// Some rows of the backward pass, from row `first` on.
struct Backward<'a, 'c, T> {
    norm: &'a Rows<'a, T>,
    first: usize,
    x: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    dy: &'a [T],
    dx: &'a mut par::Cell<'c, T>,
    /// Whether dx is added to.
    adds: bool,
    /// Sums of dy·x̂ and of dy over these rows.
    partial: Option<(&'a mut [T], &'a mut [T])>,
}

impl<T: Real> Task<T> for Backward<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        let Rows { width, rows_per_sample, .. } = *self.norm;
        if let Some((gain, shift)) = &mut self.partial {
            gain.fill(T::ZERO);
            shift.fill(T::ZERO);
        }
        for i in self.dx.rows() {
            let row = self.first + i;
            let (x, dy) = (&self.x[row * width..][..width], &self.dy[row * width..][..width]);
            let statistics = [self.mean[row], self.rstd[row]];
            let (plus, gain, _) = self.norm.affine_of(row / rows_per_sample);
            let slopes = Slope { isa, x, dy, statistics, plus, gain };
            slopes.input(self.norm.centered, self.dx.row(i), self.adds);
            if let Some((gain, shift)) = &mut self.partial {
                slopes.add_parameters(gain, shift);
            }
        }
    }
}

/// The gradients of one row.
struct Slope<'a, S: Simd> {
    isa: S,
    x: &'a [S::T],
    dy: &'a [S::T],
    /// μ and 1/σ.
    statistics: [S::T; 2],
    /// Added to the gain.
    plus: S::T,
    gain: Option<&'a [S::T]>,
}

impl<S: Simd> Slope<'_, S> {
    /// x̂ and d = gain·dy of the `c`-th run of lanes; both zero beyond the row.
    #[inline(always)]
    fn lanes(&self, c: usize) -> (S::V, S::V) {
        let isa = self.isa;
        let [mean, rstd] = self.statistics;
        let x = isa.load_head(part(self.x, c), mean);
        let d = isa.load_head(part(self.dy, c), S::T::ZERO);
        let gain = match self.gain {
            Some(gain) => isa.splat(self.plus) + isa.load_head(part(gain, c), S::T::ZERO),
            None => isa.splat(self.plus),
        };
        ((x - isa.splat(mean)) * isa.splat(rstd), d * gain)
    }

    #[inline(always)]
    fn input(&self, centered: bool, dx: &mut [S::T], adds: bool) {
        let isa = self.isa;
        let n = S::T::from_f64(self.x.len() as f64);
        let (mut sum, mut product) = (isa.splat(S::T::ZERO), isa.splat(S::T::ZERO));
        for c in 0..self.x.len().div_ceil(LANES) {
            let (x, d) = self.lanes(c);
            sum = sum + d;
            product = d.mul_add(x, product);
        }
        let sum = if centered { isa.sum(sum) / n } else { S::T::ZERO };
        let (sum, product) = (isa.splat(sum), isa.splat(isa.sum(product) / n));
        for (c, dx) in dx.chunks_mut(LANES).enumerate() {
            let (x, d) = self.lanes(c);
            let mut v = (d - sum - x * product) * isa.splat(self.statistics[1]);
            if adds {
                v = isa.load_head(dx, S::T::ZERO) + v;
            }
            isa.store_head(v, dx);
        }
    }

    #[inline(always)]
    fn add_parameters(&self, gain: &mut [S::T], shift: &mut [S::T]) {
        let isa = self.isa;
        let [mean, rstd] = self.statistics;
        let sums = gain.chunks_mut(LANES).zip(shift.chunks_mut(LANES));
        for (c, (gain, shift)) in sums.enumerate() {
            let x = isa.load_head(part(self.x, c), mean);
            let dy = isa.load_head(part(self.dy, c), S::T::ZERO);
            let x = (x - isa.splat(mean)) * isa.splat(rstd);
            let v = dy.mul_add(x, isa.load_head(gain, S::T::ZERO));
            isa.store_head(v, gain);
            let v = isa.load_head(shift, S::T::ZERO) + dy;
            isa.store_head(v, shift);
        }
    }
}
