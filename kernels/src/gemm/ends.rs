//! What becomes of sums that are made in the output.

use std::ops::Range;

use super::tile::KC;

/// What the micro-kernel does with a sum.
#[derive(Clone, Copy, Debug)]
pub enum Ends<'a, T> {
    /// Stores it,
    Store,
    /// adds it to what is there,
    Add,
    /// or stores it with its column's number added.
    Bias(&'a [T]),
}

impl<T> Ends<'_, T> {
    /// Whether this can be the end of sums of `k` products. Of several blocks the first one's sums
    /// are stored, and the others' added; but it is the total that is to be added, or to get a
    /// bias, so that bits are those of two steps.
    pub(super) fn suit(self, k: usize) -> bool {
        matches!(self, Ends::Store) || (1..=KC).contains(&k)
    }

    /// The same for some of the columns.
    pub(super) fn part(self, columns: Range<usize>) -> Self {
        match self {
            Ends::Bias(bias) => Ends::Bias(&bias[columns]),
            other => other,
        }
    }
}
