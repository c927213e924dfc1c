//! Maxima and where they are, for the GPU.
//!
//! Elements are compared by a key that orders all float32 as the CPU does: −0 is 0, and a NaN is
//! larger than any number. Of equal keys the first one's index wins, in whatever order they meet,
//! so that any tree finds the CPU's answer; its value is then read from where it is.

use super::{THREADS, warp_and_lane};
use crate::ptx::{Body, F32, Global, Kernel, Pred, Reg, U32, Var, WARP};

/// Elements that a lane looks at together.
const TOGETHER: u32 = 4;

/// The largest element so far, and where it is; at first key 0, which no element has.
#[derive(Clone, Copy)]
struct Largest<'k> {
    key: Var<'k, U32>,
    at: Var<'k, U32>,
}

impl<'k> Largest<'k> {
    fn new(k: &'k Body) -> Self {
        Largest { key: k.var(0), at: k.var(0) }
    }

    fn meet(self, key: Reg<'k, U32>, at: Reg<'k, U32>) {
        let (best, best_at) = (self.key.get(), self.at.get());
        let wins = best.lt(key) | (best.eq(key) & at.lt(best_at));
        self.key.set_where(wins, key);
        self.at.set_where(wins, at);
    }

    /// Of all lanes of a warp; every lane gets it.
    fn of_warp(self, k: &'k Body) {
        for mask in [16, 8, 4, 2, 1] {
            let [key, at] = [self.key, self.at].map(|x| k.shuffle_xor(x.get(), mask));
            self.meet(key, at);
        }
    }
}

/// Unsigned integers in the order of floats; 0 where the element is not `inside`.
fn key<'k>(k: &'k Body, x: Reg<'k, F32>, inside: Reg<'k, Pred>) -> Reg<'k, U32> {
    let bits = (x + 0.0).bits::<U32>();
    let key = bits ^ (bits.shr_signed(31) | 0x8000_0000);
    let key = Reg::select(x.is_nan(), k.value(u32::MAX), key);
    Reg::select(inside, key, k.value(0))
}

/// `y[r] = max x[r, ..n]` and `at[r]`, the first index where it is. Parameters: x, y (float32), at
/// (u32), rows, n. The extent of the grid is the rows.
///
/// A row is a warp's, or, for `wide` ones, a block's.
pub fn max_rows(wide: bool) -> Kernel {
    let (name, per_block) = if wide { ("max_wide_rows", 1) } else { ("max_rows", THREADS / WARP) };
    Kernel::new(name, THREADS, [per_block, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let at = k.global::<U32>("at");
        let [rows, n] = ["rows", "n"].map(|name| k.u32(name));
        let largest = Largest::new(k);
        if wide {
            let row = k.block(0);
            scan(k, x.at(row * n), n, [k.thread(), k.value(THREADS)], largest);
            of_block(k, largest);
            k.if_(k.thread().eq(0), || write(x.at(row * n), y.at(row), at.at(row), largest));
        } else {
            let (row, lane) = warp_and_lane(k);
            k.if_(row.lt(rows), || {
                scan(k, x.at(row * n), n, [lane, k.value(WARP)], largest);
                k.if_(lane.eq(0), || write(x.at(row * n), y.at(row), at.at(row), largest));
            });
        }
    })
}

/// Looks at the elements of a row from `first` on, every `step`-th, then over the warp.
fn scan<'k>(
    k: &'k Body,
    x: Global<'k, F32>,
    n: Reg<'k, U32>,
    [first, step]: [Reg<'k, U32>; 2],
    largest: Largest<'k>,
) {
    k.for_(0, n, step * TOGETHER, |start| {
        let places: Vec<_> = (0..TOGETHER).map(|j| step.mad(j, start + first)).collect();
        let load = |&at: &Reg<'k, U32>| x.at(at).load_where(at.lt(n), 0.0);
        let values: Vec<_> = places.iter().map(load).collect();
        for (at, value) in places.into_iter().zip(values) {
            largest.meet(key(k, value, at.lt(n)), at);
        }
    });
    largest.of_warp(k);
}

/// From the warps of a block to its first thread.
fn of_block<'k>(k: &'k Body, largest: Largest<'k>) {
    let [keys, places] = [0, 1].map(|_| k.shared::<U32>(THREADS / WARP));
    let thread = k.thread();
    k.if_((thread % WARP).eq(0), || {
        keys.at(thread / WARP).store(largest.key.get());
        places.at(thread / WARP).store(largest.at.get());
    });
    k.barrier();
    k.if_(thread.eq(0), || {
        for warp in 1..(THREADS / WARP) as usize {
            largest.meet(keys.plus(warp).load(), places.plus(warp).load());
        }
    });
}

fn write<'k>(x: Global<'k, F32>, y: Global<'k, F32>, at: Global<'k, U32>, largest: Largest<'k>) {
    let place = largest.at.get();
    y.store(x.at(place).load());
    at.store(place);
}

/// `y[o, j] = maxᵢ x[o, i, j]` and the first i where it is. Parameters: x, y (float32), at (u32),
/// outputs (y's elements), n, inner. The extent of the grid is the outputs.
pub fn max_columns() -> Kernel {
    Kernel::new("max_columns", THREADS, [THREADS, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let at = k.global::<U32>("at");
        let [outputs, n, inner] = ["outputs", "n", "inner"].map(|name| k.u32(name));
        let output = k.block(0).mad(THREADS, k.thread());
        k.if_(output.lt(outputs), || {
            let x = x.at((output / inner * n).mad(inner, output % inner));
            let largest = Largest::new(k);
            k.for_(0, n, TOGETHER, |first| {
                let places: Vec<_> = (0..TOGETHER).map(|j| first + j).collect();
                let values: Vec<_> =
                    places.iter().map(|&i| x.at(i * inner).load_where(i.lt(n), 0.0)).collect();
                for (i, value) in places.into_iter().zip(values) {
                    largest.meet(key(k, value, i.lt(n)), i);
                }
            });
            let place = largest.at.get();
            y.at(output).store(x.at(place * inner).load());
            at.at(output).store(place);
        });
    })
}

/// `dx[o, at[o, j], j] = dy[o, j]`, and nothing else: dx is zero before. Parameters: dy, at (u32),
/// dx, outputs, n, inner. The extent of the grid is the outputs.
pub fn spread() -> Kernel {
    Kernel::new("max_backward", THREADS, [THREADS, 1, 1], |k| {
        let (dy, at) = (k.global::<F32>("dy"), k.global::<U32>("at"));
        let dx = k.global::<F32>("dx");
        let [outputs, n, inner] = ["outputs", "n", "inner"].map(|name| k.u32(name));
        let output = k.block(0).mad(THREADS, k.thread());
        k.if_(output.lt(outputs), || {
            let line = output / inner * n + at.at(output).load();
            dx.at(line.mad(inner, output % inner)).store(dy.at(output).load());
        });
    })
}
