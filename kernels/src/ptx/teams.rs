//! Who goes along a row: a half-warp, or a block where that would be long on the way.
//!
//! Sixteen lanes add up a row in order, whoever reads it. A half-warp also reads it; of rows that
//! are few and long most of a card would then idle. A block reads with all threads and hands the
//! sixteen lanes what they add, a chunk at a time, in shared memory: one of its warps does nothing
//! but add, while the others make the next chunk.

use super::body::{Body, WARP};
use super::memory::Shared;
use super::rows::{Place, ROW_THREADS, ROWS_PER_BLOCK, RowLane, TOGETHER, in_batches, tree};
use super::types::{F32, U32};
use super::value::Reg;
use super::var::Var;
use crate::lane::LANES;
use crate::num::Num;

/// Threads of a block that make what its last warp adds,
const MAKERS: u32 = 256;
/// and all of them.
const THREADS: u32 = MAKERS + WARP;

/// Elements of a chunk.
const CHUNK: u32 = MAKERS * TOGETHER;

/// Elements that a lane takes from shared memory at once.
const ADDED_TOGETHER: u32 = 16;

/// Who goes along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Team {
    /// Sixteen lanes, eight of them a block of threads.
    HalfWarp,
    /// A block of threads.
    Block,
}

impl Team {
    /// Both.
    pub const ALL: [Team; 2] = [Team::HalfWarp, Team::Block];

    /// Who goes along rows of this width: most threads of a block should have something to do.
    pub fn of(width: usize) -> Team {
        if width < CHUNK as usize / 2 { Team::HalfWarp } else { Team::Block }
    }

    /// What names of kernels end in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Team::HalfWarp => "",
            Team::Block => "_wide",
        }
    }

    /// The threads of a block.
    pub(crate) fn threads(self) -> u32 {
        match self {
            Team::HalfWarp => ROW_THREADS,
            Team::Block => THREADS,
        }
    }

    /// The rows of a block, as extent along the first axis.
    pub(crate) fn per_block(self) -> [u32; 3] {
        match self {
            Team::HalfWarp => [ROWS_PER_BLOCK, 1, 1],
            Team::Block => [1, 1, 1],
        }
    }
}

/// A team at its row.
#[derive(Clone, Copy)]
pub(crate) enum TeamRow<'k> {
    HalfWarp(RowLane<'k>),
    Block(RowBlock<'k>),
}

impl<'k> TeamRow<'k> {
    /// This thread's team and row, of `rows`. Of a column up to `terms` numbers are made for sums,
    /// of which there are at most as many.
    pub fn new(k: &'k Body, team: Team, rows: Reg<'k, U32>, terms: usize) -> Self {
        match team {
            Team::HalfWarp => TeamRow::HalfWarp(RowLane::new(k, rows)),
            Team::Block => TeamRow::Block(RowBlock::new(k, terms)),
        }
    }

    /// Which row: of a half-warp, the last one instead of any beyond the end.
    pub fn row(&self) -> Reg<'k, U32> {
        match self {
            TeamRow::HalfWarp(lane) => lane.row,
            TeamRow::Block(block) => block.k.block(0),
        }
    }

    /// Runs `f` unless the row is beyond the end.
    pub fn if_valid(&self, f: impl FnOnce()) {
        match self {
            TeamRow::HalfWarp(lane) => lane.k.if_(lane.valid, f),
            TeamRow::Block(_) => f(),
        }
    }

    /// Runs `f` on one thread of the team, unless the row is beyond the end.
    pub fn once(&self, f: impl FnOnce()) {
        match self {
            TeamRow::HalfWarp(lane) => lane.k.if_(lane.valid & lane.lane.eq(0), f),
            TeamRow::Block(block) => block.k.if_(block.k.thread().eq(0), f),
        }
    }

    /// Runs `f` with every column of this thread below `width` and what `load` finds there.
    pub fn each<V>(
        &self,
        width: Reg<'k, U32>,
        load: impl Fn(Place<'k>) -> V,
        f: impl Fn(Place<'k>, V),
    ) {
        match self {
            TeamRow::HalfWarp(lane) => lane.each(width, load, f),
            TeamRow::Block(block) => {
                let (k, thread) = (block.k, block.k.thread());
                k.if_(thread.lt(MAKERS), || in_batches(k, [thread, width], MAKERS, load, f));
            }
        }
    }

    /// Sums over the columns below `width`: each lane's by `add`, in order, of what `make` makes of
    /// what `load` finds in a column, then the tree's, of which `finish` makes what every thread
    /// gets. Beyond the row zeros may be added.
    pub fn sums<V, const TERMS: usize, const SUMS: usize>(
        &self,
        width: Reg<'k, U32>,
        load: impl Fn(Place<'k>) -> V,
        make: impl Fn(V) -> [Reg<'k, F32>; TERMS],
        add: impl Fn([Var<'k, F32>; SUMS], [Reg<'k, F32>; TERMS]),
        finish: impl FnOnce([Reg<'k, F32>; SUMS]) -> [Reg<'k, F32>; SUMS],
    ) -> [Reg<'k, F32>; SUMS] {
        match self {
            TeamRow::HalfWarp(lane) => {
                let sums = [(); SUMS].map(|()| lane.k.var::<F32>(0.0));
                lane.each(width, load, |_, found| add(sums, make(found)));
                finish(sums.map(|sum| lane.sum(sum.get())))
            }
            TeamRow::Block(block) => block.sums(width, load, make, add, finish),
        }
    }

    /// The largest of what `load` finds in the columns below `width`; a NaN loses to a number.
    pub fn largest(
        &self,
        width: Reg<'k, U32>,
        load: impl Fn(Place<'k>) -> Reg<'k, F32>,
    ) -> Reg<'k, F32> {
        let k = match self {
            TeamRow::HalfWarp(lane) => lane.k,
            TeamRow::Block(block) => block.k,
        };
        let largest = k.var::<F32>(f32::NEG_INFINITY);
        self.each(width, load, |_, x| largest.set(x.max(largest.get())));
        match self {
            TeamRow::HalfWarp(lane) => lane.largest(largest.get()),
            TeamRow::Block(_) => largest_of_block(k, largest.get()),
        }
    }
}

/// A block at its row.
#[derive(Clone, Copy)]
pub(crate) struct RowBlock<'k> {
    k: &'k Body,
    /// Two chunks for each term, one after another.
    made: Shared<'k, F32>,
    /// What all threads are to know of the sums.
    answers: Shared<'k, F32>,
}

impl<'k> RowBlock<'k> {
    /// As [`TeamRow::new`].
    pub fn new(k: &'k Body, terms: usize) -> Self {
        let terms = terms as u32;
        RowBlock { k, made: k.shared(2 * CHUNK * terms), answers: k.shared(terms) }
    }

    /// A term's place for the chunk that begins at `first`: every second one's is the same.
    fn chunk(&self, first: Reg<'k, U32>, term: usize) -> Shared<'k, F32> {
        self.made.at(first & CHUNK).plus(term * 2 * CHUNK as usize)
    }

    /// As [`TeamRow::sums`].
    pub fn sums<V, const TERMS: usize, const SUMS: usize>(
        &self,
        width: Reg<'k, U32>,
        load: impl Fn(Place<'k>) -> V,
        make: impl Fn(V) -> [Reg<'k, F32>; TERMS],
        add: impl Fn([Var<'k, F32>; SUMS], [Reg<'k, F32>; TERMS]),
        finish: impl FnOnce([Reg<'k, F32>; SUMS]) -> [Reg<'k, F32>; SUMS],
    ) -> [Reg<'k, F32>; SUMS] {
        let k = self.k;
        let sums = [(); SUMS].map(|()| k.var::<F32>(0.0));
        let lane = self.in_lanes(width, load, make, |made| add(sums, made));
        k.if_(lane.lt(WARP), || {
            let answers = finish(sums.map(|sum| tree(k, sum.get(), |a, b| a + b)));
            k.if_(lane.eq(0), || self.answers.store_n(&answers));
        });
        k.note("the answers are there");
        k.barrier();
        let answers = self.answers.load_n(SUMS);
        std::array::from_fn(|i| answers[i])
    }

    /// Runs `add` in sixteen lanes with what `make` makes of what `load` finds in the lane's
    /// columns below `width`, in order. Zeros follow those of the row. Answers which lane this is;
    /// other threads have numbers from 16 on.
    pub fn in_lanes<V, const TERMS: usize>(
        &self,
        width: Reg<'k, U32>,
        load: impl Fn(Place<'k>) -> V,
        make: impl Fn(V) -> [Reg<'k, F32>; TERMS],
        add: impl Fn([Reg<'k, F32>; TERMS]),
    ) -> Reg<'k, U32> {
        let (k, thread) = (self.k, self.k.thread());
        let make_chunk = |first: Reg<'k, U32>| {
            let mine = first + thread;
            let places = Place::batch(mine, MAKERS, Some(width));
            let found: Vec<V> = places.into_iter().map(&load).collect();
            // Loads have asked already; but there are seven predicates, and they were to be kept.
            let left = width - mine.min(width);
            for (i, found) in (0..).zip(found) {
                let inside = left.ge(i * MAKERS + 1);
                for (term, made) in make(found).into_iter().enumerate() {
                    let place = self.chunk(first, term).at(thread).plus((i * MAKERS) as usize);
                    place.store(Reg::select(inside, made, k.value(0.0)));
                }
            }
        };
        let add_chunk = |first: Reg<'k, U32>| {
            let end = (width - first).min(CHUNK);
            // The warp's second half does what the first does.
            let lane = thread & (LANES as u32 - 1);
            k.for_(0, end, ADDED_TOGETHER * LANES as u32, |i| {
                let runs = (0..ADDED_TOGETHER as usize).map(|run| {
                    let of = |term| self.chunk(first, term).at(i + lane).plus(run * LANES).load();
                    std::array::from_fn(of)
                });
                let runs: Vec<[Reg<F32>; TERMS]> = runs.collect();
                runs.into_iter().for_each(&add);
            });
        };
        k.for_(0, width + CHUNK, CHUNK, |first| {
            let make = || k.if_(first.lt(width), || make_chunk(first));
            let add = || k.if_(first.ne(0), || add_chunk(first - CHUNK));
            k.if_else(thread.lt(MAKERS), make, add);
            k.barrier();
        });
        thread - MAKERS
    }
}

/// The largest of a block's numbers; every thread gets it.
fn largest_of_block<'k>(k: &'k Body, x: Reg<'k, F32>) -> Reg<'k, F32> {
    let warps = k.shared::<F32>(THREADS / WARP);
    let of_half = tree(k, x, |a, b| a.max(b));
    let of_warp = of_half.max(k.shuffle_xor(of_half, LANES as u32));
    let (warp, lane) = (k.thread() >> WARP.ilog2(), k.thread() & (WARP - 1));
    k.if_(lane.eq(0), || warps.at(warp).store(of_warp));
    k.barrier();
    let all = (0..(THREADS / WARP) as usize).map(|warp| warps.plus(warp).load());
    all.reduce(|a, b| a.max(b)).expect("there are warps")
}
