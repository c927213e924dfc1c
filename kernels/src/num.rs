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

mod dual;
pub mod single;

pub use dual::Dual;

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
    /// A number that whoever uses the formula chose, as [`lift`](Self::lift) would give it. A GPU's
    /// kernel takes it as a parameter, so that it is one kernel whatever the number.
    #[inline(always)]
    fn parameter(self, c: f64) -> Self {
        self.lift(c)
    }
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
    /// The same bits for x in [-87.33, 88.37], with nothing spent on what lies beyond, where the
    /// result has no meaning. NaN stays NaN.
    #[inline(always)]
    fn exp_normal(self) -> Self {
        self.exp()
    }
    /// 2ˣ for x in [-126, 127], with nothing spent on what lies beyond. NaN stays NaN.
    fn exp2_normal(self) -> Self;
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
    /// `self` · 2ⁿ for an integer-valued n in [-150, 128] and |`self`| in [½, 2): rounded once, as
    /// the first of two factors leaves it exact, and so perhaps denormal. NaN stays NaN.
    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        let half = (n * n.lift(0.5)).round_ties_even();
        self * half.exp2_int() * (n - half).exp2_int()
    }
    /// [`scale`](Self::scale) for n in [-126, 127] and a normal result.
    #[inline(always)]
    fn scale_normal(self, n: Self) -> Self {
        self * n.exp2_int()
    }
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
    fn exp2_normal(self) -> f64 {
        f64::exp2(self)
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
    fn exp_normal(self) -> f32 {
        single::exp_normal(self)
    }
    #[inline(always)]
    fn exp2_normal(self) -> f32 {
        single::exp2_normal(self)
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
        f32::from_bits(((self as i32).wrapping_add(127) << 23) as u32)
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
