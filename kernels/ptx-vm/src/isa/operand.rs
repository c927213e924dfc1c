//! Types, registers and addresses.

/// PTX's fundamental types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub(crate) enum Space {
    Global,
    Shared,
    Param,
}
