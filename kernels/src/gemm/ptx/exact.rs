//! The product in float32, in the CPU's order.

use super::{Gemm, KC, Problem};
use crate::ptx::{Body, F32, Global, Pred, Reg, Shared, Stored, U32, Var};

/// Threads of a block.
pub(crate) const THREADS: u32 = 256;
/// Rows and columns of a block's tile,
pub(crate) const ROWS: u32 = 128;
pub(crate) const COLUMNS: u32 = 64;
/// its panels' depth, which divides [`KC`],
pub(crate) const DEPTH: u32 = 16;
/// and a thread's part of it.
pub(crate) const ROWS_EACH: u32 = 8;
pub(crate) const COLUMNS_EACH: u32 = 4;

/// What A or B is read through.
pub(crate) trait Reader<'k> {
    /// Whether elements that follow each other along k are adjacent.
    fn along_depth(&self) -> bool;

    /// The row (of A) or column (of B) `place`: what can be known of it before the loop over k is
    /// computed here.
    fn line(&self, place: Reg<'k, U32>) -> Line<'_, 'k>;
}

/// A row or column of an operand: the element at a depth along k, where it is inside the matrix;
/// else 0.
pub(crate) type Line<'r, 'k> = Box<dyn Fn(Reg<'k, U32>, Reg<'k, Pred>) -> Reg<'k, F32> + 'r>;

/// A matrix as it is stored.
pub(crate) struct Strided<'k, S> {
    pub from: Global<'k, S>,
    pub row_stride: Reg<'k, U32>,
    /// Whether its rows go along k.
    pub along_depth: bool,
}

impl<'k, S: Stored> Reader<'k> for Strided<'k, S> {
    fn along_depth(&self) -> bool {
        self.along_depth
    }

    fn line(&self, place: Reg<'k, U32>) -> Line<'_, 'k> {
        let Strided { from, row_stride, along_depth } = *self;
        let first = if along_depth { from.at(place * row_stride) } else { from.at(place) };
        Box::new(move |depth, inside| {
            let further = if along_depth { depth } else { depth * row_stride };
            first.at(further).load_where(inside, 0.0)
        })
    }
}

pub(super) fn write<S: Stored>(k: &Body, gemm: &Gemm) {
    let problem = Problem::<S>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let [a, b] =
        [(problem.a, stride_a, !gemm.transposed[0]), (problem.b, stride_b, gemm.transposed[1])]
            .map(|(from, row_stride, along_depth)| Strided { from, row_stride, along_depth });
    let size = [problem.m, problem.n];
    multiply(k, size, problem.range, [&a, &b], |row, column, sums| {
        problem.writer.write(row, column, sums, false);
    });
}

/// The product of whatever A and B are read through, with `[m, n]` elements, over a range of k that
/// begins at a multiple of [`KC`]. `write` is given adjacent sums of a row, whose number divides
/// their first column; some may be beyond the end.
pub(crate) fn multiply<'k>(
    k: &'k Body,
    [m, n]: [Reg<'k, U32>; 2],
    [start, end]: [Reg<'k, U32>; 2],
    [a, b]: [&dyn Reader<'k>; 2],
    write: impl Fn(Reg<'k, U32>, Reg<'k, U32>, &[Reg<'k, F32>]),
) {
    let (row, column) = (k.block(1) * ROWS, k.block(0) * COLUMNS);
    let a = Panel::new(k, a, row, m, ROWS);
    let b = Panel::new(k, b, column, n, COLUMNS);
    let thread = k.thread();
    let across = COLUMNS / COLUMNS_EACH;
    let (my_row, my_column) = (thread / across * ROWS_EACH, thread % across * COLUMNS_EACH);
    let (from_a, from_b) = (a.to.at(my_row), b.to.at(my_column));

    // −0 + x is x, whatever x is.
    let totals = k.vars((ROWS_EACH * COLUMNS_EACH) as usize, -0.0);
    k.for_(start, end, KC as u32, |block| {
        let sums = k.vars(totals.len(), 0.0);
        let end = (block + KC as u32).min(end);
        k.for_(block, end, DEPTH, |first| {
            a.load(first, end);
            b.load(first, end);
            k.barrier();
            let step = |a: Shared<F32>, b: Shared<F32>| add_products(a, b, &sums);
            k.if_else(
                (end - first).ge(DEPTH),
                || {
                    for i in 0..DEPTH {
                        step(
                            from_a.plus((i * a.pitch) as usize),
                            from_b.plus((i * b.pitch) as usize),
                        );
                    }
                },
                || {
                    k.note("what is left of k");
                    k.for_(0, end - first, 1, |i| {
                        step(from_a.at(i * a.pitch), from_b.at(i * b.pitch));
                    });
                },
            );
            k.barrier();
        });
        for (total, sum) in totals.iter().zip(&sums) {
            total.add(sum.get());
        }
    });
    let totals: Vec<Reg<F32>> = totals.iter().map(|total| total.get()).collect();
    for (i, totals) in (0..).zip(totals.chunks(COLUMNS_EACH as usize)) {
        write(row + my_row + i, column + my_column, totals);
    }
}

/// The products of one k of a thread's rows and columns.
pub(crate) fn add_products(a: Shared<F32>, b: Shared<F32>, sums: &[Var<F32>]) {
    let (a, b) = (a.load_n(ROWS_EACH as usize), b.load_n(COLUMNS_EACH as usize));
    for (&a, sums) in a.iter().zip(sums.chunks(b.len())) {
        for (&b, sum) in b.iter().zip(sums) {
            sum.fma(a, b);
        }
    }
}

/// A panel of one operand on its way to shared memory, as \[depth\]\[len + [`PAD`]\].
///
/// Neighbouring threads take neighbouring elements, so that they read whole sectors: 32 along a row
/// that lies across k, else 8 of each of four rows. Neither way do two of a warp write to one bank:
/// of those four rows because rows of the panel begin four banks apart.
struct Panel<'k, 'r> {
    /// This thread's rows (of A) or columns (of B), and whether they are inside the matrix.
    lines: Vec<(Line<'r, 'k>, Reg<'k, Pred>)>,
    /// Places between them,
    line_step: u32,
    /// and between the depths that it takes of each.
    depth_step: u32,
    /// The first of those,
    depth: Reg<'k, U32>,
    /// and where it goes.
    mine: Shared<'k, F32>,
    to: Shared<'k, F32>,
    pitch: u32,
}

/// Elements between the rows of a panel: 16 bytes, so that vectors stay aligned.
pub(crate) const PAD: u32 = 4;

/// Neighbours along k that read a sector of 32 bytes.
pub(crate) const ALONG: u32 = 8;

impl<'k, 'r> Panel<'k, 'r> {
    /// The panel of `len` rows (of A) or columns (of B) from `first` on, of a matrix with `end`.
    fn new(
        k: &'k Body,
        reader: &'r dyn Reader<'k>,
        first: Reg<'k, U32>,
        end: Reg<'k, U32>,
        len: u32,
    ) -> Self {
        let (thread, pitch) = (k.thread(), len + PAD);
        let to = k.shared::<F32>(DEPTH * pitch);
        let (place, depth, line_step, depth_step) = match reader.along_depth() {
            true => (thread / ALONG, thread % ALONG, THREADS / ALONG, ALONG),
            false => (thread % len, thread / len, len, THREADS / len),
        };
        let line = |further: u32| {
            let place = first + place + further;
            (reader.line(place), place.lt(end))
        };
        let lines = (0..len).step_by(line_step as usize).map(line).collect();
        let mine = to.at(depth.mad(pitch, place));
        Panel { lines, line_step, depth_step, depth, mine, to, pitch }
    }

    /// Loads k from `first` on.
    fn load(&self, first: Reg<'k, U32>, end: Reg<'k, U32>) {
        for further in (0..DEPTH).step_by(self.depth_step as usize) {
            let depth = first + self.depth + further;
            for (i, (line, inside)) in (0..).zip(&self.lines) {
                let x = line(depth, *inside & depth.lt(end));
                let place = further * self.pitch + i * self.line_step;
                self.mine.plus(place as usize).store(x);
            }
        }
    }
}
