//! One tile of a product: the loops around the [micro-kernel](super::micro).
//!
//! ```text
//! for each block along K                                 (sums of blocks are added in order)
//!     pack the tile's rows of A                            unless they can be read where they are
//!     for each strip of 64 columns of B
//!         pack the strip, while the first group of rows     unless it is packed, or a few rows find
//!             is multiplied if columns are side by side     all of B in the first cache as it is; it
//!             and registers to spare                        stays in the second one
//!         for each 96 rows of A, in groups of 12
//!             micro-kernel: for each 16·TILE_VECS columns and TILE_ROWS of these, their sums in
//!                 registers, up to KC fused steps
//!             hand the sums on, after the last block       still in the first cache
//! ```
//!
//! An element's sum is made the same way wherever it lies: tile sizes are no part of the result.

use std::ops::Range;

use super::ends::Ends;
use super::feed::Left;
use super::micro::Out;
use super::pack::{Columns, Rows, pack_columns};
use super::packed::PackedTile;
use super::strip::{Strip, packs_on_the_way, slices, strip_sums};
use crate::lane::LANES;
use crate::par::Cell;
use crate::{Real, Simd, Task};

/// Most steps of a block of K. The micro-kernel is longer at its work, between one set of sums and
/// the next, than in a block that lets a panel of B stay in the first cache; and reading one row of
/// a panel for six fused steps or more, it does not need that: the second cache is fast enough. In
/// float32 a strip of B, a chunk of rows of A and their sums take 1 MiB of it.
pub const KC: usize = 1536;

/// Rows of the room for a panel.
pub(super) const SLOT: usize = panel_rows(KC);

/// Rows of A that belong together: a multiple of every instruction set's `TILE_ROWS`.
pub(super) const GROUP: usize = 12;

/// Panels of B that belong together: 64 columns, so that rows are read in runs of some length.
pub(super) const STRIP: usize = 4;

/// Rows whose sums are handed on together: enough to be worth a call, and few enough for their sums
/// to stay in the first cache.
pub(super) const CHUNK: usize = 8 * GROUP;

/// Most bytes, from a B's first row to its last, for a chunk of rows to read it where it lies: then it
/// stays in the first cache.
const IN_PLACE: usize = 32 << 10;

/// Rows from a packed panel of `k` rows to the next: the panels of a strip, which are read side by
/// side, must not compete for the same places of the first cache. An odd number of fours.
pub(super) const fn panel_rows(k: usize) -> usize {
    (k.div_ceil(4) | 1) * 4
}

/// What the depth of a block is a multiple of: a GPU's panels along K divide it.
pub(crate) const ROUND: usize = 32;

/// Steps of each block of K but the last, which may have fewer: as few blocks as [`KC`] allows, for
/// each costs another look at the sums, of one depth, rounded up to a multiple of 32.
pub const fn block_depth(k: usize) -> usize {
    match k.div_ceil(KC) {
        0 => KC,
        blocks => k.div_ceil(blocks).next_multiple_of(ROUND),
    }
}

/// The blocks of K.
pub(super) fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let depth = block_depth(k);
    (0..k).step_by(depth).map(move |start| start..k.min(start + depth))
}

/// A type that has a matrix product.
///
/// It is compiled here, once for each type: as generic code it would be compiled again, for every
/// instruction set, in each crate that multiplies.
pub trait Multiply: Sized {
    /// Makes the sums of a tile.
    #[doc(hidden)]
    fn multiply(tile: SumTile<'_, '_, Self>);
    /// Makes those of a tile whose operands are packed.
    #[doc(hidden)]
    fn multiply_packed(tile: PackedTile<'_, Self>);
}

impl Multiply for f32 {
    fn multiply(tile: SumTile<'_, '_, f32>) {
        f32::dispatch(tile);
    }
    fn multiply_packed(tile: PackedTile<'_, f32>) {
        f32::dispatch(tile);
    }
}

impl Multiply for f64 {
    fn multiply(tile: SumTile<'_, '_, f64>) {
        f64::dispatch(tile);
    }
    fn multiply_packed(tile: PackedTile<'_, f64>) {
        f64::dispatch(tile);
    }
}

/// Takes finished sums of some rows and panels, counted from the tile's first.
pub(super) trait Finish<T> {
    /// Says that they will be finished soon.
    fn expect(&mut self, rows: Range<usize>, panels: Range<usize>);
    /// Takes them.
    fn finish(&mut self, rows: Range<usize>, panels: Range<usize>, sums: Sums<T>);
}

/// Where sums go.
pub(super) enum To<'a, 'w, T> {
    /// Where they are made: to the output, of whole sixteens.
    Place { out: Cell<'a, T>, ends: Ends<'a, T> },
    /// To a writer, from room for them.
    Writer(&'a mut (dyn Finish<T> + 'w), &'a mut [[T; LANES]]),
}

/// The sums of a tile, to be made.
pub struct SumTile<'a, 'w, T> {
    pub(super) a: Rows<'a, T>,
    pub(super) b: Columns<'a, T>,
    pub(super) batch: usize,
    pub(super) k: usize,
    pub(super) rows: Range<usize>,
    /// Panels of sixteen columns.
    pub(super) panels: Range<usize>,
    /// Room for a block of A, if the tile has to pack it,
    pub(super) a_block: &'a mut [T],
    /// and for a strip of B, [`SLOT`] rows a panel.
    pub(super) slots: &'a mut [[T; LANES]],
    pub(super) to: To<'a, 'w, T>,
}

/// Sixteens from a row of a tile's sums to the next, and how many such rows there have to be.
///
/// Where blocks of K are added, all sums of a tile are kept, else those of one chunk of a strip.
/// Rows must not compete for the same places of a cache: they are an odd number of sixteens.
pub(super) fn sums_size(rows: usize, panels: usize, k: usize) -> [usize; 2] {
    if k > KC { [panels | 1, rows] } else { [panels.min(STRIP) | 1, rows.min(CHUNK)] }
}

impl<T: Real> Task<T> for SumTile<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        if self.k == 0 {
            return no_sums(&mut self.to, self.rows.len(), self.panels.len());
        }
        for depth in blocks(self.k) {
            self.a.prepare(self.batch, self.rows.clone(), depth.clone(), self.a_block);
            for first in self.panels.clone().step_by(STRIP) {
                let strip = first..self.panels.end.min(first + STRIP);
                self.strip(isa, strip, depth.clone());
            }
        }
    }
}

impl<T: Real> SumTile<'_, '_, T> {
    /// All rows against a strip of B in a block of K.
    #[inline(always)]
    fn strip<S: Simd<T = T>>(&mut self, isa: S, strip: Range<usize>, depth: Range<usize>) {
        let (b, batch, rows) = (self.b, self.batch, self.rows.len());
        let columns = b.unpacked(batch, strip.clone(), depth.start);
        if let Some((x, stride)) = columns
            && rows <= CHUNK
            && self.k * stride * size_of::<T>() <= IN_PLACE
        {
            let b = Strip::InPlace(x, [depth.len(), stride]);
            return self.chunk(isa, 0..rows, b, strip, depth);
        }
        let slots = std::mem::take(&mut self.slots);
        let mut done = 0;
        match columns {
            Some((x, stride)) if packs_on_the_way::<S>() && rows >= GROUP => {
                let fresh = Strip::Unpacked(x, stride, slices(slots, depth.len()));
                done = GROUP;
                self.chunk(isa, 0..done, fresh, strip.clone(), depth.clone());
            }
            Some((x, stride)) => {
                let mut panels = slices(slots, depth.len());
                pack_columns(isa, x, stride, &mut panels[..strip.len()]);
            }
            None => b.prepare(batch, strip.clone(), depth.clone(), slots),
        }
        let mut panels = b.ready(batch, strip.clone(), depth.clone());
        for (panel, slot) in panels.iter_mut().zip(slots.chunks(SLOT)) {
            *panel = if panel.is_empty() { &slot[..depth.len()] } else { panel };
        }
        let mut next = b.ready(batch, strip.end..strip.end + STRIP, depth.clone());
        while done < rows {
            let chunk = done..rows.min(done + CHUNK);
            done = chunk.end;
            self.chunk(isa, chunk, Strip::Packed { panels, next }, strip.clone(), depth.clone());
            next = [&[]; STRIP];
        }
        self.slots = slots;
    }

    /// A chunk of rows against a strip `b` of B; sums are handed on after the last block of K.
    #[inline(always)]
    fn chunk<S: Simd<T = T>>(
        &mut self,
        isa: S,
        chunk: Range<usize>,
        b: Strip<T>,
        strip: Range<usize>,
        depth: Range<usize>,
    ) {
        let Self { a, batch, k, rows, panels, a_block, to, .. } = self;
        let (columns, width) = (strip.start - panels.start..strip.end - panels.start, strip.len());
        let [stride, _] = sums_size(rows.len(), panels.len(), *k);
        let start = if *k > KC { chunk.start * stride + columns.start } else { 0 };
        let is_last = depth.end == *k;
        let is_first = depth.start == 0;
        let mut expect;
        let out = match to {
            To::Place { out, ends } => {
                let columns = columns.start * LANES..columns.end * LANES;
                let ends = if is_first { ends.part(columns.clone()) } else { Ends::Add };
                Out { cell: out.part([chunk.clone(), columns]), ends, expect: None }
            }
            To::Writer(finish, sums) => {
                let size = [chunk.len(), width * LANES];
                let cell = Cell::new(sums[start..].as_flattened_mut(), size, stride * LANES);
                expect = |rows: Range<usize>| {
                    if is_last {
                        let rows = chunk.start + rows.start..chunk.start + rows.end;
                        finish.expect(rows, columns.clone());
                    }
                };
                let ends = if is_first { Ends::Store } else { Ends::Add };
                Out { cell, ends, expect: Some(&mut expect) }
            }
        };
        match a.block(*batch, [rows.start, rows.start + chunk.start], depth.clone(), a_block) {
            Left::Rows(a) => strip_sums(isa, a, b, out),
            Left::Groups(a) => strip_sums(isa, a, b, out),
        }
        if let To::Writer(finish, sums) = to
            && is_last
        {
            finish.finish(chunk, columns, Sums { all: &sums[start..], stride, width });
        }
    }
}

/// Hands on the sums of no products.
fn no_sums<T: Real>(to: &mut To<T>, rows: usize, panels: usize) {
    match to {
        To::Place { out, ends: Ends::Store } => out.rows().for_each(|i| out.row(i).fill(T::ZERO)),
        To::Place { ends, .. } => unreachable!("no sums to {ends:?}"),
        To::Writer(finish, _) => {
            let zeros = Sums { all: &[[T::ZERO; LANES]], stride: 0, width: 1 };
            (0..panels).for_each(|panel| finish.finish(0..rows, panel..panel + 1, zeros));
        }
    }
}

/// Rows of sums in memory.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a, T> {
    all: &'a [[T; LANES]],
    stride: usize,
    width: usize,
}

impl<'a, T> Sums<'a, T> {
    /// Rows of so many sixteens, `stride` of them from one to the next.
    pub(super) fn new(all: &'a [[T; LANES]], stride: usize, width: usize) -> Self {
        Sums { all, stride, width }
    }

    /// All of them, and the numbers from a row to the next.
    pub(super) fn flat(&self) -> (&'a [T], usize) {
        (self.all.as_flattened(), self.stride * LANES)
    }

    /// Row `i`, in whole sixteens: they may be more than there are columns.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [[T; LANES]] {
        &self.all[i * self.stride..][..self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Reader, Strided, pack};
    use crate::lane::{Portable, Wide};

    /// How operands come.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        /// Rows as they lie, panels packed before.
        Ready,
        /// Rows as they lie, columns that the tile packs,
        Fresh,
        /// or reads where they are.
        InPlace,
        /// Columns of A, which the tile packs, and panels packed before.
        Groups,
    }

    /// A tile of some rows and panels, in a matrix that was not a number before.
    fn sums(isa: impl Simd<T = f64>, [rows, panels, k]: [usize; 3], way: Way) -> Vec<f64> {
        let n = panels * LANES;
        let a: Vec<f64> = (0..rows * k).map(|i| (i as f64).sin()).collect();
        let turned: Vec<f64> = (0..rows * k).map(|i| a[i % rows * k + i / rows]).collect();
        // Rows of B that are to be packed have so much behind them that B is not read in place.
        let behind = if matches!(way, Way::Fresh) { IN_PLACE / 8 / k.max(1) + 1 } else { 0 };
        let stride = n + behind;
        let b: Vec<f64> =
            (0..k * stride).map(|i| ((i / stride * n + i % stride) as f64).cos()).collect();
        let (by_rows, by_columns) = (Strided::rows(&a, k), Strided::rows(&turned, rows));
        let b = Strided::rows(&b, stride);
        let mut packed = vec![0.0; panel_rows(k) * n];
        pack::pack(b.plain(), 0..1, [k, n], 0..panels, &mut packed);
        let shared = Columns::Shared { rows: packed.as_chunks().0, k, first: [0, 0], panels };
        let (a, b) = match way {
            Way::Ready => (by_rows.plain(), shared),
            Way::Fresh | Way::InPlace => (by_rows.plain(), Columns::Own { b: b.plain(), n }),
            Way::Groups => (by_columns.transposed(), shared),
        };
        let a = Rows::Own(a);
        let (mut a_block, mut slots) =
            (vec![0.0; a.room(rows, k)], vec![[0.0; LANES]; STRIP * SLOT]);
        let mut c = vec![f64::NAN; rows * n];
        let to = To::Place { out: Cell::new(&mut c, [rows, n], n), ends: Ends::Store };
        let (a_block, slots, batch) = (&mut a_block[..], &mut slots[..], 0);
        SumTile { a, b, batch, k, rows: 0..rows, panels: 0..panels, a_block, slots, to }.run(isa);
        c
    }

    #[test]
    fn blocks_are_few_and_even() {
        for k in 1..100_000 {
            let depth = block_depth(k);
            assert!(depth <= KC && depth.is_multiple_of(ROUND), "{k}: {depth}");
            assert_eq!(k.div_ceil(depth), k.div_ceil(KC), "{k}: {depth}");
        }
        let depths = [0, 1, 1536, 1537, 2048, 4096, 32_100].map(block_depth);
        assert_eq!(depths, [1536, 32, 1536, 800, 1024, 1376, 1536]);
    }

    #[test]
    fn tiles_of_any_size_make_the_same_sums() {
        for rows in [1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 25] {
            for panels in 1..=5 {
                for k in [0, 1, 3, 4, 5, 8, 11, KC + 3] {
                    let size = [rows, panels, k];
                    let want = sums(Portable::new(), size, Way::Ready);
                    assert_eq!(sums(Portable::new(), size, Way::InPlace), want, "{size:?}");
                    for way in [Way::Ready, Way::Fresh, Way::InPlace, Way::Groups] {
                        assert_eq!(sums(Wide, size, way), want, "{size:?} {way:?}");
                    }
                }
            }
        }
        let (element, k) = (sums(Wide, [9, 2, 7], Way::Ready)[8 * 32 + 31], 7);
        let product = |sum: f64, i: usize| {
            ((8 * k + i) as f64).sin().mul_add(((i * 32 + 31) as f64).cos(), sum)
        };
        assert_eq!(element, (0..k).fold(0.0, product));
    }
}
