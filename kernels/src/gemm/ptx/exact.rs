//! The product in float32, in the CPU's order.

use super::{Gemm, KC, Problem};
use crate::ptx::{Body, F32, Global, Pred, Reg, Shared, Stored, U32, Var};

/// Threads of a block.
pub(crate) const THREADS: u32 = 256;
/// Rows and columns of a block's tile,
pub(crate) const ROWS: u32 = 128;
pub(crate) const COLUMNS: u32 = 64;
/// its panels' depth, which divides [`KC`],
const DEPTH: u32 = 16;
/// and a thread's part of it.
const ROWS_EACH: u32 = 8;
const COLUMNS_EACH: u32 = 4;

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

pub(super) fn write<S: Stored, D: Stored>(k: &Body, gemm: &Gemm) {
    let problem = Problem::<S, D>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let [a, b] =
        [(problem.a, stride_a, !gemm.transposed[0]), (problem.b, stride_b, gemm.transposed[1])]
            .map(|(from, row_stride, along_depth)| Strided { from, row_stride, along_depth });
    let size = [problem.m, problem.n];
    multiply(k, size, [k.value(0), problem.depth], [&a, &b], |row, column, sums| {
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
                        step(from_a.plus((i * ROWS) as usize), from_b.plus((i * COLUMNS) as usize));
                    }
                },
                || {
                    k.note("what is left of k");
                    k.for_(0, end - first, 1, |i| {
                        step(from_a.at(i * ROWS), from_b.at(i * COLUMNS));
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
fn add_products(a: Shared<F32>, b: Shared<F32>, sums: &[Var<F32>]) {
    let (a, b) = (a.load_n(ROWS_EACH as usize), b.load_n(COLUMNS_EACH as usize));
    for (&a, sums) in a.iter().zip(sums.chunks(b.len())) {
        for (&b, sum) in b.iter().zip(sums) {
            sum.fma(a, b);
        }
    }
}

/// A panel of one operand on its way to shared memory, as \[depth, len\].
///
/// Neighbouring threads take neighbouring rows (or columns), so that they write to different banks;
/// where the operand lies along k, each goes along its own row.
struct Panel<'k, 'r> {
    along_depth: bool,
    /// This thread's row (of A) or column (of B), and whether it is inside the matrix.
    line: Line<'r, 'k>,
    inside: Reg<'k, Pred>,
    /// Where its element at depth 0 goes,
    mine: Shared<'k, F32>,
    /// and which of the threads it is that share it.
    part: Reg<'k, U32>,
    to: Shared<'k, F32>,
    len: u32,
}

impl<'k, 'r> Panel<'k, 'r> {
    /// The panel of `len` rows (of A) or columns (of B) from `first` on, of a matrix with `end`.
    fn new(
        k: &'k Body,
        reader: &'r dyn Reader<'k>,
        first: Reg<'k, U32>,
        end: Reg<'k, U32>,
        len: u32,
    ) -> Self {
        let to = k.shared::<F32>(DEPTH * len);
        let (place, part) = (k.thread() % len, k.thread() / len);
        Panel {
            along_depth: reader.along_depth(),
            line: reader.line(first + place),
            inside: (first + place).lt(end),
            mine: to.at(place),
            part,
            to,
            len,
        }
    }

    /// Loads k from `first` on.
    fn load(&self, first: Reg<'k, U32>, end: Reg<'k, U32>) {
        let each = DEPTH * self.len / THREADS;
        for i in 0..each {
            let depth = match self.along_depth {
                true => self.part * each + i,
                false => self.part + i * (THREADS / self.len),
            };
            let inside = self.inside & (first + depth).lt(end);
            let x = (self.line)(first + depth, inside);
            self.mine.at(depth * self.len).store(x);
        }
    }
}
