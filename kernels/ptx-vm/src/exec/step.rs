//! One instruction of one warp: guard, bookkeeping, and what is not arithmetic, memory or collective.

use super::Block;
use super::copies::commit;
use super::warp::{Warp, lanes};
use crate::fault::{FaultKind, Trap};
use crate::isa::{CmpFn, Dst, FULL, LANES, Logic, Op, Src};

impl Block<'_> {
    /// Runs the instruction the selected lanes stand at.
    pub(super) fn step(&mut self, warp: &mut Warp) -> Result<(), Trap> {
        let env = self.env;
        let pc = warp.pc;
        let instruction = &env.kernel.code[pc];
        let lanes = warp.guarded(instruction.guard)?;
        self.counters.issue(pc, lanes);
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Trap::of_lanes(FaultKind::Timeout, warp.mask, "too many instructions: an endless loop?")
        })?;
        warp.issue += 1;
        warp.advance();
        match &instruction.op {
            Op::Branch(target) => warp.jump(lanes, *target),
            Op::Exit => warp.exit(lanes),
            _ if lanes == 0 => {}
            Op::Alu(arithmetic) => self.alu(warp, pc, arithmetic, lanes)?,
            Op::Compare { f, dst, other, a, b, combine, flush } => {
                compare(warp, *f, [*dst, *other], [*a, *b], *combine, *flush, lanes)?;
            }
            Op::Select { wide, dst, a, b, p } => {
                let p = warp.predicate(*p, lanes)?;
                select(warp, *wide, *dst, [*a, *b], p, lanes)?;
            }
            Op::PredLogic { logic, dst, a, b } => {
                let value = logic.apply(warp.predicate(*a, lanes)?, warp.predicate(*b, lanes)?);
                warp.set_predicate(*dst, value, lanes);
            }
            Op::PredMove { dst, a } => {
                let value = warp.predicate(*a, lanes)?;
                warp.set_predicate(*dst, value, lanes);
            }
            Op::Pack { bits, dst, parts } => pack(warp, *bits, *dst, parts, lanes)?,
            Op::Unpack { bits, parts, a } => unpack(warp, *bits, parts, *a, lanes)?,
            Op::Load { what, dst } => self.load(warp, pc, what, dst, lanes)?,
            Op::Store { what, src } => self.store(warp, pc, what, src, lanes)?,
            Op::Atomic { rmw, what, dst, a, b } => {
                self.atomic(warp, *rmw, what, *dst, [*a, *b], lanes)?;
            }
            Op::CopyAsync { shared, global, bytes, valid } => {
                self.copy(warp, pc, [*shared, *global], *bytes, *valid, lanes)?;
            }
            Op::CopyCommit => commit(warp, lanes),
            Op::CopyWait(keep) => self.wait(warp, *keep, lanes),
            Op::Barrier => {
                self.converged(lanes, warp.all, "bar.sync")?;
                warp.at_barrier = true;
            }
            Op::WarpBarrier { mask } => {
                let mask = warp.narrow(*mask, lanes)?;
                self.joined(warp, &mask, lanes, "bar.warp.sync")?;
                if lanes == warp.live {
                    warp.ordered = warp.issue;
                }
            }
            Op::ActiveMask { dst } => warp.set_narrow(*dst, &[lanes; LANES], lanes),
            Op::Shuffle { .. } | Op::Vote { .. } | Op::Redux { .. } => {
                self.exchange(warp, &instruction.op, lanes)?;
            }
            Op::LoadMatrix { dst, address, transposed } => {
                self.load_matrix(warp, pc, dst, *address, *transposed, lanes)?;
            }
            Op::Mma { ty, k, d, a, b, c } => {
                self.converged(lanes, FULL, "mma.sync")?;
                super::mma::mma(warp, self.env.mma_sums, (*ty, *k), d, [a, b, c])?;
            }
            Op::Nop => {}
        }
        Ok(())
    }

    /// An `.aligned` instruction needs all these lanes of the warp: one that has ended is missed.
    pub(super) fn converged(&self, lanes: u32, needed: u32, what: &str) -> Result<(), Trap> {
        if lanes == needed || !self.env.checks.divergence {
            return Ok(());
        }
        let text = format!("{what} is reached by lanes {lanes:08x} of {needed:08x}");
        Err(Trap::of_lanes(FaultKind::DivergentSync, lanes, text))
    }

    /// A `.sync` instruction with a mask needs exactly the lanes the mask names, each naming the same.
    pub(super) fn joined(
        &self,
        warp: &Warp,
        mask: &[u32; LANES],
        at: u32,
        what: &str,
    ) -> Result<(), Trap> {
        let wrong = |lane: &usize| mask[*lane] & warp.live != at;
        match lanes(at).find(wrong) {
            Some(lane) if self.env.checks.divergence => {
                let text = format!("{what} for lanes {:08x} is reached by {at:08x}", mask[lane]);
                Err(Trap::new(FaultKind::DivergentSync, lane, text))
            }
            _ => Ok(()),
        }
    }
}

fn compare(
    warp: &mut Warp,
    f: CmpFn,
    [dst, other]: [Dst; 2],
    [a, b]: [Src; 2],
    combine: Option<(Logic, Src)>,
    flush: bool,
    lanes: u32,
) -> Result<(), Trap> {
    let held = match f {
        CmpFn::Narrow(f) => {
            let (mut a, mut b) = (warp.narrow(a, lanes)?, warp.narrow(b, lanes)?);
            if flush {
                (a, b) = (a.map(crate::float::flush), b.map(crate::float::flush));
            }
            f(&a, &b)
        }
        CmpFn::Wide(f) => f(&warp.wide(a, lanes)?, &warp.wide(b, lanes)?),
    };
    let (yes, no) = match combine {
        None => (held, !held),
        Some((logic, c)) => {
            let c = warp.predicate(c, lanes)?;
            (logic.apply(held, c), logic.apply(!held, c))
        }
    };
    warp.set_predicate(dst, yes, lanes);
    warp.set_predicate(other, no, lanes);
    Ok(())
}

/// Only the operand a lane chooses needs to be initialised.
fn select(
    warp: &mut Warp,
    wide: bool,
    dst: Dst,
    [a, b]: [Src; 2],
    p: u32,
    lanes: u32,
) -> Result<(), Trap> {
    let (yes, no) = (lanes & p, lanes & !p);
    if wide {
        let (a, b) = (warp.wide(a, yes)?, warp.wide(b, no)?);
        warp.set_wide(dst, &a, yes);
        warp.set_wide(dst, &b, no);
    } else {
        let (a, b) = (warp.narrow(a, yes)?, warp.narrow(b, no)?);
        warp.set_narrow(dst, &a, yes);
        warp.set_narrow(dst, &b, no);
    }
    Ok(())
}

fn pack(warp: &mut Warp, bits: u32, dst: Dst, parts: &[Src], lanes: u32) -> Result<(), Trap> {
    let mut out = [0u64; LANES];
    for (i, part) in parts.iter().enumerate() {
        let part = warp.narrow(*part, lanes)?;
        let mask = (1u64 << bits) - 1;
        for lane in 0..LANES {
            out[lane] |= (u64::from(part[lane]) & mask) << (bits * i as u32);
        }
    }
    warp.set_wide(dst, &out, lanes);
    Ok(())
}

fn unpack(warp: &mut Warp, bits: u32, parts: &[Dst], a: Src, lanes: u32) -> Result<(), Trap> {
    let a = warp.wide(a, lanes)?;
    for (i, part) in parts.iter().enumerate() {
        let mask = (1u64 << bits) - 1;
        let value = a.map(|x| (x >> (bits * i as u32) & mask) as u32);
        warp.set_narrow(*part, &value, lanes);
    }
    Ok(())
}
