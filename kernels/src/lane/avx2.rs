//! Lanes as two AVX2 registers. See the invariant in the parent module.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{LANES, Portable, Simd, Task};
use crate::num::{Num, SQRT_HALF_BITS, Single, single};

/// Sixteen float32 lanes in two 256-bit registers.
#[derive(Clone, Copy)]
pub(super) struct F32x16(__m256, __m256);

/// The token of AVX2 with FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `task` with AVX2 and FMA.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
// Never inlined: see `Simd::call`.
#[inline(never)]
pub(super) unsafe fn run<K: Task<f32>>(task: K) -> K::Output {
    task.run(Avx2(()))
}

/// Runs `task` on array lanes, compiled for AVX2 and FMA.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_portable<K: Task<f64>>(task: K) -> K::Output {
    task.run(Portable::<f64>::new())
}

impl Simd for Avx2 {
    type T = f32;
    type V = F32x16;
    // Twelve accumulator registers, two for a row of B, one for a broadcast of A: fifteen of 16.
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        // SAFETY: the token vouches for AVX2.
        unsafe { F32x16(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F32x16 {
        let p = x.as_ptr();
        // SAFETY: the token vouches for AVX2; sixteen floats lie behind `p`.
        unsafe { F32x16(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    fn store(self, v: F32x16, out: &mut [f32; LANES]) {
        let p = out.as_mut_ptr();
        // SAFETY: the token vouches for AVX2; sixteen floats lie behind `p`.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    fn load_head(self, x: &[f32], fill: f32) -> F32x16 {
        if let Some(x) = x.first_chunk() {
            return self.load(x);
        }
        let p = x.as_ptr();
        // SAFETY: the token vouches for AVX2; lanes beyond the slice are not read.
        unsafe {
            let half = |offset: i32| {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let here = _mm256_cmpgt_epi32(_mm256_set1_epi32(x.len() as i32 - offset), lanes);
                let read = _mm256_maskload_ps(p.wrapping_add(offset as usize), here);
                _mm256_blendv_ps(_mm256_set1_ps(fill), read, _mm256_castsi256_ps(here))
            };
            F32x16(half(0), half(8))
        }
    }
    /// By powers of two: a masked store is a slow instruction on some processors.
    #[inline(always)]
    fn store_head(self, v: F32x16, out: &mut [f32]) {
        if let Some(out) = out.first_chunk_mut() {
            return self.store(v, out);
        }
        let (len, mut p, mut eight) = (out.len(), out.as_mut_ptr(), v.0);
        // SAFETY: the token vouches for AVX2; the powers of two add up to `len`.
        unsafe {
            if len & 8 != 0 {
                _mm256_storeu_ps(p, eight);
                (p, eight) = (p.add(8), v.1);
            }
            let mut four = _mm256_castps256_ps128(eight);
            if len & 4 != 0 {
                _mm_storeu_ps(p, four);
                (p, four) = (p.add(4), _mm256_extractf128_ps::<1>(eight));
            }
            if len & 2 != 0 {
                _mm_storel_epi64(p.cast(), _mm_castps_si128(four));
                (p, four) = (p.add(2), _mm_movehl_ps(four, four));
            }
            if len & 1 != 0 {
                _mm_store_ss(p, four);
            }
        }
    }
    #[inline(always)]
    fn load_around(self, x: &[f32], first: isize) -> F32x16 {
        // Beyond sixteen places before the start, or the end, it makes no difference how far.
        let first = first.clamp(-(LANES as isize), x.len() as isize);
        let before = first.min(0).unsigned_abs() as i32;
        let end = (x.len() as isize - first).min(LANES as isize) as i32;
        let p = x.as_ptr().wrapping_offset(first);
        // SAFETY: the token vouches for AVX2; lanes before and beyond the slice are not read.
        unsafe {
            let half = |offset: i32| {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let lanes = _mm256_add_epi32(lanes, _mm256_set1_epi32(offset));
                let from = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(before - 1));
                let to = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes);
                _mm256_maskload_ps(p.wrapping_offset(offset as isize), _mm256_and_si256(from, to))
            };
            F32x16(half(0), half(8))
        }
    }
    #[inline(always)]
    fn load_joined(self, a: &[f32], b: &[f32]) -> F32x16 {
        assert!(a.len() + b.len() == LANES);
        let four = |lane: usize| {
            let x = if lane < a.len() { &a[lane..] } else { &b[lane - a.len()..] };
            let x: &[f32; 4] = x.first_chunk().expect("whole fours");
            // SAFETY: SSE is part of every x86-64; the array has four elements.
            unsafe { _mm_loadu_ps(x.as_ptr()) }
        };
        // SAFETY: the token vouches for AVX2.
        unsafe { F32x16(_mm256_set_m128(four(4), four(0)), _mm256_set_m128(four(12), four(8))) }
    }
    #[inline(always)]
    fn call<K: Task<f32>>(self, task: K) -> K::Output {
        // SAFETY: the token vouches for AVX2.
        unsafe { run(task) }
    }
    #[inline(always)]
    fn prefetch<E>(self, x: &[E], i: usize) {
        // SAFETY: a prefetch of any address, mapped or not, is a hint and has no effect but on
        // caches; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(i).cast()) }
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [F32x16; LANES]) {
        let [mut a, mut b, mut c, mut d] = [[self.splat(0.0).0; 8]; 4];
        for i in 0..8 {
            (a[i], b[i], c[i], d[i]) = (rows[i].0, rows[i].1, rows[i + 8].0, rows[i + 8].1);
        }
        // SAFETY: the token vouches for AVX2.
        unsafe { (a, b, c, d) = (turn(a), turn(b), turn(c), turn(d)) };
        for i in 0..8 {
            (rows[i], rows[i + 8]) = (F32x16(a[i], c[i]), F32x16(b[i], d[i]));
        }
    }
}

/// Transposes an 8×8 square: pairs of rows, then pairs of pairs, then halves.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn turn(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let (mut pairs, mut fours, mut out) = (r, r, r);
        for i in [0, 2, 4, 6] {
            pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        for i in [0, 4] {
            fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm256_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm256_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
        }
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        }
        out
    }
}

/// One binary operator by one instruction on both halves.
macro_rules! operator {
    ($trait:ident, $method:ident, $instruction:ident) => {
        impl $trait for F32x16 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, o: Self) -> Self {
                // SAFETY: lanes exist only where AVX2 does.
                unsafe { F32x16($instruction(self.0, o.0), $instruction(self.1, o.1)) }
            }
        }
    };
}

operator!(Add, add, _mm256_add_ps);
operator!(Sub, sub, _mm256_sub_ps);
operator!(Mul, mul, _mm256_mul_ps);
operator!(Div, div, _mm256_div_ps);

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            F32x16(_mm256_xor_ps(self.0, sign), _mm256_xor_ps(self.1, sign))
        }
    }
}

impl Num for F32x16 {
    type Mask = (__m256, __m256);

    #[inline(always)]
    fn lift(self, c: f64) -> Self {
        // SAFETY: lanes exist only where AVX2 does; `self` is one.
        unsafe { F32x16(_mm256_set1_ps(c as f32), _mm256_set1_ps(c as f32)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: lanes exist only where AVX2 and FMA do.
        unsafe { F32x16(_mm256_fmadd_ps(self.0, a.0, b.0), _mm256_fmadd_ps(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe { F32x16(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            F32x16(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }
    #[inline(always)]
    fn lt(self, o: Self) -> Self::Mask {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe {
            (_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, o.0), _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, o.1))
        }
    }
    #[inline(always)]
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe { F32x16(_mm256_blendv_ps(b.0, a.0, mask.0), _mm256_blendv_ps(b.1, a.1, mask.1)) }
    }
    #[inline(always)]
    fn exp(self) -> Self {
        single::exp(self)
    }
    #[inline(always)]
    fn exp_normal(self) -> Self {
        single::exp_normal(self)
    }
    #[inline(always)]
    fn exp2_normal(self) -> Self {
        single::exp2_normal(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        single::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        single::tanh(self)
    }
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe { F32x16(_mm256_max_ps(self.0, o.0), _mm256_max_ps(self.1, o.1)) }
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        // SAFETY: lanes exist only where AVX2 does.
        unsafe { F32x16(_mm256_min_ps(self.0, o.0), _mm256_min_ps(self.1, o.1)) }
    }
}

impl Single for F32x16 {
    #[inline(always)]
    fn round_ties_even(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: lanes exist only where AVX2 does.
        unsafe { F32x16(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }
    #[inline(always)]
    fn exp2_int(self) -> Self {
        #[inline(always)]
        unsafe fn half(v: __m256) -> __m256 {
            // SAFETY: the caller holds lanes.
            unsafe {
                let n = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
            }
        }
        // SAFETY: lanes exist only where AVX2 does.
        unsafe { F32x16(half(self.0), half(self.1)) }
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        #[inline(always)]
        unsafe fn half(v: __m256) -> (__m256, __m256) {
            // SAFETY: the caller holds lanes.
            unsafe {
                let cut = _mm256_set1_epi32(SQRT_HALF_BITS as i32);
                let shifted = _mm256_sub_epi32(_mm256_castps_si256(v), cut);
                let exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32::<23>(shifted));
                let field = _mm256_and_si256(shifted, _mm256_set1_epi32(0x007f_ffff));
                (_mm256_castsi256_ps(_mm256_add_epi32(field, cut)), exponent)
            }
        }
        // SAFETY: lanes exist only where AVX2 does.
        let ((m0, e0), (m1, e1)) = unsafe { (half(self.0), half(self.1)) };
        (F32x16(m0, m1), F32x16(e0, e1))
    }
}
