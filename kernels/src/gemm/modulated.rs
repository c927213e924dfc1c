//! A reader that normalises and modulates rows on their way into a product.

use std::ops::Range;

use super::read::Reader;
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// Rows of x, normalised and modulated: `(x − μ)·ρ·(1 + scale) + shift`.
///
/// μ and ρ = 1/σ belong to a row; scale and shift to a sample, which is `rows_per_sample` rows
/// (Peebles & Xie 2023, §3.2, adaLN). The normalised rows are never written to memory.
#[derive(Clone, Copy, Debug)]
pub struct ModulatedNorm<'a, T> {
    /// Rows of `cols` adjacent elements.
    pub x: &'a [T],
    /// Length of a row.
    pub cols: usize,
    /// Mean of each row.
    pub mean: &'a [T],
    /// Reciprocal of each row's standard deviation.
    pub rstd: &'a [T],
    /// One row of numbers a sample, `stride` elements apart.
    pub shift: &'a [T],
    /// As `shift`.
    pub scale: &'a [T],
    /// Distance between the samples' rows in `shift` and `scale`: 6·`cols` where they are parts of
    /// one modulation.
    pub stride: usize,
    /// Rows of x in a sample.
    pub rows_per_sample: usize,
}

impl<T: Real> Reader<T> for ModulatedNorm<'_, T> {
    fn read(
        &self,
        _batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let sample = row / self.rows_per_sample * self.stride;
            let modulation = sample + cols.start..sample + cols.end;
            T::dispatch(Row {
                x: &self.x[row * self.cols..][cols.clone()],
                mean: self.mean[row],
                rstd: self.rstd[row],
                shift: &self.shift[modulation.clone()],
                scale: &self.scale[modulation],
                out: &mut out[..cols.len()],
            });
        }
    }
}

/// Part of a row; slices of one length.
struct Row<'a, T> {
    x: &'a [T],
    mean: T,
    rstd: T,
    shift: &'a [T],
    scale: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Task<T> for Row<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let (mean, rstd, one) = (isa.splat(self.mean), isa.splat(self.rstd), isa.splat(T::ONE));
        let chunks = self.x.chunks(LANES).zip(self.shift.chunks(LANES));
        let modulated = chunks.zip(self.scale.chunks(LANES)).zip(self.out.chunks_mut(LANES));
        for (((x, shift), scale), out) in modulated {
            let x = (isa.load_head(x, T::ZERO) - mean) * rstd;
            let scale = isa.load_head(scale, T::ZERO) + one;
            let y = x.mul_add(scale, isa.load_head(shift, T::ZERO));
            isa.store_head(y, out);
        }
    }
}
