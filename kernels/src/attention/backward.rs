//! Attention, backward.

use super::head::{Gathered, Head, Tile, scatter};
use super::product::{Weighed, scores, weigh};
use super::softmax::{Backward, Delta};
use super::{BITS, Gradient, KEY_TILE, Problem, QUERY_TILE, Saved, View};
use crate::gemm::WIDTH;
use crate::lane::LANES;
use crate::par::{self, Cell, Cells};
use crate::{Real, count, scratch};

/// Writes the gradients of Q, K and V of each segment, and of the bias where it is wanted.
///
/// With P recomputed from the log-sum-exp and Δ = Σ O∘dO per row:
///
/// ```text
/// dV = Pᵀ·dO     dP = dO·Vᵀ     dS = P∘(dP − Δ)     dQ = scale·dS·K     dK = scale·dSᵀ·Q
/// ```
///
/// `dbias` \[H, queries, keys\] is Σ dS over the samples in order; asking for it makes a task of a
/// head of all samples instead of one.
/// Cost: 10·B·H·D·S_q·S_k flop; per thread 5·(S_q + S_k)·D elements of scratch.
/// Panics when the slices do not have the sizes that `problem` implies.
pub fn backward<T: Real>(
    problem: &Problem<T>,
    saved: &[Saved<T>],
    gradients: &mut [Gradient<T>],
    dbias: Option<&mut [T]>,
) {
    problem.check();
    count::add(5 * problem.flops() / 2);
    assert_eq!(saved.len(), problem.segments.len(), "attention: one saved state per segment");
    assert_eq!(gradients.len(), problem.segments.len(), "attention: one gradient per segment");
    let channels = problem.heads * problem.width;
    let mut cells = Vec::new();
    for ((segment, saved), g) in problem.segments.iter().zip(saved).zip(gradients) {
        let queries = if segment.q.is_some() { segment.tokens } else { 0 };
        let tokens = [queries, segment.tokens, segment.tokens];
        if saved.d_o.is_none() {
            g.dq.fill(T::ZERO);
        }
        cells.push([(0, &mut *g.dq), (1, &mut *g.dk), (2, &mut *g.dv)].map(|(i, d)| {
            assert_eq!(d.len(), problem.batch * tokens[i] * channels, "attention: gradient");
            Cells::new(d, [tokens[i], channels], [tokens[i], problem.width])
        }));
    }
    let bias_shape = [problem.queries(), problem.keys()];
    let dbias = dbias.map(|d| {
        assert_eq!(d.len(), problem.heads * bias_shape[0] * bias_shape[1], "attention: dbias");
        d.fill(T::ZERO);
        Cells::new(d, bias_shape, bias_shape)
    });

    let samples = if dbias.is_some() { problem.batch } else { 1 };
    let tasks = problem.batch.checked_div(samples).unwrap_or(0) * problem.heads;
    par::for_each(tasks, problem.nanoseconds(5 * problem.flops() / 2), |task| {
        let h = task % problem.heads;
        let some = !bias_shape.contains(&0);
        let mut dbias = dbias.as_ref().filter(|_| some).map(|grid| grid.take(h, [0, 0]));
        let first = task / problem.heads * samples;
        for b in first..first + samples {
            let wanted = |segment: usize| saved[segment].d_o.is_some();
            let head = Head::new(problem, [b, h], 0..usize::MAX, wanted);
            propagate(&head, saved, &cells, dbias.as_mut());
        }
    });
}

/// The gradients of one head of one sample.
fn propagate<T: Real>(
    head: &Head<T>,
    saved: &[Saved<T>],
    cells: &[[Cells<T>; 3]],
    dbias: Option<&mut Cell<T>>,
) {
    let Problem { heads, width, segments, scale, .. } = *head.problem;
    let ([nq, nk], padded) = (head.size(), head.problem.padded());
    let columns = nk.next_multiple_of(LANES);
    let tile = QUERY_TILE.min(nq) * WIDTH;
    let (q_len, k_len, t_len) = (nq * padded, nk * padded, columns * width);
    let lens =
        [q_len, q_len, q_len, q_len, q_len, k_len, k_len, k_len, t_len, t_len, tile, tile, nq, nq];
    scratch::with(lens, |scratch| {
        let [q, q_panels, d_o, d_o_panels, dq, k, dk, dv, keys_t, values_t, p, ds, lse, delta] =
            scratch;
        let queries = |i: usize| segments[i].q.expect("the segment has queries");
        let output = |i: usize, o| View::contiguous(o, segments[i].tokens, heads * width);
        let d_output = |i: usize| output(i, saved[i].d_o.unwrap_or_default());
        let rows_and_panels =
            |rows, panels| Gathered { rows: Some(rows), panels: Some(panels), transposed: None };
        head.gather(&head.queries, queries, rows_and_panels(&mut *q, q_panels));
        head.gather(&head.queries, d_output, rows_and_panels(&mut *d_o, d_o_panels));
        // O is only wanted for Δ: it borrows the place of dQ.
        let rows = Gathered { rows: Some(&mut *dq), ..Gathered::default() };
        head.gather(&head.queries, |i| output(i, saved[i].o), rows);
        T::dispatch(Delta { o: dq, d_o, padded, delta });
        let keys = Some((&mut *keys_t, T::from_f64(scale * BITS)));
        let keys = Gathered { rows: None, panels: Some(&mut *k), transposed: keys };
        head.gather(&head.keys, |i| segments[i].k, keys);
        let values = Some((&mut *values_t, T::ONE));
        let values = Gathered { transposed: values, ..Gathered::default() };
        head.gather(&head.keys, |i| segments[i].v, values);
        let mut first = 0;
        for span in &head.queries {
            let n = span.tokens.len();
            let from = &saved[span.segment].lse[(head.b * heads + head.h) * n..][..n];
            lse[first..][..n].copy_from_slice(from);
            first += n;
        }

        let rows = Rows { q, q_panels, d_o, d_o_panels, k, keys_t, values_t, lse, delta };
        rows.visit_tiles(head, [p, ds], [dq, dk, dv], dbias);

        let scale = T::from_f64(scale);
        for (i, (spans, d, scale)) in
            [(&head.queries, dq, scale), (&head.keys, dk, scale), (&head.keys, dv, T::ONE)]
                .into_iter()
                .enumerate()
        {
            let mut first = 0;
            for span in spans.iter().filter(|span| segments[span.segment].tokens > 0) {
                let n = span.tokens.len() * padded;
                let mut out = cells[span.segment][i].take(head.b, [0, head.h]);
                scatter(&d[first..][..n], padded, scale, &mut out);
                first += n;
            }
        }
    });
}

/// The gathered rows of one head, padded to whole sixteens.
struct Rows<'a, T> {
    q: &'a [T],
    q_panels: &'a [T],
    d_o: &'a [T],
    d_o_panels: &'a [T],
    /// In panels.
    k: &'a [T],
    /// scale·Kᵀ in panels, for scores in bits.
    keys_t: &'a [T],
    /// Vᵀ in panels.
    values_t: &'a [T],
    lse: &'a [T],
    /// Δ of each query.
    delta: &'a [T],
}

impl<T: Real> Rows<'_, T> {
    /// Visits every tile of scores once and adds its part to dQ, dK, dV and the bias's gradient.
    fn visit_tiles(
        &self,
        head: &Head<T>,
        [p, ds]: [&mut [T]; 2],
        [dq, dk, dv]: [&mut [T]; 3],
        mut dbias: Option<&mut Cell<T>>,
    ) {
        let ([nq, nk], padded, width) = (head.size(), head.problem.padded(), head.problem.width);
        // Tiles overwrite before they add; without tiles nobody would write.
        if nq == 0 || nk == 0 {
            for d in [dq, dk, dv] {
                d.fill(T::ZERO);
            }
            return;
        }
        for query in (0..nq).step_by(QUERY_TILE) {
            let n = QUERY_TILE.min(nq - query);
            let (q, d_o) = (&self.q[query * padded..], &self.d_o[query * padded..]);
            let q_weighed = Weighed::new(self.q_panels, nq, query);
            let d_o_weighed = Weighed::new(self.d_o_panels, nq, query);
            for key in (0..nk).step_by(KEY_TILE) {
                let keys = KEY_TILE.min(nk - key);
                let [mut p, mut ds] = [&mut *p, &mut *ds].map(|data| Tile {
                    data: data.as_chunks_mut().0,
                    rows: n,
                    columns: keys,
                });
                scores((q, padded), &self.keys_t[key * width..], width, &mut p);
                scores((d_o, padded), &self.values_t[key * width..], width, &mut ds);
                head.add_bias([query, key], &mut p);
                let (lse, delta) = (&self.lse[query..][..n], &self.delta[query..][..n]);
                T::dispatch(Backward { p: &mut p, ds: &mut ds, lse, delta });
                if let Some(dbias) = &mut dbias {
                    head.add_to_bias_gradient([query, key], &ds, dbias);
                }
                let (dk, dv) = (&mut dk[key * padded..], &mut dv[key * padded..]);
                let (dq, k) = (&mut dq[query * padded..], Weighed::new(self.k, nk, key));
                weigh::<T, true>(&p, d_o_weighed, (dv, padded), query > 0);
                weigh::<T, true>(&ds, q_weighed, (dk, padded), query > 0);
                weigh::<T, false>(&ds, k, (dq, padded), key > 0);
            }
        }
    }
}
