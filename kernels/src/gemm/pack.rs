//! Operands in the forms the micro-kernel reads: the left one by rows or in groups of rows side by
//! side, the right one in panels of sixteen columns.
//!
//! A panel holds rows of sixteen adjacent columns, one row after the other along K, and a few more
//! before the next; the last one is filled up with zeros. All instruction sets have one layout.

use std::ops::Range;

use super::feed::{AlongK, Left, SideBySide};
use super::read::Operand;
use super::right::Panels;
use super::tile::{GROUP, SLOT, STRIP, block_depth, blocks, panel_rows};
use crate::lane::LANES;
use crate::{Real, Simd, par};

/// What a tile takes its rows from.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a, T> {
    /// The operand itself: rows are read where they are, or else the tile packs them.
    Own(Operand<'a, T>),
    /// Rows of a matrix, packed for this call.
    Packed(Packed<'a, T>),
}

/// Packed rows of A: each adjacent along K, or in groups of [`GROUP`] side by side.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a, T> {
    x: &'a [T],
    /// The first of them in A.
    first: usize,
    /// Numbers for a row.
    step: usize,
    side_by_side: bool,
}

/// Groups of rows that are packed together, so that columns are read in runs of some length.
const TOGETHER: usize = 8;

/// Numbers that rows packed before tiles are made take at most, unless a dozen take more.
const WHOLE_A: usize = 2 << 20;

impl<'a, T: Real> Packed<'a, T> {
    /// How many numbers a packed row of length `k` takes. Rows that are adjacent along K must not
    /// compete for the same places of a cache: they are an odd number of sixteens apart.
    fn step(a: &Operand<T>, k: usize) -> usize {
        if a.side_by_side() { k } else { (k.div_ceil(LANES) | 1) * LANES }
    }

    /// How many numbers `m` packed rows of length `k` take.
    pub fn room(a: &Operand<T>, [m, k]: [usize; 2]) -> usize {
        m.next_multiple_of(GROUP).saturating_mul(Self::step(a, k))
    }

    /// How many packed rows of length `k` take no more than [`WHOLE_A`] numbers: groups of them,
    /// one at least.
    pub fn most(a: &Operand<T>, k: usize) -> usize {
        (WHOLE_A / Self::step(a, k).max(1) / GROUP).max(1) * GROUP
    }

    /// Packs some rows, each whole, of the first matrix.
    pub fn new(a: Operand<T>, rows: Range<usize>, k: usize, out: &'a mut [T]) -> Self {
        let step = Self::step(&a, k);
        par::chunks_mut(out, TOGETHER * GROUP * step, rows.len() * k / 2, |i, out| {
            let row = rows.start + i * TOGETHER * GROUP;
            Packed::fill(a, 0, row..rows.end.min(row + TOGETHER * GROUP), 0..k, out);
        });
        Packed { x: out, first: rows.start, step, side_by_side: a.side_by_side() }
    }

    /// Packs some rows, the first of them to the start of `out`.
    fn fill(a: Operand<T>, batch: usize, rows: Range<usize>, depth: Range<usize>, out: &mut [T]) {
        let step = Self::step(&a, depth.len());
        if a.side_by_side() {
            a.read_groups(batch, rows, depth, out);
        } else {
            a.read_rows(batch, rows, depth, out, step);
        }
    }

    /// Rows from `row` on, a multiple of [`GROUP`] behind the first, and steps along K from `from`
    /// on.
    fn block(self, row: usize, from: usize) -> Left<'a, T> {
        let Packed { x, first, step, side_by_side } = self;
        let row = row - first;
        if side_by_side {
            let (x, _) = x[row * step..].as_chunks();
            Left::Groups(SideBySide { x: &x[from..], stride: step })
        } else {
            Left::Rows(AlongK { x: &x[row * step + from..], stride: step })
        }
    }
}

impl<'a, T: Real> Rows<'a, T> {
    /// Room that a tile needs to pack so many rows.
    pub fn room(&self, rows: usize, k: usize) -> usize {
        match self {
            Rows::Own(a) if !a.is_lent() => Packed::room(a, [rows, k.min(block_depth(k))]),
            _ => 0,
        }
    }

    /// Packs rows of a block of K into `room`, if the tile has to.
    pub fn prepare(&self, batch: usize, rows: Range<usize>, depth: Range<usize>, room: &mut [T]) {
        if let Rows::Own(a) = self
            && !a.is_lent()
        {
            Packed::fill(*a, batch, rows, depth, room);
        }
    }

    /// Rows of a block of K from `row` on; the tile's first row is `first`.
    pub fn block<'b>(
        &self,
        batch: usize,
        [first, row]: [usize; 2],
        depth: Range<usize>,
        room: &'b [T],
    ) -> Left<'b, T>
    where
        'a: 'b,
    {
        match self {
            Rows::Packed(packed) => packed.block(row, depth.start),
            Rows::Own(a) => match a.lend(batch, row, depth.start) {
                Some((x, stride)) => Left::Rows(AlongK { x, stride }),
                None => {
                    let step = Packed::step(a, depth.len());
                    let packed = Packed { x: room, first, step, side_by_side: a.side_by_side() };
                    packed.block(row, 0)
                }
            },
        }
    }
}

/// What a tile takes its panels from.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a, T> {
    /// The operand itself: the tile packs its panels, since no other tile uses them.
    Own { b: Operand<'a, T>, n: usize },
    /// Panels packed for this call: of each matrix from `first[0]` on, `panels` from `first[1]` on.
    Shared { rows: &'a [[T; LANES]], k: usize, first: [usize; 2], panels: usize },
    /// Panels packed before this call.
    Packed(&'a dyn Panels<T>),
}

impl<T: Real> Columns<'_, T> {
    /// Fills slots, of [`SLOT`] rows each, with panels that the tile has to pack, or to widen.
    pub fn prepare(
        &self,
        batch: usize,
        panels: Range<usize>,
        depth: Range<usize>,
        slots: &mut [[T; LANES]],
    ) {
        match self {
            Columns::Own { b, n } => {
                read_panels(*b, batch, panels, depth, *n, slots.as_flattened_mut(), SLOT);
            }
            Columns::Packed(b) => {
                for (j, slot) in panels.zip(slots.chunks_mut(SLOT)) {
                    if b.ready(j, depth.clone()).is_none() {
                        b.widen(j, depth.clone(), slot);
                    }
                }
            }
            Columns::Shared { .. } => {}
        }
    }

    /// Columns of whole panels from a row on, and the distance of rows, where a tile has to pack
    /// them and they lie in memory side by side.
    pub fn unpacked(
        &self,
        batch: usize,
        panels: Range<usize>,
        row: usize,
    ) -> Option<(&[T], usize)> {
        match self {
            Columns::Own { b, n } if panels.end * LANES <= *n => {
                b.lend(batch, row, panels.start * LANES)
            }
            _ => None,
        }
    }

    /// Rows `depth` of some panels of matrix `batch`; empty are those that are not packed already,
    /// or do not exist.
    pub fn ready(
        &self,
        batch: usize,
        wanted: Range<usize>,
        depth: Range<usize>,
    ) -> [&[[T; LANES]]; STRIP] {
        let mut ready = [[].as_slice(); STRIP];
        match self {
            Columns::Own { .. } => {}
            Columns::Shared { rows, k, first, panels } => {
                let before = (batch - first[0]) * panels;
                let those = wanted.start..wanted.end.min(first[1] + panels);
                for (panel, j) in ready.iter_mut().zip(those) {
                    *panel = &rows[(before + j - first[1]) * panel_rows(*k)..][depth.clone()];
                }
            }
            Columns::Packed(b) => {
                let those = wanted.start..wanted.end.min(b.size()[1].div_ceil(LANES));
                for (panel, j) in ready.iter_mut().zip(those) {
                    *panel = b.ready(j, depth.clone()).unwrap_or_default();
                }
            }
        }
        ready
    }
}

/// Rows `depth` of `panels` of an operand with `n` columns, `panel_rows` rows apart.
fn read_panels<T: Real>(
    b: Operand<T>,
    batch: usize,
    panels: Range<usize>,
    depth: Range<usize>,
    n: usize,
    out: &mut [T],
    panel_rows: usize,
) {
    let columns = panels.start * LANES..n.min(panels.end * LANES);
    if columns.len() < panels.len() * LANES {
        let last = &mut out[(panels.len() - 1) * panel_rows * LANES..];
        last[..depth.len() * LANES].fill(T::ZERO);
    }
    b.read_panels(batch, depth, columns, out, panel_rows);
}

/// Packs panels `panels` of each of the matrices, one after the other, each with all of its rows; by
/// strips where columns lie side by side, so that they are read in runs of some length.
pub(super) fn pack<T: Real>(
    b: Operand<T>,
    matrices: Range<usize>,
    [k, n]: [usize; 2],
    panels: Range<usize>,
    out: &mut [T],
) {
    let panel_len = panel_rows(k) * LANES;
    let together = if b.turned().side_by_side() { STRIP } else { 1 };
    // About half a nanosecond an element, most of it waiting for memory.
    let ns = out.len() / 2;
    par::chunks_mut(out, together * panel_len, ns, |chunk, mut out| {
        let mut at = chunk * together;
        while !out.is_empty() {
            let (matrix, j) = (matrices.start + at / panels.len(), at % panels.len());
            let number = (panels.len() - j).min(out.len() / panel_len);
            let some = panels.start + j..panels.start + j + number;
            let (these, rest) = std::mem::take(&mut out).split_at_mut(number * panel_len);
            for depth in blocks(k) {
                let out = &mut these[depth.start * LANES..];
                read_panels(b, matrix, some.clone(), depth, n, out, panel_rows(k));
            }
            (out, at) = (rest, at + number);
        }
    });
}

/// Packs columns that lie in memory side by side, steps along K `stride` numbers apart.
#[inline(always)]
pub(super) fn pack_columns<S: Simd>(
    isa: S,
    x: &[S::T],
    stride: usize,
    panels: &mut [&mut [[S::T; LANES]]],
) {
    if let Some(panels) = panels.first_chunk_mut::<STRIP>() {
        return pack_panels(isa, x, stride, panels);
    }
    let (pairs, last) = panels.as_chunks_mut::<2>();
    let after = pairs.len() * 2 * LANES;
    for (i, pair) in pairs.iter_mut().enumerate() {
        pack_panels(isa, &x[i * 2 * LANES..], stride, pair);
    }
    for panel in last {
        pack_panels(isa, &x[after..], stride, std::array::from_mut(panel));
    }
}

/// Packs columns of N panels.
#[inline(always)]
fn pack_panels<S: Simd, const N: usize>(
    isa: S,
    x: &[S::T],
    stride: usize,
    panels: &mut [&mut [[S::T; LANES]]; N],
) {
    let depth = panels[0].len();
    let panels = panels.each_mut().map(|panel| &mut panel[..depth]);
    for k in 0..depth {
        let columns = x[k * stride..].as_chunks().0.first_chunk::<N>().expect("columns");
        for i in 0..N {
            isa.store(isa.load(&columns[i]), &mut panels[i][k]);
        }
    }
}
