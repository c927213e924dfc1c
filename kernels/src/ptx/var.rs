//! Registers that change.

use std::fmt;

use super::types::{F32, F64, Pred, Type, U32};
use super::value::{Reg, Source};

/// A register that may be written again: what a loop carries from one turn to the next.
pub struct Var<'k, T>(Reg<'k, T>);

impl<T> Clone for Var<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Var<'_, T> {}

impl<T: Type> fmt::Display for Var<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'k, T: Type> Var<'k, T> {
    pub(super) fn new(register: Reg<'k, T>) -> Self {
        Var(register)
    }

    /// What it holds now, as a value of its own: later changes do not reach it.
    pub fn get(self) -> Reg<'k, T> {
        self.0.body.op(&format!("mov.{}", T::SUFFIX), &[&self])
    }

    /// Makes it hold `value`.
    pub fn set(self, value: impl Source<'k, T>) {
        let value = value.reg(self.0.body);
        self.0.body.emit(&format!("mov.{} {self}, {value}", T::SUFFIX));
    }

    /// Makes it hold `value` where the predicate holds.
    pub fn set_where(self, p: Reg<'k, Pred>, value: impl Source<'k, T>) {
        let value = value.reg(self.0.body);
        self.0.body.emit(&format!("@{p} mov.{} {self}, {value}", T::SUFFIX));
    }
}

impl<'k> Var<'k, F32> {
    /// self ← a·b + self, rounded once.
    pub fn fma(self, a: Reg<'k, F32>, b: Reg<'k, F32>) {
        self.0.body.emit(&format!("fma.rn.f32 {self}, {a}, {b}, {self}"));
    }
    /// self ← self + x.
    pub fn add(self, x: impl Source<'k, F32>) {
        let x = x.reg(self.0.body);
        self.0.body.emit(&format!("add.rn.f32 {self}, {self}, {x}"));
    }
    /// self ← self·x.
    pub fn scale(self, x: impl Source<'k, F32>) {
        let x = x.reg(self.0.body);
        self.0.body.emit(&format!("mul.rn.f32 {self}, {self}, {x}"));
    }
}

impl<'k> Var<'k, F64> {
    /// self ← a·b + self, rounded once.
    pub fn fma(self, a: Reg<'k, F64>, b: Reg<'k, F64>) {
        self.0.body.emit(&format!("fma.rn.f64 {self}, {a}, {b}, {self}"));
    }
    /// self ← self + x.
    pub fn add(self, x: Reg<'k, F64>) {
        self.0.body.emit(&format!("add.rn.f64 {self}, {self}, {x}"));
    }
}

impl<'k> Var<'k, U32> {
    /// self ← self + x.
    pub fn advance(self, x: impl Source<'k, U32>) {
        let x = x.reg(self.0.body);
        self.0.body.emit(&format!("add.u32 {self}, {self}, {x}"));
    }
}
