//! Lanes as an array: the portable path, and float64 everywhere; and vectors side by side.
//!
//! Loops over the array are plain, so that inside an AVX2 entry function the compiler turns them
//! into vector instructions.

use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{LANES, Real, Simd, Task};
use crate::num::Num;

/// Numbers that are gone through together: sixteen in an array, or some vectors.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Array<T, const N: usize = LANES>(pub(crate) [T; N]);

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
        for $i in 0..N {
            out.0[$i] = $lane;
        }
        out
    }};
}

impl<T: Num, const N: usize> Add for Array<T, N> {
    type Output = Self;
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] + o.0[i])
    }
}

impl<T: Num, const N: usize> Sub for Array<T, N> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] - o.0[i])
    }
}

impl<T: Num, const N: usize> Mul for Array<T, N> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] * o.0[i])
    }
}

impl<T: Num, const N: usize> Div for Array<T, N> {
    type Output = Self;
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        lanewise!(self, i => self.0[i] / o.0[i])
    }
}

impl<T: Num, const N: usize> Neg for Array<T, N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        lanewise!(self, i => -self.0[i])
    }
}

impl<T: Num, const N: usize> Num for Array<T, N> {
    type Mask = [T::Mask; N];
    #[inline(always)]
    fn lift(self, c: f64) -> Self {
        Array([self.0[0].lift(c); N])
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
    fn lt(self, other: Self) -> [T::Mask; N] {
        let mut mask = [self.0[0].lt(other.0[0]); N];
        for i in 0..N {
            mask[i] = self.0[i].lt(other.0[i]);
        }
        mask
    }
    #[inline(always)]
    fn select(mask: [T::Mask; N], a: Self, b: Self) -> Self {
        lanewise!(a, i => T::select(mask[i], a.0[i], b.0[i]))
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
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        lanewise!(self, i => self.0[i].max(other.0[i]))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        lanewise!(self, i => self.0[i].min(other.0[i]))
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
    const MANY_REGISTERS: bool = true;
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
