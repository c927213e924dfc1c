//! Lanes as one AVX-512 register. See the invariant in the parent module.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::avx2::turn;
use super::{LANES, Simd, Task};
use crate::num::{Num, SQRT_HALF_BITS, Single, single};

/// Sixteen float32 lanes in one 512-bit register.
#[derive(Clone, Copy)]
pub(super) struct F32x16(__m512);

/// The token of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs `task` with AVX-512.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
// Never inlined: see `Simd::call`.
#[inline(never)]
pub(super) unsafe fn run<K: Task<f32>>(task: K) -> K::Output {
    task.run(Avx512(()))
}

impl Simd for Avx512 {
    type T = f32;
    type V = F32x16;
    const MANY_REGISTERS: bool = true;
    // Twenty-four accumulators, four vectors of B and a broadcast of A: 29 of 32 registers. So many
    // have no shape with fewer loads: ten a step along K, where 12 rows by two vectors have 14.
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        // SAFETY: the token vouches for AVX-512.
        unsafe { F32x16(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F32x16 {
        // SAFETY: the token vouches for AVX-512; the array is sixteen floats.
        unsafe { F32x16(_mm512_loadu_ps(x.as_ptr())) }
    }
    #[inline(always)]
    fn store(self, v: F32x16, out: &mut [f32; LANES]) {
        // SAFETY: the token vouches for AVX-512; the array is sixteen floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn call<K: Task<f32>>(self, task: K) -> K::Output {
        // SAFETY: the token vouches for AVX-512.
        unsafe { run(task) }
    }
    #[inline(always)]
    fn prefetch<E>(self, x: &[E], i: usize) {
        // To the second cache: a core waits for few lines to the first at a time.
        // SAFETY: a prefetch of any address, mapped or not, is a hint and has no effect but on
        // caches; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().wrapping_add(i).cast()) }
    }
    #[inline(always)]
    fn load_head(self, x: &[f32], fill: f32) -> F32x16 {
        if let Some(x) = x.first_chunk() {
            return self.load(x);
        }
        // SAFETY: the token vouches for AVX-512; lanes beyond the slice are not read.
        unsafe { F32x16(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), lanes(0, x.len()), x.as_ptr())) }
    }
    #[inline(always)]
    fn store_head(self, v: F32x16, out: &mut [f32]) {
        if let Some(out) = out.first_chunk_mut() {
            return self.store(v, out);
        }
        // SAFETY: the token vouches for AVX-512; lanes beyond the slice are not written.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes(0, out.len()), v.0) }
    }
    #[inline(always)]
    fn load_around(self, x: &[f32], first: isize) -> F32x16 {
        if let Some(x) = x.get(first as usize..).and_then(|x| x.first_chunk()) {
            return self.load(x);
        }
        // Beyond sixteen places before the start, or the end, it makes no difference how far.
        let first = first.clamp(-(LANES as isize), x.len() as isize);
        let before = first.min(0).unsigned_abs();
        let end = (x.len() as isize - first) as usize;
        let p = x.as_ptr().wrapping_offset(first);
        // SAFETY: the token vouches for AVX-512; lanes before and beyond the slice are not read.
        unsafe { F32x16(_mm512_maskz_loadu_ps(lanes(before, end), p)) }
    }
    #[inline(always)]
    fn load_joined(self, a: &[f32], b: &[f32]) -> F32x16 {
        assert!(a.len() + b.len() == LANES);
        // SAFETY: the token vouches for AVX-512; lanes of `a` alone, then those of `b` are read.
        unsafe {
            let first = _mm512_maskz_loadu_ps(lanes(0, a.len()), a.as_ptr());
            let p = b.as_ptr().wrapping_sub(a.len());
            F32x16(_mm512_mask_loadu_ps(first, lanes(a.len(), LANES), p))
        }
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [F32x16; LANES]) {
        // SAFETY: the token vouches for AVX-512, and so for AVX2.
        unsafe {
            let [mut a, mut b, mut c, mut d] = [[_mm256_setzero_ps(); 8]; 4];
            for i in 0..8 {
                let (upper, lower) = (rows[i].0, rows[i + 8].0);
                (a[i], b[i]) = (_mm512_castps512_ps256(upper), _mm512_extractf32x8_ps::<1>(upper));
                (c[i], d[i]) = (_mm512_castps512_ps256(lower), _mm512_extractf32x8_ps::<1>(lower));
            }
            (a, b, c, d) = (turn(a), turn(b), turn(c), turn(d));
            for i in 0..8 {
                rows[i] = join(a[i], c[i]);
                rows[i + 8] = join(b[i], d[i]);
            }
        }
    }
}

/// The mask of lanes `start..end`, as far as they are among the sixteen.
#[inline(always)]
fn lanes(start: usize, end: usize) -> __mmask16 {
    let below = |n: usize| (1u32 << n.min(LANES)) - 1;
    (below(end) & !below(start)) as __mmask16
}

/// Sixteen lanes of twice eight.
///
/// # Safety
/// The processor has AVX-512 DQ.
#[inline(always)]
unsafe fn join(low: __m256, high: __m256) -> F32x16 {
    // SAFETY: the caller vouches for AVX-512 DQ.
    unsafe { F32x16(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)) }
}

/// One binary operator by one instruction.
macro_rules! operator {
    ($trait:ident, $method:ident, $instruction:ident) => {
        impl $trait for F32x16 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, o: Self) -> Self {
                // SAFETY: lanes exist only where AVX-512 does.
                unsafe { F32x16($instruction(self.0, o.0)) }
            }
        }
    };
}

operator!(Add, add, _mm512_add_ps);
operator!(Sub, sub, _mm512_sub_ps);
operator!(Mul, mul, _mm512_mul_ps);
operator!(Div, div, _mm512_div_ps);

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))) }
    }
}

impl Num for F32x16 {
    type Mask = __mmask16;

    #[inline(always)]
    fn lift(self, c: f64) -> Self {
        // SAFETY: lanes exist only where AVX-512 does; `self` is one.
        unsafe { F32x16(_mm512_set1_ps(c as f32)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_fmadd_ps(self.0, a.0, b.0)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_sqrt_ps(self.0)) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_abs_ps(self.0)) }
    }
    #[inline(always)]
    fn lt(self, o: Self) -> __mmask16 {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, o.0) }
    }
    #[inline(always)]
    fn select(mask: __mmask16, a: Self, b: Self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_mask_blend_ps(mask, b.0, a.0)) }
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
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_max_ps(self.0, o.0)) }
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_min_ps(self.0, o.0)) }
    }
}

impl Single for F32x16 {
    #[inline(always)]
    fn round_ties_even(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_roundscale_ps::<NEAREST>(self.0)) }
    }
    #[inline(always)]
    fn exp2_int(self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            F32x16(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
    /// One instruction for eleven.
    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe { F32x16(_mm512_scalef_ps(self.0, n.0)) }
    }
    /// One instruction for four.
    #[inline(always)]
    fn scale_normal(self, n: Self) -> Self {
        self.scale(n)
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: lanes exist only where AVX-512 does.
        unsafe {
            let cut = _mm512_set1_epi32(SQRT_HALF_BITS as i32);
            let shifted = _mm512_sub_epi32(_mm512_castps_si512(self.0), cut);
            let exponent = _mm512_cvtepi32_ps(_mm512_srai_epi32::<23>(shifted));
            let field = _mm512_and_si512(shifted, _mm512_set1_epi32(0x007f_ffff));
            (F32x16(_mm512_castsi512_ps(_mm512_add_epi32(field, cut))), F32x16(exponent))
        }
    }
}
