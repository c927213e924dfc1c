//! How elements are stored, as opposed to what they are computed in.

use bytemuck::Pod;
use half::{bf16, f16};

use crate::Real;

/// A type whose values widen to `T` exactly.
pub trait Stored<T: Real>: Pod + Sync + Send {
    /// The same value as a `T`.
    fn widen(self) -> T;

    /// The slice itself where this *is* `T`.
    #[inline(always)]
    fn as_real(_: &[Self]) -> Option<&[T]> {
        None
    }
}

impl<T: Real> Stored<T> for T {
    #[inline(always)]
    fn widen(self) -> T {
        self
    }
    #[inline(always)]
    fn as_real(x: &[T]) -> Option<&[T]> {
        Some(x)
    }
}

impl Stored<f32> for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        // Without the quieting of NaNs that `to_f32` does, this is one shift.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Stored<f32> for f16 {
    /// Straight-line, so that loops over it become vector instructions.
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // The exponent counts from 15 in place of 127; the product also makes denormals normal.
        let value = f32::from_bits(magnitude) * f32::from_bits((127 + 127 - 15) << 23);
        let special = if magnitude >= 31 << 23 { 0xff << 23 } else { 0 };
        f32::from_bits(value.to_bits() | special | (bits & 0x8000) << 16)
    }
}

impl Stored<f64> for bf16 {
    #[inline(always)]
    fn widen(self) -> f64 {
        f64::from(Stored::<f32>::widen(self))
    }
}

impl Stored<f64> for f16 {
    #[inline(always)]
    fn widen(self) -> f64 {
        f64::from(Stored::<f32>::widen(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_to_its_value() {
        for bits in 0..=u16::MAX {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            for (got, want) in [(b.widen(), b.to_f32()), (h.widen(), h.to_f32())] {
                let got: f32 = got;
                assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
            }
        }
    }
}
