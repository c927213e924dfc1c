//! Mnemonics and operands to [`Op`]s: here everything but arithmetic, which has its own tables.

mod compare;
mod convert;
mod float;
mod integer;
mod memory;
mod sync;

use crate::isa::{AluFn, Arithmetic, Dst, Logic, Modifiers, Op, Src, Ty};
use crate::syntax::{Mnemonic, Operand};
use std::collections::HashMap;

/// What may be wrong with an instruction, in words.
type Result<T> = std::result::Result<T, String>;

/// Decodes one instruction.
pub(crate) fn decode(
    m: &Mnemonic<'_>,
    operands: &[Operand<'_>],
    labels: &HashMap<&str, usize>,
) -> Result<Op> {
    let args = Args(operands);
    match m.name {
        "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "ldmatrix" => memory::decode(m, args),
        "bar" | "barrier" | "shfl" | "vote" | "redux" | "activemask" | "mma" => {
            sync::decode(m, args)
        }
        "membar" | "fence" | "prefetch" | "prefetchu" | "discard" | "applypriority" => Ok(Op::Nop),
        "bra" => branch(args, labels),
        "ret" | "exit" => args.exactly(0).map(|()| Op::Exit),
        "setp" => compare::decode(m, args),
        "selp" => select(m, args),
        "mov" => mov(m, args),
        "cvta" => cvta(m, args),
        "and" | "or" | "xor" | "not" if m.has("pred") => logic(m, args),
        _ => arithmetic(m, args),
    }
}

/// What may follow the name of an arithmetic instruction, apart from types. Anything else would
/// change its meaning unseen.
const SUFFIXES: [&str; 22] = [
    "rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu", "approx",
    "full", "NaN", "lo", "hi", "wide", "l", "r", "wrap", "clamp",
];

fn arithmetic(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    let unknown = |part: &&&str| Ty::named(part).is_none() && !SUFFIXES.contains(*part);
    if let Some(part) = m.parts().iter().find(unknown) {
        return Err(format!("`.{part}` is not supported here"));
    }
    let types = m.types();
    let (to, ty) = match types.as_slice() {
        [] => return Err("a type is missing".into()),
        [first, .., last] => (*first, *last),
        [only] => (*only, *only),
    };
    let found = match m.name {
        "cvt" => convert::table(m, &types),
        _ if ty.float() => float::table(m, ty),
        _ => integer::table(m, ty),
    };
    let f = found.ok_or("this instruction is not supported")?;
    if m.has("sat") && to != Ty::F32 {
        return Err("only f32 saturates".into());
    }
    if m.has("relu") && m.name != "cvt" {
        return Err("only conversions take `.relu`".into());
    }
    let modifiers = Modifiers {
        flush_operands: m.has("ftz") && ty == Ty::F32,
        flush_result: m.has("ftz") && to == Ty::F32,
        saturate: m.has("sat"),
        approx: float::error_bound(m),
    };
    args.exactly(1 + arity(f))?;
    let mut src = [Src::Imm(0); 4];
    for i in 0..arity(f) {
        src[i] = args.src(i + 1)?;
    }
    Ok(Op::Alu(Arithmetic { f, dst: args.dst(0)?, src, modifiers }))
}

fn arity(f: AluFn) -> usize {
    use AluFn::*;
    match f {
        Un32(_) | Un64(_) | Widen(_) | Narrow(_) => 1,
        Bin32(_) | Bin64(_) | Shift64(_) | MulWide(_) => 2,
        Tern32(_) | Tern64(_) | MadWide(_) => 3,
        Quad32(_) => 4,
    }
}

fn branch(args: Args<'_, '_>, labels: &HashMap<&str, usize>) -> Result<Op> {
    args.exactly(1)?;
    let Operand::Name(name) = args.0[0] else { return Err("a label was expected".into()) };
    let target = labels.get(name).ok_or_else(|| format!("label `{name}` does not exist"))?;
    Ok(Op::Branch(*target))
}

fn select(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(4)?;
    let wide = m.types().last().ok_or("a type is missing")?.wide();
    Ok(Op::Select {
        wide,
        dst: args.dst(0)?,
        a: args.src(1)?,
        b: args.src(2)?,
        p: args.predicate(3)?,
    })
}

fn logic(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    match Logic::named(m.name) {
        Some(logic) => {
            args.exactly(3)?;
            let (a, b) = (args.predicate(1)?, args.predicate(2)?);
            Ok(Op::PredLogic { logic, dst: args.dst(0)?, a, b })
        }
        None => {
            args.exactly(2)?;
            let Src::Pred(p, negated) = args.predicate(1)? else {
                return Err("a predicate was expected".into());
            };
            Ok(Op::PredMove { dst: args.dst(0)?, a: Src::Pred(p, !negated) })
        }
    }
}

/// Addresses need no conversion: global ones are generic, shared ones are offsets.
fn cvta(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(2)?;
    if m.has("global") {
        return Ok(copy(true, args.dst(0)?, args.src(1)?));
    }
    Err("only global addresses can be generic here: use shared ones as they are".into())
}

/// `mov` within a class of registers.
fn copy(wide: bool, dst: Dst, a: Src) -> Op {
    let f = if wide { AluFn::Un64(|a| *a) } else { AluFn::Un32(|a| *a) };
    let src = [a, Src::Imm(0), Src::Imm(0), Src::Imm(0)];
    Op::Alu(Arithmetic { f, dst, src, modifiers: Modifiers::default() })
}

fn mov(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(2)?;
    let ty = *m.types().last().ok_or("a type is missing")?;
    let bits_of_part = |parts: usize| match (ty.bytes() * 8).checked_div(parts) {
        Some(bits @ (8 | 16 | 32)) => Ok(bits as u32),
        _ => Err("the vector does not fit the type".to_owned()),
    };
    match (&args.0[0], &args.0[1]) {
        (Operand::Vector(parts), _) => Ok(Op::Unpack {
            bits: bits_of_part(parts.len())?,
            parts: Args(parts).dsts()?,
            a: args.src(1)?,
        }),
        (_, Operand::Vector(parts)) => Ok(Op::Pack {
            bits: bits_of_part(parts.len())?,
            dst: args.dst(0)?,
            parts: Args(parts).srcs()?,
        }),
        _ if ty == Ty::Pred => Ok(Op::PredMove { dst: args.dst(0)?, a: args.src(1)? }),
        _ => Ok(copy(ty.wide(), args.dst(0)?, args.src(1)?)),
    }
}

/// Operands with questions about their kind.
#[derive(Clone, Copy)]
struct Args<'a, 't>(&'t [Operand<'a>]);

impl Args<'_, '_> {
    fn exactly(self, n: usize) -> Result<()> {
        if self.0.len() == n {
            return Ok(());
        }
        Err(format!("{n} operands were expected, {} are given", self.0.len()))
    }

    fn src(self, i: usize) -> Result<Src> {
        match self.0.get(i) {
            Some(Operand::Value(src)) => Ok(*src),
            Some(Operand::Name(name)) => Err(format!("`{name}` was never declared")),
            _ => Err(format!("operand {} must be a register or a constant", i + 1)),
        }
    }

    fn predicate(self, i: usize) -> Result<Src> {
        match self.src(i)? {
            p @ Src::Pred(..) => Ok(p),
            _ => Err(format!("operand {} must be a predicate", i + 1)),
        }
    }

    fn immediate(self, i: usize) -> Result<u64> {
        match self.src(i)? {
            Src::Imm(v) => Ok(v),
            _ => Err(format!("operand {} must be a constant", i + 1)),
        }
    }

    fn dst(self, i: usize) -> Result<Dst> {
        match self.0.get(i) {
            Some(Operand::Value(Src::R32(r))) => Ok(Dst::R32(*r)),
            Some(Operand::Value(Src::R64(r))) => Ok(Dst::R64(*r)),
            Some(Operand::Value(Src::Pred(p, false))) => Ok(Dst::Pred(*p)),
            Some(Operand::Sink) => Ok(Dst::Sink),
            Some(Operand::Name(name)) => Err(format!("`{name}` was never declared")),
            _ => Err(format!("operand {} cannot be written to", i + 1)),
        }
    }

    fn srcs(self) -> Result<Vec<Src>> {
        (0..self.0.len()).map(|i| self.src(i)).collect()
    }

    fn dsts(self) -> Result<Vec<Dst>> {
        (0..self.0.len()).map(|i| self.dst(i)).collect()
    }

    /// The parts of a vector, or a single operand as a vector of one.
    fn parts(self, i: usize) -> Result<Self> {
        match self.0.get(i) {
            Some(Operand::Vector(parts)) => Ok(Args(parts)),
            Some(_) => Ok(Args(&self.0[i..=i])),
            None => Err(format!("operand {} is missing", i + 1)),
        }
    }
}
