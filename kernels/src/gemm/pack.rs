//! Operands in the forms the micro-kernel reads: the left one in blocks of rows, [`KC`] numbers apart,
//! the right one in panels of sixteen columns.
//!
//! A panel holds rows of sixteen adjacent columns, one row after the other along K; the last panel
//! is filled up with zeros. The layout is the same on every instruction set.

use std::ops::Range;

use bytemuck::Pod;

use super::read::Operand;
use super::storage::Stored;
use super::tile::{GROUP, KC, blocks};
use crate::lane::LANES;
use crate::{Real, par};

/// A right operand packed once, to be used many times: the weights of a frozen model.
///
/// Elements are kept as they are stored (`E` may be half precision) and widened on use, a panel
/// at a time, inside the first cache.
#[derive(Clone, Debug)]
pub struct PackedB<E> {
    panels: Vec<E>,
    k: usize,
    n: usize,
}

impl<E: Pod + Send + Sync> PackedB<E> {
    /// Packs the `k` × `n` matrix with element (i, j) at `b[i·strides[0] + j·strides[1]]`.
    pub fn new(k: usize, n: usize, b: &[E], strides: [usize; 2]) -> Self {
        let mut panels = vec![E::zeroed(); n.div_ceil(LANES) * k * LANES];
        let ns = panels.len();
        par::chunks_mut(&mut panels, (k * LANES).max(1), ns, |panel, rows| {
            let columns = panel * LANES..n.min((panel + 1) * LANES);
            for (i, row) in rows.chunks_mut(LANES).enumerate() {
                for (out, j) in row.iter_mut().zip(columns.clone()) {
                    *out = b[i * strides[0] + j * strides[1]];
                }
            }
        });
        PackedB { panels, k, n }
    }
}

impl<E> PackedB<E> {
    /// Length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of columns.
    pub fn n(&self) -> usize {
        self.n
    }
}

/// The right operand of a product.
pub enum Right<'a, T> {
    /// To be packed by the product.
    Read(Operand<'a, T>),
    /// Packed before; any batch uses the same one.
    Packed(&'a dyn Panels<T>),
}

impl<'a, T> From<Operand<'a, T>> for Right<'a, T> {
    fn from(b: Operand<'a, T>) -> Self {
        Right::Read(b)
    }
}

impl<'a, T: Real, E: Stored<T>> From<&'a PackedB<E>> for Right<'a, T> {
    fn from(b: &'a PackedB<E>) -> Self {
        Right::Packed(b)
    }
}

/// Panels that exist already.
pub trait Panels<T: Real>: Sync {
    /// Length of the sums and number of columns.
    fn size(&self) -> [usize; 2];
    /// Rows `depth` of panel `j`; `scratch` has room for them.
    fn panel<'a>(
        &'a self,
        j: usize,
        depth: Range<usize>,
        scratch: &'a mut [[T; LANES]],
    ) -> &'a [[T; LANES]];
    /// The same, if it needs no widening.
    fn ready(&self, j: usize, depth: Range<usize>) -> Option<&[[T; LANES]]>;
}

impl<T: Real, E: Stored<T>> Panels<T> for PackedB<E> {
    fn size(&self) -> [usize; 2] {
        [self.k, self.n]
    }
    fn panel<'a>(
        &'a self,
        j: usize,
        depth: Range<usize>,
        scratch: &'a mut [[T; LANES]],
    ) -> &'a [[T; LANES]] {
        let (rows, _) = self.panels.as_chunks();
        E::lanes(&rows[j * self.k..][depth], scratch)
    }
    fn ready(&self, j: usize, depth: Range<usize>) -> Option<&[[T; LANES]]> {
        let (rows, _) = self.panels.as_chunks::<LANES>();
        E::as_real(rows[j * self.k..][depth].as_flattened()).map(|rows| rows.as_chunks().0)
    }
}

/// What a tile takes its rows from.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a, T> {
    /// The operand itself: the tile packs its rows.
    Own(Operand<'a, T>),
    /// Rows packed for this call, of one matrix: blocks of [`KC`] along K, each of `height` rows.
    Shared { blocks: &'a [T], height: usize },
}

impl<'a, T: Real> Rows<'a, T> {
    /// Packs the `m` rows of the first matrix for all tiles; see [`Rows::room`].
    pub fn pack(a: Operand<T>, [m, k]: [usize; 2], out: &'a mut [T]) -> Self {
        let height = m.next_multiple_of(GROUP);
        par::chunks_mut(out, GROUP * KC, m * k / 2, |i, out| {
            let (block, row) = (i * GROUP / height, i * GROUP % height);
            let depth = block * KC..k.min((block + 1) * KC);
            a.read_rows(0, row..m.min(row + GROUP), depth, out);
        });
        Rows::Shared { blocks: out, height }
    }

    /// Whether no tile has to pack.
    pub fn is_packed(&self) -> bool {
        matches!(self, Rows::Shared { .. })
    }

    /// How many numbers `m` packed rows of length `k` take.
    pub fn room([m, k]: [usize; 2]) -> usize {
        m.next_multiple_of(GROUP) * k.next_multiple_of(KC)
    }

    /// `rows` of a block of K, packed: in `room`, or wherever they are.
    pub fn block<'b>(
        &self,
        batch: usize,
        rows: Range<usize>,
        depth: Range<usize>,
        room: &'b mut [T],
    ) -> &'b [T]
    where
        'a: 'b,
    {
        match *self {
            Rows::Own(a) => {
                a.read_rows(batch, rows, depth, room);
                room
            }
            Rows::Shared { blocks, height } => {
                &blocks[(depth.start / KC * height + rows.start) * KC..]
            }
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
    /// Fills slots, of [`KC`] rows each, with panels that are the tile's own to pack.
    pub fn prepare(
        &self,
        batch: usize,
        panels: Range<usize>,
        depth: Range<usize>,
        slots: &mut [[T; LANES]],
    ) {
        if let Columns::Own { b, n } = self {
            read_panels(*b, batch, panels, depth, *n, slots.as_flattened_mut(), KC);
        }
    }

    /// Rows `depth` of panel `j` of matrix `batch`, if they are packed already.
    pub fn ready(&self, batch: usize, j: usize, depth: Range<usize>) -> Option<&[[T; LANES]]> {
        match self {
            Columns::Shared { rows, k, first, panels } => {
                let panel = (batch - first[0]) * panels + j - first[1];
                Some(&rows[panel * k..][depth])
            }
            Columns::Packed(b) => b.ready(j, depth),
            Columns::Own { .. } => None,
        }
    }

    /// Rows `depth` of panel `j` of matrix `batch`, in its slot or wherever they are.
    #[inline]
    pub fn panel<'a>(
        &'a self,
        batch: usize,
        j: usize,
        depth: Range<usize>,
        slot: &'a mut [[T; LANES]],
    ) -> &'a [[T; LANES]] {
        match self {
            Columns::Own { .. } => &slot[..depth.len()],
            Columns::Shared { rows, k, first, panels } => {
                &rows[((batch - first[0]) * panels + j - first[1]) * k..][depth]
            }
            Columns::Packed(b) => b.panel(j, depth, slot),
        }
    }
}

/// Panels that are packed together: 64 columns, so that rows are read in runs of some length.
pub(super) const TOGETHER: usize = 4;

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

/// Packs panels `panels` of each of the matrices, one after the other, each with all of its rows.
pub(super) fn pack<T: Real>(
    b: Operand<T>,
    matrices: Range<usize>,
    [k, n]: [usize; 2],
    panels: Range<usize>,
    out: &mut [T],
) {
    let panel_len = (k * LANES).max(1);
    // About half a nanosecond an element, most of it waiting for memory.
    let ns = out.len() / 2;
    par::chunks_mut(out, TOGETHER * panel_len, ns, |chunk, mut out| {
        let mut at = chunk * TOGETHER;
        while !out.is_empty() {
            let (matrix, j) = (matrices.start + at / panels.len(), at % panels.len());
            let number = (panels.len() - j).min(out.len() / panel_len);
            let some = panels.start + j..panels.start + j + number;
            let (these, rest) = std::mem::take(&mut out).split_at_mut(number * panel_len);
            for depth in blocks(k) {
                let out = &mut these[depth.start * LANES..];
                read_panels(b, matrix, some.clone(), depth, n, out, k);
            }
            (out, at) = (rest, at + number);
        }
    });
}
