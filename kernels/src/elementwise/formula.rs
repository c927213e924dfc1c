//! What a formula is, and the formulas of its derivatives.
//!
//! A formula is a function over any [`Num`]: instantiated with `f64` it is the reference, with
//! lanes the kernel, with [`Dual`] numbers the derivative. Whoever writes `f` has written all.

use std::fmt::Debug;

use crate::num::{Dual, Num};

/// A formula of `K` operands: what [`map`](super::map) runs.
///
/// Every [`Unary`] is a `Pointwise<1>`, every [`Binary`] a `Pointwise<2>`. It holds float64 numbers
/// or nothing, and brings them in by [`Num::parameter`].
pub trait Pointwise<const K: usize>: Sync {
    /// Whether it is run so seldom that the loop over lanes is not worth compiling.
    const RARE: bool = false;

    /// The value at `x`.
    fn at<N: Num>(&self, x: [N; K]) -> N;
}

/// A formula of one operand.
pub trait Unary: Copy + Debug + Send + Sync + 'static {
    /// Lower-case name, unique among all operations.
    const NAME: &'static str;
    /// The formula as text, for tables.
    const EQUATION: &'static str;
    /// What the slope is computed from, and so what outlives the forward pass.
    const SLOPE_OF: SlopeOf = SlopeOf::Input;

    /// y = f(x).
    fn f<N: Num>(&self, x: N) -> N;

    /// f′, given x or, where [`SLOPE_OF`](Self::SLOPE_OF) says so, y.
    ///
    /// Override it where there is a cheaper one than f's dual numbers give, or where f has a kink.
    #[inline(always)]
    fn slope<N: Num>(&self, at: N) -> N {
        self.f(Dual::variable(at)).d
    }

    /// Where tests may try the formula.
    fn domain(&self) -> Domain {
        Domain::between(-3.0, 3.0)
    }
}

/// What a [`Unary`] formula's slope is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlopeOf {
    /// The input x.
    Input,
    /// The output y = f(x).
    Output,
    /// Neither: the slope is the same everywhere.
    Nothing,
}

/// A formula of two operands.
pub trait Binary: Copy + Debug + Send + Sync + 'static {
    /// Lower-case name, unique among all operations.
    const NAME: &'static str;
    /// The formula as text, for tables.
    const EQUATION: &'static str;
    /// Entry `[i][j]`: whether the slope along operand i is computed from operand j.
    const SLOPE_OF: [[bool; 2]; 2] = [[true; 2]; 2];

    /// y = f(a, b).
    fn f<N: Num>(&self, a: N, b: N) -> N;

    /// ∂f/∂a for `operand` 0, ∂f/∂b for 1.
    #[inline(always)]
    fn slope<N: Num>(&self, operand: usize, a: N, b: N) -> N {
        if operand == 0 {
            self.f(Dual::variable(a), Dual::constant(b)).d
        } else {
            self.f(Dual::constant(a), Dual::variable(b)).d
        }
    }

    /// Where tests may try each operand. No two values tried for a and b are close to each other,
    /// so that a kink at a = b need not be mentioned.
    fn domains(&self) -> [Domain; 2] {
        [Domain::between(-3.0, 3.0); 2]
    }
}

/// An interval in which a formula is smooth except at one point at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Domain {
    /// Least value to try.
    pub low: f64,
    /// Largest value to try.
    pub high: f64,
    /// Where the slope jumps: numerical differentiation keeps away from there.
    pub kinks: [f64; 2],
}

impl Domain {
    /// Everywhere between `low` and `high`.
    pub const fn between(low: f64, high: f64) -> Self {
        Domain { low, high, kinks: [f64::NAN; 2] }
    }

    /// The same, but not close to `a` or `b`.
    pub const fn except(self, a: f64, b: f64) -> Self {
        Domain { kinks: [a, b], ..self }
    }
}

impl<U: Unary> Pointwise<1> for U {
    #[inline(always)]
    fn at<N: Num>(&self, [x]: [N; 1]) -> N {
        self.f(x)
    }
}

impl<B: Binary> Pointwise<2> for B {
    #[inline(always)]
    fn at<N: Num>(&self, [a, b]: [N; 2]) -> N {
        self.f(a, b)
    }
}

/// The chain rule for a [`Unary`] formula: x̄ = ȳ·f′, of operands (what the slope is of, ȳ).
#[derive(Clone, Copy, Debug)]
pub struct Chain<U>(pub U);

impl<U: Unary> Pointwise<2> for Chain<U> {
    #[inline(always)]
    fn at<N: Num>(&self, [at, dy]: [N; 2]) -> N {
        dy * self.0.slope(at)
    }
}

/// The derivative of [`Chain`] along what the slope is of, times z̄; operands (that, ȳ, z̄).
#[derive(Clone, Copy, Debug)]
pub struct ChainSlope<U>(pub U);

impl<U: Unary> Pointwise<3> for ChainSlope<U> {
    const RARE: bool = true;
    #[inline(always)]
    fn at<N: Num>(&self, [at, dy, dz]: [N; 3]) -> N {
        dz * dy * self.0.slope(Dual::variable(at)).d
    }
}

/// The chain rule for operand `I` of a [`Binary`] formula: ȳ·∂f/∂xᵢ, of operands (a, b, ȳ).
///
/// An operand that [`Binary::SLOPE_OF`] does not name may be any stand-in.
#[derive(Clone, Copy, Debug)]
pub struct Partial<B, const I: usize>(pub B);

impl<B: Binary, const I: usize> Pointwise<3> for Partial<B, I> {
    #[inline(always)]
    fn at<N: Num>(&self, [a, b, dy]: [N; 3]) -> N {
        dy * self.0.slope(I, a, b)
    }
}

/// The derivative of [`Partial`] along operand `J`, times z̄; operands (a, b, ȳ, z̄).
#[derive(Clone, Copy, Debug)]
pub struct PartialSlope<B, const I: usize, const J: usize>(pub B);

impl<B: Binary, const I: usize, const J: usize> Pointwise<4> for PartialSlope<B, I, J> {
    const RARE: bool = true;
    #[inline(always)]
    fn at<N: Num>(&self, [a, b, dy, dz]: [N; 4]) -> N {
        let along = |x: N, j: usize| if j == J { Dual::variable(x) } else { Dual::constant(x) };
        dz * dy * self.0.slope(I, along(a, 0), along(b, 1)).d
    }
}
