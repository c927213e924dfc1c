//! Matrices cut into cells, for tasks that write column blocks of the same rows.
//!
//! # Safety invariant
//!
//! Cells of one matrix do not overlap, and each is handed out once (an atomic flag says so). A
//! [`Cells`] borrows its slice for as long as any cell may live; a [`Cell`] made of a slice alone
//! borrows that. A cell hands out one of its rows, a part of itself, or arrays of different rows
//! at a time. Rows lie in the slice and do not overlap. So every cell is the only way to its
//! elements.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Matrices of equal size, one behind the other, cut into cells that tasks take, each once.
pub struct Cells<'a, T> {
    first: *mut T,
    /// Rows and columns of a matrix,
    size: [usize; 2],
    /// and of a cell.
    cell: [usize; 2],
    matrices: usize,
    /// How many cells a matrix has below each other and side by side.
    grid: [usize; 2],
    taken: Flags,
    whole: PhantomData<&'a mut [T]>,
}

/// A flag for each cell; the first ones need no allocation.
struct Flags {
    first: AtomicU64,
    others: Vec<AtomicU64>,
}

impl Flags {
    fn new(number: usize) -> Self {
        let words = number.div_ceil(64).saturating_sub(1);
        Flags { first: AtomicU64::new(0), others: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Sets a flag; whether it was set before.
    fn set(&self, i: usize) -> bool {
        let word = if i < 64 { &self.first } else { &self.others[i / 64 - 1] };
        let bit = 1 << (i % 64);
        word.fetch_or(bit, Ordering::Relaxed) & bit != 0
    }
}

// SAFETY: by the invariant, sharing cells between threads gives each of them elements of its own.
unsafe impl<T: Send> Sync for Cells<'_, T> {}
// SAFETY: the value is a mutable borrow of its elements.
unsafe impl<T: Send> Send for Cells<'_, T> {}

impl<'a, T> Cells<'a, T> {
    /// Cuts `data`, a pile of [rows, columns] matrices, into cells of at most `cell` = [rows,
    /// columns]; the last ones of each row and column of cells may be smaller.
    pub fn new(data: &'a mut [T], [rows, columns]: [usize; 2], cell: [usize; 2]) -> Self {
        let matrix = rows.checked_mul(columns).expect("a matrix that fits into memory");
        let matrices = data.len().checked_div(matrix).unwrap_or(0);
        assert_eq!(matrices * matrix, data.len(), "a slice of whole matrices");
        let cell = cell.map(|n| n.max(1));
        let (size, grid) = ([rows, columns], [rows.div_ceil(cell[0]), columns.div_ceil(cell[1])]);
        let taken = Flags::new(matrices * grid[0] * grid[1]);
        Cells { first: data.as_mut_ptr(), size, cell, matrices, grid, taken, whole: PhantomData }
    }

    /// The cell `[i, j]` of matrix `m`: rows `i·cell[0]..`, columns `j·cell[1]..`.
    ///
    /// Panics when there is no such cell or it has been taken before.
    pub fn take(&self, m: usize, [i, j]: [usize; 2]) -> Cell<'a, T> {
        self.take_below(m, i..i.saturating_add(1), j)
    }

    /// The cells `[i, j]` of matrix `m` for some i, below each other, as one.
    ///
    /// Panics when there are none, or one has been taken before.
    pub fn take_below(&self, m: usize, i: Range<usize>, j: usize) -> Cell<'a, T> {
        let ([rows, columns], [down, across]) = (self.size, self.grid);
        assert!(m < self.matrices, "matrix {m} of {}", self.matrices);
        let are_there = i.start < i.end && i.end <= down && j < across;
        assert!(are_there, "cells [{i:?}, {j}] of [{down}, {across}]");
        for i in i.clone() {
            let index = (m * down + i) * across + j;
            assert!(!self.taken.set(index), "cell {index} taken twice");
        }
        let (row, column) = (i.start * self.cell[0], j * self.cell[1]);
        Cell {
            // SAFETY: matrix, row and column exist: each has been compared with their number.
            first: unsafe { self.first.add((m * rows + row) * columns + column) },
            rows: rows.min(i.end * self.cell[0]) - row,
            columns: self.cell[1].min(columns - column),
            stride: columns,
            whole: PhantomData,
        }
    }
}

/// A rectangle of a matrix, with no other way to its elements.
pub struct Cell<'a, T> {
    first: *mut T,
    rows: usize,
    columns: usize,
    stride: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: a cell is a mutable borrow of its elements.
unsafe impl<T: Send> Send for Cell<'_, T> {}

impl<'a, T> Cell<'a, T> {
    /// So many rows and columns of `data`, rows `stride` elements apart.
    pub fn new(data: &'a mut [T], [rows, columns]: [usize; 2], stride: usize) -> Self {
        let last = rows.saturating_sub(1).checked_mul(stride);
        let len = last.and_then(|last| last.checked_add(columns)).expect("what fits into memory");
        let lies_inside = columns <= stride && len <= data.len();
        assert!(lies_inside, "{rows} rows of {stride} in {}", data.len());
        Cell { first: data.as_mut_ptr(), rows, columns, stride, whole: PhantomData }
    }

    /// Rows of the rectangle.
    pub fn rows(&self) -> Range<usize> {
        0..self.rows
    }

    /// Columns of the rectangle.
    pub fn columns(&self) -> Range<usize> {
        0..self.columns
    }

    /// Some rows and columns of the rectangle.
    pub fn part(&mut self, [rows, columns]: [Range<usize>; 2]) -> Cell<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(
            columns.start <= columns.end && columns.end <= self.columns,
            "columns {columns:?} of {}",
            self.columns
        );
        Cell {
            // Of no rows or columns, the first may lie beyond the end of the data.
            first: self.first.wrapping_add(rows.start * self.stride + columns.start),
            rows: rows.len(),
            columns: columns.len(),
            stride: self.stride,
            whole: PhantomData,
        }
    }

    /// Row `i` of the rectangle.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the row lies in the rectangle, which nobody else reaches, and `self` is borrowed
        // for as long as the answer lives.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.columns) }
    }

    /// Of each of R rows from `row` on, the elements from `column` on as N arrays of L. Whether
    /// they are there is looked at once for all rows.
    #[inline(always)]
    pub fn arrays<const R: usize, const N: usize, const L: usize>(
        &mut self,
        row: usize,
        column: usize,
    ) -> impl Iterator<Item = &mut [[T; L]; N]> {
        let has = |all: usize, first: usize, some: usize| first <= all && some <= all - first;
        let inside = has(self.rows, row, R) && has(self.columns, column, const { N * L });
        assert!(inside, "arrays of {R} rows in a cell");
        let (first, stride) = (self.first.wrapping_add(row * self.stride + column), self.stride);
        // SAFETY: the arrays lie in the rectangle, which nobody else reaches while `self` is
        // borrowed, and each in a row of its own; rows do not overlap. No elements may lie at its
        // end.
        (0..R).map(move |i| unsafe { &mut *first.add(i * stride).cast::<[[T; L]; N]>() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{for_each, with_threads};
    use super::*;

    #[test]
    fn cells_cover_every_element_once() {
        let mut data = vec![0; 2 * 5 * 7];
        let cells = Cells::new(&mut data, [5, 7], [2, 3]);
        with_threads(3, || {
            for_each(2 * 3 * 3, usize::MAX, |i| {
                let mut cell = cells.take(i / 9, [i / 3 % 3, i % 3]);
                for r in cell.rows() {
                    cell.row(r).iter_mut().for_each(|x| *x += i + 1);
                }
            });
        });
        let want = (0..70).map(|e| e / 35 * 9 + e / 7 % 5 / 2 * 3 + e % 7 / 3 + 1);
        assert!(data.into_iter().eq(want));
    }

    #[test]
    fn cells_below_each_other_are_taken_as_one() {
        let mut data = [0; 2 * 5 * 3];
        let cells = Cells::new(&mut data, [5, 3], [2, 2]);
        let mut below = cells.take_below(1, 1..3, 0);
        assert_eq!((below.rows(), below.columns()), (0..3, 0..2));
        below.rows().for_each(|i| below.row(i).fill(i + 1));
        for rows in [0..2, 2..3, 1..1, 2..4, usize::MAX..usize::MAX] {
            let again = || cells.take_below(1, rows.clone(), 0).rows();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(again)).unwrap_err();
        }
        assert_eq!(data[15 + 6..], [1, 1, 0, 2, 2, 0, 3, 3, 0]);
    }

    #[test]
    fn parts_of_a_cell_are_its_elements() {
        let mut data = [0; 5 + 7 + 7];
        let mut cell = Cell::new(&mut data, [3, 5], 7);
        let mut part = cell.part([1..3, 2..5]);
        part.part([1..2, 1..3]).row(0).fill(2);
        part.row(0)[0] = 1;
        for empty in [[3..3, 0..5], [1..1, 5..5], [0..3, 5..5]] {
            let mut empty = cell.part(empty);
            empty.rows().for_each(|i| assert!(empty.row(i).is_empty()));
        }
        cell.row(2)[0] = 3;
        let want = [[0; 7], [0, 0, 1, 0, 0, 0, 0], [3, 0, 0, 2, 2, 0, 0]];
        assert_eq!(data, want.as_flattened()[..19]);
    }

    #[test]
    fn arrays_of_a_cell_are_its_elements() {
        let mut data = [0; 7 + 7 + 6];
        let mut cell = Cell::new(&mut data, [3, 6], 7);
        let mut part = cell.part([1..3, 1..6]);
        let arrays: Vec<_> = part.arrays::<2, 2, 2>(0, 1).collect();
        for (i, array) in arrays.into_iter().enumerate() {
            *array = [[4 * i + 1, 4 * i + 2], [4 * i + 3, 4 * i + 4]];
        }
        assert_eq!(cell.arrays::<0, 3, 2>(3, 0).count() + cell.arrays::<3, 0, 2>(0, 6).count(), 3);
        let want = [[0; 7], [0, 0, 1, 2, 3, 4, 0], [0, 0, 5, 6, 7, 8, 0]];
        assert_eq!(data, want.as_flattened()[..20]);
    }

    #[test]
    fn arrays_lie_in_their_cell() {
        let mut data = [0; 20];
        let mut cell = Cell::new(&mut data, [3, 6], 7);
        for [row, column] in [[2, 0], [0, 3], [usize::MAX, 0], [0, usize::MAX]] {
            let arrays = || cell.arrays::<2, 2, 2>(row, column).count();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(arrays)).unwrap_err();
        }
    }

    #[test]
    #[should_panic(expected = "rows 1..4 of 3")]
    fn a_part_lies_in_its_cell() {
        Cell::new(&mut [0; 15], [3, 5], 5).part([1..4, 0..5]);
    }

    #[test]
    #[should_panic(expected = "fits into memory")]
    fn a_cell_that_wraps_around_is_refused() {
        Cell::new(&mut [0; 4], [(1 << 32) + 1, 1], 1 << 32);
    }

    #[test]
    #[should_panic(expected = "2 rows of 3 in 4")]
    fn a_cell_lies_in_its_slice() {
        Cell::new(&mut [0; 4], [2, 2], 3);
    }

    #[test]
    #[should_panic(expected = "taken twice")]
    fn a_cell_is_handed_out_once() {
        let mut data = [0; 4];
        let cells = Cells::new(&mut data, [2, 2], [1, 2]);
        let _first = cells.take(0, [1, 0]);
        cells.take(0, [1, 0]);
    }

    #[test]
    #[should_panic(expected = "matrix 9223372036854775808 of 1")]
    fn a_matrix_that_wraps_around_is_refused() {
        let mut data = [0; 3];
        Cells::new(&mut data, [3, 1], [2, 1]).take(1 << 63, [0, 0]);
    }

    #[test]
    #[should_panic(expected = "fits into memory")]
    fn a_product_that_wraps_around_is_refused() {
        Cells::new(&mut [0; 4], [(1 << 62) + 1, 4], [2, 2]);
    }

    #[test]
    fn each_of_many_cells_is_handed_out_once() {
        const MANY: usize = 150;
        let mut data = [0; MANY];
        let cells = Cells::new(&mut data, [MANY, 1], [1, 1]);
        (0..MANY).for_each(|i| cells.take(0, [i, 0]).row(0)[0] = i);
        for i in [0, 1, 63, 64, 65, 127, 128, MANY - 1] {
            let again = || cells.take(0, [i, 0]).rows();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(again)).unwrap_err();
        }
        drop(cells);
        assert!(data.into_iter().eq(0..MANY));
    }

    #[test]
    #[should_panic(expected = "matrix 0 of 0")]
    fn empty_matrices_have_no_cells() {
        Cells::<f32>::new(&mut [], [0, 4], [2, 2]).take(0, [0, 0]);
    }
}
