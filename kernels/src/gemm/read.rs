//! Readers: where the elements of an operand come from.
//!
//! A product reads each operand block by block into packed scratch memory. Whatever can be done on
//! the way costs nothing there: transposing, widening half precision, normalising, gathering the
//! patches of a convolution. A reader says how a block of *its* matrix looks, in its own order; the
//! transposed use of a matrix, and either side of a product, follow from that.

use std::ops::Range;

use super::tile::KC;
use super::transpose::transpose;
use crate::lane::LANES;
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
            transpose(size, (block, size[1]), (out, stride));
        });
    }

    /// The same block in panels of `panel` = \[rows, columns\]:
    /// `out[(j / panel[1]·panel[0] + i)·panel[1] + j % panel[1]] = x[rows.start + i, cols.start + j]`.
    /// Columns missing from the last panel are left alone.
    fn read_panels(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        panel: [usize; 2],
    ) {
        let width = cols.len();
        scratch::with([STRIP * width], |[strip]| {
            for first in rows.clone().step_by(STRIP) {
                let some = first..rows.end.min(first + STRIP);
                self.read(batch, some.clone(), cols.clone(), strip, width);
                for (i, row) in
                    (some.start - rows.start..).zip(strip.chunks(width)).take(some.len())
                {
                    let panels = out.chunks_mut(panel[0] * panel[1]);
                    for (x, out) in row.chunks(panel[1]).zip(panels) {
                        out[i * panel[1]..][..x.len()].copy_from_slice(x);
                    }
                }
            }
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

impl<T: Real, R: Reader<T> + ?Sized> Reader<T> for Box<R> {
    fn read(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        (**self).read(batch, rows, cols, out, stride);
    }
    fn read_transposed(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        (**self).read_transposed(batch, rows, cols, out, stride);
    }
    fn read_panels(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        panel: [usize; 2],
    ) {
        (**self).read_panels(batch, rows, cols, out, panel);
    }
}

/// An operand of a product: a reader's matrix or its transpose.
#[derive(Clone, Copy)]
pub struct Operand<'a, T> {
    reader: &'a dyn Reader<T>,
    transposed: bool,
}

/// Rows that are read at a time when they are to be dealt out to panels: as much as the first
/// cache has room for, since every row is a run of memory and panels are only a few elements wide.
const STRIP: usize = 16;

impl<T: Real> Operand<'_, T> {
    /// Packs rows of a left operand, [`KC`] elements of `out` from one to the next.
    pub(super) fn read_rows(
        &self,
        batch: usize,
        rows: Range<usize>,
        depth: Range<usize>,
        out: &mut [T],
    ) {
        if self.transposed {
            self.reader.read_transposed(batch, depth, rows, out, KC);
        } else {
            self.reader.read(batch, rows, depth, out, KC);
        }
    }

    /// Packs columns of a right operand in panels of sixteen, `panel_rows` rows of `out` from one
    /// to the next; columns missing from the last one are left alone.
    pub(super) fn read_panels(
        &self,
        batch: usize,
        depth: Range<usize>,
        columns: Range<usize>,
        out: &mut [T],
        panel_rows: usize,
    ) {
        if self.transposed {
            let panels = out.chunks_mut(panel_rows * LANES);
            for (first, panel) in columns.clone().step_by(LANES).zip(panels) {
                let columns = first..columns.end.min(first + LANES);
                self.reader.read_transposed(batch, columns, depth.clone(), panel, LANES);
            }
        } else {
            self.reader.read_panels(batch, depth, columns, out, [panel_rows, LANES]);
        }
    }
}
