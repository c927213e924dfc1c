//! Tiles of sums that tensor cores make.
//!
//! `mma.sync` multiplies a 16 × 16 left fragment by a 16 × 8 right one, spread over a warp. Of the
//! sums, lane l holds columns 2·(l mod 4) and the next one, of rows l / 4 and l / 4 + 8.

use super::body::{Body, WARP};
use super::memory::braced;
use super::types::{B32, F32, U32};
use super::value::Reg;
use super::var::Var;

/// A 16 × 8 tile of float32 sums.
pub struct Sums<'k>([Var<'k, F32>; 4]);

impl<'k> Sums<'k> {
    /// All zero.
    pub fn new(k: &'k Body) -> Self {
        Sums(std::array::from_fn(|_| k.var::<F32>(0.0)))
    }

    /// This lane's sums: two of its first row, two of its second.
    pub fn parts(&self) -> [Var<'k, F32>; 4] {
        self.0
    }

    /// This lane's sums rounded to bf16, row by row: halves of a left fragment.
    pub fn pairs(&self) -> [Reg<'k, B32>; 2] {
        let [a, b, c, d] = self.0.map(Var::get);
        [Reg::pair_of_bf16(a, b), Reg::pair_of_bf16(c, d)]
    }

    /// Runs `f` with row, column and values of each pair that this lane holds.
    pub fn each_pair(
        &self,
        k: &'k Body,
        f: impl Fn(Reg<'k, U32>, Reg<'k, U32>, [Reg<'k, F32>; 2]),
    ) {
        let lane = k.thread() % WARP;
        let (row, column) = (lane / 4, lane % 4 * 2);
        let [a, b, c, d] = self.0.map(Var::get);
        f(row, column, [a, b]);
        f(row + 8, column, [c, d]);
    }
}

/// sums += left · right, of bf16 pairs: `left` as four 8 × 8 matrices (upper, lower; then the same
/// eight further along k), `right` as two (k, and eight further).
pub fn bf16<'k>(sums: &Sums<'k>, left: [Reg<'k, B32>; 4], right: [Reg<'k, B32>; 2]) {
    let body = left[0].body;
    let sums = braced(&sums.0);
    body.emit(&format!(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {sums}, {}, {}, {sums}",
        braced(&left),
        braced(&right)
    ));
}

/// sums += left · right, of tf32: `left` as a 16 × 8 fragment (rows l / 4 and 8 further, at depth
/// l mod 4, then the same at depth 4 more), `right` as 8 × 8.
pub fn tf32<'k>(sums: &Sums<'k>, left: [Reg<'k, B32>; 4], right: [Reg<'k, B32>; 2]) {
    let body = left[0].body;
    let sums = braced(&sums.0);
    body.emit(&format!(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {sums}, {}, {}, {sums}",
        braced(&left),
        braced(&right)
    ));
}
