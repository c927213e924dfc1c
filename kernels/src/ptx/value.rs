//! Registers as values: operators emit instructions.
//!
//! A [`Reg`] knows the kernel it belongs to, so that `a * b + c` is all it takes. It is either a
//! register that was written once, or a constant, which becomes an immediate operand. What changes
//! in a loop is a [`Var`](super::Var).

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Rem, Shl, Shr, Sub};

use super::body::Body;
use super::types::{B16, B32, F32, F64, Pred, Type, U32, U64};

/// A value of type `T` in the kernel `'k`.
pub struct Reg<'k, T> {
    pub(super) body: &'k Body,
    name: Name,
    ty: PhantomData<T>,
}

#[derive(Clone, Copy)]
enum Name {
    Register(u32),
    Constant(u64),
}

impl<T> Clone for Reg<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Reg<'_, T> {}

impl<T: Type> fmt::Display for Reg<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.name {
            Name::Register(number) => write!(f, "{}{number}", T::PREFIX),
            Name::Constant(bits) => f.write_str(&T::constant(bits)),
        }
    }
}

impl<T: Type> fmt::Debug for Reg<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What may stand for a value of type `T`: a register, or a Rust number.
pub trait Source<'k, T> {
    /// The operand.
    fn reg(self, body: &'k Body) -> Reg<'k, T>;
}

impl<'k, T> Source<'k, T> for Reg<'k, T> {
    fn reg(self, _: &'k Body) -> Reg<'k, T> {
        self
    }
}
impl<'k> Source<'k, U32> for u32 {
    fn reg(self, body: &'k Body) -> Reg<'k, U32> {
        Reg::constant(body, self.into())
    }
}
impl<'k> Source<'k, U64> for u64 {
    fn reg(self, body: &'k Body) -> Reg<'k, U64> {
        Reg::constant(body, self)
    }
}
impl<'k> Source<'k, F32> for f32 {
    fn reg(self, body: &'k Body) -> Reg<'k, F32> {
        Reg::constant(body, self.to_bits().into())
    }
}
impl<'k> Source<'k, F64> for f64 {
    fn reg(self, body: &'k Body) -> Reg<'k, F64> {
        Reg::constant(body, self.to_bits())
    }
}

impl<'k, T: Type> Reg<'k, T> {
    pub(super) fn register(body: &'k Body, number: u32) -> Self {
        Reg { body, name: Name::Register(number), ty: PhantomData }
    }

    fn constant(body: &'k Body, bits: u64) -> Self {
        Reg { body, name: Name::Constant(bits), ty: PhantomData }
    }

    /// The constant of these bits.
    pub fn lift_bits(self, bits: u64) -> Self {
        Reg::constant(self.body, bits)
    }

    /// The number of a register.
    pub(super) fn number(self) -> Option<u32> {
        match self.name {
            Name::Register(number) => Some(number),
            Name::Constant(_) => None,
        }
    }

    /// The bits of a constant.
    pub(super) fn known(self) -> Option<u64> {
        match self.name {
            Name::Register(_) => None,
            Name::Constant(bits) => Some(bits),
        }
    }

    /// The same bits as another type of the same size.
    pub fn bits<U: Type>(self) -> Reg<'k, U> {
        self.body.op("mov.b32", &[&self])
    }

    /// `a` where the predicate holds, else `b`.
    pub fn select(p: Reg<'k, Pred>, a: Self, b: Self) -> Self {
        a.body.op(&format!("selp.{}", T::SUFFIX), &[&a, &b, &p])
    }

    fn binary(self, op: &str, other: Self) -> Self {
        self.body.op(&format!("{op}.{}", T::SUFFIX), &[&self, &other])
    }

    fn compare(self, how: &str, other: Self) -> Reg<'k, Pred> {
        self.body.op(&format!("setp.{how}.{}", T::SUFFIX), &[&self, &other])
    }
}

/// Binary operators of one type, with registers and with Rust numbers on the right.
macro_rules! operators {
    ($T:ident, $number:ty: $($Trait:ident $method:ident = $op:literal $(, $fold:expr)?;)*) => {$(
        impl<'k> $Trait for Reg<'k, $T> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                $(
                    if let Some(known) = ($fold)(self, other) {
                        return known;
                    }
                )?
                self.body.op($op, &[&self, &other])
            }
        }
        impl<'k> $Trait<$number> for Reg<'k, $T> {
            type Output = Self;
            fn $method(self, other: $number) -> Self {
                self.$method(Source::<$T>::reg(other, self.body))
            }
        }
    )*};
}

/// Folds what is constant, and leaves out what changes nothing: adding `neutral`.
fn fold<'k>(
    neutral: u64,
    f: impl Fn(u32, u32) -> u32,
) -> impl Fn(Reg<'k, U32>, Reg<'k, U32>) -> Option<Reg<'k, U32>> {
    move |a, b| match (a.known(), b.known()) {
        (Some(x), Some(y)) => Some(a.lift_bits(f(x as u32, y as u32).into())),
        (None, Some(y)) if y == neutral => Some(a),
        _ => None,
    }
}

operators! { U32, u32:
    Add add = "add.u32", fold(0, u32::wrapping_add);
    Sub sub = "sub.u32", fold(0, u32::wrapping_sub);
    Mul mul = "mul.lo.u32", fold(1, u32::wrapping_mul);
    Div div = "div.u32", fold(1, |a, b| a / b);
    Rem rem = "rem.u32";
    BitAnd bitand = "and.b32", fold(0xffff_ffff, |a, b| a & b);
    BitOr bitor = "or.b32", fold(0, |a, b| a | b);
    BitXor bitxor = "xor.b32", fold(0, |a, b| a ^ b);
    Shl shl = "shl.b32", fold(0, |a, b| a << b);
    Shr shr = "shr.u32", fold(0, |a, b| a >> b);
}
// With a rounding mode written out, `ptxas` does not fuse a product and a sum.
operators! { F32, f32:
    Add add = "add.rn.f32";
    Sub sub = "sub.rn.f32";
    Mul mul = "mul.rn.f32";
    Div div = "div.rn.f32";
}
operators! { F64, f64:
    Add add = "add.rn.f64";
    Mul mul = "mul.rn.f64";
    Sub sub = "sub.rn.f64";
    Div div = "div.rn.f64";
}

operators! { U64, u64:
    Add add = "add.u64";
    Sub sub = "sub.u64";
    BitAnd bitand = "and.b64";
}

impl Neg for Reg<'_, F32> {
    type Output = Self;
    fn neg(self) -> Self {
        self.body.op("neg.f32", &[&self])
    }
}

impl Neg for Reg<'_, F64> {
    type Output = Self;
    fn neg(self) -> Self {
        self.body.op("neg.f64", &[&self])
    }
}

impl<'k> Reg<'k, U32> {
    /// self < other, as all comparisons here without sign.
    pub fn lt(self, other: impl Source<'k, U32>) -> Reg<'k, Pred> {
        self.compare("lt", other.reg(self.body))
    }
    /// self ≥ other.
    pub fn ge(self, other: impl Source<'k, U32>) -> Reg<'k, Pred> {
        self.compare("ge", other.reg(self.body))
    }
    /// self = other.
    pub fn eq(self, other: impl Source<'k, U32>) -> Reg<'k, Pred> {
        self.compare("eq", other.reg(self.body))
    }
    /// self ≠ other.
    pub fn ne(self, other: impl Source<'k, U32>) -> Reg<'k, Pred> {
        self.compare("ne", other.reg(self.body))
    }
    /// The smaller of the two.
    pub fn min(self, other: impl Source<'k, U32>) -> Self {
        self.binary("min", other.reg(self.body))
    }
    /// self·b + c.
    pub fn mad(self, b: impl Source<'k, U32>, c: impl Source<'k, U32>) -> Self {
        let (b, c) = (b.reg(self.body), c.reg(self.body));
        if self.known().is_some() || b.known() == Some(1) || b.known() == Some(0) {
            return self * b + c;
        }
        self.body.op("mad.lo.u32", &[&self, &b, &c])
    }
    /// The high half of the product.
    pub fn mul_high(self, other: impl Source<'k, U32>) -> Self {
        self.body.op("mul.hi.u32", &[&self, &other.reg(self.body)])
    }
    /// Shifted right as a signed number.
    pub fn shr_signed(self, by: u32) -> Self {
        self.body.op("shr.s32", &[&self, &by])
    }
    /// The nearest float, of self as a signed number.
    pub fn to_f32_signed(self) -> Reg<'k, F32> {
        self.body.op("cvt.rn.f32.s32", &[&self])
    }
    /// The nearest float.
    pub fn to_f32(self) -> Reg<'k, F32> {
        self.body.op("cvt.rn.f32.u32", &[&self])
    }
    /// The same number in float64.
    pub fn to_f64(self) -> Reg<'k, F64> {
        self.body.op("cvt.rn.f64.u32", &[&self])
    }
}

impl<'k> Reg<'k, U64> {
    /// self = other.
    pub fn eq(self, other: impl Source<'k, U64>) -> Reg<'k, Pred> {
        self.compare("eq", other.reg(self.body))
    }

    /// Shifted right as a signed number.
    pub fn shr_signed(self, by: u32) -> Self {
        self.body.op("shr.s64", &[&self, &by])
    }
    /// The nearest float64, of self as a signed number.
    pub fn to_f64_signed(self) -> Reg<'k, F64> {
        self.body.op("cvt.rn.f64.s64", &[&self])
    }
    /// The float64 of these bits.
    pub fn bits_to_f64(self) -> Reg<'k, F64> {
        self.body.op("mov.b64", &[&self])
    }
}

impl<'k> Reg<'k, F32> {
    /// self = other; false when either is NaN.
    pub fn eq(self, other: impl Source<'k, F32>) -> Reg<'k, Pred> {
        self.compare("eq", other.reg(self.body))
    }
    /// Whether it is NaN.
    pub fn is_nan(self) -> Reg<'k, Pred> {
        self.compare("nan", self)
    }
    /// The integer part, as a signed number in two's complement.
    pub fn to_int(self) -> Reg<'k, U32> {
        self.body.op("cvt.rzi.s32.f32", &[&self])
    }
    /// The same number in float64.
    pub fn to_f64(self) -> Reg<'k, F64> {
        self.body.op("cvt.f64.f32", &[&self])
    }
    /// The bits of the nearest f16.
    pub fn to_f16(self) -> Reg<'k, B16> {
        self.body.op("cvt.rn.f16.f32", &[&self])
    }
    /// Rounded to the 10 bits of mantissa that tensor cores look at, ties away from zero.
    pub fn to_tf32(self) -> Reg<'k, B32> {
        self.body.op("cvt.rna.tf32.f32", &[&self])
    }
    /// The larger of the two, in one instruction; a NaN loses to a number, unlike on the CPU.
    pub fn max_number(self, other: Self) -> Self {
        self.binary("max", other)
    }
    /// 2ˣ to about 2 ulp; denormal results are 0. Not the CPU's bits: for attention.
    pub fn exp2_approximate(self) -> Self {
        self.body.op("ex2.approx.ftz.f32", &[&self])
    }
}

impl<'k> Reg<'k, F64> {
    /// The nearest float32.
    pub fn to_f32(self) -> Reg<'k, F32> {
        self.body.op("cvt.rn.f32.f64", &[&self])
    }
    /// √self.
    pub fn sqrt(self) -> Self {
        self.body.op("sqrt.rn.f64", &[&self])
    }
    /// self < other; false when either is NaN.
    pub fn lt(self, other: impl Source<'k, F64>) -> Reg<'k, Pred> {
        self.compare("lt", other.reg(self.body))
    }
    /// Its bits.
    pub fn to_bits(self) -> Reg<'k, U64> {
        self.body.op("mov.b64", &[&self])
    }
}

impl<'k> Reg<'k, B16> {
    /// The value of these bits as an f16.
    pub fn widen(self) -> Reg<'k, F32> {
        self.body.op("cvt.f32.f16", &[&self])
    }
}

impl<'k> Reg<'k, B32> {
    /// Low and high half of two bf16, widened: a bf16 is the upper half of a float32.
    pub fn halves_of_bf16(self) -> [Reg<'k, F32>; 2] {
        let low: Reg<B32> = self.body.op("shl.b32", &[&self, &16]);
        let high: Reg<B32> = self.body.op("and.b32", &[&self, &"0xffff0000"]);
        [low.bits(), high.bits()]
    }

    /// Low and high half of two f16, widened.
    pub fn halves_of_f16(self) -> [Reg<'k, F32>; 2] {
        let halves: [Reg<B16>; 2] = [self.body.fresh(), self.body.fresh()];
        self.body.emit(&format!("mov.b32 {{{}, {}}}, {self}", halves[0], halves[1]));
        halves.map(Reg::widen)
    }

    /// Two values rounded to bf16, `low` at the lower address.
    pub fn pair_of_bf16(low: Reg<'k, F32>, high: Reg<'k, F32>) -> Self {
        low.body.op("cvt.rn.bf16x2.f32", &[&high, &low])
    }

    /// Two values rounded to f16, `low` at the lower address.
    pub fn pair_of_f16(low: Reg<'k, F32>, high: Reg<'k, F32>) -> Self {
        low.body.op("cvt.rn.f16x2.f32", &[&high, &low])
    }
}

impl BitAnd for Reg<'_, Pred> {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        self.binary("and", other)
    }
}

impl BitOr for Reg<'_, Pred> {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.binary("or", other)
    }
}
