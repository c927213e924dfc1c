//! `setp`.

use super::{Args, Result};
use crate::isa::CmpFn::{self, *};
use crate::isa::Ty::{self, *};
use crate::isa::{Dst, LANES, Logic, Op};
use crate::syntax::Mnemonic;

/// A comparison of every lane of two registers, lanes read by `$of`.
macro_rules! compare {
    ($wrap:ident, $of:expr, $a:ident, $b:ident => $e:expr) => {
        $wrap(|a, b| {
            let mut out = 0;
            for i in 0..LANES {
                let ($a, $b) = ($of(a[i]), $of(b[i]));
                out |= u32::from($e) << i;
            }
            out
        })
    };
}

/// Comparisons of integers; `lo`, `ls`, `hi`, `hs` are the unsigned names.
macro_rules! integers {
    ($name:expr, $wrap:ident, $of:expr) => {
        match $name {
            "eq" => compare!($wrap, $of, a, b => a == b),
            "ne" => compare!($wrap, $of, a, b => a != b),
            "lt" | "lo" => compare!($wrap, $of, a, b => a < b),
            "le" | "ls" => compare!($wrap, $of, a, b => a <= b),
            "gt" | "hi" => compare!($wrap, $of, a, b => a > b),
            "ge" | "hs" => compare!($wrap, $of, a, b => a >= b),
            _ => return None,
        }
    };
}

/// Comparisons of floats: the plain ones fail with NaN, those with `u` hold.
macro_rules! floats {
    ($name:expr, $wrap:ident, $of:expr) => {
        match $name {
            "ne" => compare!($wrap, $of, a, b => !a.is_nan() && !b.is_nan() && a != b),
            "equ" => compare!($wrap, $of, a, b => a.is_nan() || b.is_nan() || a == b),
            "neu" => compare!($wrap, $of, a, b => a != b),
            "ltu" => compare!($wrap, $of, a, b => !(a >= b)),
            "leu" => compare!($wrap, $of, a, b => !(a > b)),
            "gtu" => compare!($wrap, $of, a, b => !(a <= b)),
            "geu" => compare!($wrap, $of, a, b => !(a < b)),
            "num" => compare!($wrap, $of, a, b => !a.is_nan() && !b.is_nan()),
            "nan" => compare!($wrap, $of, a, b => a.is_nan() || b.is_nan()),
            name => integers!(name, $wrap, $of),
        }
    };
}

fn table(name: &str, ty: Ty) -> Option<CmpFn> {
    Some(match ty {
        U16 | B16 => integers!(name, Narrow, |x| x as u16),
        S16 => integers!(name, Narrow, |x| x as i16),
        U32 | B32 => integers!(name, Narrow, |x: u32| x),
        S32 => integers!(name, Narrow, |x| x as i32),
        U64 | B64 => integers!(name, Wide, |x: u64| x),
        S64 => integers!(name, Wide, |x| x as i64),
        F32 => floats!(name, Narrow, f32::from_bits),
        F64 => floats!(name, Wide, f64::from_bits),
        F16 => floats!(name, Narrow, crate::float::from_f16),
        Bf16 => floats!(name, Narrow, crate::float::from_bf16),
        _ => return None,
    })
}

/// `setp.CMP[.BOOL][.ftz].TYPE p[|q], a, b[, c]`.
pub(super) fn decode(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    let ty = *m.types().last().ok_or("a type is missing")?;
    let name = m.parts().first().copied().unwrap_or("");
    let f = table(name, ty).ok_or("this comparison is not supported")?;
    let logic = m.parts().iter().find_map(|p| Logic::named(p));
    let sources = if logic.is_some() { 3 } else { 2 };
    let two = match args.0.len().checked_sub(sources) {
        Some(1) => false,
        Some(2) => true,
        _ => return Err("wrong number of operands".into()),
    };
    let first = if two { 2 } else { 1 };
    let combine = match logic {
        Some(logic) => Some((logic, args.predicate(first + 2)?)),
        None => None,
    };
    Ok(Op::Compare {
        f,
        dst: predicate(args, 0)?,
        other: if two { predicate(args, 1)? } else { Dst::Sink },
        a: args.src(first)?,
        b: args.src(first + 1)?,
        combine,
        flush: m.has("ftz") && ty == F32,
    })
}

fn predicate(args: Args<'_, '_>, i: usize) -> Result<Dst> {
    match args.dst(i)? {
        dst @ (Dst::Pred(_) | Dst::Sink) => Ok(dst),
        _ => Err(format!("operand {} must be a predicate", i + 1)),
    }
}
