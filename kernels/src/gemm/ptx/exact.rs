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

    /// The element in row (of A) or column (of B) `place` and at `depth` along k, where it is
    /// `inside` the matrix; else 0.
    fn element(
        &self,
        place: Reg<'k, U32>,
        depth: Reg<'k, U32>,
        inside: Reg<'k, Pred>,
    ) -> Reg<'k, F32>;
}

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

    fn element(
        &self,
        place: Reg<'k, U32>,
        depth: Reg<'k, U32>,
        inside: Reg<'k, Pred>,
    ) -> Reg<'k, F32> {
        let (line, column) = if self.along_depth { (place, depth) } else { (depth, place) };
        self.from.at(line.mad(self.row_stride, column)).load_where(inside, 0.0)
    }
}

pub(super) fn write<S: Stored, D: Stored>(k: &Body, gemm: &Gemm) {
    let problem = Problem::<S, D>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let [a, b] =
        [(problem.a, stride_a, !gemm.transposed[0]), (problem.b, stride_b, gemm.transposed[1])]
            .map(|(from, row_stride, along_depth)| Strided { from, row_stride, along_depth });
    multiply(k, &problem, &a, &b);
}

/// The product of whatever A and B are read through.
pub(crate) fn multiply<'k, S: Stored, D: Stored>(
    k: &'k Body,
    problem: &Problem<'k, S, D>,
    a: &dyn Reader<'k>,
    b: &dyn Reader<'k>,
) {
    let (row, column) = (k.block(1) * ROWS, k.block(0) * COLUMNS);
    let a = Panel {
        k,
        reader: a,
        to: k.shared::<F32>(DEPTH * ROWS),
        first: row,
        end: problem.m,
        len: ROWS,
    };
    let b = Panel {
        k,
        reader: b,
        to: k.shared::<F32>(DEPTH * COLUMNS),
        first: column,
        end: problem.n,
        len: COLUMNS,
    };
    let thread = k.thread();
    let across = COLUMNS / COLUMNS_EACH;
    let (my_row, my_column) = (thread / across * ROWS_EACH, thread % across * COLUMNS_EACH);
    let (from_a, from_b) = (a.to.at(my_row), b.to.at(my_column));

    // −0 + x is x, whatever x is.
    let totals = k.vars((ROWS_EACH * COLUMNS_EACH) as usize, -0.0);
    k.for_(0, problem.depth, KC as u32, |block| {
        let sums = k.vars(totals.len(), 0.0);
        let end = (block + KC as u32).min(problem.depth);
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
        problem.writer.write(row + my_row + i, column + my_column, totals, false);
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
struct Panel<'k, 'r> {
    k: &'k Body,
    reader: &'r dyn Reader<'k>,
    to: Shared<'k, F32>,
    /// The first row (of A) or column (of B), and the end of all.
    first: Reg<'k, U32>,
    end: Reg<'k, U32>,
    len: u32,
}

impl<'k> Panel<'k, '_> {
    /// Loads k from `first` on. Neighbouring threads take neighbouring rows (or columns), so that
    /// they write to different banks; where the operand lies along k, each goes along its own row.
    fn load(&self, first: Reg<'k, U32>, end: Reg<'k, U32>) {
        let thread = self.k.thread();
        let (place, part) = (thread % self.len, thread / self.len);
        let each = DEPTH * self.len / THREADS;
        let inside = (self.first + place).lt(self.end);
        for i in 0..each {
            let depth = match self.reader.along_depth() {
                true => part * each + i,
                false => part + i * (THREADS / self.len),
            };
            let inside = inside & (first + depth).lt(end);
            let x = self.reader.element(self.first + place, first + depth, inside);
            self.to.at(depth.mad(self.len, place)).store(x);
        }
    }
}
