//! Random numbers by counter, for the GPU: the CPU's bits.

use super::normal::{Double, ROOT_HALF, polar};
use crate::ptx::{Body, F32, F64, Kernel, Reg, Storage, U32, with_stored};

/// Threads of a block.
const THREADS: u32 = 256;

/// [`philox4x32`](super::philox4x32) of registers.
pub fn philox4x32<'k>(
    [mut k0, mut k1]: [Reg<'k, U32>; 2],
    [mut a, mut b, mut c, mut d]: [Reg<'k, U32>; 4],
) -> [Reg<'k, U32>; 4] {
    for _ in 0..10 {
        let (x, y) = (0xD251_1F53, 0xCD9E_8D57);
        (a, b, c, d) = (c.mul_high(y) ^ b ^ k0, c * y, a.mul_high(x) ^ d ^ k1, a * x);
        k0 = k0 + 0x9E37_79B9;
        k1 = k1 + 0xBB67_AE85;
    }
    [a, b, c, d]
}

/// The key and the counter of a stream, from parameters: block `first` + `index` of it.
fn stream<'k>(k: &'k Body, index: Reg<'k, U32>) -> [Reg<'k, U32>; 4] {
    let key = ["seed_low", "seed_high"].map(|name| k.u32(name));
    let [first_low, first_high] = ["first_low", "first_high"].map(|name| k.u32(name));
    let [s0, s1] = ["stream_low", "stream_high"].map(|name| k.u32(name));
    let low = first_low + index;
    let carry = Reg::select(low.lt(index), k.value::<U32>(1), k.value::<U32>(0));
    philox4x32(key, [low, first_high + carry, s0, s1])
}

/// Uniform numbers in [0, 1): a block of the stream makes two. Parameters: y, n, then the halves of
/// seed, first block and stream, low before high. The extent of the grid is ⌈n / 2⌉.
///
/// Numbers are multiples of 2⁻²⁴ (f32), 2⁻¹¹ (f16) or 2⁻⁸ (bf16), made of the upper bits of a
/// block's two 64-bit words.
pub fn uniform(storage: Storage) -> Kernel {
    let bits = match storage {
        Storage::F32 => 24,
        Storage::F16 => 11,
        Storage::Bf16 => 8,
    };
    let name = format!("uniform_{}", storage.name());
    with_stored!(storage, S => Kernel::new(&name, THREADS, [THREADS, 1, 1], |k| {
        let (y, n) = (k.global::<S>("y"), k.u32("n"));
        let index = k.block(0).mad(THREADS, k.thread());
        let [_, b, _, d] = stream(k, index);
        for (word, i) in [b, d].into_iter().zip([index * 2, index * 2 + 1]) {
            let fraction: Reg<F32> = (word >> (32 - bits)).to_f32() * 0.5_f32.powi(bits as i32);
            k.if_(i.lt(n), || y.at(i).store(fraction));
        }
    }))
}

/// Standard normal numbers, [`box_muller`](super::box_muller)'s, rounded to float32. Parameters and
/// extent as of [`uniform`].
///
/// Some hundred float64 operations a pair: where cards have few units for them, and float64 runs at
/// a sixty-fourth of float32's speed, still billions of numbers a second.
pub fn normal() -> Kernel {
    Kernel::new("normal", THREADS, [THREADS, 1, 1], |k| {
        let (y, n) = (k.global::<F32>("y"), k.u32("n"));
        let index = k.block(0).mad(THREADS, k.thread());
        let [a, b, c, d] = stream(k, index);
        let u = (upper_53([a, b]) + 1.0) * 0.5_f64.powi(53);
        let fraction = upper_53([c << 2, d << 2 | (c >> 30)]) * 0.5_f64.powi(53);
        let [radius, sin, cos] = polar(u, fraction);
        // Quadrants: (cos, sin), (−sin, cos), (−cos, −sin), (sin, −cos).
        let quadrant = d >> 30;
        let turned = (quadrant & 1).eq(1);
        let (right, up) = (Reg::select(turned, sin, cos), Reg::select(turned, cos, sin));
        let right = Reg::select(quadrant.eq(1) | quadrant.eq(2), -right, right);
        let up = Reg::select(quadrant.ge(2), -up, up);
        for (value, i) in [right, up].into_iter().zip([index * 2, index * 2 + 1]) {
            k.if_(i.lt(n), || y.at(i).store((radius * value).to_f32()));
        }
    })
}

/// The upper 53 bits of a word, given as low and high half: exact in float64.
fn upper_53<'k>([low, high]: [Reg<'k, U32>; 2]) -> Reg<'k, F64> {
    high.to_f64() * f64::from(1_u32 << 21) + (low >> 11).to_f64()
}

impl Double for Reg<'_, F64> {
    fn lift(self, c: f64) -> Self {
        self.lift_bits(c.to_bits())
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn split(self) -> [Self; 2] {
        let shifted = self.to_bits() - ROOT_HALF;
        let mantissa = (shifted & ((1 << 52) - 1)) + ROOT_HALF;
        [mantissa.bits_to_f64(), shifted.shr_signed(52).to_f64_signed()]
    }
}
