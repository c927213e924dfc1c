//! A formula of several vectors at once.
//!
//! GELU is a chain of two dozen instructions, each of which waits for the one before. A processor
//! goes on with the next vector's meanwhile, but no further than its scheduler has room for what
//! waits: four such chains. So four vectors go through a formula instruction by instruction, where
//! there are registers for that.

use super::formula::Pointwise;
use crate::lane::Array;
use crate::{Real, Simd};

/// Vectors that go through a formula together.
const TOGETHER: usize = 4;

/// f at N vectors of each operand.
#[inline(always)]
pub(crate) fn together<const K: usize, const N: usize, S: Simd>(
    _: S,
    f: &impl Pointwise<K>,
    x: [[S::V; N]; K],
) -> [S::V; N] {
    if const { S::MANY_REGISTERS } {
        let mut v = [Array(x[0]); K];
        for k in 0..K {
            v[k] = Array(x[k]);
        }
        return f.at(v).0;
    }
    let mut y = x[0];
    for n in 0..N {
        let mut v = [y[n]; K];
        for k in 0..K {
            v[k] = x[k][n];
        }
        y[n] = f.at(v);
    }
    y
}

/// f at `vectors` vectors, each of which is loaded before it is stored, but not before others are.
#[inline(always)]
pub(crate) fn each_vector<const K: usize, S: Simd>(
    isa: S,
    f: &impl Pointwise<K>,
    vectors: usize,
    load: impl Fn(usize) -> [S::V; K],
    mut store: impl FnMut(usize, S::V),
) {
    let mut done = 0;
    if const { S::MANY_REGISTERS } {
        while done + TOGETHER <= vectors {
            let mut x = [[isa.splat(S::T::ZERO); TOGETHER]; K];
            for n in 0..TOGETHER {
                let operands = load(done + n);
                for k in 0..K {
                    x[k][n] = operands[k];
                }
            }
            let y = together(isa, f, x);
            for n in 0..TOGETHER {
                store(done + n, y[n]);
            }
            done += TOGETHER;
        }
    }
    for i in done..vectors {
        store(i, f.at(load(i)));
    }
}
