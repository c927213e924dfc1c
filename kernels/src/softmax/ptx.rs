//! Softmax and its logarithm along rows, for the GPU: the CPU's order of summation and bits.
//!
//! A half-warp takes a row ([`RowLane`]) and reads it three times, after the first from cache.

use crate::num::Num;
use crate::ptx::rows::{ROW_THREADS, ROWS_PER_BLOCK, RowLane};
use crate::ptx::{Body, F32, Global, Kernel, Reg};

/// Which way a kernel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

/// Softmax, or its logarithm. Parameters: x, y, rows, n. The extent of the grid is the rows.
pub fn forward(logarithm: bool) -> Kernel {
    kernel(logarithm, Pass::Forward)
}

/// The gradient of the input, of the answer y and its gradient. Parameters: y, dy, dx, rows, n. The
/// extent of the grid is the rows.
pub fn backward(logarithm: bool) -> Kernel {
    kernel(logarithm, Pass::Backward)
}

fn kernel(logarithm: bool, pass: Pass) -> Kernel {
    let softmax = if logarithm { "log_softmax" } else { "softmax" };
    let way = if pass == Pass::Forward { "" } else { "_backward" };
    let name = format!("{softmax}{way}_f32");
    Kernel::new(&name, ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| match pass {
        Pass::Forward => forward_row(k, logarithm),
        Pass::Backward => backward_row(k, logarithm),
    })
}

fn forward_row(k: &Body, logarithm: bool) {
    let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
    let (rows, n) = (k.u32("rows"), k.u32("n"));
    let lane = RowLane::new(k, rows);
    let [x, y] = [x, y].map(|array| array.at(lane.row * n));
    let largest = k.var::<F32>(f32::NEG_INFINITY);
    lane.each(n, |c| largest.set(x.at(c).load().max(largest.get())));
    let largest = lane.largest(largest.get());
    // A row without a maximum: x − 0 is −∞ too, whose exponential is 0.
    let none = largest.eq(f32::NEG_INFINITY);
    let shift = Reg::select(none, k.value::<F32>(0.0), largest);
    let sum = k.var::<F32>(0.0);
    lane.each(n, |c| sum.add((x.at(c).load() - shift).exp()));
    let sum = lane.sum(sum.get());
    k.if_(lane.valid, || {
        if logarithm {
            let term = -sum.ln();
            lane.each(n, |c| {
                let z = (x.at(c).load() - shift).mul_add(sum.lift(1.0), term);
                y.at(c).store(Reg::select(none, largest, z));
            });
        } else {
            let factor = sum.recip();
            lane.each(n, |c| {
                let e = (x.at(c).load() - shift).exp();
                let p = e.mul_add(factor, sum.lift(0.0));
                y.at(c).store(Reg::select(none, sum.lift(0.0), p));
            });
        }
    });
}

fn backward_row(k: &Body, logarithm: bool) {
    let [y, dy, dx]: [Global<F32>; 3] = ["y", "dy", "dx"].map(|name| k.global(name));
    let (rows, n) = (k.u32("rows"), k.u32("n"));
    let lane = RowLane::new(k, rows);
    let [y, dy, dx] = [y, dy, dx].map(|array| array.at(lane.row * n));
    let sum = k.var::<F32>(0.0);
    lane.each(n, |c| {
        let weight = if logarithm { k.value::<F32>(1.0) } else { y.at(c).load() };
        sum.fma(dy.at(c).load(), weight);
    });
    let sum = lane.sum(sum.get());
    k.if_(lane.valid, || {
        lane.each(n, |c| {
            let (y, dy) = (y.at(c).load(), dy.at(c).load());
            dx.at(c).store(if logarithm { dy - y.exp() * sum } else { y * (dy - sum) });
        });
    });
}
