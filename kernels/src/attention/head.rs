//! One head of one sample: which rows it has, and gathering and scattering them.

use std::ops::Range;

use super::{BITS, Problem, View};
use crate::gemm::WIDTH;
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

    /// Copies the rows of `spans` to wherever they are wanted.
    pub fn gather<'v>(&self, spans: &[Span], view: impl Fn(usize) -> View<'v, T>, to: Gathered<T>)
    where
        T: 'v,
    {
        T::dispatch(Gather { head: self, spans, view, to });
    }

    /// Adds the bias, in [bits](BITS), to a tile of scores whose rows are the queries, and columns
    /// the keys, from `first` on.
    pub fn add_bias(&self, first: [usize; 2], tile: &mut Tile<T>) {
        let Some(bias) = self.problem.bias else { return };
        let bits = T::from_f64(BITS);
        let [queries, keys] = [self.problem.queries(), self.problem.keys()];
        let bias = &bias[self.h * queries * keys..][..queries * keys];
        for_runs(&self.queries, first[0], tile.rows, |row, query, n| {
            for i in 0..n {
                for_runs(&self.keys, first[1], tile.columns, |column, key, n| {
                    let from = &bias[(query + i) * keys + key..][..n];
                    let to = &mut tile.data[row + i][column..][..n];
                    to.iter_mut().zip(from).for_each(|(s, &b)| *s += b * bits);
                });
            }
        });
    }

    /// Adds a tile of score gradients to that of the bias: the transpose of [`Self::add_bias`].
    pub fn add_to_bias_gradient(&self, first: [usize; 2], tile: &Tile<T>, dbias: &mut Cell<T>) {
        for_runs(&self.queries, first[0], tile.rows, |row, query, n| {
            for i in 0..n {
                for_runs(&self.keys, first[1], tile.columns, |column, key, n| {
                    let from = &tile.data[row + i][column..][..n];
                    let to = &mut dbias.row(query + i)[key..][..n];
                    to.iter_mut().zip(from).for_each(|(d, &s)| *d += s);
                });
            }
        });
    }
}

/// Where rows are gathered, padded with zeros to whole sixteens.
#[derive(Default)]
pub(super) struct Gathered<'a, T> {
    /// One after the other.
    pub rows: Option<&'a mut [T]>,
    /// In panels of sixteen columns, each with all rows.
    pub panels: Option<&'a mut [T]>,
    /// Times a factor, and transposed: in panels of sixteen rows, each with all columns. The last
    /// one is filled up with zeros.
    pub transposed: Option<(&'a mut [T], T)>,
}

/// Rows of one head on their way out of the segments.
struct Gather<'a, 'o, T, V> {
    head: &'a Head<'a, T>,
    spans: &'a [Span],
    /// Where a segment's rows are.
    view: V,
    to: Gathered<'o, T>,
}

impl<'v, T: Real + 'v, V: Fn(usize) -> View<'v, T>> Task<T> for Gather<'_, '_, T, V> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Gather { head: &Head { problem, b, h, .. }, spans, view, mut to } = self;
        let of = [spans.iter().map(|span| span.tokens.len()).sum(), problem.width];
        let (mut rows, mut first, mut n) = ([[].as_slice(); LANES], 0, 0);
        for span in spans {
            let view = view(span.segment);
            for s in span.tokens.clone() {
                rows[n] = view.row([b, s, h], problem.width);
                // Each lies on another page, where the processor does not look by itself.
                for d in (0..problem.width).step_by(LANES) {
                    isa.prefetch(rows[n], LANES.wrapping_mul(view.row_stride).wrapping_add(d));
                }
                n += 1;
                if n == LANES {
                    to.take(isa, &rows, first, of);
                    (first, n) = (first + n, 0);
                }
            }
        }
        if n > 0 {
            to.take(isa, &rows[..n], first, of);
        }
    }
}

impl<T: Real> Gathered<'_, T> {
    /// Takes at most sixteen rows, from number `first` on, `of` so many and of such a length.
    #[inline(always)]
    fn take<S>(&mut self, isa: S, rows: &[&[T]], first: usize, [number, width]: [usize; 2])
    where
        S: Simd<T = T>,
    {
        let padded = width.next_multiple_of(LANES);
        for d in (0..width).step_by(LANES) {
            let columns = d..width.min(d + LANES);
            if let Some(out) = &mut self.rows {
                for i in 0..rows.len() {
                    let x = isa.load_head(&rows[i][columns.clone()], T::ZERO);
                    isa.store(x, sixteen(out, (first + i) * padded + d));
                }
            }
            if let Some(out) = &mut self.panels {
                for i in 0..rows.len() {
                    let x = isa.load_head(&rows[i][columns.clone()], T::ZERO);
                    isa.store(x, sixteen(out, (d / LANES * number + first + i) * LANES));
                }
            }
            if let Some((out, factor)) = &mut self.transposed {
                let factor = isa.splat(*factor);
                let mut square = [isa.splat(T::ZERO); LANES];
                for i in 0..rows.len() {
                    square[i] = isa.load_head(&rows[i][columns.clone()], T::ZERO) * factor;
                }
                isa.transpose(&mut square);
                for i in 0..columns.len() {
                    isa.store(square[i], sixteen(out, (first / LANES * width + d + i) * LANES));
                }
            }
        }
    }
}

/// Sixteen elements from `first` on.
#[inline(always)]
fn sixteen<T>(x: &mut [T], first: usize) -> &mut [T; LANES] {
    x[first..].first_chunk_mut().expect("room for whole sixteens")
}

/// A tile of scores.
pub(super) struct Tile<'a, T> {
    /// Its rows, and some room behind each.
    pub data: &'a mut [[T; WIDTH]],
    /// Rows: queries.
    pub rows: usize,
    /// Columns: keys.
    pub columns: usize,
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

/// Writes gathered rows times `scale` into a segment's rows of one head, and zeros behind them.
pub(super) fn scatter<T: Real>(rows: &[T], stride: usize, scale: T, out: &mut Cell<T>) {
    T::dispatch(Scatter { rows, stride, scale, out });
}

/// How many rows before its turn a row of the output is fetched, which has to be there before any
/// part of it can be written.
const AHEAD: usize = 8;

struct Scatter<'a, 'o, T> {
    rows: &'a [T],
    stride: usize,
    scale: T,
    out: &'a mut Cell<'o, T>,
}

impl<T: Real> Task<T> for Scatter<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Scatter { rows, stride, scale, out } = self;
        let scale = isa.splat(scale);
        let mut rows = rows.chunks_exact(stride);
        for i in out.rows() {
            if i + AHEAD < out.rows().end {
                isa.prefetch_row(out.row(i + AHEAD));
            }
            let out = out.row(i);
            let Some(row) = rows.next() else {
                out.fill(T::ZERO);
                continue;
            };
            for (x, out) in row.as_chunks().0.iter().zip(out.chunks_mut(LANES)) {
                isa.store_head(isa.load(x) * scale, out);
            }
        }
    }
}
