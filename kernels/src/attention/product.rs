//! The matrix products of tiles: two that make scores and their gradient, and three that weigh rows
//! by them and go on adding. All are the micro-kernel's of [`gemm`](crate::gemm).

use super::head::Tile;
use crate::Real;
use crate::gemm::{LeftTile, PackedTile, WIDTH};
use crate::lane::LANES;
use crate::par::Cell;

/// Scores: the tile becomes A·Bᵀ of rows of A, `a_stride` elements apart, and the columns of
/// `transposed`, which is Bᵀ in panels of `width` rows.
pub(super) fn scores<T: Real>(
    (a, a_stride): (&[T], usize),
    transposed: &[T],
    width: usize,
    tile: &mut Tile<T>,
) {
    let size = [tile.rows, tile.columns.next_multiple_of(LANES)];
    T::multiply_packed(PackedTile {
        a: LeftTile::Rows(a, a_stride),
        b: transposed.as_chunks().0,
        panel_rows: width,
        depth: width,
        c: Cell::new(tile.data.as_flattened_mut(), size, WIDTH),
        adds: false,
    });
}

/// Rows in panels of sixteen columns: those that scores weigh.
#[derive(Clone, Copy)]
pub(super) struct Weighed<'a, T> {
    panels: &'a [[T; LANES]],
    /// Rows of a panel.
    rows: usize,
}

impl<'a, T: Real> Weighed<'a, T> {
    /// Rows from `first` on of panels of so many `rows`.
    pub fn new(panels: &'a [T], rows: usize, first: usize) -> Self {
        Weighed { panels: &panels.as_chunks().0[first..], rows }
    }
}

/// C (+)= S·B, or Sᵀ·B, where S is a tile of scores and rows of C are `padded` elements.
pub(super) fn weigh<T: Real, const TRANSPOSED: bool>(
    tile: &Tile<T>,
    b: Weighed<T>,
    (c, padded): (&mut [T], usize),
    adds: bool,
) {
    let (rows, columns) = (&tile.data[..tile.rows], tile.columns);
    let (a, [rows, depth]) = if TRANSPOSED {
        (LeftTile::Columns(rows), [columns, tile.rows])
    } else {
        (LeftTile::Rows(rows.as_flattened(), WIDTH), [tile.rows, columns])
    };
    T::multiply_packed(PackedTile {
        a,
        b: b.panels,
        panel_rows: b.rows,
        depth,
        c: Cell::new(c, [rows, padded], padded),
        adds,
    });
}
