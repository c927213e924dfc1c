//! The reader of matrices in memory, at any strides and in any precision.

use std::marker::PhantomData;
use std::ops::Range;

use super::copy::{AsItIs, Copy};
use super::read::Reader;
use super::storage::Stored;
use super::transpose::transpose;
use crate::lane::LANES;
use crate::{Real, scratch};

/// A batch index may have so many axes: `[B, H]` and two more.
const BATCH_AXES: usize = 4;

/// Matrices in a slice, at any strides; elements may be stored in half precision.
///
/// Element (i, j) of matrix b is `x[offset(b) + i·strides[0] + j·strides[1]]`. Stride 0 repeats:
/// that is how a batch shares one matrix, or a matrix repeats one row.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T, E = T> {
    x: &'a [E],
    strides: [usize; 2],
    /// Lengths and strides of the batch's axes, last axis fastest; unused ones in front.
    batch: [(usize, usize); BATCH_AXES],
    computes_in: PhantomData<T>,
}

impl<'a, T: Real, E: Stored<T>> Strided<'a, T, E> {
    /// A single matrix (any batch reads the same one) with these row and column strides.
    pub fn new(x: &'a [E], strides: [usize; 2]) -> Self {
        Strided { x, strides, batch: [(1, 0); BATCH_AXES], computes_in: PhantomData }
    }

    /// Rows of `cols` adjacent elements, one after the other.
    pub fn rows(x: &'a [E], cols: usize) -> Self {
        Strided::new(x, [cols, 1])
    }

    /// A batch with these axes, the last one fastest.
    ///
    /// # Panics
    /// With more than four axes, or a stride too few or too many.
    pub fn batched(mut self, lengths: &[usize], strides: &[usize]) -> Self {
        assert!(lengths.len() == strides.len() && lengths.len() <= BATCH_AXES);
        let unused = BATCH_AXES - lengths.len();
        for (axis, pair) in self.batch[unused..].iter_mut().zip(lengths.iter().zip(strides)) {
            *axis = (*pair.0, *pair.1);
        }
        self
    }

    /// The slice from element (row, col) of matrix `batch` on.
    fn at(&self, mut batch: usize, row: usize, col: usize) -> &'a [E] {
        let mut offset = row * self.strides[0] + col * self.strides[1];
        for &(length, stride) in self.batch.iter().rev() {
            // Of a single matrix, no time is spent on divisions.
            if batch == 0 {
                break;
            }
            offset += batch % length * stride;
            batch /= length;
        }
        &self.x[offset..]
    }
}

impl<T: Real, E: Stored<T>> Reader<T> for Strided<'_, T, E> {
    fn read(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        let size = [rows.len(), cols.len()];
        if size.contains(&0) {
            return;
        }
        let x = self.at(batch, rows.start, cols.start);
        match self.strides {
            [by, 1] => copy(x, by, size, out, stride),
            [1, by] if by > 0 => copy_transposed(x, by, [size[1], size[0]], out, stride),
            strides => gather(x, strides, size, out, stride),
        }
    }

    fn lend(&self, batch: usize, row: usize, col: usize) -> Option<(&[T], [usize; 2])> {
        Some((E::as_real(self.at(batch, row, col))?, self.strides))
    }

    fn read_transposed(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        let turned = Strided { strides: [self.strides[1], self.strides[0]], ..*self };
        turned.read(batch, cols, rows, out, stride);
    }

    fn read_panels(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        [panel_rows, width]: [usize; 2],
    ) {
        let size = [rows.len(), cols.len()];
        if size.contains(&0) {
            return;
        }
        let x = self.at(batch, rows.start, cols.start);
        if let [by, 1] = self.strides {
            let panel = [width, panel_rows * width];
            return T::dispatch(Copy { x, by, size, out, row_step: width, panel, f: AsItIs });
        }
        let panels = out.chunks_mut(panel_rows * width);
        for (first, out) in (0..cols.len()).step_by(width).zip(panels) {
            let some = cols.start + first..cols.end.min(cols.start + first + width);
            self.read(batch, rows.clone(), some, out, width);
        }
    }
}

/// Rows of adjacent elements, `by` apart.
fn copy<T: Real, E: Stored<T>>(x: &[E], by: usize, size: [usize; 2], out: &mut [T], stride: usize) {
    T::dispatch(Copy { x, by, size, out, row_step: stride, panel: [LANES, LANES], f: AsItIs });
}

/// Rows of adjacent elements, `by` apart, as columns.
fn copy_transposed<T: Real, E: Stored<T>>(
    x: &[E],
    by: usize,
    [rows, cols]: [usize; 2],
    out: &mut [T],
    stride: usize,
) {
    if let Some(x) = E::as_real(x) {
        return transpose([rows, cols], (x, by), (out, stride));
    }
    scratch::with([rows * cols], |[widened]| {
        copy(x, by, [rows, cols], widened, cols);
        transpose([rows, cols], (widened, cols), (out, stride));
    });
}

/// Elements apart in both directions.
fn gather<T: Real, E: Stored<T>>(
    x: &[E],
    strides: [usize; 2],
    [rows, cols]: [usize; 2],
    out: &mut [T],
    stride: usize,
) {
    for (i, out) in out.chunks_mut(stride).take(rows).enumerate() {
        for (j, out) in out[..cols].iter_mut().enumerate() {
            *out = x[i * strides[0] + j * strides[1]].widen();
        }
    }
}
