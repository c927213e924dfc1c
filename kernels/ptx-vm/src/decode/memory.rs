//! Loads, stores, atomics, asynchronous copies, matrix loads.

use super::{Args, Result};
use crate::isa::{Address, Op, Rmw, Space, Src, Transfer, Ty};
use crate::syntax::{Mnemonic, Operand};

pub(super) fn decode(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    match m.name {
        "cp" => copy(m, args),
        "ldmatrix" => matrix(m, args),
        "atom" | "red" => atomic(m, args),
        "st" => {
            args.exactly(2)?;
            let what = transfer(m, args, 0)?;
            let src = args.parts(1)?.srcs()?;
            vector_length(m, src.len())?;
            Ok(Op::Store { what, src })
        }
        _ => {
            args.exactly(2)?;
            let what = transfer(m, args, 1)?;
            let dst = args.parts(0)?.dsts()?;
            vector_length(m, dst.len())?;
            Ok(Op::Load { what, dst })
        }
    }
}

/// Cache operators and eviction hints change nothing here.
fn transfer(m: &Mnemonic<'_>, args: Args<'_, '_>, address: usize) -> Result<Transfer> {
    let ty = *m.types().last().ok_or("a type is missing")?;
    let space = space(m)?;
    let address = match (space, &args.0[address]) {
        (Space::Param, Operand::Param(offset)) => {
            Address { base: Src::Imm(*offset as u64), offset: 0 }
        }
        (Space::Global | Space::Shared, Operand::Memory(address)) => *address,
        _ => return Err("the address does not belong to that space".into()),
    };
    Ok(Transfer { space, ty, address })
}

/// No space named is a generic address: global, as nothing else is made generic here.
fn space(m: &Mnemonic<'_>) -> Result<Space> {
    for part in m.parts() {
        match *part {
            "global" => return Ok(Space::Global),
            "shared" | "shared::cta" => return Ok(Space::Shared),
            "param" => return Ok(Space::Param),
            "local" | "const" | "shared::cluster" => {
                return Err(format!("state space `.{part}` is not supported"));
            }
            _ => {}
        }
    }
    Ok(Space::Global)
}

fn vector_length(m: &Mnemonic<'_>, found: usize) -> Result<()> {
    let said = match () {
        () if m.has("v2") => 2,
        () if m.has("v4") => 4,
        () => 1,
    };
    if said == found { Ok(()) } else { Err(format!("{said} registers were expected")) }
}

fn rmw(m: &Mnemonic<'_>) -> Result<Rmw> {
    let named = |part: &&str| {
        Some(match *part {
            "add" => Rmw::Add,
            "min" => Rmw::Min,
            "max" => Rmw::Max,
            "and" => Rmw::And,
            "or" => Rmw::Or,
            "xor" => Rmw::Xor,
            "exch" => Rmw::Exch,
            "cas" => Rmw::Cas,
            _ => return None,
        })
    };
    m.parts().iter().find_map(named).ok_or_else(|| "this read-modify-write is not supported".into())
}

fn atomic(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    use crate::isa::Dst;
    let rmw = rmw(m)?;
    let first = usize::from(m.name == "atom");
    let sources = if rmw == Rmw::Cas { 2 } else { 1 };
    args.exactly(first + 1 + sources)?;
    let what = transfer(m, args, first)?;
    let floats = matches!(what.ty, Ty::F32 | Ty::F64);
    if what.space == Space::Param || what.ty.bytes() < 4 || floats && rmw != Rmw::Add {
        return Err("this atomic is not supported".into());
    }
    if what.space == Space::Global && m.has("cta") {
        return Err("atomics of a block's scope in global memory are not supported".into());
    }
    let dst = if first == 1 { args.dst(0)? } else { Dst::Sink };
    let b = if sources == 2 { args.src(first + 2)? } else { Src::Imm(0) };
    Ok(Op::Atomic { rmw, what, dst, a: args.src(first + 1)?, b })
}

fn copy(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    match m.parts() {
        ["async", "commit_group"] => args.exactly(0).map(|()| Op::CopyCommit),
        ["async", "wait_all"] => args.exactly(0).map(|()| Op::CopyWait(None)),
        ["async", "wait_group"] => {
            args.exactly(1)?;
            Ok(Op::CopyWait(Some(args.immediate(0)? as u32)))
        }
        ["async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => {
            let bytes = args.immediate(2)? as usize;
            if !(matches!(bytes, 4 | 8) && m.has("ca") || bytes == 16) {
                return Err(format!("{bytes} bytes cannot be copied so"));
            }
            let valid = match args.0.len() {
                3 => Src::Imm(bytes as u64),
                4 => args.src(3)?,
                _ => return Err("3 or 4 operands were expected".into()),
            };
            let (Operand::Memory(shared), Operand::Memory(global)) = (&args.0[0], &args.0[1])
            else {
                return Err("two addresses were expected".into());
            };
            Ok(Op::CopyAsync { shared: *shared, global: *global, bytes, valid })
        }
        _ => Err("this copy is not supported".into()),
    }
}

/// `ldmatrix.sync.aligned.m8n8.xN[.trans].shared.b16`.
fn matrix(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(2)?;
    let count = match () {
        () if m.has("x4") => 4,
        () if m.has("x2") => 2,
        () if m.has("x1") => 1,
        () => 0,
    };
    let dst = args.parts(0)?.dsts()?;
    let Operand::Memory(address) = args.0[1] else { return Err("an address was expected".into()) };
    if !m.has("m8n8") || !m.has("b16") || dst.len() != count {
        return Err("this matrix load is not supported".into());
    }
    Ok(Op::LoadMatrix { dst, address, transposed: m.has("trans") })
}
