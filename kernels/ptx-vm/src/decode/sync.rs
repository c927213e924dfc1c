//! What lanes and warps do together: barriers, shuffles, votes, tensor-core products.

use super::{Args, Result};
use crate::isa::{Dst, MmaTy, Op, Rmw, Shuffle, Src, Ty, Vote};
use crate::syntax::Mnemonic;

pub(super) fn decode(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    match m.name {
        "shfl" => shuffle(m, args),
        "vote" => vote(m, args),
        "redux" => redux(m, args),
        "mma" => mma(m, args),
        "activemask" => {
            args.exactly(1)?;
            Ok(Op::ActiveMask { dst: args.dst(0)? })
        }
        _ if m.has("warp") => {
            args.exactly(1)?;
            Ok(Op::WarpBarrier { mask: args.src(0)? })
        }
        _ => barrier(m, args),
    }
}

/// `bar.sync 0`, which is `barrier.sync.aligned 0`: the barrier of the whole block. Named barriers of
/// parts of it are not supported, nor are those that lanes may come to apart.
fn barrier(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(1)?;
    let aligned = m.name == "bar" || m.has("aligned");
    if aligned && m.has("sync") && args.immediate(0)? == 0 {
        return Ok(Op::Barrier);
    }
    Err("only barrier 0 of the whole block is supported".into())
}

/// `shfl.sync.MODE.b32 d[|p], a, b, c, membermask`.
fn shuffle(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    let how = match () {
        () if m.has("up") => Shuffle::Up,
        () if m.has("down") => Shuffle::Down,
        () if m.has("bfly") => Shuffle::Bfly,
        () if m.has("idx") => Shuffle::Idx,
        () => return Err("no mode of shuffle".into()),
    };
    let first = match args.0.len() {
        5 if m.has("sync") => 1,
        6 if m.has("sync") => 2,
        _ => return Err("`.sync` and 5 operands were expected".into()),
    };
    Ok(Op::Shuffle {
        how,
        dst: args.dst(0)?,
        found: if first == 2 { args.dst(1)? } else { Dst::Sink },
        a: args.src(first)?,
        b: args.src(first + 1)?,
        clamp: args.src(first + 2)?,
        mask: args.src(first + 3)?,
    })
}

fn vote(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(3)?;
    let how = match () {
        () if m.has("all") => Vote::All,
        () if m.has("any") => Vote::Any,
        () if m.has("uni") => Vote::Uni,
        () if m.has("ballot") => Vote::Ballot,
        () => return Err("no mode of vote".into()),
    };
    Ok(Op::Vote { how, dst: args.dst(0)?, p: args.predicate(1)?, mask: args.src(2)? })
}

fn redux(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(3)?;
    let rmw = match () {
        () if m.has("add") => Rmw::Add,
        () if m.has("min") => Rmw::Min,
        () if m.has("max") => Rmw::Max,
        () if m.has("and") => Rmw::And,
        () if m.has("or") => Rmw::Or,
        () if m.has("xor") => Rmw::Xor,
        () => return Err("no operation to reduce by".into()),
    };
    let ty = *m.types().last().ok_or("a type is missing")?;
    if !matches!(ty, Ty::U32 | Ty::S32 | Ty::B32) {
        return Err("only 32-bit integers reduce".into());
    }
    Ok(Op::Redux { rmw, ty, dst: args.dst(0)?, a: args.src(1)?, mask: args.src(2)? })
}

/// `mma.sync.aligned.SHAPE.row.col.f32.AB.AB.f32 d, a, b, c`.
fn mma(m: &Mnemonic<'_>, args: Args<'_, '_>) -> Result<Op> {
    args.exactly(4)?;
    let (ty, k) = match m.parts() {
        ["sync", "aligned", shape, "row", "col", "f32", a, b, "f32"] if a == b => {
            match (*shape, *a) {
                ("m16n8k16", "bf16") => (MmaTy::Bf16, 16),
                ("m16n8k8", "bf16") => (MmaTy::Bf16, 8),
                ("m16n8k16", "f16") => (MmaTy::F16, 16),
                ("m16n8k8", "f16") => (MmaTy::F16, 8),
                ("m16n8k8", "tf32") => (MmaTy::Tf32, 8),
                ("m16n8k4", "tf32") => (MmaTy::Tf32, 4),
                _ => return Err("this shape is not supported".into()),
            }
        }
        _ => return Err("this product is not supported".into()),
    };
    let (d, a) = (args.parts(0)?.dsts()?, args.parts(1)?.srcs()?);
    let (b, c): (Vec<Src>, _) = (args.parts(2)?.srcs()?, args.parts(3)?.srcs()?);
    // A thread holds 16·k of A's and 8·k of B's elements in 32 parts, packed in 32-bit registers.
    let packed = if ty == MmaTy::Tf32 { 1 } else { 2 };
    let fits = d.len() == 4 && c.len() == 4;
    if !fits || a.len() != k / 2 / packed || b.len() != k / 4 / packed {
        return Err("a fragment has the wrong number of registers".into());
    }
    Ok(Op::Mma { ty, k, d, a, b, c })
}
