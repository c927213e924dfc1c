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
//! of A are packed by each tile; with rows adjacent along K that is a copy.

mod modulated;
mod pack;
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
pub use tile::{KC, Multiply};
pub use write::{Add, At, Bias, BiasGelu, GateResidual, RowBias, Store, Writer};

use std::ops::Range;

use crate::lane::LANES;
use crate::{Real, par, scratch};
use pack::{Columns, TOGETHER};
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
    let plan = Plan::new(size);
    match b.into() {
        Right::Packed(b) => {
            assert_eq!(b.size(), [k, n], "packed operand of {size:?}");
            run(size, a, Columns::Packed(b), &plan.grid(0..batch, 0..n), writer, (out, kept));
        }
        Right::Read(b) if plan.pieces[0] == 1 => {
            run(size, a, Columns::Own { b, n }, &plan.grid(0..batch, 0..n), writer, (out, kept));
        }
        Right::Read(b) => plan.bands(|grid, panels| {
            let len = grid.matrices.len() * panels.len() * k * LANES;
            scratch::with([len], |[shared]| {
                pack::pack(b, grid.matrices.clone(), [k, n], panels.clone(), shared);
                let columns = Columns::Shared {
                    rows: shared.as_chunks().0,
                    k,
                    first: [grid.matrices.start, panels.start],
                    panels: panels.len(),
                };
                run(size, a, columns, &grid, writer, (&mut *out, &mut *kept));
            });
        }),
    }
}

/// How a product is cut. Tiles are a matter of the problem's size alone.
struct Plan {
    size: Size,
    /// Pieces of M and of N.
    pieces: [usize; 2],
}

/// Most rows of a tile: its packed block of A, 192 × [`KC`], stays in the second cache.
const TILE_M: usize = 192;
/// Most columns of a tile.
const TILE_N: usize = 256;
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
    /// packing costs more than reading, so columns are cut last.
    fn new(size: Size) -> Self {
        let Size { batch, m, n, k } = size;
        let mut pieces = [m.div_ceil(TILE_M), n.div_ceil(TILE_N)];
        loop {
            let [rows, columns] = [m.div_ceil(pieces[0]), n.div_ceil(pieces[1])];
            let enough = batch * pieces[0] * pieces[1] >= TILES;
            if enough || rows * columns * k < TILE_WORK {
                break;
            }
            if columns >= TILE_N && columns > 4 * rows {
                pieces[1] *= 2;
            } else if rows >= 96 {
                pieces[0] *= 2;
            } else if columns >= TILE_N {
                pieces[1] *= 2;
            } else {
                break;
            }
        }
        Plan { size, pieces }
    }

    /// The cut of some matrices and columns.
    fn grid(&self, matrices: Range<usize>, columns: Range<usize>) -> par::Grid {
        let Size { m, n, .. } = self.size;
        par::Grid {
            size: [m, n],
            matrices,
            pieces: [self.pieces[0], (columns.len() * self.pieces[1]).div_ceil(n)],
            columns,
            units: [GROUP, 2 * LANES],
        }
    }

    /// Calls `f` for parts of the product whose packed B is of bounded size.
    fn bands(&self, mut f: impl FnMut(par::Grid, Range<usize>)) {
        let Size { batch, n, k, .. } = self.size;
        let panels = n.div_ceil(LANES);
        let panels_at_once = (BAND / (k * LANES).max(1)).max(2) / 2 * 2;
        let matrices_at_once = (panels_at_once / panels).max(1);
        for first in (0..batch).step_by(matrices_at_once) {
            let matrices = first..batch.min(first + matrices_at_once);
            for panel in (0..panels).step_by(panels_at_once) {
                let columns = panel * LANES..n.min((panel + panels_at_once) * LANES);
                let panels = panel..columns.end.div_ceil(LANES);
                f(self.grid(matrices.clone(), columns), panels);
            }
        }
    }
}

/// The tiles of a grid, each by one thread.
fn run<T: Real, O: Send>(
    size: Size,
    a: Operand<T>,
    b: Columns<T>,
    grid: &par::Grid,
    writer: &dyn Writer<T, O>,
    outputs: (&mut [O], &mut [T]),
) {
    let Size { batch, n, k, .. } = size;
    let ns = size.ns() / (batch * n) * grid.matrices.len() * grid.columns.len();
    par::tiles_mut(grid, outputs, ns, |region, mut out, mut kept| {
        let par::Region { matrix, rows, columns } = region;
        let panels = columns.start / LANES..columns.end.div_ceil(LANES);
        // An odd number of cache lines: rows must not compete for the same places of a cache.
        let stride = panels.len() | 1;
        let a_len = rows.len().next_multiple_of(GROUP) * KC;
        let sums_len = rows.len() * stride * LANES;
        scratch::with([a_len, TOGETHER * KC * LANES, sums_len], |[a_block, slots, sums]| {
            T::multiply(SumTile {
                a,
                b,
                batch: matrix,
                k,
                rows: rows.clone(),
                panels,
                a_block,
                slots: slots.as_chunks_mut().0,
                sums: sums.as_chunks_mut().0,
                stride,
            });
            for (row, sums) in rows.zip(sums.chunks(stride * LANES)) {
                let at = At { batch: matrix, row, col: columns.start };
                writer.write(at, &sums[..columns.len()], out.row(row), kept.row(row));
            }
        });
    });
}

#[cfg(test)]
mod tests;
