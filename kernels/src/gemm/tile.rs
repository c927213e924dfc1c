//! One tile of a product: the loops around the micro-kernel, and the micro-kernel.
//!
//! ```text
//! for each block of KC along K                   (sums of blocks are added in order)
//!     pack the tile's rows of A                  [rows][KC]: stays in L2
//!     for each panel of 16·TILE_VECS columns of B  [KC][16]: stays in L1
//!         for each TILE_ROWS rows of A
//!             micro-kernel: TILE_ROWS × 16·TILE_VECS sums in registers, KC fused steps
//! ```
//!
//! An element's sum is made the same way wherever it lies: tile sizes are no part of the result.

use std::ops::Range;

use super::pack::Columns;
use super::read::Operand;
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// Depth of a block of K: a panel of B is then 24 KiB and fits the first cache beside a few rows
/// of A, and most widths of small models are one or two blocks.
pub const KC: usize = 384;

/// The blocks of K.
pub(super) fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(KC).map(move |start| start..k.min(start + KC))
}

/// The sums of a tile: `sums[i][j]` of row i and column j, rows `columns.len()` rounded up to
/// whole panels apart.
pub(super) struct SumTile<'a, T> {
    pub a: Operand<'a, T>,
    pub b: Columns<'a, T>,
    pub batch: usize,
    pub k: usize,
    pub rows: Range<usize>,
    /// Panels of sixteen columns.
    pub panels: Range<usize>,
    /// Room for the packed rows of A,
    pub a_block: &'a mut [[T; KC]],
    /// for two panels of B,
    pub b_block: [&'a mut [[T; LANES]]; 2],
    /// and for the answer, a row after the other.
    pub sums: &'a mut [[T; LANES]],
}

impl<T: Real> Task<T> for SumTile<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let SumTile { a, b, batch, k, rows, panels, a_block, b_block: [b0, b1], sums } = self;
        if k == 0 {
            sums.as_flattened_mut().fill(T::ZERO);
        }
        for depth in blocks(k) {
            a.read(batch, rows.clone(), depth.clone(), a_block.as_flattened_mut(), KC);
            let first = depth.start == 0;
            let mut j = panels.start;
            while j < panels.end {
                let out = Out { sums: &mut *sums, stride: panels.len(), at: j - panels.start, first };
                let left = b.panel(batch, j, depth.clone(), b0);
                if S::TILE_VECS >= 2 && j + 1 < panels.end {
                    let right = b.panel(batch, j + 1, depth.clone(), b1);
                    all_rows(isa, a_block, [left, right], out);
                    j += 2;
                } else {
                    all_rows(isa, a_block, [left], out);
                    j += 1;
                }
            }
        }
    }
}

/// Where a column of micro-tiles goes.
struct Out<'a, T> {
    sums: &'a mut [[T; LANES]],
    /// Panels in a row of the tile, and the panel meant.
    stride: usize,
    at: usize,
    /// Whether this is the first block of K: sums are stored, not added.
    first: bool,
}

/// All rows of A against one panel (or two) of B.
#[inline(always)]
fn all_rows<S: Simd, const NV: usize>(
    isa: S,
    a: &[[S::T; KC]],
    b: [&[[S::T; LANES]]; NV],
    out: Out<S::T>,
) {
    let rows_of_sums = out.sums.chunks_mut(S::TILE_ROWS * out.stride);
    for (a, sums) in a.chunks(S::TILE_ROWS).zip(rows_of_sums) {
        let out = Out { sums, ..out };
        // An arm above TILE_ROWS is never taken, and the compiler knows.
        match a.len().min(S::TILE_ROWS) {
            1 => rows::<S, 1, NV>(isa, a, b, out),
            2 => rows::<S, 2, NV>(isa, a, b, out),
            3 => rows::<S, 3, NV>(isa, a, b, out),
            4 => rows::<S, 4, NV>(isa, a, b, out),
            5 => rows::<S, 5, NV>(isa, a, b, out),
            6 => rows::<S, 6, NV>(isa, a, b, out),
            7 => rows::<S, 7, NV>(isa, a, b, out),
            8 => rows::<S, 8, NV>(isa, a, b, out),
            9 => rows::<S, 9, NV>(isa, a, b, out),
            10 => rows::<S, 10, NV>(isa, a, b, out),
            11 => rows::<S, 11, NV>(isa, a, b, out),
            _ => rows::<S, 12, NV>(isa, a, b, out),
        }
    }
}

/// A micro-tile of the first MR rows of `a`, put where it belongs.
#[inline(always)]
fn rows<S: Simd, const MR: usize, const NV: usize>(
    isa: S,
    a: &[[S::T; KC]],
    b: [&[[S::T; LANES]]; NV],
    out: Out<S::T>,
) {
    let a = a.first_chunk::<MR>().expect("the caller counted the rows");
    let sums = micro_kernel::<S, MR, NV>(isa, a, b);
    for (sums, out_row) in sums.iter().zip(out.sums.chunks_mut(out.stride)) {
        let out_row = out_row[out.at..].first_chunk_mut::<NV>().expect("a panel of the tile");
        for (&sum, place) in sums.iter().zip(out_row) {
            let total = if out.first { sum } else { isa.load(place) + sum };
            isa.store(total, place);
        }
    }
}

/// `Σₖ a[i][k] · b[v][k]` by fused multiply-add in order of k, for MR rows and NV vectors.
///
/// Everything but `k` is known to the compiler: the sums live in registers.
#[inline(always)]
fn micro_kernel<S: Simd, const MR: usize, const NV: usize>(
    isa: S,
    a: &[[S::T; KC]; MR],
    b: [&[[S::T; LANES]]; NV],
) -> [[S::V; NV]; MR] {
    let zero = isa.splat(S::T::ZERO);
    let mut sums = [[zero; NV]; MR];
    let depth = b[0].len();
    let b = b.map(|b| &b[..depth]);
    assert!(depth <= KC);
    for k in 0..depth {
        let mut row = [zero; NV];
        for v in 0..NV {
            row[v] = isa.load(&b[v][k]);
        }
        for i in 0..MR {
            let x = isa.splat(a[i][k]);
            for v in 0..NV {
                sums[i][v] = x.mul_add(row[v], sums[i][v]);
            }
        }
    }
    sums
}
