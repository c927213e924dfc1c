//! Formulas of two operands.

use crate::elementwise::formula::{Binary, Domain};
use crate::num::Num;

/// The sum, y = a + b. Source: elementary. Saves: nothing.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Binary for Add {
    const NAME: &'static str = "add";
    const EQUATION: &'static str = "a + b";
    const SLOPE_OF: [[bool; 2]; 2] = [[false, false], [false, false]];
    #[inline(always)]
    fn f<N: Num>(&self, a: N, b: N) -> N {
        a + b
    }
}

/// The difference, y = a − b. Source: elementary. Saves: nothing.
#[derive(Clone, Copy, Debug)]
pub struct Sub;

impl Binary for Sub {
    const NAME: &'static str = "sub";
    const EQUATION: &'static str = "a − b";
    const SLOPE_OF: [[bool; 2]; 2] = [[false, false], [false, false]];
    #[inline(always)]
    fn f<N: Num>(&self, a: N, b: N) -> N {
        a - b
    }
}

/// The product, y = a·b. Source: elementary. Saves: a, b.
#[derive(Clone, Copy, Debug)]
pub struct Mul;

impl Binary for Mul {
    const NAME: &'static str = "mul";
    const EQUATION: &'static str = "a·b";
    const SLOPE_OF: [[bool; 2]; 2] = [[false, true], [true, false]];
    #[inline(always)]
    fn f<N: Num>(&self, a: N, b: N) -> N {
        a * b
    }
    #[inline(always)]
    fn slope<N: Num>(&self, operand: usize, a: N, b: N) -> N {
        if operand == 0 { b } else { a }
    }
}

/// The quotient, y = a/b. Source: elementary. Saves: a, b.
#[derive(Clone, Copy, Debug)]
pub struct Div;

impl Binary for Div {
    const NAME: &'static str = "div";
    const EQUATION: &'static str = "a/b";
    const SLOPE_OF: [[bool; 2]; 2] = [[false, true], [true, true]];
    #[inline(always)]
    fn f<N: Num>(&self, a: N, b: N) -> N {
        a / b
    }
    #[inline(always)]
    fn slope<N: Num>(&self, operand: usize, a: N, b: N) -> N {
        if operand == 0 { b.recip() } else { -(a / b / b) }
    }
    fn domains(&self) -> [Domain; 2] {
        [Domain::between(-3.0, 3.0), Domain::between(0.4, 3.0)]
    }
}

/// The larger of two, y = max(a, b); where they are equal the slope goes to a.
/// Source: elementary. Saves: a, b.
#[derive(Clone, Copy, Debug)]
pub struct Maximum;

impl Binary for Maximum {
    const NAME: &'static str = "maximum";
    const EQUATION: &'static str = "max(a, b)";
    #[inline(always)]
    fn f<N: Num>(&self, a: N, b: N) -> N {
        N::select(a.lt(b), b, a)
    }
}

/// The smaller of two, y = min(a, b); where they are equal the slope goes to a.
/// Source: elementary. Saves: a, b.
#[derive(Clone, Copy, Debug)]
pub struct Minimum;

impl Binary for Minimum {
    const NAME: &'static str = "minimum";
    const EQUATION: &'static str = "min(a, b)";
    #[inline(always)]
    fn f<N: Num>(&self, a: N, b: N) -> N {
        N::select(b.lt(a), b, a)
    }
}
