//! Enlarging images twofold by repeating pixels.

use crate::{Real, par};

/// Every pixel becomes a square of four: `y[2i + a, 2j + b] = x[i, j]`.
///
/// `x` is planes of `rows` × `columns`, one after the other; `y` as many of twice the size.
///
/// # Panics
/// If `y` is not four times as long as `x`, or `x` not whole planes.
pub fn upsample_nearest2x<T: Real>([rows, columns]: [usize; 2], x: &[T], y: &mut [T]) {
    check([rows, columns], x.len(), y.len());
    par::chunks_mut(y, (4 * rows * columns).max(1), y.len() / 2, |plane, y| {
        let x = x[plane * rows * columns..].chunks(columns);
        for (x, pair) in x.zip(y.chunks_mut(4 * columns)) {
            let (first, second) = pair.split_at_mut(2 * columns);
            for (&x, y) in x.iter().zip(first.as_chunks_mut::<2>().0) {
                *y = [x; 2];
            }
            second.copy_from_slice(first);
        }
    });
}

/// The gradient of [`upsample_nearest2x`]: `dx` sums squares of four, top row first.
///
/// # Panics
/// If `dy` is not four times as long as `dx`, or `dx` not whole planes.
pub fn upsample_nearest2x_backward<T: Real>([rows, columns]: [usize; 2], dy: &[T], dx: &mut [T]) {
    check([rows, columns], dx.len(), dy.len());
    par::chunks_mut(dx, (rows * columns).max(1), dy.len() / 2, |plane, dx| {
        let dy = dy[4 * plane * rows * columns..].chunks(4 * columns);
        for (dx, pair) in dx.chunks_mut(columns).zip(dy) {
            let (first, second) = pair.split_at(2 * columns);
            let squares = first.as_chunks::<2>().0.iter().zip(second.as_chunks::<2>().0);
            for (dx, ([a, b], [c, d])) in dx.iter_mut().zip(squares) {
                *dx = (*a + *b) + (*c + *d);
            }
        }
    });
}

#[track_caller]
fn check([rows, columns]: [usize; 2], small: usize, large: usize) {
    let whole = small.is_multiple_of((rows * columns).max(1));
    assert!(whole && large == 4 * small, "{small} and {large} elements for {rows}×{columns}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_squares_and_back() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut y = [0.0; 48];
        upsample_nearest2x([2, 3], &x, &mut y);
        for (at, &y) in y.iter().enumerate() {
            let (plane, row, column) = (at / 24, at / 6 % 4, at % 6);
            assert_eq!(y, x[plane * 6 + row / 2 * 3 + column / 2]);
        }
        let mut dx = [0.0; 12];
        upsample_nearest2x_backward([2, 3], &y, &mut dx);
        assert!(dx.iter().zip(&x).all(|(dx, x)| *dx == 4.0 * x));
        upsample_nearest2x::<f64>([0, 3], &[], &mut []);
    }
}
