//! Rows by sixteen lanes: the CPU's order of summation on half a warp.
//!
//! The CPU's kernels go along a row with sixteen lanes, each of which adds up every sixteenth
//! element, and end in a tree over lanes. Here a half-warp is those lanes, so that sums have the
//! CPU's bits. Sixteen neighbours read 64 bytes of float32: two whole sectors.
//!
//! That is for rows of which there are many, or which are short; see [`teams`](super::teams) for
//! others.

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
    pub k: &'k Body,
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

    /// Runs `f` with every column of this lane below `width`, in order, and what `load` finds
    /// there.
    pub fn each<V>(
        &self,
        width: impl Source<'k, U32>,
        load: impl Fn(Place<'k>) -> V,
        f: impl Fn(Place<'k>, V),
    ) {
        in_batches(self.k, [self.lane, width.reg(self.k)], LANES as u32, load, f);
    }

    /// Stores a number of the row, by one lane.
    pub fn store_one(&self, place: Global<'k, F32>, value: Reg<'k, F32>) {
        self.k.if_(self.valid & self.lane.eq(0), || place.store(value));
    }
}

/// Columns of which a thread's loads are on their way at once: those of memory take hundreds of
/// cycles, and sums have to wait for them in order.
pub(crate) const TOGETHER: u32 = 8;

/// A column of a row, one of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Place<'k> {
    /// The first of the batch,
    first: Reg<'k, U32>,
    /// by how much this one is further on,
    further: u32,
    /// and how many columns there are, where it may be outside.
    end: Option<Reg<'k, U32>>,
}

impl<'k> Place<'k> {
    /// The columns of a batch, `step` apart. Those below `end` are of the row; without it, all are.
    pub fn batch(first: Reg<'k, U32>, step: u32, end: Option<Reg<'k, U32>>) -> Vec<Self> {
        (0..TOGETHER).map(|i| Place { first, further: i * step, end }).collect()
    }

    /// The number of the column.
    pub fn column(&self) -> Reg<'k, U32> {
        self.first + self.further
    }

    /// Where it is in a row that begins at `row`.
    pub fn in_row(&self, row: Global<'k, F32>) -> Global<'k, F32> {
        row.at(self.first).plus(self.further as usize)
    }

    /// The element of a row that begins at `row`; zero outside.
    pub fn of(&self, row: Global<'k, F32>) -> Reg<'k, F32> {
        self.load(self.in_row(row))
    }

    /// The element that is as far below `top` as this one is to the right of a row's first, in rows
    /// of `width`; zero outside.
    pub fn down(&self, top: Global<'k, F32>, width: Reg<'k, U32>) -> Reg<'k, F32> {
        self.load(top.at(self.column() * width))
    }

    fn load(&self, place: Global<'k, F32>) -> Reg<'k, F32> {
        match self.end {
            Some(end) => place.load_where(self.column().lt(end), 0.0),
            None => place.load(),
        }
    }
}

/// Runs `f` with `first`, `first + step`, … below `end`, in order, and what `load` finds there;
/// `first` is below `step`, a power of two. A batch is loaded before the first of it is used.
pub(crate) fn in_batches<'k, V>(
    k: &'k Body,
    [first, end]: [Reg<'k, U32>; 2],
    step: u32,
    load: impl Fn(Place<'k>) -> V,
    f: impl Fn(Place<'k>, V),
) {
    let loaded = |places: Vec<Place<'k>>| {
        let values: Vec<V> = places.iter().map(|&place| load(place)).collect();
        places.into_iter().zip(values)
    };
    let batch = TOGETHER * step;
    debug_assert!(batch.is_power_of_two(), "{step}");
    let whole = end & !(batch - 1);
    k.for_(first, whole, batch, |first| {
        loaded(Place::batch(first, step, None)).for_each(|(place, value)| f(place, value));
    });
    k.if_(whole.lt(end), || {
        for (place, value) in loaded(Place::batch(whole + first, step, Some(end))) {
            k.if_(place.column().lt(end), || f(place, value));
        }
    });
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
