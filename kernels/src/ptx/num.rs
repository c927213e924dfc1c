//! Float32 registers as numbers: formulas of the CPU emit their instructions.
//!
//! Each operation of [`Num`] is one IEEE instruction, rounded to the nearest, without flushing of
//! denormals; elementary functions are the polynomials of [`single`]. So a formula's bits are those
//! of the CPU.

use super::types::{F32, Pred, U32};
use super::value::Reg;
use crate::num::{Num, SQRT_HALF_BITS, Single, single};

impl<'k> Num for Reg<'k, F32> {
    type Mask = Reg<'k, Pred>;

    fn lift(self, c: f64) -> Self {
        self.lift_bits((c as f32).to_bits().into())
    }
    fn parameter(self, c: f64) -> Self {
        self.body.formula_parameter(c as f32)
    }
    fn mul_add(self, a: Self, b: Self) -> Self {
        self.body.op("fma.rn.f32", &[&self, &a, &b])
    }
    fn sqrt(self) -> Self {
        self.body.op("sqrt.rn.f32", &[&self])
    }
    fn abs(self) -> Self {
        self.body.op("abs.f32", &[&self])
    }
    fn lt(self, other: Self) -> Reg<'k, Pred> {
        self.body.op("setp.lt.f32", &[&self, &other])
    }
    fn select(mask: Reg<'k, Pred>, a: Self, b: Self) -> Self {
        Reg::select(mask, a, b)
    }
    fn exp(self) -> Self {
        single::exp(self)
    }
    fn exp_normal(self) -> Self {
        single::exp_normal(self)
    }
    fn exp2_normal(self) -> Self {
        single::exp2_normal(self)
    }
    fn ln(self) -> Self {
        single::ln(self)
    }
    fn tanh(self) -> Self {
        single::tanh(self)
    }
}

impl Single for Reg<'_, F32> {
    fn round_ties_even(self) -> Self {
        self.body.op("cvt.rni.f32.f32", &[&self])
    }
    fn exp2_int(self) -> Self {
        ((self.to_int() + 127) << 23).bits()
    }
    fn split(self) -> (Self, Self) {
        let shifted = self.bits::<U32>() - SQRT_HALF_BITS;
        let mantissa = (shifted & 0x007f_ffff) + SQRT_HALF_BITS;
        (mantissa.bits(), shifted.shr_signed(23).to_f32_signed())
    }
}
