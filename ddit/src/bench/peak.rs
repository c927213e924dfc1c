//! The machine's own ceilings: multiply-adds with nothing in their way, and memory copied.

use std::time::Instant;

use kernels::num::Num;
use kernels::{Real, Simd, Task, par};

/// Times each measurement is tried; the best counts.
const TRIES: usize = 5;

/// Bytes copied at a time: more than caches hold.
const COPIED: usize = 128 << 20;

/// What a machine can do at most.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// GFLOP/s of multiply-adds.
    pub gflops: f64,
    /// GB/s of a copy.
    pub gbs: f64,
}

impl Ceilings {
    /// Those of all threads of the pool at once.
    pub fn measure() -> Self {
        Self { gflops: fma_gflops(), gbs: copy_gbs() }
    }

    /// What share of the possible it is to do so much arithmetic on so many bytes in so many
    /// seconds: the time that arithmetic or memory need at the least, over the time taken. More
    /// than 1 where operands are still in a cache.
    pub fn share(&self, flops: f64, bytes: f64, seconds: f64) -> f64 {
        (flops / self.gflops).max(bytes / self.gbs) / 1e9 / seconds
    }
}

/// A loop of independent multiply-adds on registers: `CHAINS` chains of sixteen lanes.
struct Fma<const CHAINS: usize> {
    rounds: usize,
}

impl<const CHAINS: usize> Task<f32> for Fma<CHAINS> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd<T = f32>>(self, isa: S) -> f32 {
        let (a, b) = (isa.splat(0.999), isa.splat(1e-6));
        let mut chains = [isa.splat(0.5); CHAINS];
        for _ in 0..self.rounds {
            for x in &mut chains {
                *x = x.mul_add(a, b);
            }
        }
        let mut total = chains[0];
        for x in &chains[1..] {
            total = total + *x;
        }
        isa.sum(total)
    }
}

/// GFLOP/s of float32 multiply-adds on all threads of the pool at once.
///
/// Two units of latency four need eight registers in flight. Sixteen lanes are one register of
/// AVX-512, which has 32, and two of AVX2, which has 16: so both ten chains and six are tried.
pub fn fma_gflops() -> f64 {
    fma::<6>().max(fma::<10>())
}

fn fma<const CHAINS: usize>() -> f64 {
    const ROUNDS: usize = 1_000_000;
    let threads = par::threads();
    let flops = (threads * ROUNDS * CHAINS * kernels::lane::LANES * 2) as f64;
    best(|| {
        let task = |_| f32::dispatch(Fma::<CHAINS> { rounds: ROUNDS });
        std::hint::black_box(par::map(threads, usize::MAX, task));
        flops
    })
}

/// GB/s of a copy between arrays that no cache holds, bytes read and bytes written counted, on all
/// threads of the pool at once.
pub fn copy_gbs() -> f64 {
    let source = vec![1_u8; COPIED];
    let mut target = vec![0_u8; COPIED];
    best(|| {
        let part = COPIED / par::threads();
        par::chunks_mut(&mut target, part, usize::MAX, |i, target| {
            target.copy_from_slice(&source[i * part..][..target.len()]);
        });
        std::hint::black_box(&target);
        2.0 * COPIED as f64
    })
}

/// The best rate of a few tries in billions a second; `work` answers how much it did.
fn best(mut work: impl FnMut() -> f64) -> f64 {
    let mut rate = || {
        let begun = Instant::now();
        let done = work();
        done / begun.elapsed().as_secs_f64() / 1e9
    };
    (0..TRIES).map(|_| rate()).fold(0.0, f64::max)
}

/// Makes [`resident_mb`] begin anew from what the process holds now; whether the system could.
pub fn forget_resident() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The largest amount of memory the process has held, in MiB; `None` where the system does not
/// say.
pub fn resident_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_the_tighter_limit() {
        let ceilings = Ceilings { gflops: 8.0, gbs: 100.0 };
        assert_eq!(ceilings.share(2e9, 1e9, 0.5), 0.5);
        assert_eq!(ceilings.share(0.0, 40e9, 0.5), 0.8);
    }

    #[test]
    fn ceilings_are_numbers_a_machine_may_have() {
        let Ceilings { gflops, gbs } = Ceilings::measure();
        assert!((0.1..1e5).contains(&gflops), "{gflops} GFLOP/s");
        assert!((0.1..1e4).contains(&gbs), "{gbs} GB/s");
        if cfg!(target_os = "linux") {
            assert!(resident_mb().unwrap() >= (2 * COPIED as u64) >> 20);
        }
    }
}
