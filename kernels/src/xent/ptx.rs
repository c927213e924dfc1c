//! Weighted cross-entropy of scores, for the GPU: the CPU's order of summation and bits.
//!
//! The forbidden word is a parameter, above all words where there is none.

use crate::num::Num;
use crate::ptx::rows::{ROW_THREADS, ROWS_PER_BLOCK, RowLane};
use crate::ptx::{Body, F32, F64, Kernel, Reg, U32};

/// Each row's log-sum-exp, and its loss wᵣ·(lse − z of the right word) in float64, which
/// [`add_parts`](crate::reduce::ptx::add_parts) adds up. Parameters: scores, ids (u32), weights
/// (float64), lse, losses, rows, words, forbidden. The extent of the grid is the rows.
pub fn forward() -> Kernel {
    Kernel::new("cross_entropy", ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], write_forward)
}

fn write_forward<'k>(k: &'k Body) {
    let (scores, ids) = (k.global::<F32>("scores"), k.global::<U32>("ids"));
    let weights = k.global::<F64>("weights");
    let (lse_out, losses) = (k.global::<F32>("lse"), k.global::<F64>("losses"));
    let [rows, words, forbidden] = ["rows", "words", "forbidden"].map(|name| k.u32(name));
    let lane = RowLane::new(k, rows);
    let scores = scores.at(lane.row * words);
    let score = |c: Reg<'k, U32>| scores.at(c).load_where(c.ne(forbidden), f32::NEG_INFINITY);
    let largest = k.var::<F32>(f32::NEG_INFINITY);
    lane.each(words, |c| largest.set(largest.get().max(score(c))));
    let largest = lane.largest(largest.get());
    let sum = k.var::<F32>(0.0);
    lane.each(words, |c| sum.add((score(c) - largest).exp()));
    let lse = largest + lane.sum(sum.get()).ln();
    k.if_(lane.valid & lane.lane.eq(0), || {
        lse_out.at(lane.row).store(lse);
        let right = scores.at(ids.at(lane.row).load()).load();
        let loss = weights.at(lane.row).load() * (lse.to_f64() - right.to_f64());
        losses.at(lane.row).store(loss);
    });
}

/// Replaces scores by dy·∂loss/∂scores. Parameters: scores, ids (u32), weights (float64), lse,
/// rows, words, forbidden, dy (float64). The extent of the grid is the rows.
pub fn backward() -> Kernel {
    Kernel::new("cross_entropy_backward", ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| {
        let (scores, ids) = (k.global::<F32>("scores"), k.global::<U32>("ids"));
        let (weights, lse) = (k.global::<F64>("weights"), k.global::<F32>("lse"));
        let [rows, words, forbidden] = ["rows", "words", "forbidden"].map(|name| k.u32(name));
        let dy = k.f64("dy");
        let lane = RowLane::new(k, rows);
        k.if_(lane.valid, || {
            let scores = scores.at(lane.row * words);
            let (lse, right) = (lse.at(lane.row).load(), ids.at(lane.row).load());
            let weight = (dy * weights.at(lane.row).load()).to_f32();
            lane.each(words, |c| {
                let place = scores.at(c);
                let p = (place.load() - lse).exp() * weight;
                let p = Reg::select(c.eq(forbidden), k.value::<F32>(0.0), p);
                place.store(Reg::select(c.eq(right), p - weight, p));
            });
        });
    })
}
