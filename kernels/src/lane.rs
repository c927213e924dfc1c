//! Sixteen numbers at a time, and how an instruction set is chosen.
//!
//! Every instruction set offers the same sixteen logical lanes: one AVX-512 register, two AVX2
//! registers, or an array. Reductions over lanes follow one fixed tree. A kernel is a [`Task`],
//! generic over [`Simd`]; [`Real::dispatch`] runs it on the best instruction set of the machine,
//! and its bits do not depend on which one that was.
//!
//! # Safety invariant
//!
//! A lane type of an instruction set can only be made through that set's token (its fields are
//! private, constants are lifted from an existing value), and a token is only made by a set's
//! `run`, which is only called by `dispatch` after the processor was asked, or by [`Simd::call`]
//! with a token at hand. So whoever holds lanes may execute their instructions. This file and its
//! children `avx2` and `avx512` are the only places with SIMD `unsafe`.
#![allow(unsafe_code)]

use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::num::Num;

mod array;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
pub(crate) use array::Wide;
pub use array::{Array, Portable};

/// Logical lanes of every instruction set.
pub const LANES: usize = 16;

/// A floating-point type that kernels compute in: `f32` (SIMD) or `f64` (for checking).
pub trait Real:
    Num<Mask = bool>
    + bytemuck::Pod
    + PartialOrd
    + Default
    + Send
    + Sync
    + std::fmt::Debug
    + std::fmt::Display
    + std::ops::AddAssign
    + crate::gemm::Multiply
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;

    /// The nearest value to `x`.
    fn from_f64(x: f64) -> Self;
    /// This value as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// Runs `task` with the lanes of the chosen instruction set.
    fn dispatch<K: Task<Self>>(task: K) -> K::Output;
}

/// A piece of work written once for all instruction sets.
///
/// Implementations mark `run` and everything it calls per element `#[inline(always)]`: code is
/// only compiled for an instruction set where it is inlined into that set's entry function.
/// For the same reason hot loops use plain `for`, and closures only as what an inlined function is
/// given.
pub trait Task<T: Real> {
    /// What the task answers.
    type Output;
    /// Does the work with the lanes that `isa` can make.
    fn run<S: Simd<T = T>>(self, isa: S) -> Self::Output;
}

/// The token of an instruction set: makes, loads and stores its lanes.
pub trait Simd: Copy + Send + Sync + 'static {
    /// The number in one lane.
    type T: Real;
    /// Sixteen lanes.
    type V: Num;

    /// Whether lanes are registers; if not, a plain loop is as fast and smaller.
    const IN_REGISTERS: bool = true;
    /// Whether there are registers for the numbers of four vectors in a formula, and constants.
    const MANY_REGISTERS: bool = false;
    /// Rows of the matrix-product tile whose accumulators fit the registers.
    const TILE_ROWS: usize;
    /// Vectors of sixteen columns in that tile.
    const TILE_VECS: usize;

    /// All lanes `x`.
    fn splat(self, x: Self::T) -> Self::V;
    /// Lane i is `x[i]`.
    fn load(self, x: &[Self::T; LANES]) -> Self::V;
    /// `out[i]` is lane i.
    fn store(self, v: Self::V, out: &mut [Self::T; LANES]);

    /// Runs a task on this instruction set, where there are registers as a function of its own: one
    /// for whose loops the compiler has all of them.
    fn call<K: Task<Self::T>>(self, task: K) -> K::Output;

    /// Begins to fetch the cache line of element `i`, which may lie beyond the end: what is there
    /// is not read.
    #[inline(always)]
    fn prefetch<E>(self, _x: &[E], _i: usize) {}

    /// Begins to fetch a row, a line of the cache for each sixteen elements.
    #[inline(always)]
    fn prefetch_row(self, row: &[Self::T]) {
        for i in (0..row.len()).step_by(LANES) {
            self.prefetch(row, i);
        }
    }

    /// Loads a slice of at most sixteen elements; lanes beyond it are `fill`.
    #[inline(always)]
    fn load_head(self, x: &[Self::T], fill: Self::T) -> Self::V {
        if let Some(x) = x.first_chunk() {
            return self.load(x);
        }
        self.load(&filled(x, fill))
    }

    /// Stores the first lanes into a slice of at most sixteen elements.
    #[inline(always)]
    fn store_head(self, v: Self::V, out: &mut [Self::T]) {
        if let Some(out) = out.first_chunk_mut() {
            return self.store(v, out);
        }
        let mut lanes = [Self::T::ZERO; LANES];
        self.store(v, &mut lanes);
        copy_head(&lanes, out);
    }

    /// Lane i is `x[first + i]`, or zero where there is no such element.
    #[inline(always)]
    fn load_around(self, x: &[Self::T], first: isize) -> Self::V {
        let mut lanes = [Self::T::ZERO; LANES];
        for i in 0..LANES {
            // A negative index is a huge one.
            if let Some(&x) = x.get(first.wrapping_add(i as isize) as usize) {
                lanes[i] = x;
            }
        }
        self.load(&lanes)
    }

    /// The elements of `a`, then those of `b`: sixteen together, and whole fours of each.
    #[inline(always)]
    fn load_joined(self, a: &[Self::T], b: &[Self::T]) -> Self::V {
        let mut lanes = [Self::T::ZERO; LANES];
        lanes[..a.len()].copy_from_slice(a);
        lanes[a.len()..].copy_from_slice(b);
        self.load(&lanes)
    }

    /// Sum over lanes by halves: 16 → 8 → 4 → 2 → 1, lane i with lane i + half.
    #[inline(always)]
    fn sum(self, v: Self::V) -> Self::T {
        let mut lanes = [Self::T::ZERO; LANES];
        self.store(v, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Turns a square: lane j of `rows[i]` becomes lane i of `rows[j]`.
    #[inline(always)]
    fn transpose(self, rows: &mut [Self::V; LANES]) {
        let mut square = [[Self::T::ZERO; LANES]; LANES];
        for i in 0..LANES {
            self.store(rows[i], &mut square[i]);
        }
        for j in 0..LANES {
            let mut column = [Self::T::ZERO; LANES];
            for i in 0..LANES {
                column[i] = square[i][j];
            }
            rows[j] = self.load(&column);
        }
    }

    /// Largest lane.
    #[inline(always)]
    fn largest(self, v: Self::V) -> Self::T {
        let mut lanes = [Self::T::ZERO; LANES];
        self.store(v, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = lanes[i].max(lanes[i + half]);
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// A slice of less than sixteen elements, filled up.
///
/// Cold, so that a loop around [`Simd::load_head`] keeps its lanes in registers: a call in the
/// loop's usual path would have them saved to memory.
#[cold]
#[inline(never)]
fn filled<T: Copy>(x: &[T], fill: T) -> [T; LANES] {
    let mut lanes = [fill; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// The first of sixteen elements; cold like [`filled`].
#[cold]
#[inline(never)]
fn copy_head<T: Copy>(lanes: &[T; LANES], out: &mut [T]) {
    out.copy_from_slice(&lanes[..out.len()]);
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline]
    fn dispatch<K: Task<f32>>(task: K) -> K::Output {
        match isa() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `isa` only answers sets that the processor has.
            Isa::Avx512 => unsafe { avx512::run(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2::run(task) },
            _ => task.run(Portable::new()),
        }
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline]
    fn dispatch<K: Task<f64>>(task: K) -> K::Output {
        match isa() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every processor with AVX-512 has AVX2 and FMA, and `isa` asked for them.
            Isa::Avx512 | Isa::Avx2 => unsafe { avx2::run_portable(task) },
            _ => task.run(Portable::new()),
        }
    }
}

/// The instruction sets there is code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Arrays and whatever the compiler makes of them; fused multiply-add may be a library call.
    Portable = 1,
    /// AVX2 with FMA.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512 = 3,
}

impl Isa {
    /// Every set, least first.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The name used by `DDIT_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this processor (and its operating system) can execute it.
    pub fn is_supported(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

impl std::str::FromStr for Isa {
    type Err = String;
    fn from_str(name: &str) -> Result<Isa, String> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            format!("unknown instruction set {name:?}; expected portable, avx2 or avx512")
        })
    }
}

/// The chosen set; 0 before the first question.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// The instruction set in use: what [`set_isa`] said, else the best one there is.
#[inline]
pub fn isa() -> Isa {
    match CHOSEN.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        _ => choose_best(),
    }
}

#[cold]
fn choose_best() -> Isa {
    let best = Isa::ALL.into_iter().rfind(|isa| isa.is_supported()).unwrap_or(Isa::Portable);
    CHOSEN.store(best as u8, Ordering::Relaxed);
    best
}

/// Chooses the instruction set of the whole program. Results do not change, only speed.
///
/// Errors: this processor does not have it.
pub fn set_isa(isa: Isa) -> Result<(), String> {
    if !isa.is_supported() {
        return Err(format!("this processor has no {}", isa.name()));
    }
    CHOSEN.store(isa as u8, Ordering::Relaxed);
    Ok(())
}

/// For tests: chooses each instruction set of this processor in turn, runs `f`, and chooses again
/// the one that was. Callers take turns, as the choice is the whole program's.
///
/// A set that the processor lacks is told on stderr, past the capture of tests' output, in a line
/// that begins `SKIPPED`: a pass must not hide what was not tried.
pub fn on_every_isa(what: &str, mut f: impl FnMut(Isa)) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = isa();
    for isa in Isa::ALL {
        match set_isa(isa) {
            Ok(()) => f(isa),
            Err(why) => {
                // Nothing is lost but the line if there is no stderr.
                let _ = writeln!(std::io::stderr(), "SKIPPED {what} on {}: {why}", isa.name());
            }
        }
    }
    CHOSEN.store(before as u8, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
