//! Weighted cross-entropy of scores, for the GPU: the CPU's order of summation and bits.
//!
//! A row is a [`Team`]'s. The forbidden word is a parameter, above all words where there is none.

use crate::num::Num;
use crate::ptx::rows::{Place, TOGETHER, in_batches};
use crate::ptx::teams::TeamRow;
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, Team, U32};

/// Threads of a block that goes along words,
const THREADS: u32 = 128;
/// and the words that it takes.
const WORDS: u32 = THREADS * TOGETHER;

/// Each row's log-sum-exp, and its loss wᵣ·(lse − z of the right word) in float64, which
/// [`add_parts`](crate::reduce::ptx::add_parts) adds up. Parameters: scores, ids (u32), weights
/// (float64), lse, losses, rows, words, forbidden. The extent of the grid is the rows.
pub fn forward(team: Team) -> Kernel {
    let name = format!("cross_entropy{}", team.suffix());
    Kernel::new(&name, team.threads(), team.per_block(), |k| write_forward(k, team))
}

fn write_forward<'k>(k: &'k Body, team: Team) {
    let Rows { scores, ids, weights, lse: lse_out } = Rows::parameters(k);
    let losses = k.global::<F64>("losses");
    let [rows, words, forbidden] = ["rows", "words", "forbidden"].map(|name| k.u32(name));
    let team = TeamRow::new(k, team, rows, 1);
    let row = team.row();
    let scores = scores.at(row * words);
    let score = |at: Place<'k>| {
        let is_forbidden = at.column().eq(forbidden);
        Reg::select(is_forbidden, k.value(f32::NEG_INFINITY), at.of(scores))
    };
    let largest = team.largest(words, score);
    let [lse] = team.sums(
        words,
        score,
        |score| [(score - largest).exp()],
        |[sum], [e]| sum.add(e),
        |[sum]| [largest + sum.ln()],
    );
    team.once(|| {
        lse_out.at(row).store(lse);
        let right = scores.at(ids.at(row).load()).load();
        losses.at(row).store(weights.at(row).load() * (lse.to_f64() - right.to_f64()));
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

/// Replaces scores by dy·∂loss/∂scores. Parameters: scores, ids (u32), weights (float64), lse, dy
/// (one float32), words, forbidden. The extent of the grid is the rows by the words.
pub fn backward() -> Kernel {
    Kernel::new("cross_entropy_backward", THREADS, [1, WORDS, 1], |k| {
        let Rows { scores, ids, weights, lse } = Rows::parameters(k);
        let dy = k.global::<F32>("dy");
        let [words, forbidden] = ["words", "forbidden"].map(|name| k.u32(name));
        let (row, skipped) = (k.block(0), k.block(1) * WORDS);
        let weight = (dy.load().to_f64() * weights.at(row).load()).to_f32();
        let (lse, right) = (lse.at(row).load(), ids.at(row).load());
        let scores = scores.at(row.mad(words, skipped));
        let mine = [k.thread(), (words - skipped).min(WORDS)];
        in_batches(
            k,
            mine,
            THREADS,
            |at| at.of(scores),
            |at, score| {
                let word = at.column() + skipped;
                let p = (score - lse).exp() * weight;
                let p = Reg::select(word.eq(forbidden), p.lift(0.0), p);
                at.in_row(scores).store(Reg::select(word.eq(right), p - weight, p));
            },
        );
    })
}
