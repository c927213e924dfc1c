//! Readers: where the elements of an operand come from.
//!
//! A product reads an operand block by block into packed scratch memory, unless it is lent as it
//! lies. Whatever can be done on
//! the way costs nothing there: transposing, widening half precision, normalising, gathering the
//! patches of a convolution. A reader says how a block of *its* matrix looks, in its own order; the
//! transposed use of a matrix, and either side of a product, follow from that.

use std::ops::Range;

use super::strided::Strided;
use super::tile::GROUP;
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

    /// Matrix `batch` from element (row, col) on, and its strides, if it lies in memory as it is.
    ///
    /// A reader lends all of its matrices, with the same strides, or none. The slice reaches at
    /// least to the last element.
    fn lend(&self, _batch: usize, _row: usize, _col: usize) -> Option<(&[T], [usize; 2])> {
        None
    }

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
    /// `out[(j / panel[1]·panel[0] + i)·panel[1] + j % panel[1]] = x[rows.start + i, cols.start +
    /// j]`. Columns missing from the last panel are left alone.
    fn read_panels(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        panel: [usize; 2],
    ) {
        let width = cols.len();
        scratch::with([ROWS_AT_ONCE * width], |[strip]| {
            for first in rows.clone().step_by(ROWS_AT_ONCE) {
                let some = first..rows.end.min(first + ROWS_AT_ONCE);
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
        Operand { reader: self, transposed: false, first: [0, 0] }
    }

    /// The transpose of this matrix as an operand; nothing is moved.
    fn transposed(&self) -> Operand<'_, T>
    where
        Self: Sized,
    {
        Operand { reader: self, transposed: true, first: [0, 0] }
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
    fn lend(&self, batch: usize, row: usize, col: usize) -> Option<(&[T], [usize; 2])> {
        (**self).lend(batch, row, col)
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
    /// Its first row and column in that.
    first: [usize; 2],
}

/// Rows that are read at a time when they are to be dealt out to panels: as much as the first
/// cache has room for, since every row is a run of memory and panels are only a few elements wide.
const ROWS_AT_ONCE: usize = 16;

impl<'a, T: Real> Operand<'a, T> {
    /// The operand without its first rows and columns.
    pub(super) fn part(self, [rows, columns]: [usize; 2]) -> Self {
        Operand { first: [self.first[0] + rows, self.first[1] + columns], ..self }
    }

    /// Its transpose.
    pub(super) fn turned(&self) -> Self {
        let [row, column] = self.first;
        Operand { transposed: !self.transposed, first: [column, row], ..*self }
    }

    /// Rows and columns of the reader's matrix or its transpose.
    fn whole(&self, rows: Range<usize>, columns: Range<usize>) -> [Range<usize>; 2] {
        let [row, column] = self.first;
        [row + rows.start..row + rows.end, column + columns.start..column + columns.end]
    }

    /// The operand from element (row, col) on and its strides, if it lies in memory as it is.
    fn in_memory(&self, batch: usize, row: usize, col: usize) -> Option<(&'a [T], [usize; 2])> {
        let [row, col] = [self.first[0] + row, self.first[1] + col];
        if self.transposed {
            let (x, [down, across]) = self.reader.lend(batch, col, row)?;
            Some((x, [across, down]))
        } else {
            self.reader.lend(batch, row, col)
        }
    }

    /// Rows from element (row, col) on and their distance, if they lie in memory with elements
    /// adjacent.
    pub(super) fn lend(&self, batch: usize, row: usize, col: usize) -> Option<(&'a [T], usize)> {
        match self.in_memory(batch, row, col)? {
            (x, [stride, 1]) => Some((x, stride)),
            _ => None,
        }
    }

    /// Whether rows can be read where they are.
    pub(super) fn is_lent(&self) -> bool {
        self.lend(0, 0, 0).is_some()
    }

    /// Whether it is columns, not rows, that are read in runs: then groups of rows are packed.
    pub(super) fn side_by_side(&self) -> bool {
        match self.in_memory(0, 0, 0) {
            Some((_, strides)) => strides[1] != 1 && strides[0] == 1,
            None => self.transposed,
        }
    }

    /// Packs rows of a left operand, `stride` elements of `out` from one to the next.
    pub(super) fn read_rows(
        &self,
        batch: usize,
        rows: Range<usize>,
        depth: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        let [rows, depth] = self.whole(rows, depth);
        if self.transposed {
            self.reader.read_transposed(batch, depth, rows, out, stride);
        } else {
            self.reader.read(batch, rows, depth, out, stride);
        }
    }

    /// Packs rows of a left operand that are [side by side](Operand::side_by_side): each step along
    /// K of a group of [`GROUP`] rows after the other, and each group after the other.
    pub(super) fn read_groups(
        &self,
        batch: usize,
        rows: Range<usize>,
        depth: Range<usize>,
        out: &mut [T],
    ) {
        let panel = [depth.len(), GROUP];
        match self.in_memory(batch, rows.start, depth.start) {
            Some((x, [_, by])) => {
                let columns = Strided::<T>::new(x, [by, 1]);
                columns.read_panels(0, 0..depth.len(), 0..rows.len(), out, panel);
            }
            None => {
                let [rows, depth] = self.whole(rows, depth);
                self.reader.read_panels(batch, depth, rows, out, panel);
            }
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
        let [depth, columns] = self.whole(depth, columns);
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
