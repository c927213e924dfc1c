//! The right operand of a product: to be packed by it, or packed before.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;

use super::read::Operand;
use super::storage::Stored;
use super::tile::panel_rows;
use crate::lane::LANES;
use crate::scratch::Line;
use crate::{Real, par};

/// A right operand packed once, to be used many times: the weights of a frozen model.
///
/// Elements are kept as they are stored (`E` may be half precision) and widened on use, a few
/// panels at a time, inside the second cache.
#[derive(Clone, Debug)]
pub struct PackedB<E> {
    /// Panels of `k` rows, [`panel_rows`] apart; a vector must not lie in two cache lines.
    panels: Vec<Line>,
    k: usize,
    n: usize,
    stored_as: PhantomData<E>,
}

impl<E: Pod + Send + Sync> PackedB<E> {
    /// Packs the `k` × `n` matrix with element (i, j) at `b[i·strides[0] + j·strides[1]]`.
    pub fn new(k: usize, n: usize, b: &[E], strides: [usize; 2]) -> Self {
        let len = n.div_ceil(LANES) * panel_rows(k) * LANES;
        let lines = (len * size_of::<E>()).div_ceil(size_of::<Line>());
        let mut panels = vec![Line::EMPTY; lines];
        let numbers = &mut bytemuck::cast_slice_mut(&mut panels)[..len];
        par::chunks_mut(numbers, panel_rows(k) * LANES, len, |panel, rows| {
            let columns = panel * LANES..n.min((panel + 1) * LANES);
            for (i, row) in rows.chunks_mut(LANES).take(k).enumerate() {
                for (out, j) in row.iter_mut().zip(columns.clone()) {
                    *out = b[i * strides[0] + j * strides[1]];
                }
            }
        });
        PackedB { panels, k, n, stored_as: PhantomData }
    }

    /// Rows `depth` of panel `j`.
    fn rows(&self, j: usize, depth: Range<usize>) -> &[E] {
        let first = j * panel_rows(self.k);
        let (first, last) = (first + depth.start, first + depth.end);
        &bytemuck::cast_slice(&self.panels)[first * LANES..last * LANES]
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
#[derive(Clone, Copy)]
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
    /// Rows `depth` of panel `j`, if they need no widening.
    fn ready(&self, j: usize, depth: Range<usize>) -> Option<&[[T; LANES]]>;
    /// Widens rows `depth` of panel `j` into `out`.
    fn widen(&self, j: usize, depth: Range<usize>, out: &mut [[T; LANES]]);
}

impl<T: Real, E: Stored<T>> Panels<T> for PackedB<E> {
    fn size(&self) -> [usize; 2] {
        [self.k, self.n]
    }
    fn ready(&self, j: usize, depth: Range<usize>) -> Option<&[[T; LANES]]> {
        E::as_real(self.rows(j, depth)).map(|rows| rows.as_chunks().0)
    }
    fn widen(&self, j: usize, depth: Range<usize>, out: &mut [[T; LANES]]) {
        self.rows(j, depth)
            .iter()
            .zip(out.as_flattened_mut())
            .for_each(|(x, out)| *out = x.widen());
    }
}
