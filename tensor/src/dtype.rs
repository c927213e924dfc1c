//! Element types: the closed set a tensor may hold, and the Rust types that stand for them.

use std::fmt;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

/// The type of a tensor's elements.
///
/// `BF16` and `F16` are storage formats: kernels widen them to `f32` and accumulate there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 double precision: what checks run in.
    F64,
    /// IEEE 754 single precision: what everything runs in.
    F32,
    /// The upper half of an `f32`: its range, 8 bits of precision.
    BF16,
    /// IEEE 754 half precision: 11 bits of precision, largest value 65504.
    F16,
    /// Signed 64-bit integers: token ids in files.
    I64,
    /// Signed 32-bit integers.
    I32,
    /// Bytes: pictures.
    U8,
    /// One byte an element; zero is false, anything else true.
    Bool,
}

impl DType {
    /// Every element type, widest float first.
    pub const ALL: [Self; 8] =
        [Self::F64, Self::F32, Self::BF16, Self::F16, Self::I64, Self::I32, Self::U8, Self::Bool];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether elements are floating-point numbers, the only ones with gradients.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::BF16 | Self::F16)
    }

    /// Lower-case name, as printed in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A Rust type that is some [`DType`]'s element. `Pod` makes typed views of buffers safe.
pub trait Element: Pod + PartialEq + fmt::Debug + Send + Sync + sealed::Sealed {
    /// The dtype this type stands for.
    const DTYPE: DType;

    /// The nearest `f64`: exact for all but integers beyond 2⁵³.
    fn to_f64(self) -> f64;

    /// The nearest value of this type: floats round to nearest even, integers truncate towards
    /// zero and saturate, `Bool` is "not zero".
    fn from_f64(x: f64) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

/// A truth value as a byte in a buffer, where Rust's `bool` (0 or 1 only) could not be viewed.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Bool(u8);

impl Bool {
    /// The value as Rust's own type.
    pub const fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Self(u8::from(value))
    }
}

impl PartialEq for Bool {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Bool {}

impl fmt::Debug for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

macro_rules! element {
    ($($type:ty => $dtype:ident, |$x:ident| $to:expr, $from:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            #[inline]
            fn to_f64(self) -> f64 {
                let $x = self;
                $to
            }
            #[inline]
            fn from_f64($x: f64) -> Self {
                $from
            }
        }
    )*};
}

element! {
    f64 => F64, |x| x, x;
    f32 => F32, |x| f64::from(x), x as f32;
    bf16 => BF16, |x| x.to_f64(), bf16::from_f32(to_f32_odd(x));
    f16 => F16, |x| x.to_f64(), f16::from_f32(to_f32_odd(x));
    i64 => I64, |x| x as f64, x as i64;
    i32 => I32, |x| f64::from(x), x as i32;
    u8 => U8, |x| f64::from(x), x as u8;
    Bool => Bool, |x| f64::from(u8::from(x.get())), Bool::from(x != 0.0);
}

/// Rounds to a neighbouring `f32`, to the odd one where there are two.
///
/// Rounding that to a half format then equals rounding `x` once. Going by way of the *nearest*
/// `f32` would not: a value just above the middle of two halves can land on the middle, and there
/// the tie rule decides. An odd last bit is never such a middle, and keeps the side `x` was on.
/// Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008.
fn to_f32_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let bits = nearest.to_bits();
    let back = f64::from(nearest);
    if back == x || bits & 1 == 1 || x.is_nan() {
        return nearest;
    }
    // The neighbour on the other side of `x`; both signs count away from zero.
    f32::from_bits(if x.abs() > back.abs() { bits + 1 } else { bits - 1 })
}

/// Runs an expression with `$T` bound to the element type of a dtype known only at run time.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {{
        macro_rules! run {
            ($type:ty) => {{
                type $T = $type;
                $body
            }};
        }
        match $dtype {
            $crate::DType::F64 => run!(f64),
            $crate::DType::F32 => run!(f32),
            $crate::DType::BF16 => run!(half::bf16),
            $crate::DType::F16 => run!(half::f16),
            $crate::DType::I64 => run!(i64),
            $crate::DType::I32 => run!(i32),
            $crate::DType::U8 => run!(u8),
            $crate::DType::Bool => run!($crate::Bool),
        }
    }};
}
pub(crate) use with_element;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_names_agree_with_the_elements() {
        for dtype in DType::ALL {
            with_element!(dtype, T => {
                assert_eq!(T::DTYPE, dtype);
                assert_eq!(size_of::<T>(), dtype.size());
                assert_eq!(T::from_f64(1.0).to_f64(), 1.0);
            });
        }
        let names = DType::ALL.map(DType::name);
        assert!(names.iter().all(|a| names.iter().filter(|&b| a == b).count() == 1));
    }

    #[test]
    fn f64_rounds_to_half_once() {
        // 1 + 2⁻⁸ is the middle of two bf16; 2⁻⁴⁰ more is above it, and lost on the way to f32.
        assert_eq!(<bf16 as Element>::from_f64(1.0 + 2_f64.powi(-8)).to_f64(), 1.0);
        let above = 1.0 + 2_f64.powi(-8) + 2_f64.powi(-40);
        assert_eq!(<bf16 as Element>::from_f64(above).to_f64(), 1.0 + 2_f64.powi(-7));
        assert_eq!(<f16 as Element>::from_f64(1e300), f16::INFINITY);
        assert_eq!(<f16 as Element>::from_f64(-1e-300).to_bits(), 0x8000);
        assert!(<bf16 as Element>::from_f64(f64::NAN).is_nan());
    }

    #[test]
    fn bool_is_any_nonzero_byte() {
        assert_eq!(Bool(7), Bool::from(true));
        assert_ne!(Bool(0), Bool(1));
        assert_eq!(format!("{:?}", Bool(3)), "true");
    }
}
