//! Rows of A against a strip of B: calls of the [micro-kernel](super::micro).

use std::ops::Range;

use super::feed::{Fresh, InPlace, Ready, Tall};
use super::micro::{Out, micro_tiles, tile_rows};
use super::tile::{GROUP, SLOT, STRIP};
use crate::Simd;
use crate::lane::LANES;

/// A strip of B in a block of K.
pub(super) enum Strip<'a, T> {
    /// It is packed: its panels, and those of the next strip, which are fetched meanwhile; empty
    /// where there is none, or they have been.
    Packed { panels: [&'a [[T; LANES]]; STRIP], next: [&'a [[T; LANES]]; STRIP] },
    /// It is packed while a first group of rows is multiplied: from columns in memory, steps along
    /// K so many numbers apart, to panels.
    Unpacked(&'a [T], usize, [&'a mut [[T; LANES]]; STRIP]),
    /// It is read where it lies: so many steps along K, so many numbers apart.
    InPlace(&'a [T], [usize; 2]),
}

/// So much of each slot.
pub(super) fn slices<T>(slots: &mut [[T; LANES]], depth: usize) -> [&mut [[T; LANES]]; STRIP] {
    let mut slots = slots.chunks_mut(SLOT);
    std::array::from_fn(|_| &mut slots.next().expect("slots of a strip")[..depth])
}

/// Whether the micro-kernel can pack columns and multiply at once: it has to be as wide as a strip,
/// and with sixteen registers the compiler would save sums to memory at every step.
pub(super) const fn packs_on_the_way<S: Simd>() -> bool {
    S::TILE_VECS == STRIP
}

/// Some rows of A against a strip of B.
#[inline(always)]
pub(super) fn strip_sums<S: Simd, A: Tall<S::T>>(
    isa: S,
    a: A,
    mut b: Strip<S::T>,
    mut out: Out<S::T>,
) {
    let (rows, panels) = (out.cell.rows(), out.cell.columns().len() / LANES);
    let whole = |vectors: usize| panels - panels % vectors;
    let mut made = 0;
    for group in rows.clone().step_by(GROUP) {
        let group = group..rows.end.min(group + GROUP);
        // A few sums of a few products are made before their places could be fetched.
        if out.expect.is_some() || !matches!(b, Strip::InPlace(..)) {
            out.fetch(isa, group.clone());
        }
        // Four at once, then by two and by one what is left, as far as there are registers.
        macro_rules! at_once {
            ($($vectors:literal)*) => {$(
                let done = if 2 * $vectors <= S::TILE_VECS { whole(2 * $vectors) } else { 0 };
                let some = done..whole($vectors);
                if const { $vectors <= S::TILE_VECS } && !some.is_empty() {
                    let rows = group.clone();
                    group_sums::<S, A, $vectors>(isa, a, rows, &mut b, some, &mut made, &mut out);
                }
            )*};
        }
        at_once!(4 2 1);
    }
}

/// A group of rows against panels of the strip, NV at once; so many micro-tiles were `made` before.
#[inline(always)]
fn group_sums<S: Simd, A: Tall<S::T>, const NV: usize>(
    isa: S,
    a: A,
    rows: Range<usize>,
    b: &mut Strip<S::T>,
    panels: Range<usize>,
    made: &mut usize,
    out: &mut Out<S::T>,
) {
    let first = panels.start;
    match b {
        Strip::Packed { panels: all, next } => {
            let panels = all[panels].as_chunks::<NV>().0;
            // With each micro-tile a panel of the next strip, until all are fetched.
            let next = &next[STRIP.min(*made)..];
            *made += panels.len() * (GROUP / const { tile_rows::<S>(NV) });
            micro_tiles(isa, a, Ready { panels, next }, out, rows, first);
        }
        Strip::Unpacked(x, stride, slots) if const { packs_on_the_way::<S>() } => {
            assert_eq!(panels.len(), NV, "a strip is no wider than a micro-tile");
            let (slots, x) = (&mut slots[panels], &x[first * LANES..]);
            let fresh = Fresh { x, stride: *stride, panels: slots.as_chunks_mut::<NV>().0 };
            let packed = rows.start + const { tile_rows::<S>(NV) };
            micro_tiles(isa, a, fresh, out, rows.start..packed, first);
            if packed < rows.end {
                let panels: [&[[S::T; LANES]]; NV] = std::array::from_fn(|i| &*slots[i]);
                let ready = Ready { panels: &[panels], next: &[] };
                micro_tiles(isa, a, ready, out, packed..rows.end, first);
            }
        }
        Strip::Unpacked(..) => unreachable!("columns packed on the way"),
        Strip::InPlace(x, [depth, stride]) => {
            let (x, panels) = (&x[first * LANES..], panels.len());
            let in_place = InPlace { x, stride: *stride, panels, depth: *depth };
            micro_tiles::<S, A, _, NV>(isa, a, in_place, out, rows, first);
        }
    }
}
