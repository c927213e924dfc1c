//! Forward, in float32.
//!
//! ```text
//! for each segment, for each 64 of its keys
//!     S = Q·Kᵀ    t = (scale·S + bias)·log₂e
//!     m′ = max(m, max t)    p = 2^(t − m′)    l = l·2^(m − m′) + Σ p    O = O·2^(m − m′) + P·V
//! O/l, and LSE = m·ln 2 + ln l
//! ```

use std::f32::consts::{LN_2, LOG2_E};

use super::super::{Bias, Segment, View, finite};
use super::Exact;
use super::tiles::{COLUMNS, EACH, Head, Part, ROWS_EACH, SIDE, Tile, Tiles, of_rows};
use crate::num::Num;
use crate::ptx::{Body, F32, Reg, Stored, Var};

pub(super) fn write<S: Stored>(k: &Body, exact: &Exact) {
    let head = Head::new(k, exact.width);
    let q = View::<S>::parameters(k, "q", head.channel);
    let segments: Vec<_> =
        (0..exact.segments).map(|i| Segment::<S>::parameters(k, i, head.channel)).collect();
    let bias = exact.bias.then(|| Bias::parameters(k, segments.len(), "key", head.number));
    let [o, lse] = ["o", "lse"].map(|name| k.global::<F32>(name));
    let (queries, heads, scale) = (k.u32("queries"), k.u32("heads"), k.f32("scale"));

    let first_query = k.block(0) * SIDE;
    let tiles = Tiles::new(k, exact.width, [first_query, queries]);
    let [q_tile, v_tile] = [(); 2].map(|()| Tile::new(k, exact.width));
    let weights = Tile::new(k, SIDE);
    let k_tile = weights.instead(exact.width);
    let q = Part { view: q, first: first_query, end: queries };
    let rows = tiles.rows(first_query);
    let softmax = Softmax::new(k, &tiles);
    let scale = scale * LOG2_E;
    if tiles.are_whole() {
        tiles.load(q_tile, q, head.first);
    }
    for (number, segment) in segments.iter().enumerate() {
        let end = segment.len;
        k.for_(0, end, SIDE, |first| {
            let n = (end - first).min(SIDE);
            tiles.load(v_tile, Part { view: segment.v, first, end }, head.first);
            let scores = tiles.scores();
            tiles.each_panel(|channel| {
                if !tiles.are_whole() {
                    tiles.load(q_tile, q, channel);
                }
                tiles.load(k_tile, Part { view: segment.k, first, end }, channel);
                k.barrier();
                tiles.multiply([q_tile, k_tile], n, &scores);
                k.note("P or the next panel takes the place of K");
                k.barrier();
            });
            let keys = tiles.columns(first);
            let scores: Vec<_> = (0..EACH)
                .map(|i| {
                    let (row, column) = (rows[i / keys.len()], i % keys.len());
                    let (score, is_key) = (scores[i].get() * scale, keys[column].lt(end));
                    let score = bias.as_ref().map_or(score, |bias| {
                        let bias = bias.at(row, bias.first[number] + keys[0]);
                        let bias = bias.plus(COLUMNS[column] as usize);
                        let bias = bias.load_where(is_key & row.lt(queries), 0.0);
                        bias.mul_add(k.value(LOG2_E), score)
                    });
                    Reg::select(is_key, score, k.value(f32::NEG_INFINITY))
                })
                .collect();
            tiles.store_scores(weights, &softmax.step(&scores));
            k.barrier();
            tiles.accumulate([weights, v_tile], n, &softmax.answer);
            k.note("the next tiles take these places");
            k.barrier();
        });
    }
    let logarithms = softmax.finish();
    tiles.store(o, &softmax.answer, first_query, [queries, heads], head);
    for (row, value) in rows.into_iter().zip(logarithms) {
        k.if_(row.lt(queries) & tiles.is_first() & head.first.eq(0), || {
            lse.at(of_rows(k, head.number, [queries, heads], row)).store(value);
        });
    }
}

/// The online softmax of a thread's rows, each with the other threads that have some of it. Scores
/// are in units of ln 2.
struct Softmax<'t, 'k> {
    tiles: &'t Tiles<'k>,
    /// O, not yet divided by l.
    answer: Vec<Var<'k, F32>>,
    /// m, and l of this thread's columns.
    largest: Vec<Var<'k, F32>>,
    sum: Vec<Var<'k, F32>>,
}

impl<'t, 'k> Softmax<'t, 'k> {
    fn new(k: &'k Body, tiles: &'t Tiles<'k>) -> Self {
        let of_rows = |first| k.vars(ROWS_EACH, first);
        let (largest, sum) = (of_rows(f32::NEG_INFINITY), of_rows(0.0));
        Softmax { tiles, answer: tiles.answer(), largest, sum }
    }

    /// p of these scores; the answers so far are made to fit them.
    fn step(&self, scores: &[Reg<'k, F32>]) -> Vec<Reg<'k, F32>> {
        let each = self.answer.len() / ROWS_EACH;
        let mut weights = Vec::with_capacity(scores.len());
        for (row, scores) in scores.chunks(COLUMNS.len()).enumerate() {
            let old = self.largest[row].get();
            let of_thread = scores.iter().copied().reduce(Reg::max_number);
            let of_thread = of_thread.expect("there are columns");
            let largest = self.tiles.among_columns(of_thread, Reg::max_number).max_number(old);
            self.largest[row].set(largest);
            // Of a row without any score yet, 0 avoids −∞ − −∞.
            let shift = finite(largest);
            let shrink = (old - shift).exp2_approximate();
            self.sum[row].scale(shrink);
            self.answer[row * each..][..each].iter().for_each(|part| part.scale(shrink));
            for score in scores {
                let p = (*score - shift).exp2_approximate();
                self.sum[row].add(p);
                weights.push(p);
            }
        }
        weights
    }

    /// Divides O by l, and answers the log-sum-exp of each row. One without any score has attended
    /// to nothing.
    fn finish(&self) -> Vec<Reg<'k, F32>> {
        let each = self.answer.len() / ROWS_EACH;
        let rows = self.largest.iter().zip(&self.sum).zip(self.answer.chunks(each));
        rows.map(|((largest, sum), answer)| {
            let sum = self.tiles.among_columns(sum.get(), |a, b| a + b);
            let largest = largest.get();
            let none = largest.eq(f32::NEG_INFINITY);
            let factor = Reg::select(none, sum.lift(0.0), sum.recip());
            answer.iter().for_each(|part| part.scale(factor));
            Reg::select(none, largest, largest * LN_2 + sum.ln())
        })
        .collect()
    }
}
