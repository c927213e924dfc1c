//! Attention, forward.
//!
//! ```text
//! the block's queries to shared memory, and from there to registers: they stay
//! for each segment, for each 64 of its keys
//!     wait until K and V have arrived; barrier      and the other slot is free again
//!     begin to copy the next 64 into it
//!     S = Q·Kᵀ    t = (scale·S + bias)·log₂e
//!     m′ = max(m, max t)    p = 2^(t − m′)    l = l·2^(m − m′) + Σ p    O = O·2^(m − m′) + P·V
//! O/l, and LSE = (m + log₂ l)·ln 2
//! ```
//!
//! The sums of one product are laid out as the left operand of the next, so that P never leaves
//! the registers. Source: Dao 2023, "FlashAttention-2", algorithm 1.

use std::f32::consts::{LN_2, LOG2_E};

use super::{
    Attention, Bias, ROWS, Segment, View, WARP_ROWS, accumulate, copy_rows, multiply, place,
    store_rows,
};
use crate::num::Num;
use crate::ptx::mma::Sums;
use crate::ptx::tile::{Rows, Side, Tile};
use crate::ptx::{B32, Bf16, Body, F32, Pred, Reg, Shared, U32, Var, WARP};

/// Keys of a tile.
const KEYS: u32 = 64;

pub(super) fn write(k: &Body, attention: &Attention) {
    let Attention { width, segments, .. } = *attention;
    let channel = k.block(1) * width;
    let q = View::parameters(k, "q", channel);
    let segments: Vec<_> = (0..segments).map(|i| Segment::parameters(k, i, channel)).collect();
    let bias = attention.bias.then(|| Bias::parameters(k, segments.len(), "key", k.block(1)));
    let (o, lse) = (k.global::<F32>("o"), k.global::<F32>("lse"));
    let (queries, heads, scale) = (k.u32("queries"), k.u32("heads"), k.f32("scale"));

    let first_query = k.block(0) * ROWS;
    let warp_row = k.thread() / WARP * WARP_ROWS;
    let [row, column] = place(k);
    let tile = Tile::new(k, [1, ROWS, width]);
    copy_rows(k, &tile, [ROWS, width], q, [first_query, queries], k.value(0));
    k.commit_copies();
    let keys = Tile::new(k, [2, KEYS, width]);
    let values = Tile::new(k, [2, KEYS, width]);
    k.wait_copies(0);
    k.barrier();
    let q = (0..width).step_by(16).map(|depth| {
        let place = tile.fragment(Side::Left, Rows::AlongSum, warp_row, k.value(depth));
        place.load_matrices(false)
    });
    let warp = Warp {
        k,
        q: q.collect(),
        keys: (0..width)
            .step_by(16)
            .map(|d| keys.fragment(Side::Right, Rows::AlongSum, k.value(0), k.value(d)))
            .collect(),
        values: (0..width)
            .step_by(16)
            .map(|d| values.fragment(Side::Right, Rows::AcrossSum, k.value(d), k.value(0)))
            .collect(),
        answer: (0..width / 8).map(|_| Sums::new(k)).collect(),
        largest: [k.var(f32::NEG_INFINITY), k.var(f32::NEG_INFINITY)],
        sum: [k.var(0.0), k.var(0.0)],
        row: first_query + row,
        column,
    };
    for (number, segment) in segments.iter().enumerate() {
        if number > 0 {
            k.note("the last segment's tiles are free");
            k.wait_copies(0);
            k.barrier();
        }
        let copy = |slot: Reg<'_, U32>, first| {
            let slot = slot * (KEYS * width);
            copy_rows(k, &keys, [KEYS, width], segment.k, [first, segment.len], slot);
            copy_rows(k, &values, [KEYS, width], segment.v, [first, segment.len], slot);
            k.commit_copies();
        };
        copy(k.value(0), k.value(0));
        let slot = k.var::<U32>(0);
        k.for_(0, segment.len, KEYS, |first| {
            k.wait_copies(0);
            k.barrier();
            let now = slot.get();
            copy(now ^ 1, first + KEYS);
            slot.set(now ^ 1);
            let now = now * (KEYS * width);
            let scores = warp.scores(now, scale * LOG2_E);
            if let Some(bias) = &bias {
                warp.add_bias(&scores, bias, bias.first[number], first, [queries, segment.len]);
            }
            k.if_((first + KEYS).ge(segment.len + 1), || {
                warp.each_score(&scores, |_, score, column| {
                    score.set_where((first + column).ge(segment.len), f32::NEG_INFINITY);
                });
            });
            warp.step(&scores, now);
        });
    }
    warp.finish();
    store_rows(k, o, &warp.answer, first_query, [queries, heads]);
    for (half, (largest, sum)) in (0..).zip(warp.largest.into_iter().zip(warp.sum)) {
        let row = warp.row + 8 * half;
        k.if_(row.lt(queries) & column.eq(0), || {
            let (m, l) = (largest.get(), sum.get());
            let value = m.mul_add(m.lift(LN_2.into()), l.ln());
            let value = Reg::select(m.eq(f32::NEG_INFINITY), m, value);
            lse.at(k.block(2).mad(heads, k.block(1)).mad(queries, row)).store(value);
        });
    }
}

/// What a warp has in registers: of each lane two rows, `row` and eight further down.
struct Warp<'k> {
    k: &'k Body,
    /// Left fragments of Q along D.
    q: Vec<[Reg<'k, B32>; 4]>,
    /// Where fragments are of the first 16 keys along D,
    keys: Vec<Shared<'k, Bf16>>,
    /// and of the first 16 values across D.
    values: Vec<Shared<'k, Bf16>>,
    /// O, not yet divided by l.
    answer: Vec<Sums<'k>>,
    /// m and l of both rows; l of this lane's columns only.
    largest: [Var<'k, F32>; 2],
    sum: [Var<'k, F32>; 2],
    row: Reg<'k, U32>,
    /// The first column of this lane in every 8.
    column: Reg<'k, U32>,
}

impl<'k> Warp<'k> {
    /// factor·Q·Kᵀ for the keys of a slot, by 8 of them.
    fn scores(&self, slot: Reg<'k, U32>, factor: Reg<'k, F32>) -> Vec<Sums<'k>> {
        let keys: Vec<_> = self.keys.iter().map(|keys| keys.at(slot)).collect();
        let scores = multiply(self.k, &self.q, &keys, KEYS);
        self.each_score(&scores, |_, score, _| score.scale(factor));
        scores
    }

    /// Runs `f` with the row (0 or 1), the place and the column of each score of this lane.
    fn each_score(&self, scores: &[Sums<'k>], f: impl Fn(usize, Var<'k, F32>, Reg<'k, U32>)) {
        for (j, scores) in (0..).zip(scores) {
            for (i, &score) in scores.parts().iter().enumerate() {
                f(i / 2, score, self.column + (8 * j + i as u32 % 2));
            }
        }
    }

    /// Adds bias·log₂e to scores of queries and keys that exist.
    fn add_bias(
        &self,
        scores: &[Sums<'k>],
        bias: &Bias<'k>,
        first_of_segment: Reg<'k, U32>,
        first: Reg<'k, U32>,
        [queries, keys]: [Reg<'k, U32>; 2],
    ) {
        let rows: [(_, Reg<Pred>); 2] = [0, 8].map(|down| {
            let row = self.row + down;
            (bias.at(row, first_of_segment), row.lt(queries))
        });
        self.each_score(scores, |half, score, column| {
            let (data, exists) = rows[half];
            let key = first + column;
            let x = data.at(key).load_where(exists & key.lt(keys), 0.0);
            score.add(x * LOG2_E);
        });
    }

    /// One step of the online softmax, and O += P·V.
    fn step(&self, scores: &[Sums<'k>], slot: Reg<'k, U32>) {
        for half in 0..2 {
            let parts = || scores.iter().flat_map(|s| s.parts()[2 * half..][..2].to_vec());
            let old = self.largest[half].get();
            let mut largest = old;
            for score in parts() {
                largest = largest.max_number(score.get());
            }
            for mask in [1, 2] {
                largest = largest.max_number(self.k.shuffle_xor(largest, mask));
            }
            self.largest[half].set(largest);
            // A row without any score yet: 0 avoids −∞ − −∞.
            let none = largest.eq(f32::NEG_INFINITY);
            let shift = Reg::select(none, largest.lift(0.0), largest);
            let shrink = (old - shift).exp2_approximate();
            self.sum[half].scale(shrink);
            for score in parts() {
                let p = (score.get() - shift).exp2_approximate();
                score.set(p);
                self.sum[half].add(p);
            }
            for answer in &self.answer {
                answer.parts()[2 * half..][..2].iter().for_each(|part| part.scale(shrink));
            }
        }
        let values: Vec<_> = self.values.iter().map(|values| values.at(slot)).collect();
        accumulate(&self.answer, scores, &values);
    }

    /// Completes l, and divides O by it; a row without any score has attended to nothing.
    fn finish(&self) {
        for half in 0..2 {
            let mut sum = self.sum[half].get();
            for mask in [1, 2] {
                sum = sum + self.k.shuffle_xor(sum, mask);
            }
            self.sum[half].set(sum);
            let none = self.largest[half].get().eq(f32::NEG_INFINITY);
            let factor = Reg::select(none, sum.lift(0.0), sum.recip());
            for answer in &self.answer {
                answer.parts()[2 * half..][..2].iter().for_each(|part| part.scale(factor));
            }
        }
    }
}
