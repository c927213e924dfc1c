//! Products of tiles in shared memory, by sums in registers.

use super::super::View;
use crate::ptx::{Body, F32, Global, Pred, Reg, Shared, Stored, U32, Var, WARP};

/// Threads of a block: four warps, one under the other, of 16 rows each.
pub(super) const THREADS: u32 = 128;
/// Rows and columns of a tile of scores, and the most channels that a block holds of a row.
pub(super) const SIDE: u32 = 64;
/// Rows of a thread,
pub(super) const ROWS_EACH: usize = CHUNK as usize;
/// and adjacent elements that it reads at once.
const CHUNK: u32 = 4;
/// From a thread's first four columns to its other four.
const RUN: u32 = 32;
/// A thread's columns of a tile of scores, from its first one on: two runs of four.
pub(super) const COLUMNS: [u32; 8] = [0, 1, 2, 3, RUN, RUN + 1, RUN + 2, RUN + 3];
/// Elements of a tile of scores that a thread has.
pub(super) const EACH: usize = ROWS_EACH * COLUMNS.len();
/// Elements of a sum between two looks at the end.
const UNROLLED: u32 = 2 * CHUNK;

/// 64 rows in shared memory, of 32 or 64 elements.
///
/// Chunks of a row are permuted, alike in four rows and otherwise in the next four. Where a warp
/// reads chunks of its threads' rows, one below the other, each lies in banks of its own; and so do
/// neighbouring chunks of one row.
#[derive(Clone, Copy)]
pub(super) struct Tile<'k> {
    at: Shared<'k, F32>,
    /// From row to row.
    pitch: u32,
}

impl<'k> Tile<'k> {
    /// Room for rows of so many elements.
    pub fn new(k: &'k Body, width: u32) -> Self {
        let pitch = pitch(width);
        Tile { at: k.shared(SIDE * pitch), pitch }
    }

    /// Of rows of so many elements, in the place of this one.
    pub fn instead(self, width: u32) -> Self {
        Tile { pitch: pitch(width), ..self }
    }

    /// The chunk that begins at column `c` of row `r`. The same of the other rows of its four, and
    /// those 32 rows or columns on, are as far away as if nothing were permuted.
    fn chunk(self, r: Reg<'k, U32>, c: Reg<'k, U32>) -> Shared<'k, F32> {
        self.at.at(r * self.pitch).at(c ^ (r & PERMUTED))
    }
}

/// Bits of a row's number that its columns' are changed by.
const PERMUTED: u32 = RUN - CHUNK;

/// Elements from row to row of a tile.
fn pitch(width: u32) -> u32 {
    width.min(SIDE).next_multiple_of(RUN)
}

/// Rows of a view from `first` on; those from `end` on are zeros.
#[derive(Clone, Copy)]
pub(super) struct Part<'k, S> {
    pub view: View<'k, S>,
    pub first: Reg<'k, U32>,
    pub end: Reg<'k, U32>,
}

/// The head whose answers a block makes, and which of its channels.
#[derive(Clone, Copy)]
pub(super) struct Head<'k> {
    pub number: Reg<'k, U32>,
    /// The head's first channel among all,
    pub channel: Reg<'k, U32>,
    /// and the block's first among the head's.
    pub first: Reg<'k, U32>,
}

impl<'k> Head<'k> {
    /// The grid's y chooses head and channels.
    pub fn new(k: &'k Body, width: u32) -> Self {
        let parts = super::parts(width as usize) as u32;
        let number = k.block(1) / parts;
        let first = if parts == 1 { k.value(0) } else { k.block(1) % parts * SIDE };
        Head { number, channel: number * width, first }
    }
}

/// A thread of a block that multiplies tiles.
pub(super) struct Tiles<'k> {
    k: &'k Body,
    /// Channels of a head.
    width: u32,
    /// This thread's first row,
    row: Reg<'k, U32>,
    /// and its first column.
    column: Reg<'k, U32>,
    /// Whether any of this warp's rows is of the problem.
    busy: Reg<'k, Pred>,
}

impl<'k> Tiles<'k> {
    /// One of a block that answers rows from `first` on, of `rows`.
    ///
    /// A warp is four threads down by eight across. Of a half-warp, neighbours have the same rows,
    /// and every other thread the same columns: a read of 16 bytes gives it all it wants at once.
    pub fn new(k: &'k Body, width: u32, [first, rows]: [Reg<'k, U32>; 2]) -> Self {
        let lane = k.thread() & (WARP - 1);
        let warp_row = (k.thread() >> WARP.ilog2()) * (THREADS / WARP * CHUNK);
        let (down, across) = ((lane >> 1 & 1) + (lane >> 4) * 2, (lane & 1) + (lane >> 2 & 3) * 2);
        Tiles {
            k,
            width,
            row: warp_row + down * CHUNK,
            column: across * CHUNK,
            busy: (first + warp_row).lt(rows),
        }
    }

    /// Of all eight threads that have the same rows, what `f` makes of two; every one gets it.
    pub fn among_columns(
        &self,
        mut x: Reg<'k, F32>,
        f: impl Fn(Reg<'k, F32>, Reg<'k, F32>) -> Reg<'k, F32>,
    ) -> Reg<'k, F32> {
        for other in [8, 4, 1] {
            x = f(x, self.k.shuffle_xor(x, other));
        }
        x
    }

    /// Whether this thread's columns are the first ones.
    pub fn is_first(&self) -> Reg<'k, Pred> {
        self.column.eq(0)
    }

    /// This thread's rows, from `first` on.
    pub fn rows(&self, first: Reg<'k, U32>) -> Vec<Reg<'k, U32>> {
        (0..CHUNK).map(|i| first + self.row + i).collect()
    }

    /// This thread's columns of scores, from `first` on.
    pub fn columns(&self, first: Reg<'k, U32>) -> [Reg<'k, U32>; COLUMNS.len()] {
        let column = first + self.column;
        COLUMNS.map(|further| column + further)
    }

    /// Zeros, for scores.
    pub fn scores(&self) -> Vec<Var<'k, F32>> {
        self.k.vars(EACH, 0.0)
    }

    /// Runs of four channels that a thread has of each row of the block's answer.
    fn runs(&self) -> u32 {
        pitch(self.width) / RUN
    }

    /// Zeros, for an answer.
    pub fn answer(&self) -> Vec<Var<'k, F32>> {
        self.k.vars((CHUNK * self.runs() * CHUNK) as usize, 0.0)
    }

    /// Whether a tile holds all channels of its rows.
    pub fn are_whole(&self) -> bool {
        self.width <= SIDE
    }

    /// Runs `f` with the first channel of each panel of a head that tiles hold.
    pub fn each_panel(&self, f: impl FnOnce(Reg<'k, U32>)) {
        match self.are_whole() {
            true => f(self.k.value(0)),
            false => self.k.for_(0, self.width, SIDE, f),
        }
    }

    /// Adds left·rightᵀ, for `n` rows on the right, to `sums`: by panels that come to these tiles,
    /// which are free after it.
    pub fn add_product<L: Stored, R: Stored>(
        &self,
        (left_tile, left): (Tile<'k>, Part<'k, L>),
        (right_tile, right): (Tile<'k>, Part<'k, R>),
        n: Reg<'k, U32>,
        sums: &[Var<'k, F32>],
    ) {
        self.each_panel(|channel| {
            self.load(left_tile, left, channel);
            self.load(right_tile, right, channel);
            self.k.barrier();
            self.multiply([left_tile, right_tile], n, sums);
            self.k.note("the next panel, or whatever comes, takes their places");
            self.k.barrier();
        });
    }

    /// Copies rows to a tile, as many channels as it has room for, from `channel` on; zeros beyond
    /// the width.
    pub fn load<S: Stored>(
        &self,
        tile: Tile<'k>,
        Part { view, first, end }: Part<'k, S>,
        channel: Reg<'k, U32>,
    ) {
        let chunks = tile.pitch / CHUNK;
        let place = self.k.thread() >> chunks.ilog2();
        let column = (self.k.thread() & (chunks - 1)) * CHUNK;
        let channel = channel + column;
        let rows = (0..SIDE).step_by((THREADS / chunks) as usize);
        let loaded: Vec<_> = rows
            .clone()
            .map(|further| {
                let row = first + place + further;
                let from = view.data.at(row.mad(view.row_stride, channel));
                self.load_chunk(from, row.lt(end), channel)
            })
            .collect();
        for (further, x) in rows.zip(loaded) {
            // A multiple of 8, which `place` does not reach.
            let to = tile.chunk(place, column ^ (further & PERMUTED));
            to.plus((further * tile.pitch) as usize).store_n(&x);
        }
    }

    /// A chunk of a row, at once where rows are made of chunks; zeros beyond the width.
    fn load_chunk<S: Stored>(
        &self,
        from: Global<'k, S>,
        exists: Reg<'k, Pred>,
        channel: Reg<'k, U32>,
    ) -> Vec<Reg<'k, F32>> {
        if self.width.is_multiple_of(CHUNK) {
            return S::load(from, CHUNK as usize, Some(exists & channel.lt(self.width)));
        }
        let one =
            |i: u32| from.plus(i as usize).load_where(exists & (channel + i).lt(self.width), 0.0);
        (0..CHUNK).map(one).collect()
    }

    /// sums += left·rightᵀ, along the channels of both: the first `n` columns of it, or all 64.
    pub fn multiply(&self, [left, right]: [Tile<'k>; 2], n: Reg<'k, U32>, sums: &[Var<'k, F32>]) {
        let channels = self.width.min(SIDE).next_multiple_of(UNROLLED);
        let multiply = |runs: u32| {
            self.each_chunk(self.k.value(channels), |channel| {
                let a = self.of_rows(left, channel);
                let columns = right.chunk(self.column, channel);
                for (j, column) in COLUMNS.into_iter().enumerate().take((runs * CHUNK) as usize) {
                    let b = columns.plus((column * right.pitch) as usize).load_n(CHUNK as usize);
                    for (deep, &b) in b.iter().enumerate() {
                        for (i, a) in a.iter().enumerate() {
                            sums[i * COLUMNS.len() + j].fma(a[deep], b);
                        }
                    }
                }
            });
        };
        self.k.if_else(n.lt(RUN + 1), || multiply(1), || multiply(2));
    }

    /// sums += left·right, along the first `n` of the left tile's columns and a few that are zeros.
    pub fn accumulate(&self, [left, right]: [Tile<'k>; 2], n: Reg<'k, U32>, sums: &[Var<'k, F32>]) {
        let each = (self.runs() * CHUNK) as usize;
        self.each_chunk(n, |column| {
            let a = self.of_rows(left, column);
            let rows = right.chunk(column, self.column);
            for deep in 0..CHUNK as usize {
                let row = rows.plus(deep * right.pitch as usize);
                for run in 0..self.runs() as usize {
                    let b = row.plus(run * RUN as usize).load_n(CHUNK as usize);
                    for (a, sums) in a.iter().zip(sums.chunks(each)) {
                        for (&b, sum) in b.iter().zip(&sums[run * CHUNK as usize..]) {
                            sum.fma(a[deep], b);
                        }
                    }
                }
            }
        });
    }

    /// If the warp has rows, runs `f` with where each chunk of a sum begins, to the end of the last
    /// [`UNROLLED`] elements.
    fn each_chunk(&self, end: Reg<'k, U32>, f: impl Fn(Reg<'k, U32>)) {
        self.k.if_(self.busy, || {
            self.k.for_(0, end, UNROLLED, |first| {
                (0..UNROLLED).step_by(CHUNK as usize).for_each(|further| f(first ^ further));
            });
        });
    }

    /// The chunk that begins at `column`, of each of this thread's rows.
    fn of_rows(&self, tile: Tile<'k>, column: Reg<'k, U32>) -> Vec<Vec<Reg<'k, F32>>> {
        let rows = tile.chunk(self.row, column);
        (0..CHUNK).map(|i| rows.plus((i * tile.pitch) as usize).load_n(CHUNK as usize)).collect()
    }

    /// Makes scores, given row by row, a tile.
    pub fn store_scores(&self, tile: Tile<'k>, scores: &[Reg<'k, F32>]) {
        let rows = tile.chunk(self.row, self.column);
        for (i, row) in scores.chunks(COLUMNS.len()).enumerate() {
            for (run, part) in row.chunks(CHUNK as usize).enumerate() {
                rows.plus(i * tile.pitch as usize + run * RUN as usize).store_n(part);
            }
        }
    }

    /// This thread's scores of a tile that [`store_scores`](Self::store_scores) made.
    pub fn load_scores(&self, tile: Tile<'k>) -> Vec<Reg<'k, F32>> {
        let rows = tile.chunk(self.row, self.column);
        let places = (0..ROWS_EACH).flat_map(|i| [0, RUN as usize].map(|run| (i, run)));
        let load = |(i, run)| rows.plus(i * tile.pitch as usize + run).load_n(CHUNK as usize);
        places.flat_map(load).collect()
    }

    /// Stores an answer as rows, from `first` on, of a contiguous \[B, `rows`, H·D\].
    pub fn store(
        &self,
        to: Global<'k, F32>,
        answer: &[Var<'k, F32>],
        first: Reg<'k, U32>,
        [rows, heads]: [Reg<'k, U32>; 2],
        head: Head<'k>,
    ) {
        let each = (self.runs() * CHUNK) as usize;
        for (row, answer) in self.rows(first).into_iter().zip(answer.chunks(each)) {
            self.k.if_(row.lt(rows), || {
                let row = self.k.block(2).mad(rows, row).mad(heads, head.number);
                for (run, answer) in (0..).zip(answer.chunks(CHUNK as usize)) {
                    let channel = head.first + (self.column + RUN * run);
                    let to = to.at(row.mad(self.width, channel));
                    self.store_chunk(to, answer, channel);
                }
            });
        }
    }

    /// Stores what is within the width, at once where rows are made of chunks.
    fn store_chunk(&self, to: Global<'k, F32>, x: &[Var<'k, F32>], channel: Reg<'k, U32>) {
        let x: Vec<_> = x.iter().map(|x| x.get()).collect();
        if self.width.is_multiple_of(CHUNK) {
            return self.k.if_(channel.lt(self.width), || to.store_n(&x));
        }
        for (i, &x) in (0..).zip(&x) {
            self.k.if_((channel + i).lt(self.width), || to.plus(i as usize).store(x));
        }
    }
}

/// The index of each row's element of \[B, H, rows\].
pub(super) fn of_rows<'k>(
    k: &'k Body,
    head: Reg<'k, U32>,
    [rows, heads]: [Reg<'k, U32>; 2],
    row: Reg<'k, U32>,
) -> Reg<'k, U32> {
    k.block(2).mad(heads, head).mad(rows, row)
}
