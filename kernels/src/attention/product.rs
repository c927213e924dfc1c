//! The matrix products of tiles: two that make scores and their gradient, by the micro-kernel of
//! [`gemm`](crate::gemm), and three that weigh rows by them and go on adding.

use crate::gemm::{self, Strided};
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// Scores: C = A·Bᵀ of `rows` × `width` elements of A, rows `a_stride` apart, and the columns of
/// `transposed`, which is Bᵀ in strips; rows of C are whole strips. Up to a `width` of
/// [`KC`](gemm::KC) an element is one chain of fused multiply-adds.
pub(super) fn scores<T: Real>(
    [rows, columns, width]: [usize; 3],
    (a, a_stride): (&[T], usize),
    transposed: &[T],
    c: &mut [T],
) {
    let size = [rows, columns.div_ceil(LANES), width];
    gemm::packed_tile(size, &Strided::rows(a, a_stride), transposed.as_chunks().0, c);
}

/// C (+)= A·B, or Aᵀ·B, where A is a tile of scores and rows of B and C are `padded` elements.
pub(super) fn weigh<T: Real, const TRANSPOSED: bool>(
    [rows, depth, padded]: [usize; 3],
    (a, a_stride): (&[T], usize),
    b: &[T],
    c: &mut [T],
    accumulate: bool,
) {
    T::dispatch(Product::<T, TRANSPOSED> {
        rows,
        depth,
        strips: padded / LANES,
        a,
        a_stride,
        b,
        c,
        accumulate,
    });
}

/// C (+)= A·B for a tile of A that is read element by element, and rows of B and C that are whole
/// strips of sixteen columns.
///
/// An element of C is one chain of fused multiply-adds in the order of `depth`, whatever the
/// register tile it falls in.
struct Product<'a, T, const TRANSPOSED: bool> {
    /// Rows of C and of A.
    rows: usize,
    /// Columns of A, rows of B.
    depth: usize,
    /// Strips of sixteen columns of B and C.
    strips: usize,
    /// A\[i, k\] at `i·a_stride + k`; if `TRANSPOSED`, at `k·a_stride + i`.
    a: &'a [T],
    /// Distance between rows of the stored A.
    a_stride: usize,
    /// Rows one after the other, like those of C.
    b: &'a [T],
    c: &'a mut [T],
    /// Whether to add to C or to overwrite it.
    accumulate: bool,
}

impl<T: Real, const TRANSPOSED: bool> Task<T> for Product<'_, T, TRANSPOSED> {
    type Output = ();

    /// Rows are shared out evenly between register tiles, because a tile of two or three rows
    /// would wait for its own multiply-adds: 32 rows are 6+6+5+5+5+5 and not 5·6+2.
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        const { assert!(S::TILE_ROWS <= 12 && S::TILE_VECS <= 2, "there is no such tile") };
        let tiles = self.rows.div_ceil(S::TILE_ROWS);
        let mut strip = 0;
        while strip < self.strips {
            let vecs = if strip + S::TILE_VECS <= self.strips { S::TILE_VECS } else { 1 };
            let mut row = 0;
            for t in 0..tiles {
                let rows = self.rows / tiles + usize::from(t < self.rows % tiles);
                self.tile_of(isa, row, rows, strip, vecs);
                row += rows;
            }
            strip += vecs;
        }
    }
}

/// Calls `self.tile` with the literal that equals `$rows`: registers need constants.
macro_rules! by_rows {
    ($self:ident, $isa:ident, $row:ident, $rows:ident, $strip:ident, $vecs:literal: $($n:literal)*)
    => {
        match $rows {
            $($n if $n <= S::TILE_ROWS => $self.tile::<S, $n, $vecs>($isa, $row, $strip),)*
            _ => unreachable!("{} rows in a tile of {}", $rows, S::TILE_ROWS),
        }
    };
}

impl<T: Real, const TRANSPOSED: bool> Product<'_, T, TRANSPOSED> {
    #[inline(always)]
    fn tile_of<S>(&mut self, isa: S, row: usize, rows: usize, strip: usize, vecs: usize)
    where
        S: Simd<T = T>,
    {
        if S::TILE_VECS == 2 && vecs == 2 {
            by_rows!(self, isa, row, rows, strip, 2: 1 2 3 4 5 6 7 8 9 10 11 12);
        } else {
            by_rows!(self, isa, row, rows, strip, 1: 1 2 3 4 5 6 7 8 9 10 11 12);
        }
    }

    /// `ROWS` × `VECS`·16 elements of C, held in registers over the whole depth.
    #[inline(always)]
    fn tile<S, const ROWS: usize, const VECS: usize>(&mut self, isa: S, row: usize, strip: usize)
    where
        S: Simd<T = T>,
    {
        let stride = self.strips * LANES;
        let b = &self.b[strip * LANES..];
        let c = &mut self.c[row * stride + strip * LANES..];
        let mut sums = [[isa.splat(T::ZERO); VECS]; ROWS];
        if self.accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = isa.load(sixteen(&c[i * stride + v * LANES..]));
                }
            }
        }
        // Slices of equal length let the compiler see that `k` is in range.
        let mut a = [self.a; ROWS];
        for (i, a) in a.iter_mut().enumerate() {
            *a = if TRANSPOSED {
                &self.a[row..]
            } else {
                &self.a[(row + i) * self.a_stride..][..self.depth]
            };
        }
        for k in 0..self.depth {
            let (b_row, _) = b[k * stride..].as_chunks();
            let b_row = b_row.first_chunk::<VECS>().expect("rows of whole strips");
            let b_row = b_row.each_ref().map(|lanes| isa.load(lanes));
            let column = if TRANSPOSED { &a[0][k * self.a_stride..][..ROWS] } else { &[] };
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = isa.splat(if TRANSPOSED { column[i] } else { a[i][k] });
                for (sum, lanes) in sums.iter_mut().zip(b_row) {
                    *sum = x.mul_add(lanes, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let at = i * stride + v * LANES;
                isa.store(sum, c[at..].first_chunk_mut().expect("C has room for whole strips"));
            }
        }
    }
}

/// The first sixteen elements.
#[inline(always)]
fn sixteen<T>(x: &[T]) -> &[T; LANES] {
    x.first_chunk().expect("tiles have room for whole strips")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Portable, Wide};

    /// A·B of `rows` × `depth` × `strips`, added to ones, on lanes of either tile size.
    fn product<const TRANSPOSED: bool>(size: [usize; 3], wide: bool) -> Vec<f64> {
        let [rows, depth, strips] = size;
        let a_stride = if TRANSPOSED { rows } else { depth };
        let a: Vec<f64> = (0..rows * depth).map(|i| (i as f64).sin()).collect();
        let b: Vec<f64> = (0..depth * strips * LANES).map(|i| (i as f64).cos()).collect();
        let mut c = vec![1.0; rows * strips * LANES];
        let task = Product::<f64, TRANSPOSED> {
            rows,
            depth,
            strips,
            a: &a,
            a_stride,
            b: &b,
            c: &mut c,
            accumulate: true,
        };
        if wide {
            task.run(Wide)
        } else {
            task.run(Portable::new())
        }
        let columns = strips * LANES;
        let element = |i: usize, j: usize| {
            let at = |k: usize| if TRANSPOSED { k * rows + i } else { i * depth + k };
            (0..depth).fold(1.0, |sum, k| a[at(k)].mul_add(b[k * columns + j], sum))
        };
        assert!((0..c.len()).all(|i| c[i] == element(i / columns, i % columns)), "{size:?}");
        c
    }

    #[test]
    fn tiles_of_every_size_give_the_same_bits() {
        for size in [[1, 1, 1], [5, 3, 2], [13, 7, 3], [24, 2, 4], [31, 5, 1], [0, 3, 2], [4, 0, 1]]
        {
            assert_eq!(product::<false>(size, true), product::<false>(size, false));
            assert_eq!(product::<true>(size, true), product::<true>(size, false));
        }
    }
}
