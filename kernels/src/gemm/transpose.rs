//! Transposing a block, the one reordering of packing.

use crate::{Real, Simd, Task};

/// Rows and columns of the square that is turned in registers.
const SIDE: usize = 8;

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
    fn run<S: Simd<T = T>>(self, _: S) {
        let Transpose { size: [rows, cols], x, x_stride, out, out_stride } = self;
        for i in (0..rows).step_by(SIDE) {
            for j in (0..cols).step_by(SIDE) {
                let (height, width) = (SIDE.min(rows - i), SIDE.min(cols - j));
                let x = &x[i * x_stride + j..];
                let out = &mut out[j * out_stride + i..];
                if height == SIDE && width == SIDE {
                    square(x, x_stride, out, out_stride);
                } else {
                    for j in 0..width {
                        for i in 0..height {
                            out[j * out_stride + i] = x[i * x_stride + j];
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn square<T: Real>(x: &[T], x_stride: usize, out: &mut [T], out_stride: usize) {
    let mut block = [[T::ZERO; SIDE]; SIDE];
    for (i, row) in block.iter_mut().enumerate() {
        row.copy_from_slice(&x[i * x_stride..][..SIDE]);
    }
    for j in 0..SIDE {
        let out = &mut out[j * out_stride..][..SIDE];
        for i in 0..SIDE {
            out[i] = block[i][j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_squares_and_edges() {
        for [rows, cols] in [[16, 24], [9, 3], [1, 17], [0, 4], [20, 8]] {
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
