//! `Num`: the vocabulary of arithmetic. Read this file first.
//!
//! A formula written over `N: Num` is written once and used many times: as float64 reference, as
//! SIMD lanes, as its own derivative (dual numbers). Bodies are straight-line: choices are
//! [`Num::select`], constants are lifted from a value at hand, so that a formula needs no token,
//! no ISA and no `if`.
//!
//! Every primitive is one IEEE operation, rounded once; nothing is contracted or reordered. The
//! same formula therefore gives the same bits on every instruction set.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// Anything that behaves like a real number: `f32`, `f64`, SIMD lanes, [`Dual`] numbers.
pub trait Num:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The result of a comparison.
    type Mask: Copy;

    /// The constant `c` as a number of the same kind (and lane count) as `self`.
    fn lift(self, c: f64) -> Self;
    /// `self · a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// `self < other`; false when either is NaN.
    fn lt(self, other: Self) -> Self::Mask;
    /// `a` where the mask holds, else `b`.
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;

    /// The larger of the two; `other` when either is NaN (the x86 convention).
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::select(other.lt(self), self, other)
    }

    /// The smaller of the two; `other` when either is NaN (the x86 convention).
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::select(self.lt(other), self, other)
    }

    /// 1 / `self`, by division: approximate reciprocals differ between processors.
    #[inline(always)]
    fn recip(self) -> Self {
        self.lift(1.0) / self
    }
}

/// A [`Num`] of float32 values whose bits can be taken apart: what [`single`] is written over.
pub trait Single: Num {
    /// Nearest integer, ties to even.
    fn round_ties_even(self) -> Self;
    /// 2ⁿ for an integer-valued n in [-126, 127], made from bits.
    fn exp2_int(self) -> Self;
    /// (m, e) with `self` = m · 2ᵉ and m in [√½, √2), for a normal positive `self`.
    fn split(self) -> (Self, Self);
}

impl Num for f64 {
    type Mask = bool;
    #[inline(always)]
    fn lift(self, c: f64) -> f64 {
        c
    }
    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    #[inline(always)]
    fn lt(self, other: f64) -> bool {
        self < other
    }
    #[inline(always)]
    fn select(mask: bool, a: f64, b: f64) -> f64 {
        if mask { a } else { b }
    }
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
}

impl Num for f32 {
    type Mask = bool;
    #[inline(always)]
    fn lift(self, c: f64) -> f32 {
        c as f32
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn lt(self, other: f32) -> bool {
        self < other
    }
    #[inline(always)]
    fn select(mask: bool, a: f32, b: f32) -> f32 {
        if mask { a } else { b }
    }
    #[inline(always)]
    fn exp(self) -> f32 {
        single::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        single::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> f32 {
        single::tanh(self)
    }
}

impl Single for f32 {
    #[inline(always)]
    fn round_ties_even(self) -> f32 {
        f32::round_ties_even(self)
    }
    #[inline(always)]
    fn exp2_int(self) -> f32 {
        f32::from_bits(((self as i32 + 127) << 23) as u32)
    }
    #[inline(always)]
    fn split(self) -> (f32, f32) {
        // Subtracting the bits of √½ makes the exponent field count from √½ instead of from 1.
        let shifted = self.to_bits().wrapping_sub(SQRT_HALF_BITS);
        let exponent = (shifted as i32) >> 23;
        let mantissa = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF_BITS);
        (mantissa, exponent as f32)
    }
}

/// The bits of √½ as a float32: where [`Single::split`] cuts the number line.
pub(crate) const SQRT_HALF_BITS: u32 = 0x3f35_04f3;

/// Elementary functions in float32, by polynomials, the same bits for scalar and every lane type.
///
/// Coefficients are those of the Cephes library (Moshier); the stated errors are measured on dense
/// grids by the tests below.
pub mod single {
    use super::Single;

    /// eˣ to 1 ulp: x = n·ln 2 + r by Cody and Waite's two-part ln 2, a degree-6 polynomial in r,
    /// and 2ⁿ in two factors so that the result may be denormal.
    #[inline(always)]
    pub fn exp<N: Single>(x: N) -> N {
        let c = |v: f64| x.lift(v);
        // A NaN passes both bounds: `max` and `min` answer their second operand.
        let x = c(-104.0).max(c(89.0).min(x));
        let n = (x * c(std::f64::consts::LOG2_E)).round_ties_even();
        let r = n.mul_add(c(-0.693_359_375), x);
        let r = n.mul_add(c(2.121_944_4e-4), r);
        let p = c(1.987_569_15e-4)
            .mul_add(r, c(1.398_199_95e-3))
            .mul_add(r, c(8.333_451_9e-3))
            .mul_add(r, c(4.166_579_6e-2))
            .mul_add(r, c(1.666_666_55e-1))
            .mul_add(r, c(5.000_000_1e-1));
        let p = p.mul_add(r * r, r) + c(1.0);
        let half = (n * c(0.5)).round_ties_even();
        p * half.exp2_int() * (n - half).exp2_int()
    }

    /// ln x to 1 ulp; −∞ at 0, NaN below.
    #[inline(always)]
    pub fn ln<N: Single>(x: N) -> N {
        let c = |v: f64| x.lift(v);
        let tiny = x.lt(c(f32::MIN_POSITIVE as f64));
        let normal = N::select(tiny, x * c(8_388_608.0), x);
        let (m, e) = normal.split();
        let e = e - N::select(tiny, c(23.0), c(0.0));
        let f = m - c(1.0);
        let z = f * f;
        let p = c(7.037_683_6e-2)
            .mul_add(f, c(-1.151_461_03e-1))
            .mul_add(f, c(1.167_699_9e-1))
            .mul_add(f, c(-1.242_014_1e-1))
            .mul_add(f, c(1.424_932_3e-1))
            .mul_add(f, c(-1.666_805_8e-1))
            .mul_add(f, c(2.000_071_5e-1))
            .mul_add(f, c(-2.499_999_4e-1))
            .mul_add(f, c(3.333_333_1e-1));
        let y = p * f * z;
        let y = e.mul_add(c(-2.121_944_4e-4), y);
        let y = z.mul_add(c(-0.5), y) + f;
        let y = e.mul_add(c(0.693_359_375), y);
        let y = N::select(x.lt(c(f64::INFINITY)), y, x);
        let y = N::select(c(0.0).lt(x), y, c(f64::NEG_INFINITY));
        let y = N::select(x.lt(c(0.0)), c(f64::NAN), y);
        // A NaN fails every comparison above: give it back.
        N::select(x.abs().lt(c(f64::INFINITY)), y, N::select(c(0.0).lt(x), x, y + x))
    }

    /// tanh x to 3 ulp: an odd polynomial below 0.625, 1 − 2/(e²ˣ + 1) above.
    #[inline(always)]
    pub fn tanh<N: Single>(x: N) -> N {
        let c = |v: f64| x.lift(v);
        let z = x * x;
        let p = c(-5.704_988_7e-3)
            .mul_add(z, c(2.063_908_9e-2))
            .mul_add(z, c(-5.373_971_5e-2))
            .mul_add(z, c(1.333_144_2e-1))
            .mul_add(z, c(-3.333_328_1e-1));
        let small = (p * z).mul_add(x, x);
        let large = c(1.0) - c(2.0) / (exp(x + x) + c(1.0));
        N::select(x.abs().lt(c(0.625)), small, large)
    }
}

/// A dual number `v + d·ε` with ε² = 0: evaluating f at (x, 1) gives (f(x), f′(x)).
///
/// Differentiating a formula costs no second formula. A branch of [`Num::select`] that is not
/// taken contributes nothing, so derivatives at kinks are those of the side taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dual<N> {
    /// The value.
    pub v: N,
    /// The derivative.
    pub d: N,
}

impl<N: Num> Dual<N> {
    /// The variable of differentiation: derivative one.
    #[inline(always)]
    pub fn variable(v: N) -> Self {
        Dual { v, d: v.lift(1.0) }
    }

    /// A constant: derivative zero.
    #[inline(always)]
    pub fn constant(v: N) -> Self {
        Dual { v, d: v.lift(0.0) }
    }
}

impl<N: Num> Add for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        Dual { v: self.v + o.v, d: self.d + o.d }
    }
}

impl<N: Num> Sub for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        Dual { v: self.v - o.v, d: self.d - o.d }
    }
}

impl<N: Num> Mul for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        Dual { v: self.v * o.v, d: self.d.mul_add(o.v, self.v * o.d) }
    }
}

impl<N: Num> Div for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        let v = self.v / o.v;
        Dual { v, d: (self.d - v * o.d) / o.v }
    }
}

impl<N: Num> Neg for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Dual { v: -self.v, d: -self.d }
    }
}

impl<N: Num> Num for Dual<N> {
    type Mask = N::Mask;
    #[inline(always)]
    fn lift(self, c: f64) -> Self {
        Dual::constant(self.v.lift(c))
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Dual { v: self.v.mul_add(a.v, b.v), d: self.d.mul_add(a.v, self.v.mul_add(a.d, b.d)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        let v = self.v.sqrt();
        Dual { v, d: self.d / (v + v) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        let negative = self.v.lt(self.v.lift(0.0));
        Dual { v: self.v.abs(), d: N::select(negative, -self.d, self.d) }
    }
    #[inline(always)]
    fn lt(self, other: Self) -> N::Mask {
        self.v.lt(other.v)
    }
    #[inline(always)]
    fn select(mask: N::Mask, a: Self, b: Self) -> Self {
        Dual { v: N::select(mask, a.v, b.v), d: N::select(mask, a.d, b.d) }
    }
    #[inline(always)]
    fn exp(self) -> Self {
        let v = self.v.exp();
        Dual { v, d: self.d * v }
    }
    #[inline(always)]
    fn ln(self) -> Self {
        Dual { v: self.v.ln(), d: self.d / self.v }
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        let v = self.v.tanh();
        Dual { v, d: self.d * (v.lift(1.0) - v * v) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against `exact`, in units in the last place, over `inputs`.
    fn worst_ulp(
        f: fn(f32) -> f32,
        exact: fn(f64) -> f64,
        inputs: impl Iterator<Item = f32>,
    ) -> f64 {
        let mut worst = 0.0f64;
        for x in inputs {
            let want = exact(x as f64);
            let ulp = f64::from((want.abs() as f32).next_up()) - f64::from(want.abs() as f32);
            worst = worst.max((f(x) as f64 - want).abs() / ulp.max(f64::from(f32::from_bits(1))));
        }
        worst
    }

    fn grid(lo: f32, hi: f32, n: usize) -> impl Iterator<Item = f32> {
        (0..=n).map(move |i| lo + (hi - lo) * i as f32 / n as f32)
    }

    #[test]
    fn elementary_functions_are_within_their_stated_ulp() {
        assert!(worst_ulp(single::exp, f64::exp, grid(-103.0, 88.7, 2_000_003)) < 1.0);
        assert!(worst_ulp(single::ln, f64::ln, grid(1e-6, 4.0, 2_000_003)) < 1.0);
        assert!(worst_ulp(single::ln, f64::ln, grid(1.0, 3e38, 200_003)) < 1.0);
        assert!(worst_ulp(single::tanh, f64::tanh, grid(-10.0, 10.0, 2_000_003)) < 3.0);
    }

    #[test]
    fn special_values_follow_ieee() {
        assert_eq!(single::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(single::exp(f32::INFINITY), f32::INFINITY);
        assert!(single::exp(f32::NAN).is_nan());
        assert_eq!(single::exp(0.0f32), 1.0);
        assert_eq!(single::ln(0.0f32), f32::NEG_INFINITY);
        assert_eq!(single::ln(f32::INFINITY), f32::INFINITY);
        assert_eq!(single::ln(1.0f32), 0.0);
        assert!(single::ln(-1.0f32).is_nan());
        assert!(single::ln(f32::NAN).is_nan());
        assert!((single::ln(1e-40f32) as f64 - (1e-40f32 as f64).ln()).abs() < 1e-5);
        assert_eq!(single::tanh(f32::INFINITY), 1.0);
        assert_eq!(single::tanh(f32::NEG_INFINITY), -1.0);
        assert!(single::tanh(f32::NAN).is_nan());
    }

    #[test]
    fn dual_numbers_differentiate() {
        fn f<N: Num>(x: N) -> N {
            (x * x + x.lift(1.0)).ln() * x.tanh() / x.exp().sqrt() - x.abs()
        }
        for x in [-2.0, -0.3, 0.7, 1.9] {
            let h = 1e-5;
            let slope =
                (f(x - 2.0 * h) - 8.0 * f(x - h) + 8.0 * f(x + h) - f(x + 2.0 * h)) / (12.0 * h);
            assert!((f(Dual::variable(x)).d - slope).abs() < 1e-9);
        }
    }
}
