//! One head of one sample: which rows it has, and gathering and scattering them.

use std::ops::Range;

use super::{Problem, View};
use crate::lane::LANES;
use crate::par::Cell;
use crate::{Real, Simd, Task};

/// A run of tokens of one segment.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Index of the segment.
    pub segment: usize,
    /// Its tokens in the segment.
    pub tokens: Range<usize>,
    /// Where the first of them is in the joint sequence of all queries, or of all keys and padding.
    pub joint: usize,
}

/// One head of one sample: the rows that queries and keys of all segments have in it.
pub(super) struct Head<'a, T> {
    /// The whole attention.
    pub problem: &'a Problem<'a, T>,
    /// The sample.
    pub b: usize,
    /// The head.
    pub h: usize,
    /// The queries, in joint order.
    pub queries: Vec<Span>,
    /// The keys that are not padding, in joint order.
    pub keys: Vec<Span>,
}

impl<'a, T: Real> Head<'a, T> {
    /// Head `h` of sample `b`, with the queries `tokens` of every segment that `wanted` accepts.
    pub fn new(
        problem: &'a Problem<T>,
        [b, h]: [usize; 2],
        tokens: Range<usize>,
        wanted: impl Fn(usize) -> bool,
    ) -> Self {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let mut joint = [0; 2];
        for (segment, s) in problem.segments.iter().enumerate() {
            let tokens = tokens.start..tokens.end.min(s.tokens);
            if s.q.is_some() {
                if !tokens.is_empty() && wanted(segment) {
                    queries.push(Span { segment, joint: joint[0] + tokens.start, tokens });
                }
                joint[0] += s.tokens;
            }
            let tokens = 0..s.key_len.map_or(s.tokens, |len| len[b]);
            keys.push(Span { segment, joint: joint[1], tokens });
            joint[1] += s.tokens;
        }
        Head { problem, b, h, queries, keys }
    }

    /// Number of queries and of keys.
    pub fn size(&self) -> [usize; 2] {
        [&self.queries, &self.keys].map(|spans| spans.iter().map(|s| s.tokens.len()).sum())
    }

    /// Copies the rows of `spans`, each padded with zeros to whole strips.
    pub fn gather<'v>(&self, spans: &[Span], view: impl Fn(usize) -> View<'v, T>, out: &mut [T])
    where
        T: 'v,
    {
        let width = self.problem.width;
        let mut rows = out.chunks_exact_mut(self.problem.padded());
        for span in spans {
            let view = view(span.segment);
            for s in span.tokens.clone() {
                let out = rows.next().expect("there is room for the rows of all spans");
                out[..width].copy_from_slice(view.row([self.b, s, self.h], width));
                out[width..].fill(T::ZERO);
            }
        }
    }

    /// Adds the bias to a tile of scores whose rows are the queries, and columns the keys, from
    /// `first` on.
    pub fn add_bias(&self, first: [usize; 2], tile: &mut Tile<T>) {
        let Some(bias) = self.problem.bias else { return };
        let [queries, keys] = [self.problem.queries(), self.problem.keys()];
        let bias = &bias[self.h * queries * keys..][..queries * keys];
        for_runs(&self.queries, first[0], tile.rows, |row, query, n| {
            for i in 0..n {
                for_runs(&self.keys, first[1], tile.columns, |column, key, n| {
                    let from = &bias[(query + i) * keys + key..][..n];
                    let to = &mut tile.data[(row + i) * tile.stride + column..][..n];
                    to.iter_mut().zip(from).for_each(|(s, &b)| *s += b);
                });
            }
        });
    }

    /// Adds a tile of score gradients to that of the bias: the transpose of [`Self::add_bias`].
    pub fn add_to_bias_gradient(&self, first: [usize; 2], tile: &Tile<T>, dbias: &mut Cell<T>) {
        for_runs(&self.queries, first[0], tile.rows, |row, query, n| {
            for i in 0..n {
                for_runs(&self.keys, first[1], tile.columns, |column, key, n| {
                    let from = &tile.data[(row + i) * tile.stride + column..][..n];
                    let to = &mut dbias.row(query + i)[key..][..n];
                    to.iter_mut().zip(from).for_each(|(d, &s)| *d += s);
                });
            }
        });
    }
}

/// A tile of scores.
pub(super) struct Tile<'a, T> {
    /// Element \[i, j\] at `i·stride + j`.
    pub data: &'a mut [T],
    /// Distance between rows.
    pub stride: usize,
    /// Rows: queries.
    pub rows: usize,
    /// Columns: keys.
    pub columns: usize,
}

impl<'a, T> Tile<'a, T> {
    /// A tile at the start of `data`, its rows padded to whole strips.
    pub fn new(data: &'a mut [T], [rows, columns]: [usize; 2]) -> Self {
        Tile { data, stride: columns.next_multiple_of(LANES), rows, columns }
    }
}

/// `f(offset, joint, n)` for each part of `spans` among the gathered rows `first..first + len`:
/// n rows that start `offset` behind `first` and at `joint` in the joint sequence.
fn for_runs(spans: &[Span], first: usize, len: usize, mut f: impl FnMut(usize, usize, usize)) {
    let mut gathered = 0;
    for span in spans {
        let end = gathered + span.tokens.len();
        let (from, to) = (gathered.max(first), end.min(first + len));
        if from < to {
            f(from - first, span.joint + from - gathered, to - from);
        }
        gathered = end;
    }
}

/// Transposes `n` rows of `width` elements, `stride` apart, times `scale`, into strips of sixteen
/// rows: element (row, d) goes to `(row / 16)·16·width + d·16 + row % 16`. Rows are padded to whole
/// strips; the last strip is filled up with zeros.
pub(super) fn transpose<T: Real>(
    rows: &[T],
    [n, width, stride]: [usize; 3],
    scale: T,
    strips: &mut [T],
) {
    T::dispatch(Transpose { rows, n, width, stride, scale, strips });
}

struct Transpose<'a, T> {
    rows: &'a [T],
    n: usize,
    width: usize,
    stride: usize,
    scale: T,
    strips: &'a mut [T],
}

impl<T: Real> Task<T> for Transpose<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Transpose { rows, n, width, stride, scale, strips } = self;
        let (zero, scale) = (isa.splat(T::ZERO), isa.splat(scale));
        let strips = strips.chunks_exact_mut(width * LANES);
        for (first, strip) in (0..n).step_by(LANES).zip(strips) {
            for d in (0..width).step_by(LANES) {
                let mut square = [zero; LANES];
                for i in 0..LANES.min(n - first) {
                    let row = &rows[(first + i) * stride + d..][..LANES];
                    square[i] = isa.load_head(row, T::ZERO) * scale;
                }
                isa.transpose(&mut square);
                let strip = strip[d * LANES..].as_chunks_mut().0;
                for (lanes, v) in strip.iter_mut().zip(square) {
                    isa.store(v, lanes);
                }
            }
        }
    }
}

/// Writes gathered rows times `scale` into a segment's rows of one head, and zeros behind them.
pub(super) fn scatter<T: Real>(rows: &[T], stride: usize, scale: T, out: &mut Cell<T>) {
    let mut rows = rows.chunks_exact(stride);
    for i in out.rows() {
        let out = out.row(i);
        match rows.next() {
            Some(row) => out.iter_mut().zip(row).for_each(|(o, &r)| *o = r * scale),
            None => out.fill(T::ZERO),
        }
    }
}
