//! Transposing a block, the one reordering of packing.

use crate::lane::LANES;
use crate::{Real, Simd, Task};

/// `out[j·out_stride + i] = x[i·x_stride + j]` for i < rows and j < cols.
pub(super) fn transpose<T: Real>(
    size: [usize; 2],
    (x, x_stride): (&[T], usize),
    (out, out_stride): (&mut [T], usize),
) {
    T::dispatch(Transpose { size, x, x_stride, out, out_stride });
}

struct Transpose<'a, T> {
    size: [usize; 2],
    x: &'a [T],
    x_stride: usize,
    out: &'a mut [T],
    out_stride: usize,
}

impl<T: Real> Task<T> for Transpose<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Transpose { size: [rows, cols], x, x_stride, out, out_stride } = self;
        for i in (0..rows).step_by(LANES) {
            for j in (0..cols).step_by(LANES) {
                let (x, out) = (&x[i * x_stride + j..], &mut out[j * out_stride + i..]);
                let size = [LANES.min(rows - i), LANES.min(cols - j)];
                square(isa, size, x, x_stride, out, out_stride);
            }
        }
    }
}

/// At most sixteen rows and columns.
#[inline(always)]
fn square<S: Simd>(
    isa: S,
    [rows, cols]: [usize; 2],
    x: &[S::T],
    x_stride: usize,
    out: &mut [S::T],
    out_stride: usize,
) {
    let mut square = [isa.splat(S::T::ZERO); LANES];
    for (row, x) in square.iter_mut().zip(x.chunks(x_stride)).take(rows) {
        // The row sixteen below: so many are more than the processor follows by itself.
        isa.prefetch(x, LANES.wrapping_mul(x_stride));
        *row = isa.load_head(&x[..cols], S::T::ZERO);
    }
    isa.transpose(&mut square);
    for (&column, out) in square.iter().zip(out.chunks_mut(out_stride)).take(cols) {
        isa.store_head(column, &mut out[..rows]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_squares_and_edges() {
        for [rows, cols] in [[16, 32], [9, 3], [1, 17], [0, 4], [20, 16]] {
            let x: Vec<f32> = (0..rows * (cols + 1)).map(|i| i as f32).collect();
            let mut out = vec![-1.0; cols * (rows + 2)];
            transpose([rows, cols], (&x, cols + 1), (&mut out, rows + 2));
            for (at, &y) in out.iter().enumerate() {
                let (j, i) = (at / (rows + 2), at % (rows + 2));
                assert_eq!(y, if i < rows { x[i * (cols + 1) + j] } else { -1.0 });
            }
        }
    }
}
