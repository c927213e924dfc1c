//! Matrix products, fused at both ends: `C = writer(A · B)`.
//!
//! One kernel serves every product of the engine. Operands come through [`Reader`]s (strided,
//! half precision, normalised on the way, patches of a convolution; each plain or transposed), the
//! right one perhaps packed before ([`PackedB`]); results leave through [`Writer`]s (stored, added,
//! with bias, activation, gate and residual).
//!
//! ```
//! use kernels::gemm::{self, Bias, Reader, Size, Strided};
//! // y = x·wᵀ + b for three rows x and weights w of two outputs.
//! let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let (w, b) = ([1.0_f32, 1.0, 0.0, 2.0], [10.0_f32, 0.0]);
//! let mut y = [0.0; 6];
//! let (rows, weights) = (Strided::rows(&x, 2), Strided::rows(&w, 2));
//! gemm::gemm(Size::new(3, 2, 2), rows.plain(), weights.transposed(), &Bias(Some(&b)), &mut y);
//! assert_eq!(y, [13.0, 4.0, 17.0, 8.0, 21.0, 12.0]);
//! ```
//!
//! # One order of summation
//!
//! An element is the sum over blocks of [`KC`] along K, in order, of block sums, each begun at zero
//! and continued by fused multiply-add in order of k. Nothing else has a say in it: not the number
//! of rows or columns, the batch, the element's place, the instruction set or the threads. A row
//! has the same bits computed alone or among thousands.
//!
//! # Speed
//!
//! The micro-kernel keeps its sums in registers and runs near the machine's peak; what is left to
//! lose is moving data. A panel of B is packed once for all rows: by the only tile that uses it,
//! into the first cache, or where tiles share it, by all threads before the product starts. Rows
//! of A are packed by each tile, or before the product starts where there is one row of tiles; with
//! rows adjacent along K that is a copy.
//!
//! Of two threads' time on Zen 5 at 1024 rows and more, 86 to 90 % is the micro-kernel's, which runs
//! at 92 to 95 % of the peak; packing B takes 4 to 6, packing A 2 to 3, writing C 1 to 2, and tiles
//! that end later than others 2 to 3. Three things got there from 72 to 75 % of the peak to 80 to 83:
//! a tile of 96 × 1024 packs a quarter as much of A as one of 192 × 256, in as much cache; the
//! micro-kernel fetches the panels that come after its own; packing fetches rows ahead, which lie on
//! other pages. What did not: a block of 192 or 256 along K; rows of A interleaved, for which the
//! micro-kernel is 1 % faster and packing takes twice as long. With 154 rows, packing A once and not
//! in each of 16 tiles is worth 4 to 9 points, and B packed before the product another 9.

mod modulated;
mod pack;
pub mod ptx;
mod read;
mod reference;
mod storage;
mod strided;
mod tile;
mod transpose;
mod write;

pub use modulated::ModulatedNorm;
pub use pack::{PackedB, Panels, Right};
pub use read::{Operand, Reader};
pub use reference::reference;
pub use storage::Stored;
pub use strided::Strided;
pub use tile::{KC, Multiply, Sums};
pub use write::{Add, At, Bias, BiasGelu, GateResidual, RowBias, Store, Writer};

use std::ops::Range;

use crate::lane::LANES;
use crate::par::{self, Cells};
use crate::{Real, count, scratch};
use pack::{Columns, Rows, TOGETHER};
use tile::{GROUP, SumTile};

/// The size of a product: `batch` times `[m, k] · [k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Independent products.
    pub batch: usize,
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

impl Size {
    /// A single product.
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        Size { batch: 1, m, n, k }
    }

    /// So many products of this size.
    pub fn batched(self, batch: usize) -> Self {
        Size { batch, ..self }
    }

    /// About how long it takes: 50 GFLOP/s a core.
    fn ns(self) -> usize {
        2 * self.batch * self.m * self.n * self.k / 50
    }
}

/// `out = writer(A · B)` for each product of a batch.
///
/// `out` holds `batch` matrices of `[m, n]`, one after the other. With k = 0 every sum is 0.
///
/// # Panics
/// If `out` is not of that length, a packed operand is not `[k, n]`, or an operand's slice ends
/// before the last element read.
pub fn gemm<'a, T: Real, O: Send>(
    size: Size,
    a: Operand<T>,
    b: impl Into<Right<'a, T>>,
    writer: &dyn Writer<T, O>,
    out: &mut [O],
) {
    gemm_keeping(size, a, b, writer, out, &mut []);
}

/// [`gemm`] with a second output of the same shape, for writers that keep what a backward pass
/// needs; an empty slice keeps nothing.
///
/// # Panics
/// As [`gemm`]; also if `kept` is neither empty nor as long as `out`.
pub fn gemm_keeping<'a, T: Real, O: Send>(
    size: Size,
    a: Operand<T>,
    b: impl Into<Right<'a, T>>,
    writer: &dyn Writer<T, O>,
    out: &mut [O],
    kept: &mut [T],
) {
    let Size { batch, m, n, k } = size;
    assert_eq!(out.len(), batch * m * n, "output of {size:?}");
    assert!(kept.is_empty() || kept.len() == out.len(), "kept output of {size:?}");
    if out.is_empty() {
        return;
    }
    count::add(2 * batch * m * n * k);
    let plan = Plan::new(size);
    let kept = (!kept.is_empty()).then(|| Cells::new(kept, [m, n], plan.tile));
    let out = Cells::new(out, [m, n], plan.tile);
    let to = Target { writer, out: &out, kept: kept.as_ref() };
    match b.into() {
        Right::Packed(b) => {
            assert_eq!(b.size(), [k, n], "packed operand of {size:?}");
            plan.rows(a, |a| plan.run(a, Columns::Packed(b), &to, 0..batch, 0..n));
        }
        Right::Read(b) if plan.tile[0] >= m => {
            plan.rows(a, |a| plan.run(a, Columns::Own { b, n }, &to, 0..batch, 0..n));
        }
        Right::Read(b) => plan.bands(|matrices, columns| {
            let panels = columns.start / LANES..columns.end.div_ceil(LANES);
            let len = matrices.len() * panels.len() * k * LANES;
            scratch::with([len], |[shared]| {
                pack::pack(b, matrices.clone(), [k, n], panels.clone(), shared);
                let packed = Columns::Shared {
                    rows: shared.as_chunks().0,
                    k,
                    first: [matrices.start, panels.start],
                    panels: panels.len(),
                };
                plan.run(Rows::Own(a), packed, &to, matrices, columns);
            });
        }),
    }
}

/// Where a result goes.
struct Target<'a, T, O> {
    writer: &'a dyn Writer<T, O>,
    /// Cells as large as a tile,
    out: &'a Cells<'a, O>,
    /// and as many for what the writer keeps.
    kept: Option<&'a Cells<'a, T>>,
}

/// How a product is cut. Tiles are a matter of the problem's size alone.
struct Plan {
    size: Size,
    /// Rows and columns of a tile; the last ones may be smaller.
    tile: [usize; 2],
}

/// Most rows of a tile,
const TILE_M: usize = 96;
/// and most columns: a block of A is packed once for all of them, and with their sums it stays in the
/// second cache.
const TILE_N: usize = 1024;
/// Fewest rows and columns of a tile that is cut in two for want of tiles.
const CUT: [usize; 2] = [72, 256];
/// Most rows of a tile that has its columns of B to itself,
const LONE_M: usize = 384;
/// fewest elements of a B that is cut for that,
const LARGE_B: usize = 1 << 20;
/// and fewest columns of such a tile.
const LEAST_N: usize = 96;
/// Tiles that keep a machine's threads about equally busy.
const TILES: usize = 16;
/// Multiply-adds below which a tile is not worth cutting: 40 µs.
const TILE_WORK: usize = 2 << 20;
/// Elements of B packed at a time where tiles share them.
const BAND: usize = 4 << 20;

impl Plan {
    /// The largest tiles of which there are enough.
    ///
    /// A tile reads a panel of B for each of its rows' sake, and packs a row of A for its columns';
    /// packing costs more than reading, so tiles are wide.
    fn new(size: Size) -> Self {
        let Size { batch, m, n, k } = size;
        let widest = (BAND / k.max(1)).clamp(2 * LANES, TILE_N);
        let mut pieces = [m.div_ceil(TILE_M), n.div_ceil(widest)];
        // Columns of B that no other tile needs are packed panel by panel into the first cache.
        // Once B is larger than a cache, sparing it the way through memory (a sixth of the time at
        // 154 to 400 rows) is worth more than the best shape of a tile.
        let across = TILES.div_ceil(batch.max(1)).max(pieces[1]);
        let lone = m <= LONE_M && k * n >= LARGE_B && n >= LEAST_N * across;
        if lone {
            pieces = [1, across];
        }
        while !lone && batch * pieces[0] * pieces[1] < TILES {
            let [rows, columns] = [m.div_ceil(pieces[0]), n.div_ceil(pieces[1])];
            if rows * columns * k < TILE_WORK {
                break;
            }
            let [rows_suffice, columns_suffice] = [rows >= CUT[0], columns >= CUT[1]];
            if columns_suffice && (columns > 2 * rows || !rows_suffice) {
                pieces[1] *= 2;
            } else if rows_suffice {
                pieces[0] *= 2;
            } else {
                break;
            }
        }
        let rows = m.div_ceil(pieces[0]).next_multiple_of(GROUP);
        let columns = n.div_ceil(pieces[1]).next_multiple_of(2 * LANES);
        Plan { size, tile: [rows, columns] }
    }

    /// Calls `f` with the left operand: packed, if several tiles use the same rows and no others.
    fn rows<T: Real>(&self, a: Operand<T>, f: impl FnOnce(Rows<T>)) {
        let Size { batch, m, n, k } = self.size;
        if batch > 1 || self.tile[0] < m || self.tile[1] >= n {
            return f(Rows::Own(a));
        }
        scratch::with([Rows::<T>::room([m, k])], |[room]| f(Rows::pack(a, [m, k], room)));
    }

    /// Calls `f` for matrices and columns, whole tiles of them, whose packed B is of bounded size.
    fn bands(&self, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let Size { batch, n, k, .. } = self.size;
        let tiles = (BAND / (k * self.tile[1]).max(1)).max(1);
        let columns_at_once = tiles * self.tile[1];
        let matrices_at_once = (columns_at_once / n.next_multiple_of(LANES)).max(1);
        for first in (0..batch).step_by(matrices_at_once) {
            let matrices = first..batch.min(first + matrices_at_once);
            for column in (0..n).step_by(columns_at_once) {
                f(matrices.clone(), column..n.min(column + columns_at_once));
            }
        }
    }

    /// The tiles of some matrices and columns, each by one thread.
    fn run<T: Real, O: Send>(
        &self,
        a: Rows<T>,
        b: Columns<T>,
        to: &Target<T, O>,
        matrices: Range<usize>,
        columns: Range<usize>,
    ) {
        let m = self.size.m;
        let [down, across] = [m.div_ceil(self.tile[0]), columns.len().div_ceil(self.tile[1])];
        let part = Size { batch: matrices.len(), n: columns.len(), ..self.size };
        let ns = part.ns();
        par::for_each(matrices.len() * down * across, ns, |i| {
            let place = [i / across % down, columns.start / self.tile[1] + i % across];
            self.tile(a, b, to, matrices.start + i / (down * across), place);
        });
    }

    /// One tile of one matrix; `place` counts tiles.
    fn tile<T: Real, O: Send>(
        &self,
        a: Rows<T>,
        b: Columns<T>,
        to: &Target<T, O>,
        batch: usize,
        place: [usize; 2],
    ) {
        let Target { writer, out, kept } = *to;
        let out = out.take(batch, place);
        let kept = kept.map(|kept| kept.take(batch, place));
        let (row, column) = (place[0] * self.tile[0], place[1] * self.tile[1]);
        let (rows, columns) = (out.rows().len(), out.columns().len());
        let panels = column / LANES..(column + columns).div_ceil(LANES);
        // An odd number of cache lines: rows must not compete for the same places of a cache.
        let stride = panels.len() | 1;
        let a_len = if a.is_packed() { 0 } else { rows.next_multiple_of(GROUP) * KC };
        let sums_len = rows * stride * LANES;
        scratch::with([a_len, TOGETHER * KC * LANES, sums_len], |[a_block, slots, sums]| {
            T::multiply(SumTile {
                a,
                b,
                batch,
                k: self.size.k,
                rows: row..row + rows,
                panels,
                a_block,
                slots: slots.as_chunks_mut().0,
                sums: sums.as_chunks_mut().0,
                stride,
            });
            let sums = Sums::new(sums.as_chunks().0, stride);
            writer.write(At { batch, row, col: column }, sums, out, kept);
        });
    }
}

#[cfg(test)]
mod tests;
