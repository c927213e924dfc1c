//! Floating point as PTX defines it, where Rust's operators do not already.

use half::f16;

/// The NaN that arithmetic returns: PTX keeps no payloads.
pub(crate) const NAN: u32 = 0x7FFF_FFFF;

/// Bits of a result, with the canonical NaN.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// The same for f64.
#[inline(always)]
pub(crate) fn canonical64(x: f64) -> u64 {
    if x.is_nan() { 0x7FFF_FFFF_FFFF_FFFF } else { x.to_bits() }
}

/// `.ftz`: a subnormal becomes zero of its sign.
#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// `.sat`: [0, 1], NaN to +0.
#[inline(always)]
pub(crate) fn saturate(bits: u32) -> u32 {
    let x = f32::from_bits(bits);
    if x > 0.0 { x.min(1.0).to_bits() } else { 0 }
}

/// PTX `min`/`max`: of two numbers the smaller (larger), −0 below +0; of a number and a NaN the
/// number, or with `NAN_WINS` (`.NaN`) the NaN.
#[inline(always)]
pub(crate) fn extreme<const MAX: bool, const NAN_WINS: bool>(a: f32, b: f32) -> f32 {
    if NAN_WINS && (a.is_nan() || b.is_nan()) || a.is_nan() && b.is_nan() {
        return f32::NAN;
    }
    if a.is_nan() {
        return b;
    }
    let first = if a == b { a.is_sign_negative() != MAX } else { (a < b) != MAX };
    if b.is_nan() || first { a } else { b }
}

/// [`extreme`] in f64.
#[inline(always)]
pub(crate) fn extreme64<const MAX: bool>(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        return b;
    }
    let first = if a == b { a.is_sign_negative() != MAX } else { (a < b) != MAX };
    if b.is_nan() || first { a } else { b }
}

/// Rounding directions other than to nearest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toward {
    Zero,
    MinusInfinity,
    PlusInfinity,
}

impl Toward {
    pub const fn code(self) -> u8 {
        self as u8
    }

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Zero,
            1 => Self::MinusInfinity,
            _ => Self::PlusInfinity,
        }
    }
}

/// The exact value hi + lo (|lo| at most half an ulp of hi) rounded to f32 in direction `TOWARD`.
#[inline(always)]
fn directed<const TOWARD: u8>(hi: f64, lo: f64) -> f32 {
    let near = hi as f32;
    if hi.is_nan() || hi.is_infinite() {
        return near;
    }
    // `near as f64` is exact, so the sign of the error of `near` is that of this difference.
    let above = f64::from(near) > hi || f64::from(near) == hi && lo < 0.0;
    let below = f64::from(near) < hi || f64::from(near) == hi && lo > 0.0;
    let negative = hi < 0.0 || hi == 0.0 && hi.is_sign_negative();
    match Toward::of(TOWARD) {
        Toward::Zero if negative && below || !negative && above => step(near, negative),
        Toward::MinusInfinity if above => step(near, false),
        Toward::PlusInfinity if below => step(near, true),
        _ => near,
    }
}

fn step(x: f32, up: bool) -> f32 {
    if up { x.next_up() } else { x.next_down() }
}

/// a·b + c exactly, as a sum of two f64: the product of two f32 fits in one, and Knuth's TwoSum
/// gives the error of the addition.
#[inline(always)]
fn exact_fma(a: f32, b: f32, c: f32) -> (f64, f64) {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let bb = sum - p;
    (sum, (p - (sum - bb)) + (c - bb))
}

/// `fma.rn`: a·b + c rounded once. `f32::mul_add` says the same, but is a call for each lane where
/// the target has no such instruction; this compiles to vector arithmetic everywhere.
///
/// The f64 sum is first rounded *to odd*: if it is inexact and even, it moves to its odd neighbour on
/// the side of the error. No odd f64 lies midway between two f32, so rounding that once more rounds
/// the exact value (Boldo and Melquiond 2008).
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    let (hi, lo) = exact_fma(a, b, c);
    let bits = hi.to_bits();
    let inexact = lo.abs() > 0.0;
    let away = (lo > 0.0) == (hi > 0.0);
    let odd = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f64::from_bits(if inexact && bits & 1 == 0 { odd } else { bits }) as f32
}

/// `fma.rz`, `.rm`, `.rp`; `add` and `sub` are fma by 1, `mul` is fma with −0.
#[inline(always)]
pub(crate) fn fma_directed<const TOWARD: u8>(a: f32, b: f32, c: f32) -> f32 {
    let (hi, lo) = exact_fma(a, b, c);
    if hi == 0.0 && lo == 0.0 {
        // An exact zero sum of opposite signs is −0 when rounding down, +0 otherwise.
        let product = f64::from(a) * f64::from(b);
        let same = product.is_sign_negative() == c.is_sign_negative();
        let negative = if same {
            c.is_sign_negative()
        } else {
            matches!(Toward::of(TOWARD), Toward::MinusInfinity)
        };
        return if negative { -0.0 } else { 0.0 };
    }
    directed::<TOWARD>(hi, lo)
}

/// a·b + c rounded to odd: truncated, and the last bit set if that lost anything. Rounding it once more
/// to a format at least two bits narrower, such as f16 and bf16, rounds the exact value.
#[inline(always)]
pub(crate) fn fma_odd(a: f32, b: f32, c: f32) -> f32 {
    let (hi, lo) = exact_fma(a, b, c);
    let truncated = fma_directed::<{ Toward::Zero.code() }>(a, b, c);
    let inexact = lo.abs() > 0.0 || f64::from(truncated) != hi;
    if inexact && truncated.is_finite() {
        f32::from_bits(truncated.to_bits() | 1)
    } else {
        truncated
    }
}

/// Product rounded toward a direction; exact zeros keep the sign of the product.
#[inline(always)]
pub(crate) fn mul_directed<const TOWARD: u8>(a: f32, b: f32) -> f32 {
    directed::<TOWARD>(f64::from(a) * f64::from(b), 0.0)
}

/// Quotient rounded toward a direction: the remainder of the nearest quotient says which side of it
/// the exact one lies on.
#[inline(always)]
pub(crate) fn div_directed<const TOWARD: u8>(a: f32, b: f32) -> f32 {
    let q = f64::from(a) / f64::from(b);
    let remainder = (-q).mul_add(f64::from(b), f64::from(a));
    let lo = if remainder == 0.0 || !q.is_finite() { 0.0 } else { remainder / f64::from(b) };
    directed::<TOWARD>(q, lo)
}

/// Square root rounded toward a direction.
#[inline(always)]
pub(crate) fn sqrt_directed<const TOWARD: u8>(a: f32) -> f32 {
    let r = f64::from(a).sqrt();
    let remainder = (-r).mul_add(r, f64::from(a));
    directed::<TOWARD>(r, if r > 0.0 && r.is_finite() { remainder } else { 0.0 })
}

/// f32 to bf16, to nearest even; NaN becomes 0x7FFF.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7FFF } else { bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16 }
}

/// f32 to bf16, truncated.
#[inline(always)]
pub(crate) fn to_bf16_rz(x: f32) -> u32 {
    if x.is_nan() { 0x7FFF } else { x.to_bits() >> 16 }
}

/// bf16 in the low half of a register, widened.
#[inline(always)]
pub(crate) fn from_bf16(x: u32) -> f32 {
    f32::from_bits(x << 16)
}

/// f32 to f16, to nearest even; NaN becomes 0x7FFF.
#[inline(always)]
pub(crate) fn to_f16(x: f32) -> u32 {
    if x.is_nan() { 0x7FFF } else { u32::from(f16::from_f32(x).to_bits()) }
}

/// f16 in the low half of a register, widened.
#[inline(always)]
pub(crate) fn from_f16(x: u32) -> f32 {
    f16::from_bits(x as u16).to_f32()
}

/// f32 to tf32 (10 bits of mantissa), to nearest, ties away from zero: `cvt.rna.tf32`.
#[inline(always)]
pub(crate) fn to_tf32(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits().wrapping_add(0x1000) & 0xFFFF_E000 }
}

/// What a tensor core sees of an f32 given as tf32: the low 13 bits are not read.
#[inline(always)]
pub(crate) fn from_tf32(bits: u32) -> f32 {
    f32::from_bits(bits & 0xFFFF_E000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RZ: u8 = Toward::Zero.code();
    const RM: u8 = Toward::MinusInfinity.code();
    const RP: u8 = Toward::PlusInfinity.code();

    /// 1 + 2⁻²⁴ lies midway between 1 and its successor; 2⁻⁶⁰ more is beyond f64's reach.
    #[test]
    fn directed_rounding_sees_what_f64_cannot_hold() {
        let tiny = 2f32.powi(-60);
        for (sign, up, down) in [(1.0, RP, RM), (-1.0, RM, RP)] {
            assert_eq!(fma_directed::<RZ>(1.0, sign, sign * tiny), sign);
            assert_eq!(directed_of(up, sign, sign * tiny), sign * 1f32.next_up());
            assert_eq!(directed_of(down, sign, sign * tiny), sign);
            assert_eq!(fma_directed::<RZ>(1.0, sign, -sign * tiny), sign * 1f32.next_down());
        }
        assert_eq!(fma_directed::<RM>(1.0, 1.0, -1.0).to_bits(), (-0f32).to_bits());
        assert_eq!(fma_directed::<RP>(1.0, 1.0, -1.0).to_bits(), 0);
        assert_eq!(mul_directed::<RZ>(f32::MAX, 2.0), f32::MAX);
        assert_eq!(mul_directed::<RP>(f32::MAX, 2.0), f32::INFINITY);
    }

    #[test]
    fn fma_is_rounded_once() {
        let special = [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN, 1e-45];
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 28 {
                0 => special[(state >> 8) as usize % special.len()],
                // Close exponents, so that sums cancel and round.
                1..8 => f32::from_bits(0x3F00_0000 | state & 0x80FF_FFFF),
                _ => f32::from_bits(state ^ state >> 16),
            }
        };
        for _ in 0..200_000 {
            let (a, b, c) = (next(), next(), next());
            let (ours, theirs) = (canonical(fma(a, b, c)), canonical(a.mul_add(b, c)));
            assert_eq!(ours, theirs, "fma({a:e}, {b:e}, {c:e})");
        }
    }

    fn directed_of(toward: u8, product: f32, c: f32) -> f32 {
        if toward == RP {
            fma_directed::<RP>(product, 1.0, c)
        } else {
            fma_directed::<RM>(product, 1.0, c)
        }
    }

    #[test]
    fn quotients_and_roots_bracket_the_exact_value() {
        for (a, b) in [(1f32, 3f32), (-2.0, 7.0), (1.0, 49.0), (6.0, 3.0)] {
            let (low, high) = (div_directed::<RM>(a, b), div_directed::<RP>(a, b));
            let exact = f64::from(a) / f64::from(b);
            assert!(f64::from(low) <= exact && exact <= f64::from(high), "{a}/{b}");
            assert!(low == high || low.next_up() == high);
            let (low, high) = (sqrt_directed::<RM>(a.abs()), sqrt_directed::<RP>(a.abs()));
            assert!(
                low * low <= a.abs() && f64::from(high) * f64::from(high) >= f64::from(a.abs())
            );
        }
    }

    #[test]
    fn extremes_order_zeros_and_skip_nans() {
        let bits = |x: f32| x.to_bits();
        assert_eq!(bits(extreme::<false, false>(0.0, -0.0)), bits(-0.0));
        assert_eq!(bits(extreme::<true, false>(-0.0, 0.0)), bits(0.0));
        assert_eq!(extreme::<true, false>(f32::NAN, 1.0), 1.0);
        assert_eq!(extreme::<false, false>(1.0, f32::NAN), 1.0);
        assert!(extreme::<false, true>(1.0, f32::NAN).is_nan());
        assert_eq!(extreme::<true, false>(2.0, 3.0), 3.0);
        assert_eq!(extreme64::<false>(2.0, 3.0), 2.0);
    }

    #[test]
    fn conversions_round_as_their_names_say() {
        // Midway between two bf16: to even, both ways.
        assert_eq!(to_bf16(f32::from_bits(0x3F80_8000)), 0x3F80);
        assert_eq!(to_bf16(f32::from_bits(0x3F81_8000)), 0x3F82);
        assert_eq!(to_bf16_rz(f32::from_bits(0x3F81_FFFF)), 0x3F81);
        // Midway between two tf32: away from zero.
        assert_eq!(to_tf32(f32::from_bits(0x3F80_1000)), 0x3F80_2000);
        assert_eq!(to_tf32(-f32::from_bits(0x3F80_0FFF)), 0xBF80_0000);
        assert_eq!(saturate(bits_of(-1.0)), 0);
        assert_eq!(saturate(bits_of(f32::NAN)), 0);
        assert_eq!(saturate(bits_of(2.0)), bits_of(1.0));
        assert_eq!(flush(0x8000_0001), 0x8000_0000);
    }

    fn bits_of(x: f32) -> u32 {
        x.to_bits()
    }
}
