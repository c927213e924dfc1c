//! The product in plain loops.

use super::Size;

/// The sums of `size`, matrix by matrix, in float64: `Σₖ a(batch, i, k) · b(batch, k, j)`.
pub fn reference(
    size: Size,
    a: impl Fn(usize, usize, usize) -> f64,
    b: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let Size { batch, m, n, k } = size;
    let mut c = Vec::with_capacity(batch * m * n);
    for matrix in 0..batch {
        for i in 0..m {
            for j in 0..n {
                c.push((0..k).map(|k| a(matrix, i, k) * b(matrix, k, j)).sum());
            }
        }
    }
    c
}
