//! Tiles of matrices, written from several threads.
//!
//! # Safety invariant
//!
//! The tiles of one call are the regions of one [`Grid`], which do not overlap: each is a product
//! of a matrix, a row range and a column range, and the ranges of an axis lie between the values of
//! one increasing function. A [`Tile`] hands out elements of its region only, and one row at a
//! time. So no element is ever reachable twice.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// How row-major matrices, one after the other in a slice, are cut into tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Rows and columns of a matrix.
    pub size: [usize; 2],
    /// The matrices to visit.
    pub matrices: Range<usize>,
    /// The columns to visit; rows are visited all.
    pub columns: Range<usize>,
    /// Rows and columns are cut into so many pieces, nearly equal,
    pub pieces: [usize; 2],
    /// at multiples of these.
    pub units: [usize; 2],
}

/// Where a tile lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Number of the matrix.
    pub matrix: usize,
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns.
    pub columns: Range<usize>,
}

impl Grid {
    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.matrices.len() * self.pieces[0] * self.pieces[1]
    }

    /// The `i`-th tile: matrix by matrix, and row by row in a matrix.
    fn region(&self, i: usize) -> Region {
        let (rest, column) = (i / self.pieces[1], i % self.pieces[1]);
        let (matrix, row) = (rest / self.pieces[0], rest % self.pieces[0]);
        Region {
            matrix: self.matrices.start + matrix,
            rows: piece(0..self.size[0], self.pieces[0], self.units[0], row),
            columns: piece(self.columns.clone(), self.pieces[1], self.units[1], column),
        }
    }

    /// Elements of a slice that holds all the matrices to visit.
    fn reach(&self) -> usize {
        assert!(self.columns.start <= self.columns.end && self.columns.end <= self.size[1]);
        let reach = self.size[0].checked_mul(self.size[1]);
        reach.and_then(|n| n.checked_mul(self.matrices.end)).expect("matrices that fit in memory")
    }
}

/// The `i`-th of `pieces` nearly equal parts of `range`, cut at multiples of `unit` from its start.
fn piece(range: Range<usize>, pieces: usize, unit: usize, i: usize) -> Range<usize> {
    let units = range.len().div_ceil(unit);
    let cut = |i: usize| range.start + (units * i / pieces * unit).min(range.len());
    cut(i)..cut(i + 1)
}

/// The elements of a tile in one output.
pub struct Tile<'a, T> {
    /// First element of the matrix, or `None` for an output that is not wanted.
    matrix: Option<*mut T>,
    stride: usize,
    region: Region,
    output: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// Row `row` of the matrix, as far as it lies in the tile; empty if the output is not wanted.
    ///
    /// # Panics
    /// Where the row is not one of the tile's.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(self.region.rows.contains(&row), "row {row} of tile {:?}", self.region);
        let Some(matrix) = self.matrix else { return &mut [] };
        let columns = &self.region.columns;
        // SAFETY: the region lies in the matrix and the matrix in the slice (`Output::new`); no
        // other tile reaches these elements, and `self` is borrowed as long as they are.
        unsafe {
            let first = matrix.add(row * self.stride + columns.start);
            std::slice::from_raw_parts_mut(first, columns.len())
        }
    }
}

/// An output on its way to the threads.
struct Output<'a, T> {
    first: Option<*mut T>,
    output: PhantomData<&'a mut [T]>,
}

// SAFETY: threads use the pointer through tiles only, and those do not overlap.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    /// # Panics
    /// With a slice that is neither empty nor large enough.
    fn new(grid: &Grid, out: &'a mut [T]) -> Self {
        let wanted = !out.is_empty();
        assert!(!wanted || out.len() >= grid.reach(), "{} elements for {grid:?}", out.len());
        Output { first: wanted.then_some(out.as_mut_ptr()), output: PhantomData }
    }

    /// # Safety
    /// No two tiles of the same region exist at once.
    unsafe fn tile(&self, grid: &Grid, region: &Region) -> Tile<'a, T> {
        let [rows, stride] = grid.size;
        let offset = region.matrix * rows * stride;
        // SAFETY: `new` has checked that the matrix lies in the slice.
        let matrix = self.first.map(|first| unsafe { first.add(offset) });
        Tile { matrix, stride, region: region.clone(), output: PhantomData }
    }
}

/// `f(region, a's tile, b's tile)` for each tile of the grid, about `ns` nanoseconds in all.
///
/// Both outputs hold matrices of the grid's size. An empty slice is an output that is not wanted;
/// its tiles are made of empty rows.
///
/// # Panics
/// If an output is not empty and smaller than the grid.
pub fn tiles_mut<A: Send, B: Send>(
    grid: &Grid,
    (a, b): (&mut [A], &mut [B]),
    ns: usize,
    f: impl Fn(Region, Tile<A>, Tile<B>) + Sync + Send,
) {
    let (a, b) = (Output::new(grid, a), Output::new(grid, b));
    super::for_each(grid.tiles(), ns, |i| {
        let region = grid.region(i);
        // SAFETY: `for_each` visits each `i` once, and different `i` have disjoint regions.
        let (a, b) = unsafe { (a.tile(grid, &region), b.tile(grid, &region)) };
        f(region, a, b);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_their_matrices_once() {
        let size = [7, 10];
        let grid = Grid { size, matrices: 1..3, columns: 2..9, pieces: [3, 2], units: [2, 3] };
        for threads in [1, 3] {
            let mut a = vec![0_u8; 3 * 70];
            super::super::with_threads(threads, || {
                tiles_mut(&grid, (&mut a, &mut [0_u8; 0]), usize::MAX, |region, mut a, mut b| {
                    for row in region.rows {
                        a.row(row).iter_mut().for_each(|x| *x += 1 + region.matrix as u8);
                        assert!(b.row(row).is_empty());
                    }
                });
            });
            for (i, &x) in a.iter().enumerate() {
                let (matrix, column) = (i / 70, i % 10);
                let visited = matrix > 0 && (2..9).contains(&column);
                assert_eq!(usize::from(x), if visited { matrix + 1 } else { 0 });
            }
        }
    }

    #[test]
    #[should_panic(expected = "69 elements")]
    fn a_slice_too_small_is_refused() {
        let grid =
            Grid { size: [7, 10], matrices: 0..1, columns: 0..10, pieces: [1, 1], units: [1, 1] };
        tiles_mut(&grid, (&mut [0_u8; 69], &mut [0_u8; 0]), 0, |_, _, _| ());
    }
}
