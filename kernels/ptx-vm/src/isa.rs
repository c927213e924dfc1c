//! The decoded instruction set: what the executor runs.
//!
//! Arithmetic is data: an [`AluFn`] is a pointer to a function that does one operation on all 32
//! lanes at once, picked when the text is decoded, so that the executor need not know the mnemonics.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;
/// A 32-bit register of a warp; 16-bit registers live in its lower half.
pub(crate) type W32 = [u32; LANES];
/// A 64-bit register of a warp.
pub(crate) type W64 = [u64; LANES];

/// PTX's fundamental types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Ty {
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    Bf16,
    B32,
    U32,
    S32,
    F32,
    Tf32,
    F16x2,
    Bf16x2,
    B64,
    U64,
    S64,
    F64,
}

impl Ty {
    /// The type a suffix (`u32`, without its dot) names.
    pub fn named(name: &str) -> Option<Self> {
        use Ty::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "u8" => U8,
            "s8" => S8,
            "b16" => B16,
            "u16" => U16,
            "s16" => S16,
            "f16" => F16,
            "bf16" => Bf16,
            "b32" => B32,
            "u32" => U32,
            "s32" => S32,
            "f32" => F32,
            "tf32" => Tf32,
            "f16x2" => F16x2,
            "bf16x2" => Bf16x2,
            "b64" => B64,
            "u64" => U64,
            "s64" => S64,
            "f64" => F64,
            _ => return None,
        })
    }

    /// Size in memory.
    pub fn bytes(self) -> usize {
        use Ty::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | Tf32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    /// Whether it needs a 64-bit register.
    pub fn wide(self) -> bool {
        self.bytes() == 8
    }

    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn float(self) -> bool {
        use Ty::*;
        matches!(self, F16 | Bf16 | F32 | Tf32 | F16x2 | Bf16x2 | F64)
    }
}

/// Read-only registers the hardware fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    /// `%lanemask_lt` and its kin.
    LaneMask(Order),
}

/// An order relation between lane numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Order {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Src {
    /// 32-bit register.
    R32(u16),
    /// 64-bit register.
    R64(u16),
    /// Predicate, and whether it is negated.
    Pred(u16, bool),
    /// The bits of a constant.
    Imm(u64),
    /// A special register.
    Special(Special),
}

/// Where a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dst {
    /// 32-bit register.
    R32(u16),
    /// 64-bit register.
    R64(u16),
    /// Predicate.
    Pred(u16),
    /// `_`: nowhere.
    Sink,
}

/// A register or constant, and a displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub base: Src,
    pub offset: i64,
}

/// A memory a kernel can address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Space {
    Global,
    Shared,
    Param,
}

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
    /// `.ftz`: subnormal f32 inputs and results become zero of the same sign.
    pub flush: bool,
    /// `.sat`: results are clamped to [0, 1], NaN to 0.
    pub saturate: bool,
    /// `.relu`: negative results and NaN become 0.
    pub approx: Option<ErrorBound>,
}

/// Logic on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
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
#[allow(missing_docs)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// What `vote.sync` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// A read-modify-write, of `atom`, `red` and `redux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
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
#[allow(missing_docs)]
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

/// One decoded operation.
#[derive(Clone)]
pub(crate) enum Op {
    Alu {
        f: AluFn,
        dst: Dst,
        src: [Src; 4],
        modifiers: Modifiers,
    },
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
    /// Waits until at most so many groups are in flight; `None` is `wait_all`.
    CopyWait(Option<usize>),
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
