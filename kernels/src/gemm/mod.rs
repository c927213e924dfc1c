//! Matrix products, fused at both ends: `C = writer(A · B)`.
//!
//! One kernel serves every product of the engine. Operands come through [`Reader`]s (strided, half
//! precision, normalised or through a function on the way, patches of a convolution; each plain or
//! transposed), the right one perhaps packed before ([`PackedB`]); results leave through
//! [`Writer`]s (stored, added, with bias, gate and residual, through a function, or with its slope).
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
//! An element is the sum over blocks along K, as [deep](block_depth) as k says, in order, of block
//! sums, each begun at zero and continued by fused multiply-add in order of k. Nothing else has a
//! say in it: not the number of rows or columns, the batch, the element's place, the instruction
//! set or the threads. A row has the same bits computed alone or among thousands. ([`PackedTile`],
//! attention's, has one block.)
//!
//! # Speed
//!
//! The [micro-kernel](micro) keeps its sums in registers and runs near the machine's peak; what is
//! left to lose is moving data, so as little as possible is moved:
//!
//! * Rows of A that are adjacent along K are read where they are. Others are packed: before tiles
//!   are made, as many as fit, or by each tile.
//! * Columns of B are packed by the tile that needs them, for all of its rows, and if they lie
//!   side by side, with AVX-512 by the micro-kernel itself, which stores what it has to load anyway
//!   (AVX2 leaves it no registers for that). A strip of them stays in the second cache. For a few
//!   rows a B that stays in the first one is read where it is.
//! * Sums that are only stored, or in one block only added or given a bias, are made in the output.
//!   Other writers get them chunk by chunk, and output, what is kept and a residual are fetched while
//!   the sums are made.
//!
//! So tiles are tall: few columns, all rows. Where each packs its own rows of A, or where sums are
//! short and rows many, tiles are wide, and B is packed before, for all of them: then rows stay in
//! the second cache for all columns, or B for all rows. Where rows of A are packed, columns few and
//! sums only stored, each block of K is a product of its own: a block of B stays there, where all
//! of B would not. And where rows are so few that packing columns that lie along K is much of the
//! work, the product is [turned]: rows of A are packed, those of Bᵀ read where they are, and sums
//! handed on transposed, to be stored too.
//!
//! What did not help: fetching rows of A, or columns of B that are not packed, before their turn in
//! another tile; strips of 96 or 128 columns; all strips for a dozen rows and then for the next;
//! handing sums to writers by the dozen of rows. Measurements are in `docs/speed.md`.

mod copy;
mod ends;
mod feed;
mod mapped;
mod micro;
mod modulated;
mod pack;
mod packed;
mod plan;
pub mod ptx;
mod read;
mod reference;
mod right;
mod storage;
mod strided;
mod strip;
mod tile;
mod transpose;
mod turned;
mod write;
mod writing;

pub use ends::Ends;
pub use mapped::{Activated, Mapped, Sloped};
pub use modulated::ModulatedNorm;
pub(crate) use packed::{LeftTile, PackedTile, WIDTH};
pub use read::{Operand, Reader};
pub use reference::reference;
pub use right::{PackedB, Panels, Right};
pub use storage::Stored;
pub use strided::Strided;
pub(crate) use tile::ROUND;
pub use tile::{KC, Multiply, Sums, block_depth};
pub use write::{Add, At, Bias, GateResidual, Gated, RowBias, Store, Writer};

use crate::par::Cells;
use crate::{Real, count, scratch};
use pack::{Packed, Rows};
use plan::{Plan, Target};

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
    if let (Right::Read(b), Some(add)) = (b, writer.then())
        && plan::by_blocks(size, &a)
    {
        for depth in tile::blocks(k) {
            let (a, b) = (a.part([0, depth.start]), b.part([depth.start, 0]));
            let writer = if depth.start == 0 { writer } else { add };
            tiles(Size { k: depth.len(), ..size }, a, b.into(), writer, out, kept);
        }
    } else if let Right::Read(b) = b
        && turned::is_better(size, &b)
    {
        turned::tiles(size, a, b, writer, out, kept);
    } else {
        tiles(size, a, b, writer, out, kept);
    }
}

/// Makes a product, or a block of K of one, tile by tile.
fn tiles<T: Real, O: Send>(
    size: Size,
    a: Operand<T>,
    b: Right<T>,
    writer: &dyn Writer<T, O>,
    out: &mut [O],
    kept: &mut [T],
) {
    let Size { m, n, k, .. } = size;
    let plan = Plan::new(size, &a, &b);
    let kept = (!kept.is_empty()).then(|| Cells::new(kept, [m, n], plan.tile));
    let out = Cells::new(out, [m, n], plan.tile);
    let to = Target { writer, out: &out, kept: kept.as_ref() };
    for (rows, part) in plan.parts(&a) {
        if plan.packs_rows {
            scratch::with([Packed::room(&a, [rows.len(), k])], |[room]| {
                part.columns(Rows::Packed(Packed::new(a, rows, k, room)), b, &to);
            });
        } else {
            part.columns(Rows::Own(a), b, &to);
        }
    }
}

#[cfg(test)]
mod tests;
