//! Floating-point arithmetic. `.rn` results are IEEE 754's; `.approx` results are computed as well as
//! f32 allows, and [`error_bound`] says how far hardware may be from that.

use crate::float::{
    self, Toward, extreme, extreme64, fma, fma_odd, from_bf16, from_f16, to_bf16, to_f16,
};
use crate::isa::AluFn::{self, *};
use crate::isa::{ErrorBound, Ty};
use crate::lanes::{f32s, f64s, lanes};
use crate::syntax::Mnemonic;

const RZ: u8 = Toward::Zero.code();
const RM: u8 = Toward::MinusInfinity.code();
const RP: u8 = Toward::PlusInfinity.code();

/// One directed operation in the direction the mnemonic names.
macro_rules! toward {
    ($m:expr, $wrap:ident($($x:ident),+ => $f:ident::<_>($($arg:expr),+))) => {
        match () {
            () if $m.has("rz") => $wrap(f32s!($($x),+ => float::$f::<RZ>($($arg),+))),
            () if $m.has("rm") => $wrap(f32s!($($x),+ => float::$f::<RM>($($arg),+))),
            () => $wrap(f32s!($($x),+ => float::$f::<RP>($($arg),+))),
        }
    };
}

/// An expression on both halves of registers; of a scalar the upper half is never looked at.
macro_rules! halves {
    ($from:ident, $to:ident, $($x:ident),+ => $e:expr) => {
        lanes!($($x),+ => {
            let half = |shift: u32| {
                $(let $x = $from($x >> shift & 0xFFFF);)+
                $to($e)
            };
            half(0) | half(16) << 16
        })
    };
}

/// Arithmetic of a 16-bit format, single or in pairs. Sums and products are rounded to f32 first: with
/// more than twice the bits, that does not change what the second rounding gives.
macro_rules! half {
    ($m:expr, $from:ident, $to:ident) => {
        match $m.name {
            _ if ["rz", "rm", "rp", "ftz", "NaN"].iter().any(|r| $m.has(r)) => None,
            "add" => Some(Bin32(halves!($from, $to, a, b => a + b))),
            "sub" => Some(Bin32(halves!($from, $to, a, b => a - b))),
            "mul" => Some(Bin32(halves!($from, $to, a, b => a * b))),
            "fma" => Some(Tern32(halves!($from, $to, a, b, c => fma_odd(a, b, c)))),
            "min" => Some(Bin32(halves!($from, $to, a, b => extreme::<false, false>(a, b)))),
            "max" => Some(Bin32(halves!($from, $to, a, b => extreme::<true, false>(a, b)))),
            "neg" => Some(Un32(lanes!(a => a ^ 0x8000_8000))),
            "abs" => Some(Un32(lanes!(a => a & 0x7FFF_7FFF))),
            _ => None,
        }
    };
}

/// The operation of a mnemonic on a floating-point type.
pub(super) fn table(m: &Mnemonic<'_>, ty: Ty) -> Option<AluFn> {
    match ty {
        Ty::F32 if ["rz", "rm", "rp"].iter().any(|r| m.has(r)) => directed(m),
        Ty::F32 => narrow(m),
        Ty::F64 => wide(m),
        Ty::F16 | Ty::F16x2 => half!(m, from_f16, to_f16),
        Ty::Bf16 | Ty::Bf16x2 => half!(m, from_bf16, to_bf16),
        _ => None,
    }
}

fn narrow(m: &Mnemonic<'_>) -> Option<AluFn> {
    let nan = m.has("NaN");
    Some(match m.name {
        "add" => Bin32(f32s!(a, b => a + b)),
        "sub" => Bin32(f32s!(a, b => a - b)),
        "mul" => Bin32(f32s!(a, b => a * b)),
        "fma" | "mad" => Tern32(f32s!(a, b, c => fma(a, b, c))),
        "div" => Bin32(f32s!(a, b => a / b)),
        "min" if nan => Bin32(f32s!(a, b => extreme::<false, true>(a, b))),
        "max" if nan => Bin32(f32s!(a, b => extreme::<true, true>(a, b))),
        "min" => Bin32(f32s!(a, b => extreme::<false, false>(a, b))),
        "max" => Bin32(f32s!(a, b => extreme::<true, false>(a, b))),
        "neg" => Un32(lanes!(a => a ^ 0x8000_0000)),
        "abs" => Un32(lanes!(a => a & 0x7FFF_FFFF)),
        "copysign" => Bin32(lanes!(sign, a => a & 0x7FFF_FFFF | sign & 0x8000_0000)),
        "sqrt" => Un32(f32s!(a => a.sqrt())),
        "rcp" => Un32(f32s!(a => 1.0 / a)),
        "rsqrt" => Un32(f32s!(a => (1.0 / f64::from(a).sqrt()) as f32)),
        "ex2" => Un32(f32s!(a => a.exp2())),
        "lg2" => Un32(f32s!(a => a.log2())),
        "sin" => Un32(f32s!(a => a.sin())),
        "cos" => Un32(f32s!(a => a.cos())),
        "tanh" => Un32(f32s!(a => a.tanh())),
        _ => return None,
    })
}

fn directed(m: &Mnemonic<'_>) -> Option<AluFn> {
    Some(match m.name {
        "add" => toward!(m, Bin32(a, b => fma_directed::<_>(a, 1.0, b))),
        "sub" => toward!(m, Bin32(a, b => fma_directed::<_>(a, 1.0, -b))),
        "mul" => toward!(m, Bin32(a, b => mul_directed::<_>(a, b))),
        "fma" | "mad" => toward!(m, Tern32(a, b, c => fma_directed::<_>(a, b, c))),
        "div" => toward!(m, Bin32(a, b => div_directed::<_>(a, b))),
        "rcp" => toward!(m, Un32(a => div_directed::<_>(1.0, a))),
        "sqrt" => toward!(m, Un32(a => sqrt_directed::<_>(a))),
        _ => return None,
    })
}

fn wide(m: &Mnemonic<'_>) -> Option<AluFn> {
    if ["rz", "rm", "rp"].iter().any(|r| m.has(r)) {
        return None;
    }
    Some(match m.name {
        "add" => Bin64(f64s!(a, b => a + b)),
        "sub" => Bin64(f64s!(a, b => a - b)),
        "mul" => Bin64(f64s!(a, b => a * b)),
        "fma" | "mad" => Tern64(f64s!(a, b, c => a.mul_add(b, c))),
        "div" => Bin64(f64s!(a, b => a / b)),
        "min" => Bin64(f64s!(a, b => extreme64::<false>(a, b))),
        "max" => Bin64(f64s!(a, b => extreme64::<true>(a, b))),
        "neg" => Un64(lanes!(a => a ^ 1 << 63)),
        "abs" => Un64(lanes!(a => a & !(1 << 63))),
        "copysign" => Bin64(lanes!(sign, a => a & !(1 << 63) | sign & 1 << 63)),
        "sqrt" => Un64(f64s!(a => a.sqrt())),
        "rcp" if m.has("rn") => Un64(f64s!(a => 1.0 / a)),
        _ => return None,
    })
}

/// Largest error of approximate instructions, as the PTX ISA manual (section 9.7.3) gives it for
/// arguments in the ordinary range.
pub(super) fn error_bound(m: &Mnemonic<'_>) -> Option<ErrorBound> {
    use ErrorBound::*;
    let full = m.name == "div" && m.has("full");
    if !full && !m.has("approx") {
        return None;
    }
    Some(match m.name {
        "div" => Ulp(2),
        "rcp" | "sqrt" => Ulp(1),
        "ex2" => Ulp(2),
        "rsqrt" => Relative(1.277e-7),       // 2^-22.9
        "lg2" => Absolute(2.384_186e-7),     // 2^-22
        "sin" | "cos" => Absolute(5.110e-7), // 2^-20.9
        "tanh" => Relative(4.882_812_5e-4),  // 2^-11
        _ => return None,
    })
}
