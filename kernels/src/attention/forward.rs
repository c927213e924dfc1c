//! Attention, forward.

use super::head::{Gathered, Head, Tile, scatter};
use super::product::{Weighed, scores, weigh};
use super::softmax::{Finish, Step};
use super::{BITS, KEY_TILE, Output, Problem, QUERY_CHUNK, QUERY_TILE, TASKS};
use crate::gemm::WIDTH;
use crate::lane::LANES;
use crate::par::{self, Cells};
use crate::{Real, count, scratch};

/// Writes the answers O and the log-sum-exp of each segment that has queries.
///
/// Cost: 4·B·H·D·S_q·S_k flop; per thread 2·(S_q + S_k)·D elements of scratch.
/// Panics when the slices do not have the sizes that `problem` implies.
pub fn forward<T: Real>(problem: &Problem<T>, outputs: &mut [Output<T>]) {
    problem.check();
    count::add(problem.flops());
    assert_eq!(outputs.len(), problem.segments.len(), "attention: one output per segment");
    let channels = problem.heads * problem.width;
    let answered = problem.segments.iter().filter(|segment| segment.q.is_some());
    let longest = answered.map(|segment| segment.tokens).max().unwrap_or(0);
    let heads = problem.batch * problem.heads;
    let chunk = if heads < TASKS { QUERY_CHUNK } else { longest.max(1) };
    let mut cells = Vec::new();
    for (segment, out) in problem.segments.iter().zip(outputs) {
        let tokens = if segment.q.is_some() { segment.tokens } else { 0 };
        assert_eq!(out.o.len(), problem.batch * tokens * channels, "attention: o");
        assert_eq!(out.lse.len(), problem.batch * tokens * problem.heads, "attention: lse");
        cells.push((
            Cells::new(out.o, [tokens, channels], [chunk, problem.width]),
            Cells::new(out.lse, [problem.heads, tokens], [1, chunk]),
        ));
    }
    let chunks = longest.div_ceil(chunk);
    par::for_each(heads * chunks, problem.nanoseconds(problem.flops()), |task| {
        let (i, task) = (task % chunks, task / chunks);
        let at = [task / problem.heads, task % problem.heads];
        let tokens = i * chunk..(i + 1) * chunk;
        let head = Head::new(problem, at, tokens, |_| true);
        answer(&head, |segment| {
            let (o, lse) = &cells[segment];
            (o.take(head.b, [i, head.h]), lse.take(head.b, [head.h, i]))
        });
    });
}

/// Gathers one head, attends, and scatters into the cells (o, lse) of each segment.
fn answer<'a, T: Real>(
    head: &Head<T>,
    cells: impl Fn(usize) -> (par::Cell<'a, T>, par::Cell<'a, T>),
) {
    let Problem { width, segments, scale, .. } = *head.problem;
    let ([nq, nk], padded) = (head.size(), head.problem.padded());
    let columns = nk.next_multiple_of(LANES);
    let [tile, sums] = [WIDTH, LANES].map(|width| QUERY_TILE.min(nq) * width);
    let lens = [nq * padded, nq * padded, nk * padded, columns * width, tile, nq, sums];
    scratch::with(lens, |[q, o, v, keys_t, tile, shift, sum]| {
        let queries = |i: usize| segments[i].q.expect("the segment has queries");
        let keys = (&mut *keys_t, T::from_f64(scale * BITS));
        let [to_q, to_k, to_v] = [
            Gathered { rows: Some(&mut *q), ..Gathered::default() },
            Gathered { transposed: Some(keys), ..Gathered::default() },
            Gathered { panels: Some(&mut *v), ..Gathered::default() },
        ];
        head.gather(&head.queries, queries, to_q);
        head.gather(&head.keys, |i| segments[i].k, to_k);
        head.gather(&head.keys, |i| segments[i].v, to_v);

        let sum = sum.as_chunks_mut().0;
        Work { q, keys_t, v, o, shift, sum, tile }.attend(head);

        let mut first = 0;
        for span in &head.queries {
            let n = span.tokens.len();
            let (mut out, mut lse) = cells(span.segment);
            scatter(&o[first * padded..][..n * padded], padded, T::ONE, &mut out);
            lse.row(0).copy_from_slice(&shift[first..][..n]);
            first += n;
        }
    });
}

/// The gathered rows of one head, and what becomes of them. Rows are padded to whole sixteens.
struct Work<'a, T> {
    q: &'a [T],
    /// scale·Kᵀ in panels, for scores in bits.
    keys_t: &'a [T],
    /// In panels.
    v: &'a [T],
    o: &'a mut [T],
    /// What each query's scores are relative to, in the end their log-sum-exp.
    shift: &'a mut [T],
    /// Sum of the exponentials of each query of a tile, by lanes.
    sum: &'a mut [[T; LANES]],
    /// One tile of scores, then of P.
    tile: &'a mut [T],
}

impl<T: Real> Work<'_, T> {
    /// Answers all queries, a tile of them at a time.
    fn attend(self, head: &Head<T>) {
        let ([nq, nk], padded, width) = (head.size(), head.problem.padded(), head.problem.width);
        if nk == 0 {
            self.o.fill(T::ZERO);
            self.shift.fill(T::NEG_INFINITY);
            return;
        }
        for query in (0..nq).step_by(QUERY_TILE) {
            let n = QUERY_TILE.min(nq - query);
            let q = (&self.q[query * padded..], padded);
            let o = &mut self.o[query * padded..][..n * padded];
            let (shift, sum) = (&mut self.shift[query..][..n], &mut self.sum[..n]);
            for key in (0..nk).step_by(KEY_TILE) {
                let keys = KEY_TILE.min(nk - key);
                let data = self.tile.as_chunks_mut().0;
                let mut tile = Tile { data, rows: n, columns: keys };
                scores(q, &self.keys_t[key * width..], width, &mut tile);
                head.add_bias([query, key], &mut tile);
                T::dispatch(Step { tile: &mut tile, shift, sum, o, padded, first: key == 0 });
                let v = Weighed::new(self.v, nk, key);
                weigh::<T, false>(&tile, v, (o, padded), key > 0);
            }
            T::dispatch(Finish { shift, sum, o, padded });
        }
    }
}
