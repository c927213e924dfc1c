//! One tile of a product: the loops around the micro-kernel, and the micro-kernel.
//!
//! ```text
//! for each block of KC along K                     (sums of blocks are added in order)
//!     pack the tile's rows of A, in groups of 12     stays in the second cache; or packed before
//!     for each panel of 16·TILE_VECS columns of B    [KC][16]: stays in the first cache
//!         for each TILE_ROWS rows of A
//!             micro-kernel: TILE_ROWS × 16·TILE_VECS sums in registers, KC fused steps
//! ```
//!
//! An element's sum is made the same way wherever it lies: tile sizes are no part of the result.

use std::ops::Range;

use super::pack::{Columns, Rows, TOGETHER};
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// Depth of a block of K: a panel of B is then 24 KiB and fits the first cache beside a few rows
/// of A, and most widths of small models are one or two blocks.
pub const KC: usize = 384;

/// Rows of A that are packed together: a multiple of every instruction set's `TILE_ROWS`.
pub(super) const GROUP: usize = 12;

/// The blocks of K.
pub(super) fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(KC).map(move |start| start..k.min(start + KC))
}

/// A type that has a matrix product.
///
/// It is compiled here, once for each type: as generic code it would be compiled again, for every
/// instruction set, in each crate that multiplies.
pub trait Multiply: Sized {
    /// Makes the sums of a tile.
    #[doc(hidden)]
    fn multiply(tile: SumTile<'_, Self>);
}

impl Multiply for f32 {
    fn multiply(tile: SumTile<'_, f32>) {
        f32::dispatch(tile);
    }
}

impl Multiply for f64 {
    fn multiply(tile: SumTile<'_, f64>) {
        f64::dispatch(tile);
    }
}

/// The sums of a tile, to be made.
pub struct SumTile<'a, T> {
    pub(super) a: Rows<'a, T>,
    pub(super) b: Columns<'a, T>,
    pub(super) batch: usize,
    pub(super) k: usize,
    pub(super) rows: Range<usize>,
    /// Panels of sixteen columns.
    pub(super) panels: Range<usize>,
    /// Room for packed rows of A, whole groups, where they are the tile's own to pack,
    pub(super) a_block: &'a mut [T],
    /// for panels of B, [`KC`] rows each,
    pub(super) slots: &'a mut [[T; LANES]],
    /// and for the answer: row by row, `stride` sixteens from one to the next.
    pub(super) sums: &'a mut [[T; LANES]],
    pub(super) stride: usize,
}

impl<T: Real> Task<T> for SumTile<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        const { assert!(GROUP.is_multiple_of(S::TILE_ROWS)) };
        let SumTile { a, b, batch, k, rows, panels, a_block, slots, sums, stride } = self;
        if k == 0 {
            sums.as_flattened_mut().fill(T::ZERO);
        }
        for depth in blocks(k) {
            let a = a.block(batch, rows.clone(), depth.clone(), a_block);
            let a = a.as_chunks().0.as_chunks().0;
            let first = depth.start == 0;
            for strip in panels.clone().step_by(TOGETHER) {
                let end = panels.end.min(strip + TOGETHER);
                b.prepare(batch, strip..end, depth.clone(), slots);
                for (j, pair) in (strip..end).step_by(2).zip(slots.chunks_mut(2 * KC)) {
                    let (left, right) = pair.split_at_mut(KC);
                    let left = b.panel(batch, j, depth.clone(), left);
                    let two = j + 1 < end;
                    let right =
                        if two { b.panel(batch, j + 1, depth.clone(), right) } else { left };
                    let next = [j + 2, j + 3].map(|j| {
                        let next = panels.contains(&j).then(|| b.ready(batch, j, depth.clone()));
                        next.flatten().unwrap_or(left)
                    });
                    let out = Out { sums: &mut *sums, stride, at: j - panels.start, first };
                    if two && const { S::TILE_VECS == 2 } {
                        all_rows(isa, a, rows.len(), [left, right], next, out);
                        continue;
                    }
                    for v in 0..=usize::from(two) {
                        let out = Out { sums: &mut *out.sums, at: out.at + v, ..out };
                        let b = [if v == 0 { left } else { right }];
                        all_rows(isa, a, rows.len(), b, next, out);
                    }
                }
            }
        }
    }
}

/// Rows of sums in memory.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a, T> {
    all: &'a [[T; LANES]],
    stride: usize,
}

impl<'a, T> Sums<'a, T> {
    /// Rows `stride` sixteens apart.
    pub(super) fn new(all: &'a [[T; LANES]], stride: usize) -> Self {
        Sums { all, stride }
    }

    /// Row `i`, in whole sixteens: the last may be more than there are columns.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [[T; LANES]] {
        &self.all[i * self.stride..][..self.stride]
    }
}

/// Packed rows of A, each adjacent along K, in groups; the last one may be partly unused.
type Groups<'a, T> = &'a [[[T; KC]; GROUP]];

/// Where a column of micro-tiles goes.
struct Out<'a, T> {
    sums: &'a mut [[T; LANES]],
    /// Sixteens from row to row, and the sixteen meant.
    stride: usize,
    at: usize,
    /// Whether this is the first block of K: sums are stored, not added.
    first: bool,
}

/// All rows of A against one panel (or two) of B, while the panels after them are fetched.
#[inline(always)]
fn all_rows<S: Simd, const NV: usize>(
    isa: S,
    a: Groups<S::T>,
    rows: usize,
    b: [&[[S::T; LANES]]; NV],
    next: [&[[S::T; LANES]]; 2],
    out: Out<S::T>,
) {
    for (group, sums) in out.sums.chunks_mut(GROUP * out.stride).enumerate() {
        // A group is shared out evenly: a micro-tile of one or two rows would wait for its own
        // multiply-adds, so that eight rows are 4 + 4 and not 6 + 2.
        let rows = GROUP.min(rows - group * GROUP);
        let next = *next.get(group).unwrap_or(&b[0]);
        let tiles = rows.div_ceil(S::TILE_ROWS);
        let (height, taller) = (rows / tiles, rows % tiles);
        let mut row = 0;
        for tile in 0..tiles {
            let height = height + usize::from(tile < taller);
            let out = Out { sums: &mut sums[row * out.stride..], ..out };
            // Registers need constants; those beyond TILE_ROWS are not even compiled.
            macro_rules! micro_tile_of {
                ($($rows:literal)*) => {
                    match height {
                        $($rows if const { S::TILE_ROWS >= $rows } => {
                            let a = a[group][row..].first_chunk().expect("rows of the group");
                            micro_tile::<S, $rows, NV>(isa, a, b, next, out);
                        })*
                        _ => unreachable!("{height} rows in a tile of {}", S::TILE_ROWS),
                    }
                };
            }
            micro_tile_of!(1 2 3 4 5 6 7 8 9 10 11 12);
            row += height;
        }
    }
}

/// A micro-tile of MR rows, put where it belongs.
#[inline(always)]
fn micro_tile<S: Simd, const MR: usize, const NV: usize>(
    isa: S,
    a: &[[S::T; KC]; MR],
    b: [&[[S::T; LANES]]; NV],
    next: &[[S::T; LANES]],
    out: Out<S::T>,
) {
    let sums = micro_kernel(isa, a, b, next);
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
/// Everything but `k` is known to the compiler: the sums live in registers. A row of `next` is fetched
/// at each step; there is room for that.
#[inline(always)]
fn micro_kernel<S: Simd, const MR: usize, const NV: usize>(
    isa: S,
    a: &[[S::T; KC]; MR],
    b: [&[[S::T; LANES]]; NV],
    next: &[[S::T; LANES]],
) -> [[S::V; NV]; MR] {
    let zero = isa.splat(S::T::ZERO);
    let mut sums = [[zero; NV]; MR];
    let depth = b[0].len();
    let b = b.map(|b| &b[..depth]);
    assert!(depth <= KC);
    for k in 0..depth {
        isa.prefetch(next, k);
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
