//! `cvt`: between all types.

use crate::float::{
    NAN, canonical, canonical64, from_bf16, from_f16, to_bf16, to_bf16_rz, to_f16, to_tf32,
};
use crate::isa::AluFn::{self, *};
use crate::isa::Ty::{self, *};
use crate::lanes::lanes;
use crate::syntax::Mnemonic;

/// The conversion of a mnemonic; its types stand destination first.
pub(super) fn table(m: &Mnemonic<'_>, types: &[Ty]) -> Option<AluFn> {
    let &[to, from] = types else { return None };
    let integer = |t: Ty| !t.float() && t != Pred;
    match (integer(to), integer(from)) {
        (true, true) => integers(to, from),
        (true, false) => to_integer(m, to, from),
        (false, true) => from_integer(m, to, from),
        (false, false) => floats(m, to, from),
    }
}

/// Extends from one width to 64 bits, then cuts to another; narrow results fill their register.
macro_rules! resize {
    ($to:expr, $wrap32:ident, $wrap64:ident, $x:ident => $e:expr) => {
        match $to {
            U8 | B8 => $wrap32(lanes!($x => u32::from($e as u8))),
            S8 => $wrap32(lanes!($x => $e as i8 as u32)),
            U16 | B16 => $wrap32(lanes!($x => u32::from($e as u16))),
            S16 => $wrap32(lanes!($x => u32::from($e as i16 as u16))),
            U32 | B32 | S32 => $wrap32(lanes!($x => $e as u32)),
            U64 | B64 | S64 => $wrap64(lanes!($x => $e as u64)),
            _ => return None,
        }
    };
}

fn integers(to: Ty, from: Ty) -> Option<AluFn> {
    Some(match from {
        U8 | B8 => resize!(to, Un32, Widen, x => x as u8),
        S8 => resize!(to, Un32, Widen, x => x as i8),
        U16 | B16 => resize!(to, Un32, Widen, x => x as u16),
        S16 => resize!(to, Un32, Widen, x => x as i16),
        U32 | B32 => resize!(to, Un32, Widen, x => x),
        S32 => resize!(to, Un32, Widen, x => x as i32),
        U64 | B64 | S64 => resize!(to, Narrow, Un64, x => x),
        _ => return None,
    })
}

/// Out of range saturates; NaN gives 0, or 2^(bits−1) where f64 or a 64-bit integer is involved.
macro_rules! round_to {
    ($to:expr, $wrap32:ident, $wrap64:ident, $wide:expr, $x:ident => $e:expr) => {
        match $to {
            U8 => $wrap32(lanes!($x => u32::from($e as u8))),
            S8 => $wrap32(lanes!($x => $e as i8 as u32)),
            U16 => $wrap32(lanes!($x => u32::from($e as u16))),
            S16 => $wrap32(lanes!($x => u32::from($e as i16 as u16))),
            U32 | S32 if $wide => round_to!(@nan $to, $wrap32, $x => $e, 1 << 31),
            U32 => $wrap32(lanes!($x => $e as u32)),
            S32 => $wrap32(lanes!($x => $e as i32 as u32)),
            U64 => $wrap64(lanes!($x => if $e.is_nan() { 1 << 63 } else { $e as u64 })),
            S64 => $wrap64(lanes!($x => if $e.is_nan() { 1 << 63 } else { $e as i64 as u64 })),
            _ => return None,
        }
    };
    (@nan $to:expr, $wrap32:ident, $x:ident => $e:expr, $nan:expr) => {
        match $to {
            U32 => $wrap32(lanes!($x => if $e.is_nan() { $nan } else { $e as u32 })),
            _ => $wrap32(lanes!($x => if $e.is_nan() { $nan } else { $e as i32 as u32 })),
        }
    };
}

fn to_integer(m: &Mnemonic<'_>, to: Ty, from: Ty) -> Option<AluFn> {
    Some(match (from, integral(m)?) {
        (F32, Integral::Even) => {
            round_to!(to, Un32, Widen, false, x => f32::from_bits(x).round_ties_even())
        }
        (F32, Integral::Zero) => round_to!(to, Un32, Widen, false, x => f32::from_bits(x).trunc()),
        (F32, Integral::Down) => round_to!(to, Un32, Widen, false, x => f32::from_bits(x).floor()),
        (F32, Integral::Up) => round_to!(to, Un32, Widen, false, x => f32::from_bits(x).ceil()),
        (F64, Integral::Even) => {
            round_to!(to, Narrow, Un64, true, x => f64::from_bits(x).round_ties_even())
        }
        (F64, Integral::Zero) => round_to!(to, Narrow, Un64, true, x => f64::from_bits(x).trunc()),
        (F64, Integral::Down) => round_to!(to, Narrow, Un64, true, x => f64::from_bits(x).floor()),
        (F64, Integral::Up) => round_to!(to, Narrow, Un64, true, x => f64::from_bits(x).ceil()),
        (F16, Integral::Zero) => round_to!(to, Un32, Widen, false, x => from_f16(x).trunc()),
        (Bf16, Integral::Zero) => round_to!(to, Un32, Widen, false, x => from_bf16(x).trunc()),
        _ => return None,
    })
}

/// Rounding to an integral value: `.rni`, `.rzi`, `.rmi`, `.rpi`.
#[derive(Clone, Copy)]
enum Integral {
    Even,
    Zero,
    Down,
    Up,
}

fn integral(m: &Mnemonic<'_>) -> Option<Integral> {
    Some(match () {
        () if m.has("rni") => Integral::Even,
        () if m.has("rzi") => Integral::Zero,
        () if m.has("rmi") => Integral::Down,
        () if m.has("rpi") => Integral::Up,
        () => return None,
    })
}

/// One float format from every integer type, to nearest even.
macro_rules! from_int {
    ($from:expr, $narrow:ident, $wide:ident, $x:ident => $f:expr) => {
        match $from {
            U8 => $narrow(lanes!(v => { let $x = v as u8; $f })),
            S8 => $narrow(lanes!(v => { let $x = v as i8; $f })),
            U16 => $narrow(lanes!(v => { let $x = v as u16; $f })),
            S16 => $narrow(lanes!(v => { let $x = v as i16; $f })),
            U32 => $narrow(lanes!(v => { let $x = v; $f })),
            S32 => $narrow(lanes!(v => { let $x = v as i32; $f })),
            U64 => $wide(lanes!(v => { let $x = v; $f })),
            S64 => $wide(lanes!(v => { let $x = v as i64; $f })),
            _ => return None,
        }
    };
}

fn from_integer(m: &Mnemonic<'_>, to: Ty, from: Ty) -> Option<AluFn> {
    let exact = to == F64 && from.bytes() < 8;
    if !exact && !m.has("rn") {
        return None;
    }
    Some(match to {
        F32 => from_int!(from, Un32, Narrow, x => (x as f32).to_bits()),
        F64 => from_int!(from, Widen, Un64, x => (x as f64).to_bits()),
        _ => return None,
    })
}

fn floats(m: &Mnemonic<'_>, to: Ty, from: Ty) -> Option<AluFn> {
    let relu = m.has("relu");
    Some(match (to, from) {
        (F32, F32) => match integral(m) {
            None => Un32(lanes!(x => canonical(f32::from_bits(x)))),
            Some(Integral::Even) => {
                Un32(lanes!(x => f32::from_bits(x).round_ties_even().to_bits()))
            }
            Some(Integral::Zero) => Un32(lanes!(x => f32::from_bits(x).trunc().to_bits())),
            Some(Integral::Down) => Un32(lanes!(x => f32::from_bits(x).floor().to_bits())),
            Some(Integral::Up) => Un32(lanes!(x => f32::from_bits(x).ceil().to_bits())),
        },
        (F64, F64) => match integral(m)? {
            Integral::Even => Un64(lanes!(x => f64::from_bits(x).round_ties_even().to_bits())),
            Integral::Zero => Un64(lanes!(x => f64::from_bits(x).trunc().to_bits())),
            Integral::Down => Un64(lanes!(x => f64::from_bits(x).floor().to_bits())),
            Integral::Up => Un64(lanes!(x => f64::from_bits(x).ceil().to_bits())),
        },
        (F64, F32) => Widen(lanes!(x => canonical64(f64::from(f32::from_bits(x))))),
        (F32, F64) if m.has("rn") => Narrow(lanes!(x => canonical(f64::from_bits(x) as f32))),
        (F32, F16) => Un32(lanes!(x => canonical(from_f16(x)))),
        (F32, Bf16) => Un32(lanes!(x => canonical(from_bf16(x)))),
        (F16, F32) if m.has("rn") && !relu => Un32(lanes!(x => to_f16(f32::from_bits(x)))),
        (Bf16, F32) if m.has("rn") && relu => Un32(lanes!(x => to_bf16(positive(x)))),
        (Bf16, F32) if m.has("rn") => Un32(lanes!(x => to_bf16(f32::from_bits(x)))),
        (Bf16, F32) if m.has("rz") && !relu => Un32(lanes!(x => to_bf16_rz(f32::from_bits(x)))),
        (Bf16x2, F32) if m.has("rn") && relu => {
            Bin32(lanes!(hi, lo => to_bf16(positive(hi)) << 16 | to_bf16(positive(lo))))
        }
        (Bf16x2, F32) if m.has("rn") => Bin32(lanes!(hi, lo => {
            to_bf16(f32::from_bits(hi)) << 16 | to_bf16(f32::from_bits(lo))
        })),
        (F16x2, F32) if m.has("rn") && !relu => Bin32(lanes!(hi, lo => {
            to_f16(f32::from_bits(hi)) << 16 | to_f16(f32::from_bits(lo))
        })),
        (Tf32, F32) if m.has("rna") => Un32(lanes!(x => to_tf32(f32::from_bits(x)))),
        _ => return None,
    })
}

/// `.relu`: negative values become +0, NaN stays.
fn positive(bits: u32) -> f32 {
    let x = f32::from_bits(bits);
    if x.is_nan() { f32::from_bits(NAN) } else { x.max(0.0) }
}
