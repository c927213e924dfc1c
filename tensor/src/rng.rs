//! Random numbers by counter: element i of a (seed, stream) is a pure function of the three.
//!
//! [Philox](kernels::random) turns a counter into 128 random bits, two 64-bit *words*. Word i of a
//! stream makes the i-th uniform number; words 2j and 2j + 1 make the normal numbers 2j and 2j + 1.
//! So numbers do not depend on the number of threads, nor on how many others are drawn, and a
//! generator's whole state is three integers.

use kernels::par;
use kernels::random::{box_muller, philox4x32};

use crate::dtype::with_element;
use crate::{DType, Element, Error, Result, Shape, Tensor};

/// Elements per task when a tensor is filled on several threads; even.
const CHUNK: usize = 1 << 14;

/// About how long one element takes, to decide whether threads pay.
const NANOSECONDS_EACH: usize = 10;

/// A stream of random numbers: seed, stream, and how many words of it are used up.
///
/// ```
/// use tensor::{DType, rng::Rng};
/// # fn main() -> tensor::Result<()> {
/// let mut noise = Rng::new(7).stream(1);
/// let x = noise.normal([4, 16, 8, 8], DType::F32)?;
/// let saved = noise.state();
/// let die = 1 + noise.below(6);
/// assert_eq!(die, 1 + Rng::from_state(saved).below(6));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    seed: u64,
    stream: u64,
    counter: u64,
}

impl Rng {
    /// The beginning of stream 0 of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, stream: 0, counter: 0 }
    }

    /// The beginning of another stream of the same seed, unrelated to all the others.
    pub fn stream(&self, stream: u64) -> Self {
        Self { seed: self.seed, stream, counter: 0 }
    }

    /// Seed, stream, counter: all there is to save.
    pub fn state(&self) -> [u64; 3] {
        [self.seed, self.stream, self.counter]
    }

    /// The generator that [`state`](Self::state) was taken of.
    pub fn from_state([seed, stream, counter]: [u64; 3]) -> Self {
        Self { seed, stream, counter }
    }
}

/// Element i of the stream, whatever has been drawn before.
impl Rng {
    /// Word i: 64 random bits.
    pub fn word_at(&self, i: u64) -> u64 {
        self.block(i / 2)[(i % 2) as usize]
    }

    /// Uniform number i, a multiple of 2⁻⁵³ in [0, 1).
    pub fn uniform_at(&self, i: u64) -> f64 {
        uniform(self.word_at(i), 53)
    }

    /// Standard normal number i.
    pub fn normal_at(&self, i: u64) -> f64 {
        box_muller(self.block(i / 2))[(i % 2) as usize]
    }

    /// Words 2j and 2j + 1.
    fn block(&self, j: u64) -> [u64; 2] {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let ([j0, j1], [s0, s1]) = (halves(j), halves(self.stream));
        let [a, b, c, d] = philox4x32(halves(self.seed), [j0, j1, s0, s1]);
        [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32]
    }
}

/// The next numbers of the stream.
impl Rng {
    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let word = self.word_at(self.counter);
        self.counter += 1;
        word
    }

    /// A uniform multiple of 2⁻⁵³ in [0, 1).
    pub fn next_uniform(&mut self) -> f64 {
        uniform(self.next_u64(), 53)
    }

    /// A standard normal number. It uses two words; many at once, by [`normal`](Self::normal),
    /// use one each.
    pub fn next_normal(&mut self) -> f64 {
        let block = self.take_blocks(2);
        box_muller(self.block(block))[0]
    }

    /// A uniform integer in `0..n`, without bias: products that would favour some results are
    /// drawn again. Source: Lemire, "Fast random integer generation in an interval", TOMACS 2019.
    ///
    /// # Panics
    /// If `n` is 0: there is no such integer.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "no integer is below 0");
        let n = n as u64;
        // 2⁶⁴ mod n: the low halves below it are one too many for some results.
        let surplus = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= surplus {
                return (product >> 64) as usize;
            }
        }
    }

    /// The numbers `0..n` in random order, every order equally likely (Fisher and Yates 1938).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }

    /// A tensor of uniform numbers in [0, 1), each a multiple of 2⁻⁵³ (`F64`), 2⁻²⁴ (`F32`),
    /// 2⁻¹¹ (`F16`) or 2⁻⁸ (`BF16`): those of a narrow type are those of a wide one, cut short.
    ///
    /// Errors: `dtype` is not a float.
    #[track_caller]
    pub fn uniform(&mut self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let bits = match dtype {
            DType::F64 => 53,
            DType::F32 => 24,
            DType::F16 => 11,
            _ => 8,
        };
        self.fill("uniform", shape.into(), dtype, |words| words.map(|word| uniform(word, bits)))
    }

    /// A tensor of standard normal numbers, computed in `f64` and rounded to `dtype`.
    ///
    /// Errors: `dtype` is not a float.
    #[track_caller]
    pub fn normal(&mut self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        self.fill("normal", shape.into(), dtype, box_muller)
    }

    /// Element k of the result is number `start + k` of the stream, where `start` is the counter
    /// made even.
    #[track_caller]
    fn fill(
        &mut self,
        op: &'static str,
        shape: Shape,
        dtype: DType,
        of: impl Fn([u64; 2]) -> [f64; 2] + Sync,
    ) -> Result<Tensor> {
        if !dtype.is_float() {
            return Err(Error::dtype(op, format!("random numbers are floats, not {dtype}")));
        }
        let start = self.take_blocks(shape.numel());
        let write = |first: u64, y: &mut [f64; 2]| *y = of(self.block(first));
        Ok(with_element!(dtype, T => Tensor::build(shape, |y: &mut [T]| {
            let cost = y.len().saturating_mul(NANOSECONDS_EACH);
            par::chunks_mut(y, CHUNK, cost, |chunk, y| {
                let mut values = [0.0; 2];
                for (block, y) in (start + (chunk * CHUNK / 2) as u64..).zip(y.chunks_mut(2)) {
                    write(block, &mut values);
                    y.iter_mut().zip(values).for_each(|(y, value)| *y = T::from_f64(value));
                }
            });
        })))
    }

    /// Moves past `n` words from the next whole block on; the number of that block.
    fn take_blocks(&mut self, n: usize) -> u64 {
        let start = self.counter.div_ceil(2);
        self.counter = 2 * (start + n.div_ceil(2) as u64);
        start
    }
}

/// The upper `bits` bits as a fraction.
fn uniform(word: u64, bits: u32) -> f64 {
    (word >> (64 - bits)) as f64 / (1_u64 << bits) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_a_pure_function() {
        let rng = Rng::new(3).stream(9);
        let long = rng.clone().normal([100_001], DType::F64).unwrap().to_f64_vec();
        let short = rng.clone().normal([7], DType::F64).unwrap().to_f64_vec();
        assert_eq!(long[..7], short);
        assert!([0, 6, 65_536, 100_000].iter().all(|&i| long[i] == rng.normal_at(i as u64)));
        let narrow = rng.clone().normal([7], DType::F32).unwrap();
        let rounded = Tensor::from_vec(short, [7]).unwrap().to_dtype(DType::F32);
        assert_eq!(narrow.to_f64_vec(), rounded.to_f64_vec());
        let alone = par::with_threads(1, || rng.clone().normal([100_001], DType::F64)).unwrap();
        let together = par::with_threads(3, || rng.clone().normal([100_001], DType::F64)).unwrap();
        assert_eq!(alone.to_f64_vec(), together.to_f64_vec());
    }

    #[test]
    fn words_are_philox() {
        // Random123's known answer for key 0, counter 0.
        let rng = Rng::new(0);
        assert_eq!(
            [rng.word_at(0), rng.word_at(1)],
            [0xe169_c58d_6627_e8d5, 0x9b00_dbd8_bc57_ac4c]
        );
    }

    #[test]
    fn state_restores_midway() {
        let mut rng = Rng::new(5);
        let mut other = rng.stream(1);
        assert_ne!(rng.next_u64(), other.next_u64());
        rng.next_normal();
        rng.normal([3], DType::F32).unwrap();
        let mut restored = Rng::from_state(rng.state());
        assert_eq!(rng.permutation(10), restored.permutation(10));
        assert_eq!(rng, restored);
    }

    #[test]
    fn uniform_numbers_stay_below_one() {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let x = Rng::new(2).uniform([5000], dtype).unwrap().to_f64_vec();
            assert!(x.iter().all(|x| (0.0..1.0).contains(x)), "{dtype}");
        }
        assert!(uniform(u64::MAX, 24) as f32 <= 1.0_f32.next_down());
        assert!(Rng::new(0).uniform([1], DType::I32).is_err());
    }
}
