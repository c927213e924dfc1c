//! The machine's own ceiling: float32 fused multiply-adds with nothing in their way.

use std::time::Instant;

use kernels::num::Num;
use kernels::{Real, Simd, Task, par};

/// Multiply-adds of the longest dependency-free chain: enough to cover any latency.
const CHAINS: usize = 6;

/// A loop of independent multiply-adds on registers.
struct Fma {
    rounds: usize,
}

impl Task<f32> for Fma {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd<T = f32>>(self, isa: S) -> f32 {
        let (a, b) = (isa.splat(0.999), isa.splat(1e-6));
        let mut acc = [isa.splat(0.5); CHAINS];
        for _ in 0..self.rounds {
            for x in &mut acc {
                *x = x.mul_add(a, b);
            }
        }
        let mut total = acc[0];
        for x in &acc[1..] {
            total = total + *x;
        }
        isa.sum(total)
    }
}

/// GFLOP/s of fused multiply-adds on all threads of the pool at once: the best of a few tries.
pub fn fma_gflops() -> f64 {
    const ROUNDS: usize = 2_000_000;
    let threads = par::threads();
    let flops = (threads * ROUNDS * CHAINS * kernels::lane::LANES * 2) as f64;
    let try_once = || {
        let start = Instant::now();
        let sums = par::map(threads, usize::MAX, |_| f32::dispatch(Fma { rounds: ROUNDS }));
        std::hint::black_box(sums);
        flops / start.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(|_| try_once()).fold(0.0, f64::max)
}
