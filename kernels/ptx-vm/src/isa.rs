//! The decoded instruction set: what the executor runs.
//!
//! Arithmetic is data: an [`AluFn`] is a pointer to a function that does one operation on all 32
//! lanes at once, picked when the text is decoded, so that the executor need not know the mnemonics.

mod operand;

pub(crate) use operand::{Address, Dst, Order, Space, Special, Src, Ty};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;
/// A 32-bit register of a warp; 16-bit registers live in its lower half.
pub(crate) type W32 = [u32; LANES];
/// A 64-bit register of a warp.
pub(crate) type W64 = [u64; LANES];

/// One operation on all lanes, by the widths of its operands.
#[derive(Clone, Copy)]
pub(crate) enum AluFn {
    Un32(fn(&W32) -> W32),
    Bin32(fn(&W32, &W32) -> W32),
    Tern32(fn(&W32, &W32, &W32) -> W32),
    /// Four operands: `shf`, `bfi`.
    Quad32(fn(&W32, &W32, &W32, &W32) -> W32),
    Un64(fn(&W64) -> W64),
    Bin64(fn(&W64, &W64) -> W64),
    Tern64(fn(&W64, &W64, &W64) -> W64),
    /// 64-bit by a 32-bit count: shifts.
    Shift64(fn(&W64, &W32) -> W64),
    Widen(fn(&W32) -> W64),
    Narrow(fn(&W64) -> W32),
    /// `mul.wide`.
    MulWide(fn(&W32, &W32) -> W64),
    /// `mad.wide`.
    MadWide(fn(&W32, &W32, &W64) -> W64),
}

/// A comparison of all lanes: a bit for each.
#[derive(Clone, Copy)]
pub(crate) enum CmpFn {
    Narrow(fn(&W32, &W32) -> u32),
    Wide(fn(&W64, &W64) -> u32),
}

/// How far an `.approx` result may be from the exact one (PTX ISA, sections of each instruction).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ErrorBound {
    /// Units in the last place.
    Ulp(u32),
    /// Of the result.
    Relative(f32),
    /// Of one.
    Absolute(f32),
}

/// What is done around an arithmetic operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Modifiers {
    /// `.ftz`: subnormal f32 operands become zero of the same sign.
    pub flush_operands: bool,
    /// `.ftz`: so do subnormal f32 results.
    pub flush_result: bool,
    /// `.sat`: results are clamped to [0, 1], NaN to 0.
    pub saturate: bool,
    /// `.approx`: how far hardware may be off.
    pub approx: Option<ErrorBound>,
}

/// Logic on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Self::And,
            "or" => Self::Or,
            "xor" => Self::Xor,
            _ => return None,
        })
    }

    pub fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
        }
    }
}

/// How `shfl.sync` picks its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// What `vote.sync` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// A read-modify-write, of `atom`, `red` and `redux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rmw {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// Element types of a tensor-core product; the accumulator is always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaTy {
    Bf16,
    F16,
    Tf32,
}

/// Destination or source registers of `ld`, `st`: one, or a vector of 2 or 4.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transfer {
    pub space: Space,
    pub ty: Ty,
    pub address: Address,
}

/// An arithmetic instruction.
#[derive(Clone)]
pub(crate) struct Arithmetic {
    pub f: AluFn,
    pub dst: Dst,
    /// As many as `f` takes.
    pub src: [Src; 4],
    pub modifiers: Modifiers,
}

/// One decoded operation.
#[derive(Clone)]
pub(crate) enum Op {
    Alu(Arithmetic),
    /// `setp`: dst = compare ∘ combine, other = ¬compare ∘ combine.
    Compare {
        f: CmpFn,
        dst: Dst,
        other: Dst,
        a: Src,
        b: Src,
        combine: Option<(Logic, Src)>,
        flush: bool,
    },
    Select {
        wide: bool,
        dst: Dst,
        a: Src,
        b: Src,
        p: Src,
    },
    PredLogic {
        logic: Logic,
        dst: Dst,
        a: Src,
        b: Src,
    },
    /// `mov.pred`, and `not.pred` by a negated source.
    PredMove {
        dst: Dst,
        a: Src,
    },
    /// `mov` of a vector into one register: parts from the lowest bits up.
    Pack {
        bits: u32,
        dst: Dst,
        parts: Vec<Src>,
    },
    Unpack {
        bits: u32,
        parts: Vec<Dst>,
        a: Src,
    },
    Load {
        what: Transfer,
        dst: Vec<Dst>,
    },
    Store {
        what: Transfer,
        src: Vec<Src>,
    },
    /// `atom` (with a destination) and `red` (into [`Dst::Sink`]).
    Atomic {
        rmw: Rmw,
        what: Transfer,
        dst: Dst,
        a: Src,
        b: Src,
    },
    CopyAsync {
        shared: Address,
        global: Address,
        bytes: usize,
        valid: Src,
    },
    CopyCommit,
    /// Waits until at most so many groups of each lane are in flight; `None` is `wait_all`.
    CopyWait(Option<u32>),
    Barrier,
    WarpBarrier {
        mask: Src,
    },
    Shuffle {
        how: Shuffle,
        dst: Dst,
        found: Dst,
        a: Src,
        b: Src,
        clamp: Src,
        mask: Src,
    },
    Vote {
        how: Vote,
        dst: Dst,
        p: Src,
        mask: Src,
    },
    ActiveMask {
        dst: Dst,
    },
    Redux {
        rmw: Rmw,
        ty: Ty,
        dst: Dst,
        a: Src,
        mask: Src,
    },
    LoadMatrix {
        dst: Vec<Dst>,
        address: Address,
        transposed: bool,
    },
    Mma {
        ty: MmaTy,
        k: usize,
        d: Vec<Dst>,
        a: Vec<Src>,
        b: Vec<Src>,
        c: Vec<Src>,
    },
    Branch(usize),
    Exit,
    /// Fences and hints: the machine is sequentially consistent, so nothing happens.
    Nop,
}

/// A decoded instruction with its guard and its place in the text.
#[derive(Clone)]
pub(crate) struct Instruction {
    pub op: Op,
    /// `@p` or `@!p`.
    pub guard: Option<(u16, bool)>,
    /// Index into [`Kernel`](crate::Kernel)'s mnemonics.
    pub opcode: u16,
    pub line: u32,
}
