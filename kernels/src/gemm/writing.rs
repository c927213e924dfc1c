//! What a tile's sums are handed on to, where they are not made in the output.

use std::ops::Range;

use super::tile::{Finish, Sums};
use super::write::{At, Writer};
use crate::Real;
use crate::lane::LANES;
use crate::par::Cell;

/// A tile's part of the output, and who writes it.
pub(super) struct Writing<'a, T, O> {
    pub writer: &'a dyn Writer<T, O>,
    /// Where the tile lies.
    pub first: At,
    pub out: Cell<'a, O>,
    pub kept: Option<Cell<'a, T>>,
}

impl<T: Real, O> Writing<'_, T, O> {
    /// Where these rows and panels lie, and their parts of the output and of what is kept.
    fn part(
        &mut self,
        rows: Range<usize>,
        panels: Range<usize>,
    ) -> (At, Cell<'_, O>, Option<Cell<'_, T>>) {
        let some = panels.start * LANES..self.out.columns().end.min(panels.end * LANES);
        let At { batch, row, col } = self.first;
        let at = At { batch, row: row + rows.start, col: col + some.start };
        let kept = self.kept.as_mut().map(|kept| kept.part([rows.clone(), some.clone()]));
        (at, self.out.part([rows, some]), kept)
    }
}

impl<T: Real, O> Finish<T> for Writing<'_, T, O> {
    fn expect(&mut self, rows: Range<usize>, panels: Range<usize>) {
        let writer = self.writer;
        let (at, out, kept) = self.part(rows, panels);
        writer.expect(at, out, kept);
    }
    fn finish(&mut self, rows: Range<usize>, panels: Range<usize>, sums: Sums<T>) {
        let writer = self.writer;
        let (at, out, kept) = self.part(rows, panels);
        writer.write(at, sums, out, kept);
    }
}
