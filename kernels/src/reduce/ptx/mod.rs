//! Sums and maxima along an axis for the GPU: the CPU's trees and bits.
//!
//! * Rows: a warp takes [`BLOCK`] elements with two sums a lane, which are the CPU's four vectors
//!   of sixteen; the tree over them is five shuffles. Blocks are added in float64, in order.
//! * Columns: a thread takes one column of up to [`ROWS`] rows; of what is left, the same again.

mod max;

pub use max::{max_columns, max_rows, spread};

use super::cpu::{BLOCK, BLOCKS};
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, U32, Var, WARP};

/// Threads of a block.
const THREADS: u32 = 128;

/// `y[r] = Σ x[r, ..n]`. Parameters: x, y (float32), rows, n. The extent of the grid is the rows.
///
/// For rows of up to [`SHORT`] elements; longer ones are [`row_parts`] and [`add_parts`].
pub fn rows() -> Kernel {
    Kernel::new("sum_rows", THREADS, [THREADS / WARP, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let (rows, n) = (k.u32("rows"), k.u32("n"));
        let (row, lane) = warp_and_lane(k);
        k.if_(row.lt(rows), || {
            let total = sum_blocks(k, x.at(row * n), n, lane);
            k.if_(lane.eq(0), || y.at(row).store(total.to_f32()));
        });
    })
}

/// Rows of a group of [`columns`].
pub const ROWS: u32 = super::cpu::ROWS as u32;

/// Elements of a row that a warp adds alone, at most.
pub const SHORT: u32 = 2 * BLOCK as u32;

/// Elements of a row that a block of [`row_parts`] adds.
pub const PART: u32 = (BLOCK * BLOCKS) as u32;

/// Sums of parts of rows, each [`PART`] elements. Parameters: x, parts \[rows, each\] (float64), n,
/// each (parts of a row). The extent of the grid is all parts.
///
/// A warp adds a block of elements, and a thread the blocks.
pub fn row_parts() -> Kernel {
    Kernel::new("sum_parts", BLOCKS as u32 * WARP, [1, 1, 1], |k| {
        let (x, parts) = (k.global::<F32>("x"), k.global::<F64>("parts"));
        let (n, each) = (k.u32("n"), k.u32("each"));
        let (part, thread) = (k.block(0), k.thread());
        let (warp, lane) = (thread >> WARP.ilog2(), thread & (WARP - 1));
        let first = part % each * PART + warp * BLOCK as u32;
        let len = (n - first.min(n)).min(BLOCK as u32);
        let sum = sum_blocks(k, x.at((part / each).mad(n, first)), len, lane);
        let sums = k.shared::<F64>(BLOCKS as u32);
        k.if_(lane.eq(0), || sums.at(warp).store(sum));
        k.barrier();
        k.if_(thread.eq(0), || {
            let all = (0..BLOCKS).map(|i| sums.plus(i).load()).reduce(|a, b| a + b);
            parts.at(part).store(all.expect("there are blocks"));
        });
    })
}

/// The sums of rows' parts, in order. Parameters: parts \[rows, n\] (float64), y (float32), n. The
/// extent of the grid is the rows.
pub fn add_parts() -> Kernel {
    Kernel::new("add_parts", THREADS, [1, 1, 1], |k| {
        let (parts, y, n) = (k.global::<F64>("parts"), k.global::<F32>("y"), k.u32("n"));
        let (row, total) = (k.block(0), k.var::<F64>(0.0));
        let parts = parts.at(row * n);
        in_order(k, THREADS, n, |i| parts.at(i).load(), |_, part| total.add(part));
        k.if_(k.thread().eq(0), || y.at(row).store(total.get().to_f32()));
    })
}

/// Runs `add` with each number below `n` and what `make` makes of it, in order, on the first thread
/// of a block; its `threads` make as many of them at a time, in shared memory.
pub(crate) fn in_order<'k>(
    k: &'k Body,
    threads: u32,
    n: Reg<'k, U32>,
    make: impl FnOnce(Reg<'k, U32>) -> Reg<'k, F64>,
    add: impl FnOnce(Reg<'k, U32>, Reg<'k, F64>),
) {
    let (thread, made) = (k.thread(), k.shared::<F64>(threads));
    k.for_(0, n, threads, |first| {
        let mine = first + thread;
        k.if_(mine.lt(n), || made.at(thread).store(make(mine)));
        k.barrier();
        k.if_(thread.eq(0), || {
            k.for_(0, (n - first).min(threads), 1, |i| add(first + i, made.at(i).load()));
        });
        k.note("the next ones take these places");
        k.barrier();
    });
}

/// `y[o, j] = Σᵢ x[o, i, j]` over groups of up to 64 rows: y is \[outer, groups, inner\].
/// Parameters: x, y (float32), outputs (y's elements), n, inner, groups. The extent of the grid is
/// the outputs.
pub fn columns() -> Kernel {
    Kernel::new("sum_columns", THREADS, [THREADS, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let [outputs, n, inner, groups] =
            ["outputs", "n", "inner", "groups"].map(|name| k.u32(name));
        let output = k.block(0).mad(THREADS, k.thread());
        k.if_(output.lt(outputs), || {
            let (column, group) = (output % inner, output / inner);
            let first = group % groups * ROWS;
            let rows = (n - first).min(ROWS);
            let x = x.at((group / groups * n + first).mad(inner, column));
            let total = k.var::<F32>(0.0);
            k.for_(0, rows, 4, |i| {
                let row = |j: u32| x.at((i + j) * inner).load_where((i + j).lt(rows), 0.0);
                let v: [Reg<F32>; 4] = [0, 1, 2, 3].map(row);
                total.add((v[0] + v[1]) + (v[2] + v[3]));
            });
            y.at(output).store(total.get());
        });
    })
}

/// The number of this warp in the grid, and of this thread in the warp.
fn warp_and_lane(k: &Body) -> (Reg<'_, U32>, Reg<'_, U32>) {
    let thread = k.thread();
    (k.block(0).mad(THREADS / WARP, thread / WARP), thread % WARP)
}

/// The sum of `n` elements by a warp, in float64 from block to block.
fn sum_blocks<'k>(
    k: &'k Body,
    x: Global<'k, F32>,
    n: Reg<'k, U32>,
    lane: Reg<'k, U32>,
) -> Reg<'k, F64> {
    let total: Var<F64> = k.var(0.0);
    k.for_(0, n, BLOCK as u32, |first| {
        let x = x.at(first + lane);
        let left = n - first;
        let end = left.min(BLOCK as u32);
        // The CPU's first two vectors of each four are the warp's lanes, and so are the other two.
        let sums: [Var<F32>; 2] = [k.var(0.0), k.var(0.0)];
        k.for_(0, end, 2 * WARP, |i| {
            for (half, sum) in sums.into_iter().enumerate() {
                let place = x.at(i).plus(half * WARP as usize);
                sum.add(place.load_where((i + lane + half as u32 * WARP).lt(end), 0.0));
            }
        });
        let [low, high] = sums.map(|sum| {
            let sum = sum.get();
            sum + k.shuffle_xor(sum, 16)
        });
        let mut sum = low + high;
        for half in [8, 4, 2, 1] {
            sum = sum + k.shuffle_xor(sum, half);
        }
        total.add(sum.to_f64());
    });
    total.get()
}
