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
//! has the same bits computed alone or among thousands. ([`PackedTile`], attention's, has one block.)
//!
//! # Speed
//!
//! The [micro-kernel](micro) keeps its sums in registers and runs near the machine's peak; what is
//! left to lose is moving data, so as little as possible is moved:
//!
//! * Rows of A that are adjacent along K are read where they are. Others are packed: all of them
//!   before the product starts, or by each tile.
//! * Columns of B are packed by the one tile that needs them, for all of its rows, and if they lie
//!   side by side, with AVX-512 by the micro-kernel itself, which stores what it has to load anyway
//!   (AVX2 leaves it no registers for that). A strip of them stays in the second cache.
//! * Sums that are only stored are made in the output. Other writers get them chunk by chunk, and
//!   output, what is kept and a residual are fetched while the sums are made.
//!
//! So tiles are tall: few columns, all rows. Only where A has to be packed and is too large for
//! that to be done at once, or is one of a batch, tiles are wide, and B is packed before, for all
//! of them.
//!
//! What did not help: fetching rows of A, or columns of B that are not packed, before their turn in
//! another tile; strips of 96 or 128 columns; whole rows of the product as tiles, for a B that fits
//! the second cache; handing sums to writers by the dozen of rows. Measurements are in
//! `docs/speed.md`.

mod micro;
mod modulated;
mod pack;
mod packed;
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
pub(crate) use packed::{LeftTile, PackedTile, WIDTH};
pub use read::{Operand, Reader};
pub use reference::reference;
pub use storage::Stored;
pub use strided::Strided;
pub use tile::{KC, Multiply, Sums};
pub use write::{Add, At, Bias, BiasGelu, GateResidual, Gated, RowBias, Store, Writer};

use std::ops::Range;

use crate::lane::LANES;
use crate::par::{self, Cell, Cells};
use crate::{Real, count, scratch};
use pack::{Columns, Packed, Rows};
use tile::{Finish, GROUP, STRIP, SumTile, To};

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
    let b = b.into();
    if let Right::Packed(b) = &b {
        assert_eq!(b.size(), [k, n], "packed operand of {size:?}");
    }
    // Where no tile has to pack rows of A, tiles are tall and pack columns of B, each only once.
    let room = Packed::room(&a, [m, k]);
    let whole = batch == 1 && k > 0 && room <= WHOLE_A;
    let lent = a.is_lent();
    let tall = lent || whole;
    let plan = if tall { Plan::tall(size) } else { Plan::wide(size) };
    let kept = (!kept.is_empty()).then(|| Cells::new(kept, [m, n], plan.tile));
    let out = Cells::new(out, [m, n], plan.tile);
    let to = Target { writer, out: &out, kept: kept.as_ref() };
    if whole && !lent {
        scratch::with([room], |[room]| {
            plan.columns(Rows::Packed(Packed::new(a, [m, k], room)), b, tall, &to);
        });
    } else {
        plan.columns(Rows::Own(a), b, tall, &to);
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

/// How a product is cut. Tiles are a matter of the problem's size and of how A lies in memory,
/// never of the number of threads.
struct Plan {
    size: Size,
    /// Rows and columns of a tile; the last ones may be smaller.
    tile: [usize; 2],
}

/// Most rows of a tall tile: of its columns of B, packing takes a thousandth part,
const TALL: usize = 1536;
/// and fewest rows of one that is cut in two for want of tiles.
const CUT: usize = 384;
/// Most rows and columns of a wide tile: a block of A is packed once for all of them, and stays in
/// the second cache.
const WIDE: [usize; 2] = [96, 1024];
/// Most numbers of room for an A that is packed at once.
const WHOLE_A: usize = 2 << 20;
/// Tiles that keep a machine's threads about equally busy.
const TILES: usize = 12;
/// Multiply-adds below which a tile is not worth cutting: 40 µs.
const TILE_WORK: usize = 5 << 20;
/// Elements of B packed at a time where tiles share them.
const BAND: usize = 1 << 20;

impl Plan {
    /// Tiles of few columns and of all rows, as far as that leaves enough of them.
    fn tall(size: Size) -> Self {
        let Size { batch, m, n, k } = size;
        let rows = |pieces: usize| m.div_ceil(pieces).next_multiple_of(GROUP);
        let tiles = |[rows, columns]: [usize; 2]| batch * m.div_ceil(rows) * n.div_ceil(columns);
        let mut pieces = m.div_ceil(TALL);
        let mut tile = [rows(pieces), STRIP * LANES];
        while tile[1] < n && tile[0] * tile[1] * k < TILE_WORK && tiles(tile) > TILES {
            tile[1] *= 2;
        }
        while tiles(tile) < TILES && tile[0].min(m) * tile[1].min(n) * k >= TILE_WORK {
            if tile[0] >= CUT {
                pieces *= 2;
                tile[0] = rows(pieces);
            } else if tile[1] == STRIP * LANES {
                tile[1] /= 2;
            } else {
                break;
            }
        }
        Plan { size, tile }
    }

    /// Tiles of few rows and many columns.
    fn wide(size: Size) -> Self {
        let Size { batch, m, n, k } = size;
        let widest = (BAND / k.max(1)).clamp(2 * LANES, WIDE[1]);
        let mut pieces = n.div_ceil(widest);
        while batch * m.div_ceil(WIDE[0]) * pieces < TILES && n.div_ceil(pieces) > 256 {
            pieces *= 2;
        }
        let rows = m.div_ceil(m.div_ceil(WIDE[0])).next_multiple_of(GROUP);
        Plan { size, tile: [rows, n.div_ceil(pieces).next_multiple_of(2 * LANES)] }
    }

    /// All of the product. Columns of B are packed by each tile, or where `own` is false and they
    /// are not packed yet, for all of them.
    fn columns<T: Real, O: Send>(&self, a: Rows<T>, b: Right<T>, own: bool, to: &Target<T, O>) {
        let Size { batch, n, k, .. } = self.size;
        match b {
            Right::Packed(b) => self.run(a, Columns::Packed(b), to, 0..batch, 0..n),
            Right::Read(b) if own => self.run(a, Columns::Own { b, n }, to, 0..batch, 0..n),
            Right::Read(b) => self.bands(|matrices, columns| {
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
                    self.run(a, packed, to, matrices, columns);
                });
            }),
        }
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
        let (panels, k) = (column / LANES..(column + columns).div_ceil(LANES), self.size.k);
        let make = |to: To<T>, a_block: &mut [T], slots: &mut [T]| {
            let (rows, slots) = (row..row + rows, slots.as_chunks_mut().0);
            T::multiply(SumTile {
                a,
                b,
                batch,
                k,
                rows,
                panels: panels.clone(),
                a_block,
                slots,
                to,
            });
        };
        let room = [a.room(rows, k), STRIP * KC * LANES];
        match writer.place(out) {
            Ok(out) => scratch::with(room, |[a_block, slots]| make(To::Place(out), a_block, slots)),
            Err(out) => {
                let sums: usize = tile::sums_size(rows, panels.len(), k).iter().product();
                scratch::with([room[0], room[1], sums * LANES], |[a_block, slots, sums]| {
                    let first = At { batch, row, col: column };
                    let mut writing = Writing { writer, first, out, kept };
                    make(To::Writer(&mut writing, sums.as_chunks_mut().0), a_block, slots);
                });
            }
        }
    }
}

/// A tile's part of the output, and who writes it.
struct Writing<'a, T, O> {
    writer: &'a dyn Writer<T, O>,
    /// Where the tile lies.
    first: At,
    out: Cell<'a, O>,
    kept: Option<Cell<'a, T>>,
}

impl<T: Real, O> Writing<'_, T, O> {
    /// Where these rows and panels lie, and their parts of the output and of what is kept.
    fn part(
        &mut self,
        rows: Range<usize>,
        panels: Range<usize>,
    ) -> (At, Cell<'_, O>, Option<Cell<'_, T>>) {
        let some = panels.start * LANES..self.out.columns().end.min(panels.end * LANES);
        let At { batch, row, col } = self.first;
        let at = At { batch, row: row + rows.start, col: col + some.start };
        let kept = self.kept.as_mut().map(|kept| kept.part([rows.clone(), some.clone()]));
        (at, self.out.part([rows, some]), kept)
    }
}

impl<T: Real, O> Finish<T> for Writing<'_, T, O> {
    fn expect(&mut self, rows: Range<usize>, panels: Range<usize>) {
        let writer = self.writer;
        let (at, out, kept) = self.part(rows, panels);
        writer.expect(at, out, kept);
    }
    fn finish(&mut self, rows: Range<usize>, panels: Range<usize>, sums: Sums<T>) {
        let writer = self.writer;
        let (at, out, kept) = self.part(rows, panels);
        writer.write(at, sums, out, kept);
    }
}

#[cfg(test)]
mod tests;
