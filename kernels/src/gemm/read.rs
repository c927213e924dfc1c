//! Readers: where the elements of an operand come from.
//!
//! A product reads each operand block by block into packed scratch memory. Whatever can be done on
//! the way costs nothing there: transposing, widening half precision, normalising, gathering the
//! patches of a convolution. A reader says how a block of *its* matrix looks, in its own order; the
//! transposed use of a matrix, and either side of a product, follow from that.

use std::marker::PhantomData;
use std::ops::Range;

use super::storage::Stored;
use super::tile::{GROUP, KC, Rows};
use super::transpose;
use crate::{Real, scratch};

/// A matrix, or a batch of them, that can be read by blocks.
pub trait Reader<T: Real>: Sync {
    /// `out[i·stride + j] = x[rows.start + i, cols.start + j]` of matrix `batch`. Elements of
    /// `out` between those are left alone.
    fn read(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    );

    /// The same block transposed: `out[j·stride + i] = x[rows.start + i, cols.start + j]`.
    fn read_transposed(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        let size = [rows.len(), cols.len()];
        scratch::with([size[0] * size[1]], |[block]| {
            self.read(batch, rows, cols, block, size[1]);
            transpose::transpose(size, (block, size[1]), (out, stride));
        });
    }

    /// This matrix as an operand.
    fn plain(&self) -> Operand<'_, T>
    where
        Self: Sized,
    {
        Operand { reader: self, transposed: false }
    }

    /// The transpose of this matrix as an operand; nothing is moved.
    fn transposed(&self) -> Operand<'_, T>
    where
        Self: Sized,
    {
        Operand { reader: self, transposed: true }
    }
}

/// An operand of a product: a reader's matrix or its transpose.
#[derive(Clone, Copy)]
pub struct Operand<'a, T> {
    pub(super) reader: &'a dyn Reader<T>,
    pub(super) transposed: bool,
}

impl<T: Real> Operand<'_, T> {
    /// `out[i·stride + j]` is the operand's element (i, j) of the block.
    pub(super) fn read(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        if self.transposed {
            self.reader.read_transposed(batch, cols, rows, out, stride);
        } else {
            self.reader.read(batch, rows, cols, out, stride);
        }
    }

    /// Packs rows of a left operand in whichever order its matrix has: nothing is transposed.
    pub(super) fn read_rows<'a>(
        &self,
        batch: usize,
        rows: Range<usize>,
        depth: Range<usize>,
        out: &'a mut [T],
    ) -> Rows<'a, T> {
        if self.transposed {
            let groups = out.as_chunks_mut().0.as_chunks_mut().0;
            for (first, group) in rows.clone().step_by(GROUP).zip(&mut *groups) {
                let rows = first..rows.end.min(first + GROUP);
                self.reader.read(batch, depth.clone(), rows, group.as_flattened_mut(), GROUP);
            }
            Rows::Turned(groups)
        } else {
            self.reader.read(batch, rows, depth, out, KC);
            Rows::Straight(out.as_chunks().0.as_chunks().0)
        }
    }
}

/// A batch index per axis is enough for `[B, H]` and two more.
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

    /// The slice from the first element of matrix `batch` on.
    fn matrix(&self, mut batch: usize) -> &'a [E] {
        let mut offset = 0;
        for &(length, stride) in self.batch.iter().rev() {
            offset += batch % length * stride;
            batch /= length;
        }
        &self.x[offset..]
    }
}

/// Widens a row of adjacent elements.
#[inline(always)]
fn copy_row<T: Real, E: Stored<T>>(x: &[E], out: &mut [T]) {
    // In chunks of a known length, so that a panel's row of sixteen is not a call to memcpy.
    let (x, x_tail) = x.as_chunks::<16>();
    let (out, out_tail) = out.as_chunks_mut::<16>();
    for (x, out) in x.iter().zip(out) {
        for (x, out) in x.iter().zip(out) {
            *out = x.widen();
        }
    }
    for (x, out) in x_tail.iter().zip(out_tail) {
        *out = x.widen();
    }
}

/// Reads a block whose elements are at the given strides of `x`.
fn read_strided<T: Real, E: Stored<T>>(
    x: &[E],
    strides: [usize; 2],
    [rows, cols]: [usize; 2],
    out: &mut [T],
    stride: usize,
) {
    for (i, out) in out.chunks_mut(stride).take(rows).enumerate() {
        let row = &x[i * strides[0]..];
        if strides[1] == 1 {
            copy_row(&row[..cols], &mut out[..cols]);
        } else {
            for (j, out) in out[..cols].iter_mut().enumerate() {
                *out = row[j * strides[1]].widen();
            }
        }
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
        let x = &self.matrix(batch)[rows.start * self.strides[0] + cols.start * self.strides[1]..];
        match (self.strides, E::as_real(x)) {
            // Stored by columns: a transposition with adjacent reads.
            ([1, by], Some(x)) => {
                transpose::transpose([size[1], size[0]], (x, by), (out, stride));
            }
            _ => read_strided(x, self.strides, size, out, stride),
        }
    }

    fn read_transposed(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        let by_columns = Strided { strides: [self.strides[1], self.strides[0]], ..*self };
        if self.strides[1] == 1 && E::as_real(self.x).is_none() {
            // Half precision: widen in order, then transpose.
            let size = [rows.len(), cols.len()];
            return scratch::with([size[0] * size[1]], |[block]| {
                self.read(batch, rows, cols, block, size[1]);
                transpose::transpose(size, (block, size[1]), (out, stride));
            });
        }
        by_columns.read(batch, cols, rows, out, stride);
    }
}
