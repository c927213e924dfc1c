//! Every elementwise formula, once.
//!
//! To add one: a struct with an `impl` here, or beside it in `binary` if it has two operands, and
//! one line in the list of `autograd`'s `ops/elementwise.rs`. Kernel, derivatives, method, tests
//! and benchmark follow.
//!
//! Bodies are straight-line: a choice is [`Num::select`], a constant is lifted from a value, and a
//! number that the formula holds is a [`Num::parameter`].

use std::f64::consts::{LOG2_E, PI};

use super::formula::{Domain, SlopeOf, Unary};
use crate::num::Num;

mod binary;

pub use binary::{Add, Div, Maximum, Minimum, Mul, Sub};

/// Negation, y = −x. Source: elementary. Saves: nothing.
#[derive(Clone, Copy, Debug)]
pub struct Neg;

impl Unary for Neg {
    const NAME: &'static str = "neg";
    const EQUATION: &'static str = "−x";
    const SLOPE_OF: SlopeOf = SlopeOf::Nothing;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        -x
    }
}

/// Multiplication by a constant, y = c·x. Source: elementary. Saves: nothing.
#[derive(Clone, Copy, Debug)]
pub struct MulScalar(pub f64);

impl Unary for MulScalar {
    const NAME: &'static str = "mul_scalar";
    const EQUATION: &'static str = "c·x";
    const SLOPE_OF: SlopeOf = SlopeOf::Nothing;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x * x.parameter(self.0)
    }
}

/// Addition of a constant, y = x + c. Source: elementary. Saves: nothing.
#[derive(Clone, Copy, Debug)]
pub struct AddScalar(pub f64);

impl Unary for AddScalar {
    const NAME: &'static str = "add_scalar";
    const EQUATION: &'static str = "x + c";
    const SLOPE_OF: SlopeOf = SlopeOf::Nothing;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x + x.parameter(self.0)
    }
}

/// Limits to an interval, y = min(max(x, low), high); slope 1 inside and at both ends, else 0.
/// Source: elementary. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    /// The least result.
    pub low: f64,
    /// The largest result.
    pub high: f64,
}

impl Unary for Clamp {
    const NAME: &'static str = "clamp";
    const EQUATION: &'static str = "min(max(x, low), high)";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        let (low, high) = (x.parameter(self.low), x.parameter(self.high));
        N::select(x.lt(low), low, N::select(high.lt(x), high, x))
    }
    fn domain(&self) -> Domain {
        Domain::between(self.low - 1.0, self.high + 1.0).except(self.low, self.high)
    }
}

/// The exponential function, y = eˣ. Source: elementary. Saves: y.
#[derive(Clone, Copy, Debug)]
pub struct Exp;

impl Unary for Exp {
    const NAME: &'static str = "exp";
    const EQUATION: &'static str = "eˣ";
    const SLOPE_OF: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x.exp()
    }
    #[inline(always)]
    fn slope<N: Num>(&self, y: N) -> N {
        y
    }
}

/// The natural logarithm, y = ln x; −∞ at 0 and NaN below. Source: elementary. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct Ln;

impl Unary for Ln {
    const NAME: &'static str = "ln";
    const EQUATION: &'static str = "ln x";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x.ln()
    }
    fn domain(&self) -> Domain {
        Domain::between(0.2, 4.0)
    }
}

/// The square root, y = √x. Source: elementary. Saves: y.
#[derive(Clone, Copy, Debug)]
pub struct Sqrt;

impl Unary for Sqrt {
    const NAME: &'static str = "sqrt";
    const EQUATION: &'static str = "√x";
    const SLOPE_OF: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x.sqrt()
    }
    #[inline(always)]
    fn slope<N: Num>(&self, y: N) -> N {
        y.lift(0.5) / y
    }
    fn domain(&self) -> Domain {
        Domain::between(0.2, 4.0)
    }
}

/// The square, y = x². Source: elementary. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct Square;

impl Unary for Square {
    const NAME: &'static str = "square";
    const EQUATION: &'static str = "x²";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x * x
    }
}

/// The reciprocal, y = 1/x. Source: elementary. Saves: y.
#[derive(Clone, Copy, Debug)]
pub struct Recip;

impl Unary for Recip {
    const NAME: &'static str = "recip";
    const EQUATION: &'static str = "1/x";
    const SLOPE_OF: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x.recip()
    }
    #[inline(always)]
    fn slope<N: Num>(&self, y: N) -> N {
        -(y * y)
    }
    fn domain(&self) -> Domain {
        Domain::between(0.3, 4.0)
    }
}

/// The absolute value, y = |x|; slope 0 at 0. Source: elementary. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct Abs;

impl Unary for Abs {
    const NAME: &'static str = "abs";
    const EQUATION: &'static str = "|x|";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x.abs()
    }
    #[inline(always)]
    fn slope<N: Num>(&self, x: N) -> N {
        let (zero, one) = (x.lift(0.0), x.lift(1.0));
        N::select(zero.lt(x), one, N::select(x.lt(zero), -one, zero))
    }
    fn domain(&self) -> Domain {
        Domain::between(-3.0, 3.0).except(0.0, 0.0)
    }
}

/// The rectifier, y = max(x, 0); slope 0 at 0, and a NaN stays one.
/// Source: Nair & Hinton 2010. Saves: y.
#[derive(Clone, Copy, Debug)]
pub struct Relu;

impl Unary for Relu {
    const NAME: &'static str = "relu";
    const EQUATION: &'static str = "max(x, 0)";
    const SLOPE_OF: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        let zero = x.lift(0.0);
        N::select(x.lt(zero), zero, x)
    }
    #[inline(always)]
    fn slope<N: Num>(&self, y: N) -> N {
        let zero = y.lift(0.0);
        N::select(zero.lt(y), y.lift(1.0), zero)
    }
    fn domain(&self) -> Domain {
        Domain::between(-3.0, 3.0).except(0.0, 0.0)
    }
}

/// The hyperbolic tangent, y = tanh x. Source: elementary. Saves: y.
#[derive(Clone, Copy, Debug)]
pub struct Tanh;

impl Unary for Tanh {
    const NAME: &'static str = "tanh";
    const EQUATION: &'static str = "tanh x";
    const SLOPE_OF: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        x.tanh()
    }
    #[inline(always)]
    fn slope<N: Num>(&self, y: N) -> N {
        y.lift(1.0) - y * y
    }
}

/// The logistic function, y = σ(x) = 1/(1 + e⁻ˣ). Source: elementary. Saves: y.
#[derive(Clone, Copy, Debug)]
pub struct Sigmoid;

impl Unary for Sigmoid {
    const NAME: &'static str = "sigmoid";
    const EQUATION: &'static str = "1/(1 + e⁻ˣ)";
    const SLOPE_OF: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        // Further down e⁻ˣ overflows float32 and its derivative becomes 0·∞; σ(−80) is 2e-35. So
        // far up σ is 1, and e⁻ˣ would not be a normal number.
        sigmoid(x.lift(-80.0).max(x.lift(80.0).min(x)))
    }
    #[inline(always)]
    fn slope<N: Num>(&self, y: N) -> N {
        y * (y.lift(1.0) - y)
    }
}

/// σ(x) for x in [-87.33, 87.33].
#[inline(always)]
fn sigmoid<N: Num>(x: N) -> N {
    ((-x).exp_normal() + x.lift(1.0)).recip()
}

/// SiLU, also called Swish, y = x·σ(x).
/// Source: Hendrycks & Gimpel 2016, §2; Ramachandran et al. 2017. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct Silu;

impl Unary for Silu {
    const NAME: &'static str = "silu";
    const EQUATION: &'static str = "x/(1 + e⁻ˣ)";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        // Further down σ(x) would stay at σ(−80), and x grow.
        let x = x.lift(-80.0).max(x);
        x * sigmoid(x.lift(80.0).min(x))
    }
    #[inline(always)]
    fn slope<N: Num>(&self, x: N) -> N {
        let x = x.lift(-80.0).max(x.lift(80.0).min(x));
        let s = sigmoid(x);
        x.mul_add(Sigmoid.slope(s), s)
    }
}

/// GELU, tanh form, y = ½·x·(1 + tanh ½u) with u = 2√(2/π)·(x + 0.044715·x³), computed as x·σ(u).
/// Source: Hendrycks & Gimpel 2016, §2. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct GeluTanh;

impl GeluTanh {
    /// σ(u) and u′, for x in [-9.85, 9.85]. e⁻ᵘ is 2ᵛ, where v has −log₂ e in u's two numbers.
    #[inline(always)]
    fn sigmoid_and_slope<N: Num>(x: N) -> [N; 2] {
        let [a, b] = [1.0, 0.044715].map(|c| c * (8.0 / PI).sqrt());
        let v = (x * x).mul_add(x.lift(-b * LOG2_E), x.lift(-a * LOG2_E)) * x;
        let sigmoid = (v.exp2_normal() + x.lift(1.0)).recip();
        [sigmoid, (x * x).mul_add(x.lift(3.0 * b), x.lift(a))]
    }
}

impl Unary for GeluTanh {
    const NAME: &'static str = "gelu_tanh";
    const EQUATION: &'static str = "½x(1 + tanh(√(2/π)(x + 0.044715x³)))";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        // Beyond ±9.85, where u is ±84, σ(u) is as good as 0 or 1; a little further out e⁻ᵘ·u′,
        // which is in the second derivative, would be no number.
        let x = x.lift(-9.85).max(x);
        x * Self::sigmoid_and_slope(x.lift(9.85).min(x))[0]
    }
    #[inline(always)]
    fn slope<N: Num>(&self, x: N) -> N {
        let x = x.lift(-9.85).max(x.lift(9.85).min(x));
        let [s, slope] = Self::sigmoid_and_slope(x);
        (x * slope).mul_add(Sigmoid.slope(s), s)
    }
}

/// The smooth rectifier, y = ln(1 + eˣ), computed as max(x, 0) + ln(1 + e⁻|ˣ|).
/// Source: Dugas et al. 2001. Saves: x.
#[derive(Clone, Copy, Debug)]
pub struct Softplus;

impl Unary for Softplus {
    const NAME: &'static str = "softplus";
    const EQUATION: &'static str = "ln(1 + eˣ)";
    #[inline(always)]
    fn f<N: Num>(&self, x: N) -> N {
        Relu.f(x) + ((-x.abs()).exp() + x.lift(1.0)).ln()
    }
    #[inline(always)]
    fn slope<N: Num>(&self, x: N) -> N {
        Sigmoid.f(x)
    }
}
