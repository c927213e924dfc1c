//! What a register may hold, and what memory may hold.
//!
//! The two differ: bf16 and f16 are storage. A load widens them to a float32 register and a store
//! rounds to the nearest, as on the CPU.

use super::memory::{Pointer, Space};
use super::value::Reg;

/// What a register holds; the type parameter of [`Reg`].
///
/// Registers of different types cannot meet in an instruction: it would not compile. (`ptxas`
/// would let a float instruction work on a `.b32` register.)
pub trait Type: Copy + 'static {
    /// As instructions and declarations name it.
    const SUFFIX: &'static str;
    /// What names of its registers begin with.
    const PREFIX: &'static str;
    /// Its place in the count of registers by type.
    const INDEX: usize;

    /// A constant of these bits, as operand.
    fn constant(bits: u64) -> String {
        bits.to_string()
    }
}

/// Number of register types.
pub(super) const TYPES: usize = 7;

/// Suffix and prefix of each type, at its index.
pub(super) const DECLARATIONS: [(&str, &str); TYPES] = [
    (F32::SUFFIX, F32::PREFIX),
    (F64::SUFFIX, F64::PREFIX),
    (U32::SUFFIX, U32::PREFIX),
    (U64::SUFFIX, U64::PREFIX),
    (B32::SUFFIX, B32::PREFIX),
    (B16::SUFFIX, B16::PREFIX),
    (Pred::SUFFIX, Pred::PREFIX),
];

/// A float32.
#[derive(Clone, Copy, Debug)]
pub struct F32;
/// A float64: for the few sums that a row ends in.
#[derive(Clone, Copy, Debug)]
pub struct F64;
/// An unsigned integer of 32 bits, wrapping: indices, and addresses of shared memory.
#[derive(Clone, Copy, Debug)]
pub struct U32;
/// An unsigned integer of 64 bits: addresses of global memory.
#[derive(Clone, Copy, Debug)]
pub struct U64;
/// 32 bits that are no number: two halves, an element of a fragment.
#[derive(Clone, Copy, Debug)]
pub struct B32;
/// The bits of an f16.
#[derive(Clone, Copy, Debug)]
pub struct B16;
/// A truth value.
#[derive(Clone, Copy, Debug)]
pub struct Pred;

impl Type for F32 {
    const SUFFIX: &'static str = "f32";
    const PREFIX: &'static str = "%f";
    const INDEX: usize = 0;
    fn constant(bits: u64) -> String {
        format!("0f{bits:08X}")
    }
}
impl Type for F64 {
    const SUFFIX: &'static str = "f64";
    const PREFIX: &'static str = "%d";
    const INDEX: usize = 1;
    fn constant(bits: u64) -> String {
        format!("0d{bits:016X}")
    }
}
impl Type for U32 {
    const SUFFIX: &'static str = "u32";
    const PREFIX: &'static str = "%r";
    const INDEX: usize = 2;
}
impl Type for U64 {
    const SUFFIX: &'static str = "u64";
    const PREFIX: &'static str = "%l";
    const INDEX: usize = 3;
}
impl Type for B32 {
    const SUFFIX: &'static str = "b32";
    const PREFIX: &'static str = "%b";
    const INDEX: usize = 4;
}
impl Type for B16 {
    const SUFFIX: &'static str = "b16";
    const PREFIX: &'static str = "%h";
    const INDEX: usize = 5;
}
impl Type for Pred {
    const SUFFIX: &'static str = "pred";
    const PREFIX: &'static str = "%p";
    const INDEX: usize = 6;
}

/// What memory holds; the type parameter of [`Pointer`].
pub trait Element: Copy + 'static {
    /// What a load answers and a store takes.
    type Value: Type;
    /// As names of kernels and parameters spell it.
    const NAME: &'static str;
    /// Size in memory.
    const BYTES: u32;

    /// Loads `n` adjacent elements by the widest instructions; the address is a multiple of their
    /// size, up to 16 bytes. Where a `guard` does not hold nothing is read, and they are zeros.
    fn load<'k, S: Space>(
        from: Pointer<'k, S, Self>,
        n: usize,
        guard: Option<Reg<'k, Pred>>,
    ) -> Vec<Reg<'k, Self::Value>>;

    /// Stores adjacent elements; alignment as [`load`](Self::load).
    fn store<S: Space>(to: Pointer<'_, S, Self>, values: &[Reg<'_, Self::Value>]);
}

macro_rules! stored_as_it_is {
    ($($element:ident: $bytes:literal),*) => {$(
        impl Element for $element {
            type Value = $element;
            const NAME: &'static str = $element::SUFFIX;
            const BYTES: u32 = $bytes;
            fn load<'k, S: Space>(
                from: Pointer<'k, S, Self>,
                n: usize,
                guard: Option<Reg<'k, Pred>>,
            ) -> Vec<Reg<'k, $element>> {
                from.load_words($element::SUFFIX, $bytes, n, guard)
            }
            fn store<S: Space>(to: Pointer<'_, S, Self>, values: &[Reg<'_, $element>]) {
                to.store_words($element::SUFFIX, $bytes, values);
            }
        }
    )*};
}
stored_as_it_is!(F32: 4, F64: 8, U32: 4, U64: 8, B32: 4);

/// A bfloat16 in memory, a float32 in a register.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

impl Element for Bf16 {
    type Value = F32;
    const NAME: &'static str = "bf16";
    const BYTES: u32 = 2;

    fn load<'k, S: Space>(
        from: Pointer<'k, S, Self>,
        n: usize,
        guard: Option<Reg<'k, Pred>>,
    ) -> Vec<Reg<'k, F32>> {
        if n == 1 {
            // A 16-bit load into a 32-bit register fills up with zeros.
            let bits: Reg<U32> = from.load_words("u16", 2, 1, guard)[0];
            return vec![(bits << 16).bits()];
        }
        let pairs = from.load_words::<B32>("b32", 4, n / 2, guard);
        pairs.into_iter().flat_map(|pair| pair.halves_of_bf16()).collect()
    }

    fn store<S: Space>(to: Pointer<'_, S, Self>, values: &[Reg<'_, F32>]) {
        if let [value] = values {
            let pair = Reg::pair_of_bf16(*value, value.lift_bits(0));
            return to.store_words("u16", 2, &[pair.bits::<U32>()]);
        }
        let pairs: Vec<_> = values.chunks(2).map(|v| Reg::pair_of_bf16(v[0], v[1])).collect();
        to.store_words("b32", 4, &pairs);
    }
}

/// An IEEE half in memory, a float32 in a register.
#[derive(Clone, Copy, Debug)]
pub struct F16;

impl Element for F16 {
    type Value = F32;
    const NAME: &'static str = "f16";
    const BYTES: u32 = 2;

    fn load<'k, S: Space>(
        from: Pointer<'k, S, Self>,
        n: usize,
        guard: Option<Reg<'k, Pred>>,
    ) -> Vec<Reg<'k, F32>> {
        if n == 1 {
            let half: Reg<B16> = from.load_words("b16", 2, 1, guard)[0];
            return vec![half.widen()];
        }
        let pairs = from.load_words::<B32>("b32", 4, n / 2, guard);
        pairs.into_iter().flat_map(|pair| pair.halves_of_f16()).collect()
    }

    fn store<S: Space>(to: Pointer<'_, S, Self>, values: &[Reg<'_, F32>]) {
        if let [value] = values {
            return to.store_words("b16", 2, &[value.to_f16()]);
        }
        let pairs: Vec<_> = values.chunks(2).map(|v| Reg::pair_of_f16(v[0], v[1])).collect();
        to.store_words("b32", 4, &pairs);
    }
}

/// An element that is computed with in float32.
pub trait Stored: Element<Value = F32> {}
impl Stored for F32 {}
impl Stored for Bf16 {}
impl Stored for F16 {}

/// The [`Stored`] types as values, to choose one while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// [`F32`].
    F32,
    /// [`Bf16`].
    Bf16,
    /// [`F16`].
    F16,
}

impl Storage {
    /// All of them.
    pub const ALL: [Storage; 3] = [Storage::F32, Storage::Bf16, Storage::F16];

    /// As names of kernels spell it.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => F32::NAME,
            Storage::Bf16 => Bf16::NAME,
            Storage::F16 => F16::NAME,
        }
    }
}

/// An expression for the [`Stored`] type that a [`Storage`] means.
macro_rules! with_stored {
    ($storage:expr, $S:ident => $body:expr) => {
        match $storage {
            $crate::ptx::Storage::F32 => {
                type $S = $crate::ptx::F32;
                $body
            }
            $crate::ptx::Storage::Bf16 => {
                type $S = $crate::ptx::Bf16;
                $body
            }
            $crate::ptx::Storage::F16 => {
                type $S = $crate::ptx::F16;
                $body
            }
        }
    };
}
pub(crate) use with_stored;
