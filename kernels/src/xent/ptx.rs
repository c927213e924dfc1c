//! Weighted cross-entropy of scores, for the GPU: the CPU's order of summation and bits.
//!
//! A row is a half-warp's or, for vocabularies of thousands of words, a block's (`_wide`): otherwise the
//! rows of a step would leave most of a card idle. The forbidden word is a parameter, above all words
//! where there is none.

use crate::lane::LANES;
use crate::num::Num;
use crate::ptx::rows::{ROW_THREADS, ROWS_PER_BLOCK, RowLane, tree};
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, U32, WARP};

/// Threads of a block that has a row to itself,
const THREADS: u32 = 256;
/// scores that each takes at once,
const EACH: u32 = 4;
/// and those of the block.
const CHUNK: u32 = THREADS * EACH;

/// Each row's log-sum-exp, and its loss wᵣ·(lse − z of the right word) in float64, which
/// [`add_parts`](crate::reduce::ptx::add_parts) adds up. Parameters: scores, ids (u32), weights
/// (float64), lse, losses, rows, words, forbidden. The extent of the grid is the rows.
pub fn forward() -> Kernel {
    Kernel::new("cross_entropy", ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| {
        let forward = Forward::parameters(k);
        let lane = RowLane::new(k, forward.sizes.rows);
        let score = forward.scores_of(lane.row);
        let largest = k.var::<F32>(f32::NEG_INFINITY);
        lane.each(forward.sizes.words, |c| largest.set(largest.get().max(score(c))));
        let largest = lane.largest(largest.get());
        let sum = k.var::<F32>(0.0);
        lane.each(forward.sizes.words, |c| sum.add((score(c) - largest).exp()));
        let lse = largest + lane.sum(sum.get()).ln();
        k.if_(lane.valid & lane.lane.eq(0), || forward.write(lane.row, lse));
    })
}

/// The same, a block a row.
///
/// All threads make exponentials, a chunk at a time in shared memory; a warp adds them from there,
/// in the CPU's sixteen lanes, while the others make the next chunk.
pub fn forward_wide() -> Kernel {
    Kernel::new("cross_entropy_wide", THREADS, [1, 1, 1], write_forward_wide)
}

fn write_forward_wide<'k>(k: &'k Body) {
    let forward = Forward::parameters(k);
    let (row, thread, words) = (k.block(0), k.thread(), forward.sizes.words);
    let score = forward.scores_of(row);
    let places = |first: Reg<'k, U32>| {
        let place = first + thread;
        (0..EACH).map(move |i| place + i * THREADS)
    };
    let largest = k.var::<F32>(f32::NEG_INFINITY);
    k.for_(0, words, CHUNK, |first| {
        let scores: Vec<_> = places(first).map(&score).collect();
        scores.into_iter().for_each(|score| largest.set(largest.get().max(score)));
    });
    let largest = largest_of_block(k, largest.get());

    let exponentials = k.shared::<F32>(2 * CHUNK);
    let (sum, slot) = (k.var::<F32>(0.0), k.var::<U32>(0));
    k.for_(0, words, CHUNK, |first| {
        let chunk = exponentials.at(slot.get());
        let mine = chunk.at(thread);
        for (i, score) in places(first).map(&score).collect::<Vec<_>>().into_iter().enumerate() {
            mine.plus(i * THREADS as usize).store((score - largest).exp());
        }
        k.barrier();
        k.if_(thread.lt(WARP), || {
            // The second half-warp does what the first does.
            let lane = chunk.at(thread % LANES as u32);
            for i in 0..CHUNK as usize / LANES {
                sum.add(lane.plus(i * LANES).load());
            }
        });
        slot.set(slot.get() ^ CHUNK);
    });
    k.if_(thread.lt(WARP), || {
        let lse = largest + tree(k, sum.get(), |a, b| a + b).ln();
        k.if_(thread.eq(0), || forward.write(row, lse));
    });
}

/// The rows, as every kernel begins its parameters.
struct Rows<'k> {
    scores: Global<'k, F32>,
    ids: Global<'k, U32>,
    weights: Global<'k, F64>,
    lse: Global<'k, F32>,
}

impl<'k> Rows<'k> {
    fn parameters(k: &'k Body) -> Self {
        let (scores, ids) = (k.global("scores"), k.global("ids"));
        Rows { scores, ids, weights: k.global("weights"), lse: k.global("lse") }
    }
}

/// How many there are and of what length, and the forbidden word.
struct Sizes<'k> {
    rows: Reg<'k, U32>,
    words: Reg<'k, U32>,
    forbidden: Reg<'k, U32>,
}

impl<'k> Sizes<'k> {
    fn parameters(k: &'k Body) -> Self {
        Sizes { rows: k.u32("rows"), words: k.u32("words"), forbidden: k.u32("forbidden") }
    }
}

/// The arguments of a forward kernel.
struct Forward<'k> {
    all: Rows<'k>,
    losses: Global<'k, F64>,
    sizes: Sizes<'k>,
}

impl<'k> Forward<'k> {
    fn parameters(k: &'k Body) -> Self {
        let all = Rows::parameters(k);
        Forward { all, losses: k.global("losses"), sizes: Sizes::parameters(k) }
    }

    /// The scores of a row: −∞ for the forbidden word, and beyond the last.
    fn scores_of(&self, row: Reg<'k, U32>) -> impl Fn(Reg<'k, U32>) -> Reg<'k, F32> + use<'k> {
        let Sizes { words, forbidden, .. } = self.sizes;
        let scores = self.all.scores.at(row * words);
        move |c| scores.at(c).load_where(c.lt(words) & c.ne(forbidden), f32::NEG_INFINITY)
    }

    fn write(&self, row: Reg<'k, U32>, lse: Reg<'k, F32>) {
        let Rows { scores, ids, weights, .. } = self.all;
        self.all.lse.at(row).store(lse);
        let right = scores.at(row * self.sizes.words).at(ids.at(row).load()).load();
        let loss = weights.at(row).load() * (lse.to_f64() - right.to_f64());
        self.losses.at(row).store(loss);
    }
}

/// The largest of a block's numbers; every thread gets it.
fn largest_of_block<'k>(k: &'k Body, x: Reg<'k, F32>) -> Reg<'k, F32> {
    let warps = k.shared::<F32>(THREADS / WARP);
    let of_half = tree(k, x, |a, b| a.max(b));
    let of_warp = of_half.max(k.shuffle_xor(of_half, LANES as u32));
    k.if_((k.thread() % WARP).eq(0), || warps.at(k.thread() / WARP).store(of_warp));
    k.barrier();
    let all = (0..(THREADS / WARP) as usize).map(|warp| warps.plus(warp).load());
    all.reduce(|a, b| a.max(b)).expect("there are warps")
}

/// Replaces scores by dy·∂loss/∂scores. Parameters: scores, ids (u32), weights (float64), lse, dy
/// (one float32), rows, words, forbidden. The extent of the grid is the rows.
pub fn backward() -> Kernel {
    Kernel::new("cross_entropy_backward", ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| {
        let backward = Backward::parameters(k);
        let lane = RowLane::new(k, backward.sizes.rows);
        k.if_(lane.valid, || {
            let slope = backward.slope(k, lane.row);
            lane.each(backward.sizes.words, slope);
        });
    })
}

/// The same, a block a row.
pub fn backward_wide() -> Kernel {
    Kernel::new("cross_entropy_backward_wide", THREADS, [1, 1, 1], |k| {
        let backward = Backward::parameters(k);
        k.for_(k.thread(), backward.sizes.words, THREADS, backward.slope(k, k.block(0)));
    })
}

/// The arguments of a backward kernel.
struct Backward<'k> {
    all: Rows<'k>,
    dy: Global<'k, F32>,
    sizes: Sizes<'k>,
}

impl<'k> Backward<'k> {
    fn parameters(k: &'k Body) -> Self {
        let all = Rows::parameters(k);
        Backward { all, dy: k.global("dy"), sizes: Sizes::parameters(k) }
    }

    /// What replaces the score of a word of a row.
    fn slope(&self, k: &'k Body, row: Reg<'k, U32>) -> impl Fn(Reg<'k, U32>) + use<'k> {
        let Rows { scores, ids, weights, lse } = self.all;
        let Sizes { words, forbidden, .. } = self.sizes;
        let scores = scores.at(row * words);
        let (lse, right) = (lse.at(row).load(), ids.at(row).load());
        let weight = (self.dy.load().to_f64() * weights.at(row).load()).to_f32();
        move |c| {
            let place = scores.at(c);
            let p = (place.load() - lse).exp() * weight;
            let p = Reg::select(c.eq(forbidden), k.value::<F32>(0.0), p);
            place.store(Reg::select(c.eq(right), p - weight, p));
        }
    }
}
