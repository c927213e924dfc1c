//! Dual numbers: a formula as its own derivative.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::Num;

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
    fn parameter(self, c: f64) -> Self {
        Dual::constant(self.v.parameter(c))
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
    fn exp_normal(self) -> Self {
        let v = self.v.exp_normal();
        Dual { v, d: self.d * v }
    }
    #[inline(always)]
    fn exp2_normal(self) -> Self {
        let v = self.v.exp2_normal();
        Dual { v, d: self.d * (v * v.lift(std::f64::consts::LN_2)) }
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

    #[test]
    fn dual_numbers_differentiate() {
        fn f<N: Num>(x: N) -> N {
            (x * x + x.lift(1.0)).ln() * x.tanh() / x.exp().sqrt() - x.abs() * x.exp2_normal()
        }
        for x in [-2.0, -0.3, 0.7, 1.9] {
            let h = 1e-5;
            let slope =
                (f(x - 2.0 * h) - 8.0 * f(x - h) + 8.0 * f(x + h) - f(x + 2.0 * h)) / (12.0 * h);
            assert!((f(Dual::variable(x)).d - slope).abs() < 1e-9);
        }
    }
}
