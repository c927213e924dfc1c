//! The right operand in panels of sixteen columns, the form the micro-kernel reads.
//!
//! A panel holds rows of sixteen adjacent columns, one row after the other along K; the last panel
//! is filled up with zeros. The layout is the same on every instruction set.

use std::ops::Range;

use bytemuck::Pod;

use super::read::Operand;
use super::storage::Stored;
use super::tile::KC;
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
    /// Rows `depth` of panel `j` of matrix `batch`.
    #[inline]
    pub fn panel<'a>(
        &'a self,
        batch: usize,
        j: usize,
        depth: Range<usize>,
        scratch: &'a mut [[T; LANES]],
    ) -> &'a [[T; LANES]] {
        match self {
            Columns::Own { b, n } => {
                let panel = &mut scratch[..depth.len()];
                read_panel(*b, batch, j, depth, *n, panel);
                panel
            }
            Columns::Shared { rows, k, first, panels } => {
                &rows[((batch - first[0]) * panels + j - first[1]) * k..][depth]
            }
            Columns::Packed(b) => b.panel(j, depth, scratch),
        }
    }
}

/// Rows `depth` of panel `j` of an operand with `n` columns.
fn read_panel<T: Real>(
    b: Operand<T>,
    batch: usize,
    j: usize,
    depth: Range<usize>,
    n: usize,
    panel: &mut [[T; LANES]],
) {
    let cols = j * LANES..n.min((j + 1) * LANES);
    if cols.len() < LANES {
        panel.fill([T::ZERO; LANES]);
    }
    b.read(batch, depth, cols, panel.as_flattened_mut(), LANES);
}

/// Packs panels `panels` of each of the matrices.
pub(super) fn pack<T: Real>(
    b: Operand<T>,
    matrices: Range<usize>,
    k: usize,
    n: usize,
    panels: Range<usize>,
    out: &mut [T],
) {
    // About half a nanosecond an element, most of it waiting for memory.
    par::chunks_mut(out, (k * LANES).max(1), out.len() / 2, |i, panel| {
        let (matrix, j) = (i / panels.len(), i % panels.len());
        let (panel, _) = panel.as_chunks_mut();
        for (block, panel) in panel.chunks_mut(KC).enumerate() {
            let depth = block * KC..block * KC + panel.len();
            read_panel(b, matrices.start + matrix, panels.start + j, depth, n, panel);
        }
    });
}
