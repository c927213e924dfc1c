//! Forward, in float32.
//!
//! ```text
//! for each segment, for each 64 of its keys
//!     S = Q·Kᵀ    t = scale·S + bias
//!     m′ = max(m, max t)    p = exp(t − m′)    l = l·exp(m − m′) + Σ p    O = O·exp(m − m′) + P·V
//! O/l, and LSE = m + ln l
//! ```

use super::super::{Bias, Segment, View, finite};
use super::tile::{COLUMNS, COLUMNS_EACH, ROWS, ROWS_EACH};
use super::{EACH, Exact, Head, Part, Tiles, of_rows};
use crate::num::Num;
use crate::ptx::rows::tree;
use crate::ptx::{Body, F32, Reg, Stored, Var};

pub(super) fn write<S: Stored>(k: &Body, exact: &Exact) {
    let head = Head::parameters(k);
    let q = View::<S>::parameters(k, "q", head.channel);
    let segments: Vec<_> =
        (0..exact.segments).map(|i| Segment::<S>::parameters(k, i, head.channel)).collect();
    let bias = exact.bias.then(|| Bias::parameters(k, segments.len(), "key", head.number));
    let [o, lse] = ["o", "lse"].map(|name| k.global::<F32>(name));
    let (queries, heads, scale) = (k.u32("queries"), k.u32("heads"), k.f32("scale"));

    let first_query = k.block(0) * ROWS;
    let tiles = Tiles::new(k, head.width, [first_query, queries]);
    let q = Part { view: q, first: first_query, end: queries };
    let rows = tiles.rows(first_query);
    let softmax = Softmax::new(k);
    for (number, segment) in segments.iter().enumerate() {
        let end = segment.len;
        k.for_(0, end, COLUMNS, |first| {
            let scores = tiles.multiply(q, Part { view: segment.k, first, end });
            let keys = tiles.columns(first);
            let scores: Vec<_> = (0..EACH)
                .map(|i| {
                    let (row, key) = (rows[i / keys.len()], keys[i % keys.len()]);
                    let (score, is_key) = (scores[i].get() * scale, key.lt(end));
                    let score = bias.as_ref().map_or(score, |bias| {
                        let bias = bias.at(row, bias.first[number] + key);
                        score + bias.load_where(is_key & row.lt(queries), 0.0)
                    });
                    Reg::select(is_key, score, k.value(f32::NEG_INFINITY))
                })
                .collect();
            tiles.store_left(&softmax.step(&scores));
            tiles.load_right(Part { view: segment.v, first, end }, head);
            k.barrier();
            tiles.accumulate((end - first).min(COLUMNS), &softmax.answer);
        });
    }
    let logarithms = softmax.finish();
    tiles.store(o, &softmax.answer, first_query, [queries, heads], head);
    for (row, value) in rows.into_iter().zip(logarithms) {
        k.if_(row.lt(queries) & tiles.column.eq(0) & head.first.eq(0), || {
            lse.at(of_rows(k, head.number, [queries, heads], row)).store(value);
        });
    }
}

/// The online softmax of a thread's rows, each with the other fifteen threads of its half-warp.
struct Softmax<'k> {
    k: &'k Body,
    /// O, not yet divided by l.
    answer: Vec<Var<'k, F32>>,
    /// m, and l of this thread's columns.
    largest: Vec<Var<'k, F32>>,
    sum: Vec<Var<'k, F32>>,
}

impl<'k> Softmax<'k> {
    fn new(k: &'k Body) -> Self {
        let of_rows = |first| k.vars(ROWS_EACH as usize, first);
        let (largest, sum) = (of_rows(f32::NEG_INFINITY), of_rows(0.0));
        Softmax { k, answer: k.vars(EACH, 0.0), largest, sum }
    }

    /// p of these scores; the answers so far are made to fit them.
    fn step(&self, scores: &[Reg<'k, F32>]) -> Vec<Reg<'k, F32>> {
        let each = COLUMNS_EACH as usize;
        let mut weights = Vec::with_capacity(scores.len());
        for (row, scores) in scores.chunks(each).enumerate() {
            let old = self.largest[row].get();
            let of_thread = scores.iter().copied().reduce(Num::max).expect("there are columns");
            let largest = old.max(tree(self.k, of_thread, Num::max));
            self.largest[row].set(largest);
            // Of a row without any score yet, 0 avoids −∞ − −∞.
            let shift = finite(largest);
            let shrink = (old - shift).exp();
            self.sum[row].scale(shrink);
            self.answer[row * each..][..each].iter().for_each(|part| part.scale(shrink));
            for score in scores {
                let p = (*score - shift).exp();
                self.sum[row].add(p);
                weights.push(p);
            }
        }
        weights
    }

    /// Divides O by l, and answers the log-sum-exp of each row; a row without any score has attended
    /// to nothing.
    fn finish(&self) -> Vec<Reg<'k, F32>> {
        let rows =
            self.largest.iter().zip(&self.sum).zip(self.answer.chunks(COLUMNS_EACH as usize));
        rows.map(|((largest, sum), answer)| {
            let (largest, sum) = (largest.get(), tree(self.k, sum.get(), |a, b| a + b));
            let none = largest.eq(f32::NEG_INFINITY);
            let factor = Reg::select(none, sum.lift(0.0), sum.recip());
            answer.iter().for_each(|part| part.scale(factor));
            Reg::select(none, largest, largest + sum.ln())
        })
        .collect()
    }
}
