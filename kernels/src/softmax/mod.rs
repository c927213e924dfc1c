//! Softmax and its logarithm along rows, forward and backward.
//!
//! ```text
//! y = exp(x − m)/Σ exp(x − m)      dx = y∘(dy − Σ dy∘y)
//! z = x − m − ln Σ exp(x − m)      dx = dz − exp(z)·Σ dz          m = max x
//! ```
//!
//! A row without any finite maximum (all −∞) has the softmax 0 and the logarithm −∞.
//! Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs",
//! 1990; the subtraction of the maximum is Blanchard, Higham and Higham, 2021, algorithm 3.2.

use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task, par};

pub mod ptx;
#[cfg(test)]
mod tests;

/// Nanoseconds an element takes, for the decision whether to split the work.
const NS: usize = 1;

/// Elements that a task takes, in whole rows.
const TASK: usize = 8192;

/// Softmax of each row of `n` elements of x.
///
/// Cost: an exponential and 4 flop an element; x read once and y written once from memory.
/// Panics when x and y are not alike or not made of whole rows.
pub fn softmax<T: Real>(x: &[T], n: usize, y: &mut [T]) {
    each_row(x, n, y, Forward { logarithm: false });
}

/// Logarithm of the softmax of each row of `n` elements of x.
///
/// Cost and panics: as [`softmax`].
pub fn log_softmax<T: Real>(x: &[T], n: usize, y: &mut [T]) {
    each_row(x, n, y, Forward { logarithm: true });
}

/// The gradient of [`softmax`]'s input, given its answer y and the gradient of that.
///
/// Cost: 4 flop an element. Panics: as [`softmax`].
pub fn softmax_backward<T: Real>(y: &[T], n: usize, dy: &[T], dx: &mut [T]) {
    assert_eq!(y.len(), dy.len(), "softmax: y and dy");
    each_row(y, n, dx, Backward { dy, logarithm: false });
}

/// The gradient of [`log_softmax`]'s input, given its answer y and the gradient of that.
///
/// Cost: an exponential and 3 flop an element. Panics: as [`softmax`].
pub fn log_softmax_backward<T: Real>(y: &[T], n: usize, dy: &[T], dx: &mut [T]) {
    assert_eq!(y.len(), dy.len(), "softmax: y and dy");
    each_row(y, n, dx, Backward { dy, logarithm: true });
}

/// Something done to rows independently.
trait RowWise<T>: Copy + Sync {
    /// Writes `out` from `x`, the row that begins at element `first` of all.
    fn row<S: Simd<T = T>>(self, isa: S, first: usize, x: &[T], out: &mut [T]);
}

fn each_row<T: Real>(x: &[T], n: usize, out: &mut [T], row_wise: impl RowWise<T>) {
    assert_eq!(x.len(), out.len(), "softmax: input and output");
    if n == 0 {
        return;
    }
    assert_eq!(x.len() % n, 0, "softmax: whole rows");
    let len = (TASK / n).max(1) * n;
    par::chunks_mut(out, len, NS * x.len(), |i, out| {
        let x = &x[i * len..][..out.len()];
        T::dispatch(SomeRows { row_wise, first: i * len, n, x, out });
    });
}

/// Some rows, the first of which begins at element `first` of all.
struct SomeRows<'a, T, R> {
    row_wise: R,
    first: usize,
    n: usize,
    x: &'a [T],
    out: &'a mut [T],
}

impl<T: Real, R: RowWise<T>> Task<T> for SomeRows<'_, T, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let rows = self.x.chunks_exact(self.n).zip(self.out.chunks_exact_mut(self.n));
        for (i, (x, out)) in rows.enumerate() {
            self.row_wise.row(isa, self.first + i * self.n, x, out);
        }
    }
}

#[derive(Clone, Copy)]
struct Forward {
    logarithm: bool,
}

impl<T: Real> RowWise<T> for Forward {
    #[inline(always)]
    fn row<S: Simd<T = T>>(self, isa: S, _: usize, x: &[T], out: &mut [T]) {
        let mut max = isa.splat(T::NEG_INFINITY);
        for x in x.chunks(LANES) {
            max = isa.load_head(x, T::NEG_INFINITY).max(max);
        }
        let max = isa.largest(max);
        if max == T::NEG_INFINITY {
            return out.fill(if self.logarithm { max } else { T::ZERO });
        }
        let shift = isa.splat(max);
        let mut sum = isa.splat(T::ZERO);
        for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let v = isa.load_head(x, T::NEG_INFINITY) - shift;
            let e = v.exp();
            sum = sum + e;
            isa.store_head(if self.logarithm { v } else { e }, out);
        }
        let sum = isa.sum(sum);
        let (factor, term) =
            if self.logarithm { (T::ONE, -sum.ln()) } else { (T::ONE / sum, T::ZERO) };
        let (factor, term) = (isa.splat(factor), isa.splat(term));
        for out in out.chunks_mut(LANES) {
            let v = isa.load_head(out, T::ZERO).mul_add(factor, term);
            isa.store_head(v, out);
        }
    }
}

#[derive(Clone, Copy)]
struct Backward<'a, T> {
    dy: &'a [T],
    logarithm: bool,
}

impl<T: Real> RowWise<T> for Backward<'_, T> {
    #[inline(always)]
    fn row<S: Simd<T = T>>(self, isa: S, first: usize, y: &[T], dx: &mut [T]) {
        let dy = &self.dy[first..][..y.len()];
        let (zero, one) = (isa.splat(T::ZERO), isa.splat(T::ONE));
        let mut sum = zero;
        for (y, dy) in y.chunks(LANES).zip(dy.chunks(LANES)) {
            let weight = if self.logarithm { one } else { isa.load_head(y, T::ZERO) };
            sum = isa.load_head(dy, T::ZERO).mul_add(weight, sum);
        }
        let sum = isa.splat(isa.sum(sum));
        for ((y, dy), dx) in y.chunks(LANES).zip(dy.chunks(LANES)).zip(dx.chunks_mut(LANES)) {
            let (y, dy) = (isa.load_head(y, T::ZERO), isa.load_head(dy, T::ZERO));
            let v = if self.logarithm { dy - y.exp() * sum } else { y * (dy - sum) };
            isa.store_head(v, dx);
        }
    }
}

/// What a softmax answers, in plain float64 loops: y or its logarithm, and dx for `dy`.
pub fn reference<T: Real>(x: &[T], n: usize, dy: &[T], logarithm: bool) -> [Vec<f64>; 2] {
    let mut all = [Vec::new(), Vec::new()];
    for (x, dy) in x.chunks(n.max(1)).zip(dy.chunks(n.max(1))) {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.to_f64()));
        let e = x.iter().map(|x| if max.is_finite() { (x.to_f64() - max).exp() } else { 0.0 });
        let sum = e.clone().sum::<f64>().max(f64::MIN_POSITIVE);
        let y: Vec<f64> = e.map(|e| e / sum).collect();
        let dot: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy.to_f64()).sum();
        let total: f64 = dy.iter().map(|dy| dy.to_f64()).sum();
        for (i, y) in y.into_iter().enumerate() {
            let dy = dy[i].to_f64();
            all[0].push(if logarithm { x[i].to_f64() - max - sum.ln() } else { y });
            all[1].push(if logarithm { dy - y * total } else { y * (dy - dot) });
        }
    }
    all
}
