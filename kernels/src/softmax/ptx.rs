//! Softmax and its logarithm along rows, for the GPU: the CPU's order of summation and bits.
//!
//! A [`Team`] takes a row and reads it three times, after the first from cache.

use crate::num::Num;
use crate::ptx::rows::Place;
use crate::ptx::teams::TeamRow;
use crate::ptx::{Body, F32, Global, Kernel, Reg, Team};

/// Which way a kernel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

/// Softmax, or its logarithm. Parameters: x, y, rows, n. The extent of the grid is the rows.
pub fn forward(logarithm: bool, team: Team) -> Kernel {
    kernel(logarithm, team, Pass::Forward)
}

/// The gradient of the input, of the answer y and its gradient. Parameters: y, dy, dx, rows, n. The
/// extent of the grid is the rows.
pub fn backward(logarithm: bool, team: Team) -> Kernel {
    kernel(logarithm, team, Pass::Backward)
}

fn kernel(logarithm: bool, team: Team, pass: Pass) -> Kernel {
    let softmax = if logarithm { "log_softmax" } else { "softmax" };
    let way = if pass == Pass::Forward { "" } else { "_backward" };
    let name = format!("{softmax}{way}{}_f32", team.suffix());
    Kernel::new(&name, team.threads(), team.per_block(), |k| match pass {
        Pass::Forward => forward_row(k, logarithm, team),
        Pass::Backward => backward_row(k, logarithm, team),
    })
}

fn forward_row(k: &Body, logarithm: bool, team: Team) {
    let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
    let (rows, n) = (k.u32("rows"), k.u32("n"));
    let team = TeamRow::new(k, team, rows, 1);
    let [x, y] = [x, y].map(|array| array.at(team.row() * n));
    let largest = team.largest(n, |at| at.of(x));
    // A row without a maximum: x − 0 is −∞ too, whose exponential is 0.
    let none = largest.eq(f32::NEG_INFINITY);
    let shift = Reg::select(none, k.value::<F32>(0.0), largest);
    let [scale] = team.sums(
        n,
        |at| at.of(x),
        |x| [(x - shift).exp()],
        |[sum], [e]| sum.add(e),
        |[sum]| [if logarithm { -sum.ln() } else { sum.recip() }],
    );
    team.if_valid(|| {
        team.each(
            n,
            |at| at.of(x) - shift,
            |at, z| {
                let (answer, without) = if logarithm {
                    (z.mul_add(z.lift(1.0), scale), largest)
                } else {
                    (z.exp().mul_add(scale, z.lift(0.0)), z.lift(0.0))
                };
                at.in_row(y).store(Reg::select(none, without, answer));
            },
        );
    });
}

fn backward_row<'k>(k: &'k Body, logarithm: bool, team: Team) {
    let [y, dy, dx]: [Global<F32>; 3] = ["y", "dy", "dx"].map(|name| k.global(name));
    let (rows, n) = (k.u32("rows"), k.u32("n"));
    let team = TeamRow::new(k, team, rows, if logarithm { 1 } else { 2 });
    let [y, dy, dx] = [y, dy, dx].map(|array| array.at(team.row() * n));
    let [sum] = if logarithm {
        team.sums(n, |at| at.of(dy), |dy| [dy], |[sum], [dy]| sum.add(dy), |sum| sum)
    } else {
        let both = |at: Place<'k>| [at.of(dy), at.of(y)];
        team.sums(n, both, |both| both, |[sum], [dy, y]| sum.fma(dy, y), |sum| sum)
    };
    team.if_valid(|| {
        team.each(
            n,
            |at| [at.of(y), at.of(dy)],
            |at, [y, dy]| {
                let slope = if logarithm { dy - y.exp() * sum } else { y * (dy - sum) };
                at.in_row(dx).store(slope);
            },
        );
    });
}
