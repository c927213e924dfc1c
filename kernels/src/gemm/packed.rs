//! Products of packed operands by one thread, without a plan: those of attention's tiles.

use super::ends::Ends;
use super::feed::{AlongK, SideBySide};
use super::micro::Out;
use super::strip::{Strip, strip_sums};
use super::tile::STRIP;
use crate::lane::LANES;
use crate::par::Cell;
use crate::{Real, Simd, Task};

/// Elements of a row of which any may be a column of A: 256, and sixteen more so that rows do not
/// compete for the same places of a cache.
pub(crate) const WIDTH: usize = 256 + LANES;

/// The left operand of a [`PackedTile`].
#[derive(Clone, Copy)]
pub(crate) enum LeftTile<'a, T> {
    /// Rows that are adjacent along K, so many elements from one to the next.
    Rows(&'a [T], usize),
    /// Steps along K, each with the rows of A side by side.
    Columns(&'a [[T; WIDTH]]),
}

/// C (+)= A·B. An element of C is one chain of fused multiply-adds in order of k, begun at zero,
/// which is stored, or added at the end.
///
/// The caller counts the arithmetic. Panics where a slice ends before the last element.
pub struct PackedTile<'a, T> {
    /// As many rows as `c` has.
    pub(crate) a: LeftTile<'a, T>,
    /// Panels of sixteen columns,
    pub(crate) b: &'a [[T; LANES]],
    /// so many rows from one to the next.
    pub(crate) panel_rows: usize,
    /// Length of the sums.
    pub(crate) depth: usize,
    /// Rows of whole sixteens.
    pub(crate) c: Cell<'a, T>,
    /// Whether to add to C or to overwrite it.
    pub(crate) adds: bool,
}

impl<T: Real> Task<T> for PackedTile<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        let (rows, panels) = (self.c.rows(), self.c.columns().len() / LANES);
        for first in (0..panels).step_by(STRIP) {
            let some = first..panels.min(first + STRIP);
            let mut strip = [[].as_slice(); STRIP];
            for (panel, j) in strip.iter_mut().zip(some.clone()) {
                *panel = &self.b[j * self.panel_rows..][..self.depth];
            }
            let strip = Strip::Packed { panels: strip, next: [&[]; STRIP] };
            let cell = self.c.part([rows.clone(), some.start * LANES..some.end * LANES]);
            // A tile of scores, or answers of as many rows: C is in a cache, and to fetch it would
            // only keep the processor busy.
            let ends = if self.adds { Ends::Add } else { Ends::Store };
            let out = Out { cell, ends, expect: Some(&mut |_| ()) };
            match self.a {
                LeftTile::Rows(x, stride) => strip_sums(isa, AlongK { x, stride }, strip, out),
                LeftTile::Columns(x) => {
                    assert!(rows.end <= WIDTH, "{} rows side by side in {WIDTH}", rows.end);
                    strip_sums(isa, SideBySide { x, stride: 0 }, strip, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Portable, Wide};

    /// A·B of `rows` × `depth` × `panels`, added to ones.
    fn sums(isa: impl Simd<T = f64>, [rows, depth, panels]: [usize; 3], by_rows: bool) -> Vec<f64> {
        let a = |i: usize, k: usize| ((i * depth + k) as f64).sin();
        let along: Vec<f64> = (0..rows * depth).map(|x| a(x / depth, x % depth)).collect();
        let mut across = vec![[f64::NAN; WIDTH]; depth];
        for (k, step) in across.iter_mut().enumerate() {
            (0..rows).for_each(|i| step[i] = a(i, k));
        }
        let left = if by_rows { LeftTile::Rows(&along, depth) } else { LeftTile::Columns(&across) };
        // Panels have a row more than is multiplied.
        let row = |i: usize| std::array::from_fn(|j| ((i * LANES + j) as f64).cos());
        let b: Vec<[f64; LANES]> = (0..panels * (depth + 1)).map(row).collect();
        let columns = panels * LANES;
        let mut c = vec![1.0; rows * columns];
        let cell = Cell::new(&mut c, [rows, columns], columns);
        PackedTile { a: left, b: &b, panel_rows: depth + 1, depth, c: cell, adds: true }.run(isa);
        let element = |i: usize, j: usize| {
            let panel = &b[j / LANES * (depth + 1)..];
            1.0 + (0..depth).fold(0.0, |sum, k| a(i, k).mul_add(panel[k][j % LANES], sum))
        };
        assert!((0..c.len()).all(|at| c[at] == element(at / columns, at % columns)));
        c
    }

    #[test]
    fn tiles_of_any_size_make_the_same_sums() {
        for size in [[1, 1, 1], [5, 3, 2], [13, 7, 3], [24, 2, 4], [31, 5, 1], [WIDTH, 9, 5]] {
            let want = sums(Portable::new(), size, true);
            for by_rows in [true, false] {
                assert_eq!(sums(Wide, size, by_rows), want, "{size:?}");
                assert_eq!(sums(Portable::new(), size, by_rows), want, "{size:?}");
            }
        }

        assert_eq!(sums(Wide, [4, 0, 1], false), [1.0; 64]);
    }

    #[test]
    #[should_panic(expected = "276 rows side by side in 272")]
    fn columns_have_no_more_rows_than_there_are() {
        let across = vec![[0.0; WIDTH]; 2];
        let mut c = vec![0.0; 276 * LANES];
        let c = Cell::new(&mut c, [276, LANES], LANES);
        let (a, b) = (LeftTile::Columns(&across), &[[0.0; LANES]; 2][..]);
        PackedTile { a, b, panel_rows: 2, depth: 2, c, adds: false }.run(Portable::<f64>::new());
    }
}
