//! Products of few rows, made as `Cᵀ = Bᵀ·Aᵀ`.
//!
//! Weights W lie by rows, one for each output. So the columns of Wᵀ that `x·Wᵀ` has to pack lie
//! along K, and packing them is transposing them: a small part of the work for a thousand rows of
//! x, a tenth for 256, nearly all of it for one. Turned, rows of W are the left operand: they are
//! read where they lie, and only widened first if they are halves. It is x that is packed, once for
//! all of them, and sums are transposed on their way to the writer: the same sums, of the same
//! products in the same order.

use std::ops::Range;

use super::Size;
use super::pack::{self, Columns, Rows};
use super::plan::{TILES, Target};
use super::read::Operand;
use super::tile::{CHUNK, Finish, STRIP, SumTile, Sums, To, panel_rows, sums_size};
use super::transpose::transpose;
use super::write::{At, Writer};
use super::writing::Writing;
use crate::lane::LANES;
use crate::par::{self, Cells};
use crate::{Real, scratch};

/// Most rows of A: a block of them along K, 1.5 MiB, is to stay in the second cache.
const ROWS: usize = 256;
/// Numbers of A that are packed at most, each thread that multiplies keeping room for them.
const MOST: usize = 4 << 20;

/// Numbers from a row of transposed sums to the next, an odd number of sixteens.
const STEP: usize = CHUNK + LANES;

/// Whether a product is to be turned: where columns of B do not lie side by side, packing them takes
/// at least three times as long as packing A and transposing C.
pub(super) fn is_better<T: Real>(size: Size, b: &Operand<T>) -> bool {
    let Size { batch, m, n, k } = size;
    let is_short = 3 * m * (n + k) <= n * k && m <= ROWS && m * k <= MOST;
    batch == 1 && is_short && !b.turned().side_by_side()
}

/// Makes a product by tiles of all rows and some columns, which are a chunk of rows of Bᵀ.
pub(super) fn tiles<T: Real, O: Send>(
    size: Size,
    a: Operand<T>,
    b: Operand<T>,
    writer: &dyn Writer<T, O>,
    out: &mut [O],
    kept: &mut [T],
) {
    let Size { m, n, k, .. } = size;
    // Whole chunks only where there are many: at the end, threads wait for the last ones.
    let cell = [m, if n < 2 * TILES * CHUNK { CHUNK / 2 } else { CHUNK }];
    let kept = (!kept.is_empty()).then(|| Cells::new(kept, [m, n], cell));
    let out = Cells::new(out, [m, n], cell);
    let to = Target { writer, out: &out, kept: kept.as_ref() };
    let panels = m.div_ceil(LANES);
    scratch::with([panels * panel_rows(k) * LANES], |[packed]| {
        pack::pack(a.turned(), 0..1, [k, m], 0..panels, packed);
        let packed = Columns::Shared { rows: packed.as_chunks().0, k, first: [0, 0], panels };
        par::for_each(n.div_ceil(cell[1]), size.ns(), |i| {
            tile(Rows::Own(b.turned()), packed, [i, i * cell[1], k], &to);
        });
    });
}

/// The `i`th tile, whose first column is `first`, of sums of `k` products.
fn tile<T: Real, O: Send>(a: Rows<T>, b: Columns<T>, [i, first, k]: [usize; 3], to: &Target<T, O>) {
    let (writer, out) = (to.writer, to.out.take(0, [0, i]));
    let kept = to.kept.map(|kept| kept.take(0, [0, i]));
    let (columns, panels) = (out.columns().len(), 0..out.rows().end.div_ceil(LANES));
    let sums: usize = sums_size(columns, panels.len(), k).iter().product();
    let room = [a.room(columns, k), sums * LANES, STRIP * LANES * STEP];
    scratch::with(room, |[a_block, sums, turned]| {
        let first = At { batch: 0, row: 0, col: first };
        let mut turning = Turning { to: Writing { writer, first, out, kept }, turned };
        let to = To::Writer(&mut turning, sums.as_chunks_mut().0);
        let (rows, slots) = (first.col..first.col + columns, &mut [][..]);
        T::multiply(SumTile { a, b, batch: 0, k, rows, panels, a_block, slots, to });
    });
}

/// Hands sums on transposed.
struct Turning<'a, T, O> {
    to: Writing<'a, T, O>,
    /// Room for those of a strip.
    turned: &'a mut [T],
}

impl<T: Real, O> Turning<'_, T, O> {
    /// The rows of C that are columns of `panels`.
    fn rows(&self, panels: Range<usize>) -> Range<usize> {
        panels.start * LANES..self.to.out.rows().end.min(panels.end * LANES)
    }
}

impl<T: Real, O> Finish<T> for Turning<'_, T, O> {
    /// With each dozen of columns their share of the strip's rows is fetched, all columns of it.
    fn expect(&mut self, columns: Range<usize>, panels: Range<usize>) {
        let (all, rows) = (self.to.out.columns().end, self.rows(panels));
        let share = |column: usize| rows.start + rows.len() * column / all;
        self.to.expect(share(columns.start)..share(columns.end), 0..all.div_ceil(LANES));
    }

    /// Columns are all those of the tile: they are one chunk.
    fn finish(&mut self, columns: Range<usize>, panels: Range<usize>, sums: Sums<T>) {
        let (rows, width) = (self.rows(panels), columns.end.div_ceil(LANES));
        transpose([columns.len(), rows.len()], sums.flat(), (self.turned, STEP));
        self.to.finish(rows, 0..width, Sums::new(self.turned.as_chunks().0, STEP / LANES, width));
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::elementwise::exprs::GeluTanh;
    use crate::gemm::{Add, GateResidual, KC, Mapped, Reader, Store, Strided, gemm, gemm_keeping};

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 29 + seed) % 113) as f32 / 50.0 - 1.1).collect()
    }

    /// All that a product of these operands writes: stored, added, gated and kept, and rounded.
    fn results([m, n, k]: [usize; 3], a: Operand<f32>, b: Operand<f32>) -> [Vec<f32>; 5] {
        let size = Size::new(m, n, k);
        let [bias, gate, residual] = [n, 2 * n, m * n].map(|len| numbers(len, len));
        let gated = GateResidual {
            bias: Some(&bias),
            gate: &gate,
            gate_stride: n,
            rows_per_sample: m.div_ceil(2),
            residual: &residual,
            cols: n,
        };
        let [mut stored, mut out, mut kept] = std::array::from_fn(|_| vec![f32::NAN; m * n]);
        let (mut added, mut rounded) = (residual.clone(), vec![bf16::NAN; m * n]);
        gemm(size, a, b, &Store, &mut stored);
        gemm(size, a, b, &Add, &mut added);
        gemm(size, a, b, &Store, &mut rounded);
        gemm_keeping(size, a, b, &gated, &mut out, &mut kept);
        [stored, added, out, kept, rounded.into_iter().map(bf16::to_f32).collect()]
    }

    /// Bits are those of the product as it is: whatever reads A, in memory by rows or columns or
    /// through a function, and whether rows of W are read in place or widened first.
    #[test]
    fn turned_products_have_the_bits_of_others() {
        let sizes = [[2, 50, 40], [13, 150, 100], [70, 300, KC + 30], [100, 2400, 400]];
        for [m, n, k] in sizes {
            let (x, w) = (numbers(m * k, 5), numbers(n * k, 7));
            let halves: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
            let w: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
            let flip = |x: &[f32], rows: usize| -> Vec<f32> {
                (0..x.len()).map(|i| x[i % rows * (x.len() / rows) + i / rows]).collect()
            };
            let (x_flipped, w_flipped) = (flip(&x, m), flip(&w, n));
            let (by_rows, by_columns) = (Strided::rows(&x, k), Strided::rows(&x_flipped, m));
            let mapped = Mapped { f: GeluTanh, x: &x, cols: k };
            let weights = Strided::<f32>::rows(&w_flipped, n);
            let (turned, widened) = (Strided::<f32>::rows(&w, k), Strided::rows(&halves, k));
            let size = Size::new(m, n, k);
            assert!(!is_better::<f32>(size, &weights.plain()));
            for a in [by_rows.plain(), by_columns.transposed(), mapped.plain()] {
                let want = results([m, n, k], a, weights.plain());
                let part =
                    results([m - 1, n - 3, k - 2], a.part([1, 2]), weights.plain().part([2, 3]));
                for b in [turned.transposed(), widened.transposed()] {
                    assert!(is_better::<f32>(size, &b), "{size:?}");
                    assert!(results([m, n, k], a, b) == want, "{size:?}");
                    let b = b.part([2, 3]);
                    let got =
                        par::with_threads(3, || results([m - 1, n - 3, k - 2], a.part([1, 2]), b));
                    assert!(got == part, "{size:?}");
                }
            }
        }
    }

    #[test]
    fn many_rows_are_not_turned() {
        let w = Strided::<f32>::new(&[0.0], [0, 0]);
        let is = |m, n, k| is_better(Size::new(m, n, k), &w.transposed());
        assert!(is(256, 4096, 4096) && is(1, 9216, 1536) && is(32, 1152, 192));
        assert!(!is(257, 4096, 4096) && !is(88, 768, 192) && !is(33, 192, 192));
        assert!(!is(8, 512, 0));
        assert!(!is_better(Size::new(8, 512, 512).batched(2), &w.transposed()));
    }
}
