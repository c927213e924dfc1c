//! Attention in plain float64 loops: what the fast one is checked against.

use super::{Problem, Segment, View};
use crate::Real;

/// The answers and gradients of every segment, contiguous.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// \[B, S, H·D\] of each segment; empty where it has no queries.
    pub o: Vec<Vec<f64>>,
    /// \[B, H, S\] of each segment; empty where it has no queries.
    pub lse: Vec<Vec<f64>>,
    /// \[B, S, H·D\] of each segment; empty where it has no queries.
    pub dq: Vec<Vec<f64>>,
    /// \[B, S, H·D\] of each segment.
    pub dk: Vec<Vec<f64>>,
    /// \[B, S, H·D\] of each segment.
    pub dv: Vec<Vec<f64>>,
    /// \[H, queries, keys\].
    pub dbias: Vec<f64>,
}

/// A token of the joint sequence: its segment, and its place in it.
type Token = (usize, usize);

/// Attention and its gradient for `d_o`, one \[B, S, H·D\] for each segment (empty: zero): one
/// query at a time with all its scores.
pub fn reference<T: Real>(problem: &Problem<T>, d_o: &[Vec<f64>]) -> Reference {
    let Problem { batch, heads, width, segments, .. } = *problem;
    let channels = heads * width;
    let zeros = |per_token: usize, queries: bool| -> Vec<Vec<f64>> {
        let len = |s: &Segment<T>| if queries && s.q.is_none() { 0 } else { s.tokens };
        segments.iter().map(|s| vec![0.0; batch * len(s) * per_token]).collect()
    };
    let mut r = Reference {
        o: zeros(channels, true),
        lse: zeros(heads, true),
        dq: zeros(channels, true),
        dk: zeros(channels, false),
        dv: zeros(channels, false),
        dbias: vec![0.0; heads * problem.queries() * problem.keys()],
    };
    let queries: Vec<Token> = tokens(segments).filter(|&(i, _)| segments[i].q.is_some()).collect();
    let keys: Vec<Token> = tokens(segments).collect();
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        for (row, &query) in queries.iter().enumerate() {
            one_query(problem, d_o, &mut r, [b, h, row], query, &keys);
        }
    }
    r
}

/// The answer of one query, and its part of every gradient.
fn one_query<T: Real>(
    problem: &Problem<T>,
    d_o: &[Vec<f64>],
    r: &mut Reference,
    [b, h, row]: [usize; 3],
    (segment, s): Token,
    keys: &[Token],
) {
    let Problem { heads, width, segments, scale, .. } = *problem;
    // Where channel d of token (i, s) lies in a contiguous operand.
    let at = |(i, s): Token, d| ((b * segments[i].tokens + s) * heads + h) * width + d;
    let value = |view: View<T>, s, d: usize| view.row([b, s, h], width)[d].to_f64();
    let q = segments[segment].q.expect("the segment has queries");
    let bias_row = (h * problem.queries() + row) * keys.len();
    let visible: Vec<usize> = (0..keys.len())
        .filter(|&j| segments[keys[j].0].key_len.is_none_or(|len| keys[j].1 < len[b]))
        .collect();
    let score = |j: usize| {
        let (i, t) = keys[j];
        let dot: f64 = (0..width).map(|d| value(q, s, d) * value(segments[i].k, t, d)).sum();
        scale * dot + problem.bias.map_or(0.0, |bias| bias[bias_row + j].to_f64())
    };
    let scores: Vec<f64> = visible.iter().map(|&j| score(j)).collect();
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let lse = match max {
        f64::NEG_INFINITY => max,
        _ => max + scores.iter().map(|x| (x - max).exp()).sum::<f64>().ln(),
    };
    r.lse[segment][(b * heads + h) * segments[segment].tokens + s] = lse;
    if lse == f64::NEG_INFINITY {
        return;
    }
    let p: Vec<f64> = scores.iter().map(|x| (x - lse).exp()).collect();
    for (&j, p) in visible.iter().zip(&p) {
        for d in 0..width {
            r.o[segment][at((segment, s), d)] += p * value(segments[keys[j].0].v, keys[j].1, d);
        }
    }
    if d_o[segment].is_empty() {
        return;
    }
    let d_o = |d| d_o[segment][at((segment, s), d)];
    let delta: f64 = (0..width).map(|d| r.o[segment][at((segment, s), d)] * d_o(d)).sum();
    for (&j, p) in visible.iter().zip(&p) {
        let (i, t) = keys[j];
        let dp: f64 = (0..width).map(|d| d_o(d) * value(segments[i].v, t, d)).sum();
        let ds = p * (dp - delta);
        r.dbias[bias_row + j] += ds;
        for d in 0..width {
            r.dv[i][at((i, t), d)] += p * d_o(d);
            r.dk[i][at((i, t), d)] += scale * ds * value(q, s, d);
            r.dq[segment][at((segment, s), d)] += scale * ds * value(segments[i].k, t, d);
        }
    }
}

/// Every token of the joint sequence.
fn tokens<T>(segments: &[Segment<T>]) -> impl Iterator<Item = Token> {
    segments.iter().enumerate().flat_map(|(i, s)| (0..s.tokens).map(move |t| (i, t)))
}
