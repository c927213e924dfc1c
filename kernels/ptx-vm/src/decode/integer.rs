//! Integer and bit arithmetic.

use crate::isa::AluFn::{self, *};
use crate::isa::Ty::{self, *};
use crate::lanes::lanes;
use crate::syntax::Mnemonic;

/// One expression in one operand, at the width and signedness of the type.
macro_rules! int1 {
    ($ty:expr, $a:ident => $e:expr) => {
        match $ty {
            U16 | B16 => Un32(lanes!(x => { let $a = x as u16; u32::from($e) })),
            S16 => Un32(lanes!(x => { let $a = x as i16; u32::from(($e) as u16) })),
            U32 | B32 => Un32(lanes!(x => { let $a = x; $e })),
            S32 => Un32(lanes!(x => { let $a = x as i32; ($e) as u32 })),
            U64 | B64 => Un64(lanes!(x => { let $a = x; $e })),
            S64 => Un64(lanes!(x => { let $a = x as i64; ($e) as u64 })),
            _ => return None,
        }
    };
}

/// The same in two operands.
macro_rules! int2 {
    ($ty:expr, $a:ident, $b:ident => $e:expr) => {
        match $ty {
            U16 | B16 => {
                Bin32(lanes!(x, y => { let ($a, $b) = (x as u16, y as u16); u32::from($e) }))
            }
            S16 => {
                Bin32(lanes!(x, y => { let ($a, $b) = (x as i16, y as i16); u32::from(($e) as u16) }))
            }
            U32 | B32 => Bin32(lanes!(x, y => { let ($a, $b) = (x, y); $e })),
            S32 => Bin32(lanes!(x, y => { let ($a, $b) = (x as i32, y as i32); ($e) as u32 })),
            U64 | B64 => Bin64(lanes!(x, y => { let ($a, $b) = (x, y); $e })),
            S64 => Bin64(lanes!(x, y => { let ($a, $b) = (x as i64, y as i64); ($e) as u64 })),
            _ => return None,
        }
    };
}

/// The operation of a mnemonic on an integer or bit type.
pub(super) fn table(m: &Mnemonic<'_>, ty: Ty) -> Option<AluFn> {
    Some(match m.name {
        "add" => int2!(ty, a, b => a.wrapping_add(b)),
        "sub" => int2!(ty, a, b => a.wrapping_sub(b)),
        "mul" if m.has("wide") => mul_wide(ty)?,
        "mul" if m.has("hi") => mul_hi(ty)?,
        "mul" => int2!(ty, a, b => a.wrapping_mul(b)),
        "mad" if m.has("wide") => mad_wide(ty)?,
        "mad" if m.has("lo") => mad_lo(ty)?,
        // Division by zero is unspecified; hardware gives all ones, and the dividend as remainder.
        "div" => int2!(ty, a, b => if b == 0 { !0 } else { a.wrapping_div(b) }),
        "rem" => int2!(ty, a, b => if b == 0 { a } else { a.wrapping_rem(b) }),
        "min" => int2!(ty, a, b => a.min(b)),
        "max" => int2!(ty, a, b => a.max(b)),
        "neg" => int1!(ty, a => a.wrapping_neg()),
        "abs" if ty.signed() => abs(ty)?,
        "and" => int2!(ty, a, b => a & b),
        "or" => int2!(ty, a, b => a | b),
        "xor" => int2!(ty, a, b => a ^ b),
        "not" => int1!(ty, a => !a),
        "shl" | "shr" => shift(m.name, ty)?,
        "popc" | "clz" | "brev" => count(m.name, ty)?,
        _ => fields(m, ty)?,
    })
}

fn abs(ty: Ty) -> Option<AluFn> {
    Some(match ty {
        S16 => Un32(lanes!(a => u32::from((a as i16).unsigned_abs()))),
        S32 => Un32(lanes!(a => (a as i32).unsigned_abs())),
        S64 => Un64(lanes!(a => (a as i64).unsigned_abs())),
        _ => return None,
    })
}

fn mul_wide(ty: Ty) -> Option<AluFn> {
    Some(match ty {
        U16 => Bin32(lanes!(a, b => u32::from(a as u16) * u32::from(b as u16))),
        S16 => Bin32(lanes!(a, b => (i32::from(a as i16) * i32::from(b as i16)) as u32)),
        U32 => MulWide(lanes!(a, b => u64::from(a) * u64::from(b))),
        S32 => MulWide(lanes!(a, b => (i64::from(a as i32) * i64::from(b as i32)) as u64)),
        _ => return None,
    })
}

fn mul_hi(ty: Ty) -> Option<AluFn> {
    Some(match ty {
        U32 => Bin32(lanes!(a, b => ((u64::from(a) * u64::from(b)) >> 32) as u32)),
        S32 => Bin32(lanes!(a, b => ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32)),
        U64 => Bin64(lanes!(a, b => ((u128::from(a) * u128::from(b)) >> 64) as u64)),
        S64 => Bin64(lanes!(a, b => ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64)),
        _ => return None,
    })
}

fn mad_wide(ty: Ty) -> Option<AluFn> {
    Some(match ty {
        U32 => MadWide(lanes!(a, b, c => c.wrapping_add(u64::from(a) * u64::from(b)))),
        S32 => MadWide(lanes!(a, b, c => {
            c.wrapping_add((i64::from(a as i32) * i64::from(b as i32)) as u64)
        })),
        _ => return None,
    })
}

fn mad_lo(ty: Ty) -> Option<AluFn> {
    Some(match ty {
        U16 | S16 => Tern32(lanes!(a, b, c => a.wrapping_mul(b).wrapping_add(c) & 0xFFFF)),
        U32 | S32 => Tern32(lanes!(a, b, c => a.wrapping_mul(b).wrapping_add(c))),
        U64 | S64 => Tern64(lanes!(a, b, c => a.wrapping_mul(b).wrapping_add(c))),
        _ => return None,
    })
}

/// Counts beyond the width shift everything out.
fn shift(name: &str, ty: Ty) -> Option<AluFn> {
    Some(match (name, ty) {
        ("shl", B16) => Bin32(lanes!(a, n => if n > 15 { 0 } else { a << n & 0xFFFF })),
        ("shl", B32) => Bin32(lanes!(a, n => a.checked_shl(n).unwrap_or(0))),
        ("shl", B64) => Shift64(lanes!(a, n => a.checked_shl(n).unwrap_or(0))),
        ("shr", U16 | B16) => Bin32(lanes!(a, n => (a & 0xFFFF).checked_shr(n).unwrap_or(0))),
        ("shr", S16) => Bin32(lanes!(a, n => u32::from((a as i16 >> n.min(15)) as u16))),
        ("shr", U32 | B32) => Bin32(lanes!(a, n => a.checked_shr(n).unwrap_or(0))),
        ("shr", S32) => Bin32(lanes!(a, n => (a as i32 >> n.min(31)) as u32)),
        ("shr", U64 | B64) => Shift64(lanes!(a, n => a.checked_shr(n).unwrap_or(0))),
        ("shr", S64) => Shift64(lanes!(a, n => (a as i64 >> n.min(63)) as u64)),
        _ => return None,
    })
}

fn count(name: &str, ty: Ty) -> Option<AluFn> {
    Some(match (name, ty) {
        ("popc", B32) => Un32(lanes!(a => a.count_ones())),
        ("popc", B64) => Narrow(lanes!(a => a.count_ones())),
        ("clz", B32) => Un32(lanes!(a => a.leading_zeros())),
        ("clz", B64) => Narrow(lanes!(a => a.leading_zeros())),
        ("brev", B32) => Un32(lanes!(a => a.reverse_bits())),
        ("brev", B64) => Un64(lanes!(a => a.reverse_bits())),
        _ => return None,
    })
}

/// Bit fields, byte permutation, funnel shifts, three-input logic.
fn fields(m: &Mnemonic<'_>, ty: Ty) -> Option<AluFn> {
    Some(match (m.name, ty) {
        ("bfe", U32) => Tern32(lanes!(a, at, n => extract(a, at & 255, n & 255))),
        ("bfe", S32) => Tern32(lanes!(a, at, n => extract_signed(a as i32, at & 255, n & 255))),
        ("bfi", B32) => Quad32(lanes!(a, b, at, n => insert(a, b, at & 255, n & 255))),
        ("prmt", B32) if m.parts().len() == 1 => Tern32(lanes!(a, b, how => permute(a, b, how))),
        ("lop3", B32) => Quad32(lanes!(a, b, c, how => lop3(a, b, c, how))),
        ("shf", B32) if m.has("l") && m.has("wrap") => Tern32(lanes!(lo, hi, n => {
            ((u64::from(hi) << 32 | u64::from(lo)) << (n & 31) >> 32) as u32
        })),
        ("shf", B32) if m.has("l") && m.has("clamp") => Tern32(lanes!(lo, hi, n => {
            ((u64::from(hi) << 32 | u64::from(lo)) << n.min(32) >> 32) as u32
        })),
        ("shf", B32) if m.has("r") && m.has("wrap") => Tern32(lanes!(lo, hi, n => {
            ((u64::from(hi) << 32 | u64::from(lo)) >> (n & 31)) as u32
        })),
        ("shf", B32) if m.has("r") && m.has("clamp") => Tern32(lanes!(lo, hi, n => {
            ((u64::from(hi) << 32 | u64::from(lo)) >> n.min(32)) as u32
        })),
        _ => return None,
    })
}

fn low_bits(n: u32) -> u32 {
    if n > 31 { u32::MAX } else { (1 << n) - 1 }
}

fn extract(a: u32, at: u32, n: u32) -> u32 {
    a.checked_shr(at).unwrap_or(0) & low_bits(n)
}

/// The field's top bit, or the source's where the field reaches beyond it, fills the rest.
fn extract_signed(a: i32, at: u32, n: u32) -> u32 {
    if n == 0 {
        return 0;
    }
    let shifted = i64::from(a) >> at.min(63);
    let drop = 64 - n.min(32);
    (shifted << drop >> drop) as u32
}

fn insert(a: u32, into: u32, at: u32, n: u32) -> u32 {
    let mask = low_bits(n).checked_shl(at).unwrap_or(0);
    into & !mask | a.checked_shl(at).unwrap_or(0) & mask
}

/// Each nibble of `how` picks one of eight bytes; its top bit replicates that byte's sign.
fn permute(a: u32, b: u32, how: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: u32| {
        let nibble = how >> (4 * i) & 15;
        let byte = bytes[(nibble & 7) as usize];
        if nibble & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// Bit `4·a + 2·b + c` of the table `how`, for each bit.
fn lop3(a: u32, b: u32, c: u32, how: u32) -> u32 {
    let mut out = 0;
    for row in (0..8).filter(|row| how >> row & 1 == 1) {
        let pick = |x: u32, bit: u32| if row >> bit & 1 == 1 { x } else { !x };
        out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_the_manual() {
        assert_eq!(extract(0xABCD_1234, 8, 8), 0x12);
        assert_eq!(extract(1, 40, 8), 0);
        assert_eq!(extract_signed(0x0000_8000, 8, 8) as i32, -128);
        assert_eq!(extract_signed(-1, 16, 32) as i32, -1);
        assert_eq!(extract_signed(0x4000_0000, 28, 8), 4);
        assert_eq!(insert(0xFF, 0, 4, 4), 0xF0);
        assert_eq!(insert(0xFF, 0x1111, 33, 4), 0x1111);
        assert_eq!(permute(0x3322_1100, 0x7766_5544, 0x7610), 0x7766_1100);
        assert_eq!(permute(0x0000_0080, 0, 0x8888), 0xFFFF_FFFF);
        let (a, b, c) = (0xF0F0_F0F0, 0xCCCC_CCCC, 0xAAAA_AAAA);
        assert_eq!(lop3(a, b, c, 0x80), a & b & c);
        assert_eq!(lop3(a, b, c, 0x96), a ^ b ^ c);
        assert_eq!(lop3(a, b, c, 0xCA), a & b | !a & c);
    }
}
