//! Rows by sixteen lanes: the CPU's order of summation on half a warp.
//!
//! The CPU's kernels go along a row with sixteen lanes, each of which adds up every sixteenth
//! element, and end in a tree over lanes. Here a half-warp is those lanes, so that sums have the
//! CPU's bits. Sixteen neighbours read 64 bytes of float32: two whole sectors.

use super::body::{Body, WARP};
use super::memory::Global;
use super::types::{F32, Pred, U32};
use super::value::{Reg, Source};
use crate::lane::LANES;
use crate::num::Num;

/// Threads of a block of half-warps.
pub(crate) const ROW_THREADS: u32 = 128;

/// Rows that such a block takes.
pub(crate) const ROWS_PER_BLOCK: u32 = ROW_THREADS / LANES as u32;

/// One of sixteen lanes on a row.
#[derive(Clone, Copy)]
pub(crate) struct RowLane<'k> {
    k: &'k Body,
    /// Which lane, below sixteen.
    pub lane: Reg<'k, U32>,
    /// Which row: the last one instead of any beyond the end, so that all lanes of a warp go
    /// together through loops and shuffles.
    pub row: Reg<'k, U32>,
    /// Whether the row is within the number of rows: else nothing may be written.
    pub valid: Reg<'k, Pred>,
}

impl<'k> RowLane<'k> {
    /// This thread's lane and row, of `rows`.
    pub fn new(k: &'k Body, rows: Reg<'k, U32>) -> Self {
        let thread = k.thread();
        let row = k.block(0).mad(ROWS_PER_BLOCK, thread >> LANES.ilog2());
        RowLane {
            k,
            lane: thread & (LANES as u32 - 1),
            row: row.min(rows - 1),
            valid: row.lt(rows),
        }
    }

    /// Sum over lanes by halves, as [`Simd::sum`](crate::Simd::sum); every lane gets it.
    pub fn sum(&self, x: Reg<'k, F32>) -> Reg<'k, F32> {
        tree(self.k, x, |a, b| a + b)
    }

    /// Largest over lanes; every lane gets it.
    pub fn largest(&self, x: Reg<'k, F32>) -> Reg<'k, F32> {
        tree(self.k, x, |a, b| a.max(b))
    }

    /// Runs `f` with every column of this lane below `width`.
    pub fn each(&self, width: impl Source<'k, U32>, f: impl FnOnce(Reg<'k, U32>)) {
        self.k.for_(self.lane, width.reg(self.k), LANES as u32, f);
    }

    /// Stores a number of the row, by one lane.
    pub fn store_one(&self, place: Global<'k, F32>, value: Reg<'k, F32>) {
        self.k.if_(self.valid & self.lane.eq(0), || place.store(value));
    }
}

/// The CPU's tree over the sixteen lanes of a half-warp; every lane gets the result.
pub(crate) fn tree<'k>(
    k: &'k Body,
    mut x: Reg<'k, F32>,
    f: impl Fn(Reg<'k, F32>, Reg<'k, F32>) -> Reg<'k, F32>,
) -> Reg<'k, F32> {
    debug_assert!(LANES <= WARP as usize);
    for half in [8, 4, 2, 1] {
        x = f(x, k.shuffle_xor(x, half));
    }
    x
}

/// A lane's elements of a row: in registers, read once, or in memory.
pub(crate) enum Row<'k> {
    /// Of a width known to the generator: elements lane, lane + 16, …
    Held { lane: RowLane<'k>, values: Vec<Reg<'k, F32>>, width: u32 },
    /// Of any width: read again by each pass, from cache.
    Read { lane: RowLane<'k>, from: Global<'k, F32>, width: Reg<'k, U32> },
}

impl<'k> Row<'k> {
    /// The row that begins at `from`; a `held` width is a constant.
    pub fn new(
        lane: RowLane<'k>,
        from: Global<'k, F32>,
        width: Reg<'k, U32>,
        held: Option<u32>,
    ) -> Self {
        let Some(width) = held else { return Row::Read { lane, from, width } };
        let values = columns(width).map(|first| {
            let place = from.at(lane.lane).plus(first as usize);
            match inside(lane, first, width) {
                Some(inside) => place.load_where(inside, 0.0),
                None => place.load(),
            }
        });
        Row::Held { lane, values: values.collect(), width }
    }

    /// Runs `f` with each column of this lane and the element there.
    pub fn each(&self, f: impl Fn(Reg<'k, U32>, Reg<'k, F32>)) {
        match self {
            Row::Read { lane, from, width } => lane.each(*width, |c| f(c, from.at(c).load())),
            Row::Held { lane, values, width } => {
                for (first, &value) in columns(*width).zip(values) {
                    let run = || f(lane.lane + first, value);
                    match inside(*lane, first, *width) {
                        Some(inside) => lane.k.if_(inside, run),
                        None => run(),
                    }
                }
            }
        }
    }
}

/// Where each run of sixteen columns begins.
fn columns(width: u32) -> impl Iterator<Item = u32> {
    (0..width).step_by(LANES)
}

/// Whether the lane's element of a run is within the row; `None` where all lanes' are.
fn inside<'k>(lane: RowLane<'k>, first: u32, width: u32) -> Option<Reg<'k, Pred>> {
    (first + LANES as u32 > width).then(|| lane.lane.lt(width - first))
}
