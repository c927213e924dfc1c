//! Writers: what becomes of a finished sum.
//!
//! A product hands a writer finished sums by the chunk, still in the first cache, and a writer goes
//! through them once. Chunks of a dozen rows were measured to be slower, each being a call, and
//! output rows then are written in smaller pieces. Unless the product is [turned](super::turned),
//! sums that are only to be stored are made in the output, and so are those of one block of K that
//! are only to be added, or to get a bias.

use half::bf16;

use crate::elementwise::Pointwise;
use crate::lane::LANES;
use crate::num::Num;
use crate::par::Cell;
use crate::{Real, Simd, Task};

use super::ends::Ends;
use super::tile::Sums;

/// Where sums lie in the product.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Number of the matrix in the batch.
    pub batch: usize,
    /// Their first row,
    pub row: usize,
    /// and their first column.
    pub col: usize,
}

/// A part of the output in which sums are made, and how they end; or one that is written to.
pub type Placed<'c, 'w, T, O> = Result<(Cell<'c, T>, Ends<'w, T>), Cell<'c, O>>;

/// Takes finished sums to the output.
pub trait Writer<T: Real, O = T>: Sync {
    /// Writes the output elements `out` that belong to `sums`, of as many rows; `at` is the place
    /// of the first element.
    ///
    /// `kept` is the same part of a second output, for what the backward pass needs; there is none
    /// where nobody asked for it.
    fn write(&self, at: At, sums: Sums<T>, out: Cell<O>, kept: Option<Cell<T>>);

    /// Begins to fetch what [`write`](Self::write) will want of these elements.
    fn expect(&self, _at: At, _out: Cell<O>, _kept: Option<Cell<T>>) {}

    /// The output itself, if sums of `k` products can be made there, and how they end: rows have to
    /// be whole sixteens. Then nothing is written, and nothing kept.
    fn place<'c>(&self, out: Cell<'c, O>, _k: usize) -> Placed<'c, '_, T, O> {
        Err(out)
    }

    /// What adds to the elements of the output that this writer has written for the first block of
    /// K the sums of the others, if that is all there is to do.
    fn then(&self) -> Option<&dyn Writer<T, O>> {
        None
    }
}

/// A writer whose output is that of the products' own type: what it does to a row, sixteen sums at
/// a time.
pub(super) trait ByRow<T: Real>: Sync {
    /// What is done to a sum, if the micro-kernel can do it.
    fn ends(&self) -> Option<Ends<'_, T>> {
        None
    }

    /// Writes the elements `out` of one row, and what it keeps of them, if that is wanted.
    ///
    /// `sums` may be more than `out` has room for.
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        at: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        kept: Option<&mut [T]>,
    );

    /// Begins to fetch what else is read for `len` elements of a row.
    #[inline(always)]
    fn fetch<S: Simd<T = T>>(&self, _isa: S, _at: At, _len: usize) {}
}

impl<T: Real, W: ByRow<T>> Writer<T> for W {
    fn write(&self, at: At, sums: Sums<T>, out: Cell<T>, kept: Option<Cell<T>>) {
        T::dispatch(Tile { writer: self, at, sums, out, kept });
    }
    fn expect(&self, at: At, out: Cell<T>, kept: Option<Cell<T>>) {
        T::dispatch(Expect { writer: self, at, out, kept });
    }
    fn place<'c>(&self, out: Cell<'c, T>, k: usize) -> Placed<'c, '_, T, T> {
        match self.ends() {
            Some(ends) if ends.suit(k) && out.columns().len().is_multiple_of(LANES) => {
                Ok((out, ends))
            }
            _ => Err(out),
        }
    }
    fn then(&self) -> Option<&dyn Writer<T>> {
        matches!(self.ends(), Some(Ends::Store)).then_some(&Add)
    }
}

/// A tile to be written row by row.
struct Tile<'a, T, W> {
    writer: &'a W,
    at: At,
    sums: Sums<'a, T>,
    out: Cell<'a, T>,
    kept: Option<Cell<'a, T>>,
}

impl<T: Real, W: ByRow<T>> Task<T> for Tile<'_, T, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        for i in self.out.rows() {
            let at = At { row: self.at.row + i, ..self.at };
            let kept = self.kept.as_mut().map(|kept| kept.row(i));
            self.writer.row(isa, at, self.sums.row(i), self.out.row(i), kept);
        }
    }
}

/// A tile that will be written.
struct Expect<'a, T, W> {
    writer: &'a W,
    at: At,
    out: Cell<'a, T>,
    kept: Option<Cell<'a, T>>,
}

impl<T: Real, W: ByRow<T>> Task<T> for Expect<'_, T, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        let len = self.out.columns().len();
        for i in self.out.rows() {
            isa.prefetch_row(self.out.row(i));
            if let Some(kept) = &mut self.kept {
                isa.prefetch_row(kept.row(i));
            }
            self.writer.fetch(isa, At { row: self.at.row + i, ..self.at }, len);
        }
    }
}

/// `out = sum`.
#[derive(Clone, Copy, Debug)]
pub struct Store;

impl<T: Real> ByRow<T> for Store {
    fn ends(&self) -> Option<Ends<'_, T>> {
        Some(Ends::Store)
    }
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        _: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        _: Option<&mut [T]>,
    ) {
        for (sum, out) in sums.iter().zip(out.chunks_mut(LANES)) {
            isa.store_head(isa.load(sum), out);
        }
    }
}

/// `out = sum`, rounded to bfloat16.
impl<T: Real> Writer<T, bf16> for Store {
    fn write(&self, _: At, sums: Sums<T>, mut out: Cell<bf16>, _: Option<Cell<T>>) {
        for i in out.rows() {
            for (out, sum) in out.row(i).iter_mut().zip(sums.row(i).as_flattened()) {
                *out = bf16::from_f64(sum.to_f64());
            }
        }
    }
}

/// `out += sum`: accumulates gradients.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl<T: Real> ByRow<T> for Add {
    fn ends(&self) -> Option<Ends<'_, T>> {
        Some(Ends::Add)
    }
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        _: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        _: Option<&mut [T]>,
    ) {
        for (sum, out) in sums.iter().zip(out.chunks_mut(LANES)) {
            isa.store_head(isa.load_head(out, T::ZERO) + isa.load(sum), out);
        }
    }
}

/// `out = sum + bias[col]`; nothing is added where there is no bias.
#[derive(Clone, Copy, Debug)]
pub struct Bias<'a, T>(pub Option<&'a [T]>);

impl<T: Real> Bias<'_, T> {
    /// sum + bias for the sixteen columns, or fewer, from `col` on.
    #[inline(always)]
    pub(super) fn add<S: Simd<T = T>>(
        &self,
        isa: S,
        col: usize,
        len: usize,
        sum: &[T; LANES],
    ) -> S::V {
        match self.0 {
            Some(bias) => isa.load(sum) + isa.load_head(&bias[col..][..len], T::ZERO),
            None => isa.load(sum),
        }
    }
}

impl<T: Real> ByRow<T> for Bias<'_, T> {
    fn ends(&self) -> Option<Ends<'_, T>> {
        Some(self.0.map_or(Ends::Store, Ends::Bias))
    }
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        at: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        _: Option<&mut [T]>,
    ) {
        for (j, (sum, out)) in sums.iter().zip(out.chunks_mut(LANES)).enumerate() {
            isa.store_head(self.add(isa, at.col + j * LANES, out.len(), sum), out);
        }
    }
}

/// `out = sum + bias[row]`: a convolution's output channels are rows.
#[derive(Clone, Copy, Debug)]
pub struct RowBias<'a, T>(pub &'a [T]);

impl<T: Real> ByRow<T> for RowBias<'_, T> {
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        at: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        _: Option<&mut [T]>,
    ) {
        let bias = isa.splat(self.0[at.row]);
        for (sum, out) in sums.iter().zip(out.chunks_mut(LANES)) {
            isa.store_head(isa.load(sum) + bias, out);
        }
    }
}

/// r + g·b of operands (r, g, b): a residual and a gated branch.
#[derive(Clone, Copy, Debug)]
pub struct Gated;

impl Pointwise<3> for Gated {
    #[inline(always)]
    fn at<N: Num>(&self, [residual, gate, branch]: [N; 3]) -> N {
        residual + gate * branch
    }
}

/// `out = residual + gate[sample, col] · (sum + bias[col])`: how a branch joins the trunk in
/// adaLN-Zero. Keeps `sum + bias`.
///
/// A sample is `rows_per_sample` rows of the product. The residual has the product's shape, with
/// adjacent elements.
#[derive(Clone, Copy, Debug)]
pub struct GateResidual<'a, T> {
    /// One number a column.
    pub bias: Option<&'a [T]>,
    /// One row of numbers a sample,
    pub gate: &'a [T],
    /// so many elements apart.
    pub gate_stride: usize,
    /// Rows of the product in a sample.
    pub rows_per_sample: usize,
    /// What the branch is added to,
    pub residual: &'a [T],
    /// and the length of its rows.
    pub cols: usize,
}

impl<T: Real> ByRow<T> for GateResidual<'_, T> {
    #[inline(always)]
    fn row<S: Simd<T = T>>(
        &self,
        isa: S,
        at: At,
        sums: &[[T; LANES]],
        out: &mut [T],
        mut kept: Option<&mut [T]>,
    ) {
        let gate = &self.gate[at.row / self.rows_per_sample * self.gate_stride + at.col..];
        let residual = &self.residual[at.row * self.cols + at.col..];
        for (j, (sum, out)) in sums.iter().zip(out.chunks_mut(LANES)).enumerate() {
            let (first, len) = (j * LANES, out.len());
            let x = Bias(self.bias).add(isa, at.col + first, len, sum);
            if let Some(kept) = &mut kept {
                isa.store_head(x, &mut kept[first..][..len]);
            }
            let gate = isa.load_head(&gate[first..][..len], T::ZERO);
            let residual = isa.load_head(&residual[first..][..len], T::ZERO);
            isa.store_head(Gated.at([residual, gate, x]), out);
        }
    }
    #[inline(always)]
    fn fetch<S: Simd<T = T>>(&self, isa: S, at: At, len: usize) {
        isa.prefetch_row(&self.residual[at.row * self.cols + at.col..][..len]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::gemm::turned::is_better;
    use crate::gemm::{KC, Operand, Reader, Size, Strided, gemm_keeping};

    /// Notes which elements it expects, which it writes, and that none comes before it is expected.
    struct Notes {
        size: [usize; 2],
        expected: Mutex<Vec<bool>>,
    }

    impl Notes {
        fn visit(&self, at: At, [rows, columns]: [usize; 2], is_written: bool) {
            let mut expected = self.expected.lock().unwrap();
            for i in 0..rows {
                for j in 0..columns {
                    let index = (at.batch * self.size[0] + at.row + i) * self.size[1] + at.col + j;
                    assert_eq!(expected[index], is_written, "{at:?} + [{i}, {j}]");
                    expected[index] = true;
                }
            }
        }
    }

    impl Writer<f32> for Notes {
        fn write(&self, at: At, _: Sums<f32>, mut out: Cell<f32>, kept: Option<Cell<f32>>) {
            self.visit(at, [out.rows().len(), out.columns().len()], true);
            assert_eq!(kept.map(|kept| kept.columns()), Some(out.columns()));
            out.rows().for_each(|i| out.row(i).fill(1.0));
        }
        fn expect(&self, at: At, out: Cell<f32>, kept: Option<Cell<f32>>) {
            self.visit(at, [out.rows().len(), out.columns().len()], false);
            assert_eq!(kept.map(|kept| kept.rows()), Some(out.rows()));
        }
    }

    #[test]
    fn every_element_is_expected_once_before_it_is_written() {
        let sizes = [[1, 1, 1], [13, 70, 5], [230, 64, 3], [100, 130, KC + 6], [25, 33, 2100]];
        // By itself and with columns adjacent along K, the last two are turned.
        let turned = [[67, 390, KC + 6], [7, 100, 120]];
        for ([m, n, k], batch) in
            sizes.map(|size| (size, 2)).into_iter().chain(turned.map(|size| (size, 1)))
        {
            let size = Size::new(m, n, k).batched(batch);
            let numbers = vec![0.0f32; batch * (m + n) * k];
            let matrix = |rows: usize, columns: usize| {
                Strided::rows(&numbers, columns).batched(&[batch], &[rows * columns])
            };
            let [a, b, b_turned] = [matrix(m, k), matrix(k, n), matrix(n, k)];
            let operands: [Operand<f32>; 2] = [b.plain(), b_turned.transposed()];
            assert_eq!(operands.map(|b| is_better(size, &b)), [false, batch == 1]);
            for b in operands {
                let expected = Mutex::new(vec![false; batch * m * n]);
                let notes = Notes { size: [m, n], expected };
                let (mut out, mut kept) = (vec![0.0; batch * m * n], vec![0.0; batch * m * n]);
                gemm_keeping(size, a.plain(), b, &notes, &mut out, &mut kept);
                assert!(out.iter().all(|&x| x == 1.0), "{size:?}");
            }
        }
    }
}
