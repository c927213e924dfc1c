//! Conversion between element types.
//!
//! Each pair of types has its own loop over slices, simple enough for the compiler to turn into
//! SIMD. Floats round to nearest, ties to even; a float becomes an integer by truncation towards
//! zero, saturating, NaN becoming 0; wide integers become narrow ones by dropping high bits;
//! integers reach the half formats by way of `f64`; anything but zero becomes `true`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use kernels::par;

use crate::dtype::with_element;
use crate::{Bool, DType, Element, Tensor};

/// Elements per task when several threads convert.
const CHUNK: usize = 1 << 16;

impl Tensor {
    /// The elements converted to another type; this tensor itself if they are of it already.
    ///
    /// Cost: one read of the input, one write of the output; a strided input is packed first. On a
    /// GPU only floats are converted, and not `f64`; of others, the result is lost (see
    /// [`cuda`](crate::cuda)).
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        if let Some(gpu) = self.cuda() {
            let mut converted = Self::uninit_on(Some(gpu), self.shape(), dtype);
            converted.write_on(gpu, 0, self);
            return converted;
        }
        let packed = self.contiguous();
        with_element!(self.dtype(), T => with_element!(dtype, U => {
            let x: &[T] = packed.reach();
            Self::build(self.shape(), |y: &mut [U]| {
                // About a nanosecond an element, memory included.
                par::chunks_mut(y, CHUNK, x.len(), |i, y| T::cast_slice(&x[i * CHUNK..], y));
            })
        }))
    }
}

/// Conversion from one element type to another: of one element, and of as many of a
/// slice as the other takes.
trait Cast<To>: Copy {
    fn cast(self) -> To;

    fn cast_slice(x: &[Self], y: &mut [To]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.cast();
        }
    }
}

macro_rules! cast {
    ($($from:ty => $($to:ty),+: |$x:ident| $result:expr;)*) => {$($(
        impl Cast<$to> for $from {
            #[inline]
            fn cast(self) -> $to {
                let $x = self;
                #[allow(clippy::unnecessary_cast, reason = "one body for all pairs")]
                { $result }
            }
        }
    )+)*};
}

macro_rules! cast_numbers {
    ($($from:ty),*) => {$(
        cast! {
            $from => f64: |x| x as f64;
            $from => f32: |x| x as f32;
            $from => i64: |x| x as i64;
            $from => i32: |x| x as i32;
            $from => u8: |x| x as u8;
            $from => Bool: |x| Bool::from(x != 0 as $from);
            Bool => $from: |x| u8::from(x.get()) as $from;
            bf16 => $from: |x| widen(x) as $from;
        }
    )*};
}

cast_numbers!(f64, f32, i64, i32, u8);

cast! {
    f64 => bf16: |x| Element::from_f64(x);
    f32 => bf16: |x| round(x);
    i64 => bf16: |x| Element::from_f64(x as f64);
    i32 => bf16: |x| Element::from_f64(x as f64);
    u8 => bf16: |x| round(x as f32);
    f16 => bf16: |x| round(x.to_f32());
    Bool => bf16: |x| round(x.cast());
    bf16 => Bool: |x| widen(x).cast();
    bf16 => bf16: |x| x;

    f64 => f16: |x| Element::from_f64(x);
    i64 => f16: |x| Element::from_f64(x as f64);
    i32 => f16: |x| Element::from_f64(x as f64);
    u8 => f16: |x| f16::from_f32(x as f32);
    bf16 => f16: |x| f16::from_f32(widen(x));
    Bool => f16: |x| f16::from_f32(x.cast());
    f16 => Bool, f64, i64, i32, u8: |x| x.to_f32().cast();
    f16 => f16: |x| x;

    Bool => Bool: |x| x;
}

/// The processor's own conversion, eight at a time, where it has one; the same bits either way.
impl Cast<f16> for f32 {
    fn cast(self) -> f16 {
        f16::from_f32(self)
    }

    fn cast_slice(x: &[Self], y: &mut [f16]) {
        y.convert_from_f32_slice(&x[..y.len()]);
    }
}

/// As for the other direction.
impl Cast<f32> for f16 {
    fn cast(self) -> f32 {
        self.to_f32()
    }

    fn cast_slice(x: &[Self], y: &mut [f32]) {
        x[..y.len()].convert_to_f32_slice(y);
    }
}

/// A `bf16` is the upper half of an `f32`.
#[inline]
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// To nearest, ties to even, without a branch: adding just under half a unit of the kept part
/// carries into it when the dropped part is above half, and at exactly half when the kept part is
/// odd. Rounding would turn some NaNs into infinities; they keep their upper half, made quiet.
#[inline]
fn round(x: f32) -> bf16 {
    let bits = x.to_bits();
    let odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7FFF + odd) >> 16;
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T: crate::Element>(of: impl Fn(u16) -> T) -> Tensor {
        Tensor::from_vec((0..=u16::MAX).map(of).collect(), [1 << 16]).unwrap()
    }

    /// Every half value survives the way to f32 or f64 and back, NaNs as (quiet) NaNs.
    #[test]
    fn halves_round_trip() {
        for wide in [DType::F32, DType::F64] {
            let x = all(bf16::from_bits);
            let y = x.to_dtype(wide).to_dtype(DType::BF16);
            for (x, y) in x.slice::<bf16>().unwrap().iter().zip(y.slice::<bf16>().unwrap()) {
                assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{x:?}");
            }
            let x = all(f16::from_bits);
            let y = x.to_dtype(wide).to_dtype(DType::F16);
            for (x, y) in x.slice::<f16>().unwrap().iter().zip(y.slice::<f16>().unwrap()) {
                assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{x:?}");
            }
        }
    }

    /// Between two neighbouring halves: the midpoint goes to the even one, a hair beside it to the
    /// nearer. The midpoints are formed exactly, in f32 (24 bits against 8 and 11).
    #[test]
    fn halves_round_to_nearest_even() {
        fn check(to: DType, value: impl Fn(u16) -> f64, infinity: u16) {
            for low in (0..infinity - 1).step_by(7) {
                let (a, b) = (value(low), value(low + 1));
                let middle = ((a + b) / 2.0) as f32;
                assert_eq!(f64::from(middle), (a + b) / 2.0, "the midpoint is exact");
                let even = if low % 2 == 0 { a } else { b };
                let x = vec![middle, middle.next_down(), middle.next_up(), -middle];
                for wide in [DType::F32, DType::F64] {
                    let x = Tensor::from_slice(&x, [4]).unwrap().to_dtype(wide);
                    assert_eq!(x.to_dtype(to).to_f64_vec(), [even, a, b, -even], "{low:#x}");
                }
            }
        }
        check(DType::BF16, |bits| bf16::from_bits(bits).to_f64(), 0x7F80);
        check(DType::F16, |bits| f16::from_bits(bits).to_f64(), 0x7C00);
    }

    #[test]
    fn numbers_truncate_saturate_and_wrap() {
        let x = Tensor::from_vec(vec![-1.5_f32, 2.9, 300.0, f32::NAN, 0.0], [5]).unwrap();
        assert_eq!(x.to_dtype(DType::I32).to_f64_vec(), [-1.0, 2.0, 300.0, 0.0, 0.0]);
        assert_eq!(x.to_dtype(DType::U8).to_f64_vec(), [0.0, 2.0, 255.0, 0.0, 0.0]);
        assert_eq!(x.to_dtype(DType::Bool).to_f64_vec(), [1.0, 1.0, 1.0, 1.0, 0.0]);
        let wide = Tensor::from_vec(vec![(1_i64 << 32) + 5, -1], [2]).unwrap();
        assert_eq!(wide.to_dtype(DType::I32).to_f64_vec(), [5.0, -1.0]);
    }

    #[test]
    fn every_pair_keeps_small_numbers_and_strides() {
        for from in DType::ALL {
            let x = Tensor::arange(2, from).broadcast_to([3, 2]).unwrap().transpose(0, 1).unwrap();
            for to in DType::ALL {
                let y = x.to_dtype(to);
                assert_eq!((y.dtype(), y.to_f64_vec()), (to, vec![0.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
            }
        }
    }
}
