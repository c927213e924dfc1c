//! Lanes as an array: the portable path, and float64 everywhere.
//!
//! Loops over the array are plain, so that inside an AVX2 entry function the compiler turns them
//! into vector instructions.

use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{LANES, Real, Simd, Task};
use crate::num::Num;

/// Sixteen numbers in an array.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Array<T>(pub(super) [T; LANES]);

/// The token of [`Array`] lanes; any machine may have it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable<T>(PhantomData<T>);

impl<T> Portable<T> {
    /// The token.
    pub fn new() -> Self {
        Portable(PhantomData)
    }
}

impl<T: Real> Simd for Portable<T> {
    type T = T;
    type V = Array<T>;
    const IN_REGISTERS: bool = false;
    const TILE_ROWS: usize = 4;
    const TILE_VECS: usize = 1;

    #[inline(always)]
    fn call<K: Task<T>>(self, task: K) -> K::Output {
        task.run(self)
    }
    #[inline(always)]
    fn splat(self, x: T) -> Array<T> {
        Array([x; LANES])
    }
    #[inline(always)]
    fn load(self, x: &[T; LANES]) -> Array<T> {
        Array(*x)
    }
    #[inline(always)]
    fn store(self, v: Array<T>, out: &mut [T; LANES]) {
        *out = v.0;
    }
}

macro_rules! lanewise {
    ($self:ident, $i:ident => $lane:expr) => {{
        let mut out = $self;
        for $i in 0..LANES {
            out.0[$i] = $lane;
        }
        out
    }};
}

impl<T: Real> Add for Array<T> {
    type Output = Self;
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] + o.0[i])
    }
}

impl<T: Real> Sub for Array<T> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] - o.0[i])
    }
}

impl<T: Real> Mul for Array<T> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] * o.0[i])
    }
}

impl<T: Real> Div for Array<T> {
    type Output = Self;
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] / o.0[i])
    }
}

impl<T: Real> Neg for Array<T> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        lanewise!(self, i => -self.0[i])
    }
}

impl<T: Real> Num for Array<T> {
    type Mask = [bool; LANES];
    #[inline(always)]
    fn lift(self, c: f64) -> Self {
        Array([T::from_f64(c); LANES])
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        lanewise!(self, i => self.0[i].mul_add(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        lanewise!(self, i => self.0[i].sqrt())
    }
    #[inline(always)]
    fn abs(self) -> Self {
        lanewise!(self, i => self.0[i].abs())
    }
    #[inline(always)]
    fn lt(self, other: Self) -> [bool; LANES] {
        let mut mask = [false; LANES];
        for i in 0..LANES {
            mask[i] = self.0[i] < other.0[i];
        }
        mask
    }
    #[inline(always)]
    fn select(mask: [bool; LANES], a: Self, b: Self) -> Self {
        lanewise!(a, i => if mask[i] { a.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn exp(self) -> Self {
        lanewise!(self, i => self.0[i].exp())
    }
    #[inline(always)]
    fn exp_normal(self) -> Self {
        lanewise!(self, i => self.0[i].exp_normal())
    }
    #[inline(always)]
    fn exp2_normal(self) -> Self {
        lanewise!(self, i => self.0[i].exp2_normal())
    }
    #[inline(always)]
    fn ln(self) -> Self {
        lanewise!(self, i => self.0[i].ln())
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        lanewise!(self, i => self.0[i].tanh())
    }
}

/// Portable lanes with the tiles of AVX-512, whether or not this machine has it.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Wide;

#[cfg(test)]
impl Simd for Wide {
    type T = f64;
    type V = Array<f64>;
    const TILE_ROWS: usize = 6;
    const TILE_VECS: usize = 4;
    fn call<K: Task<f64>>(self, task: K) -> K::Output {
        task.run(self)
    }
    fn splat(self, x: f64) -> Array<f64> {
        Portable::new().splat(x)
    }
    fn load(self, x: &[f64; LANES]) -> Array<f64> {
        Portable::new().load(x)
    }
    fn store(self, v: Array<f64>, out: &mut [f64; LANES]) {
        Portable::new().store(v, out);
    }
}
