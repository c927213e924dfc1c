//! A function of a matrix's elements, on their way out of a product or into one; and its slope, on
//! the way of the product's gradient out.
//!
//! y = f(x)·B needs f(x) for y and for B̄ᵀ = ȳᵀ·f(x), and its slope for x̄ = (ȳ·Bᵀ)∘f′(x). Made
//! where an operand is packed and where a sum is written, none of the three is ever whole in memory.
//! If x is a product too, and nobody asks for x̄, f(x) can take its place: made where sums of x are
//! written, it goes into the next product as it lies.

use std::ops::Range;

use super::copy::Copy;
use super::read::Reader;
use super::write::{At, Bias, ByRow};
use crate::elementwise::{Chain, Pointwise, SlopeOf, Unary, each_vector};
use crate::lane::LANES;
use crate::{Real, Simd};

/// f(x) of the rows x of a single matrix, as an operand.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a, T, F> {
    /// The function.
    pub f: F,
    /// Rows of `cols` adjacent elements.
    pub x: &'a [T],
    /// Length of a row.
    pub cols: usize,
}

impl<T: Real, F: Unary> Mapped<'_, T, F> {
    /// Takes f of a block to `out`, `row_step` elements from a row to the next, in panels of
    /// `panel` = \[columns, elements of `out` from one to the next\].
    fn copy(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        row_step: usize,
        panel: [usize; 2],
    ) {
        let size = [rows.len(), cols.len()];
        if !size.contains(&0) {
            let (x, by) = (&self.x[rows.start * self.cols + cols.start..], self.cols);
            T::dispatch(Copy { x, by, size, out, row_step, panel, f: self.f });
        }
    }
}

impl<T: Real, F: Unary> Reader<T> for Mapped<'_, T, F> {
    fn read(
        &self,
        _batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        self.copy(rows, cols, out, stride, [LANES, LANES]);
    }

    fn read_panels(
        &self,
        _batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        [panel_rows, width]: [usize; 2],
    ) {
        self.copy(rows, cols, out, width, [width, panel_rows * width]);
    }
}

/// `out = sum · f′(x)`, with x at the sum's place in a single product: the gradient of what went
/// through `f` on its way into another one.
#[derive(Clone, Copy, Debug)]
pub struct Sloped<'a, T, F> {
    /// The function; its slope is computed from x.
    pub f: F,
    /// Rows of `cols` adjacent elements, of the product's shape.
    pub x: &'a [T],
    /// Length of a row.
    pub cols: usize,
}

impl<T: Real, F: Unary> ByRow<T> for Sloped<'_, T, F> {
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        at: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        _: Option<&mut [T]>,
    ) {
        const { assert!(matches!(F::SLOPE_OF, SlopeOf::Input)) };
        let x = &self.x[at.row * self.cols + at.col..][..out.len()];
        let x_and_sum = |j: usize, len: usize| {
            [isa.load_head(&x[j * LANES..][..len], T::ZERO), isa.load(&sums[j])]
        };
        write_row(isa, &Chain(self.f), x_and_sum, out);
    }

    #[inline(always)]
    fn fetch<S: Simd<T = T>>(&self, isa: S, at: At, len: usize) {
        isa.prefetch_row(&self.x[at.row * self.cols + at.col..][..len]);
    }
}

/// `out = f(sum + bias[col])`: the function of a linear layer's rows.
#[derive(Clone, Copy, Debug)]
pub struct Activated<'a, T, F> {
    /// The function.
    pub f: F,
    /// What is added to a sum before.
    pub bias: Bias<'a, T>,
}

impl<T: Real, F: Unary> ByRow<T> for Activated<'_, T, F> {
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        at: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        _: Option<&mut [T]>,
    ) {
        let sum = |j: usize, len| [self.bias.add(isa, at.col + j * LANES, len, &sums[j])];
        write_row(isa, &self.f, sum, out);
    }
}

/// f of the vectors that `load` has of the i-th sixteen columns, or fewer in the end, to a row.
#[inline(always)]
fn write_row<const K: usize, S: Simd>(
    isa: S,
    f: &impl Pointwise<K>,
    load: impl Fn(usize, usize) -> [S::V; K],
    out: &mut [S::T],
) {
    let (whole, rest) = out.as_chunks_mut();
    let vectors = whole.len();
    each_vector(isa, f, vectors, |i| load(i, LANES), |i, v| isa.store(v, &mut whole[i]));
    if !rest.is_empty() {
        isa.store_head(f.at(load(vectors, rest.len())), rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::exprs::GeluTanh;
    use crate::gemm::tests::{SIZES, assert_close, check, value, values};
    use crate::gemm::{Size, Strided, gemm, reference};

    /// Numbers that are a weight's in one product, and a gradient's in another.
    fn on_every_side<T: Real>() {
        for [m, n, k] in SIZES {
            let (x, w) = (values::<T>(13, m * k), values::<T>(14, n * k.max(m)));
            let mapped = Mapped { f: GeluTanh, x: &x, cols: k };
            let at = |_: usize, i: usize, r: usize| GeluTanh.f(value(13, i * k + r));
            let (by_k, by_n) = (Strided::<T>::rows(&w, k), Strided::<T>::rows(&w, n));
            let weights = |_, r, j| value(14, j * k + r);
            check(Size::new(m, n, k), (mapped.plain(), &at), (by_k.transposed(), &weights));
            let (dy, turned) = (|_, i, j| value(14, i * n + j), |_, r, i| at(0, i, r));
            let dy_turned = |_, j, i| dy(0, i, j);
            check(Size::new(n, k, m), (by_n.transposed(), &dy_turned), (mapped.plain(), &at));
            check(Size::new(k, n, m), (mapped.transposed(), &turned), (by_n.plain(), &dy));
        }
    }

    fn slopes<T: Real>() {
        for [m, n, k] in SIZES {
            let (a, b, x) = (values::<T>(1, m * k), values::<T>(2, n * k), values::<T>(3, m * n));
            let (rows, weights) = (Strided::<T>::rows(&a, k), Strided::<T>::rows(&b, k));
            let mut out = vec![T::from_f64(f64::NAN); m * n];
            let (size, writer) = (Size::new(m, n, k), Sloped { f: GeluTanh, x: &x, cols: n });
            gemm(size, rows.plain(), weights.transposed(), &writer, &mut out);
            let (a, b) = (|_, i, r| value(1, i * k + r), |_, r, j| value(2, j * k + r));
            let sums = reference(size, a, b).into_iter().enumerate();
            let want: Vec<f64> = sums.map(|(i, sum)| sum * GeluTanh.slope(value(3, i))).collect();
            assert_close(&out, &want, k);
        }
    }

    fn activated<T: Real>() {
        for [m, n, k] in SIZES {
            let (a, b, bias) = (values::<T>(1, m * k), values::<T>(2, n * k), values::<T>(3, n));
            let (rows, weights) = (Strided::<T>::rows(&a, k), Strided::<T>::rows(&b, k));
            let sums = reference(
                Size::new(m, n, k),
                |_, i, r| value(1, i * k + r),
                |_, r, j| value(2, j * k + r),
            );
            for bias in [None, Some(&bias[..])] {
                let mut out = vec![T::from_f64(f64::NAN); m * n];
                let writer = Activated { f: GeluTanh, bias: Bias(bias) };
                gemm(Size::new(m, n, k), rows.plain(), weights.transposed(), &writer, &mut out);
                let more = |j: usize| if bias.is_some() { value(3, j) } else { 0.0 };
                let want = sums.iter().enumerate().map(|(i, sum)| GeluTanh.f(sum + more(i % n)));
                assert_close(&out, &want.collect::<Vec<_>>(), k);
            }
        }
    }

    #[test]
    fn functions_and_slopes_in_f32_and_f64() {
        on_every_side::<f32>();
        on_every_side::<f64>();
        slopes::<f32>();
        slopes::<f64>();
        activated::<f32>();
        activated::<f64>();
    }
}
