//! Random test cases: shapes, layouts and values, drawn from a seed.
//!
//! The same seed gives the same case in every element type, rounded to it.

use std::ops::RangeInclusive;

use kernels::elementwise::Domain;
use tensor::rng::Rng;
use tensor::{DType, Result, Shape, Tensor};

/// A source of test cases.
#[derive(Clone, Debug)]
pub struct Draw {
    rng: Rng,
    dtype: DType,
    strided: bool,
}

/// Lengths worth trying: one, some small ones, and some around a vector of lanes.
const LENGTHS: [usize; 12] = [1, 1, 2, 2, 3, 3, 4, 5, 7, 16, 17, 33];

impl Draw {
    /// Cases whose floats are of type `dtype`, in all layouts.
    pub fn new(seed: u64, dtype: DType) -> Self {
        Self { rng: Rng::new(seed), dtype, strided: true }
    }

    /// Cases whose tensors are contiguous, as benchmarks want them.
    pub fn contiguous(seed: u64, dtype: DType) -> Self {
        Self { strided: false, ..Self::new(seed, dtype) }
    }

    /// The type of the floats.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A number in `0 .. n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.rng.below(n)
    }

    /// A number between `low` and `high`.
    pub fn number(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.rng.next_uniform()
    }

    /// The length of an axis, from 1 to 33.
    pub fn dim(&mut self) -> usize {
        LENGTHS[self.below(LENGTHS.len())]
    }

    /// A shape with that many axes and not too many elements.
    pub fn shape(&mut self, rank: RangeInclusive<usize>) -> Shape {
        let axes = rank.start() + self.below(rank.end() - rank.start() + 1);
        let mut shape = Shape::from(&[1; tensor::shape::MAX_RANK][..axes]);
        for axis in 0..axes {
            let length = self.dim();
            shape[axis] = if shape.numel() * length > 2000 { 2 } else { length };
        }
        shape
    }

    /// A shape that broadcasts with others drawn from the same `shape`.
    pub fn broadcastable(&mut self, mut shape: Shape) -> Shape {
        if self.below(2) == 0 {
            return shape;
        }
        for axis in 0..shape.rank() {
            if self.below(2) == 0 {
                shape[axis] = 1;
            }
        }
        Shape::from(&shape[self.below(shape.rank() + 1)..])
    }

    /// For each index of `shape`, where in a packed copy of `x` broadcasting finds its element.
    pub fn broadcast_index(&self, x: &Tensor, shape: Shape) -> Result<Vec<usize>> {
        let places =
            Tensor::arange(x.numel(), DType::I64).reshape(x.shape())?.broadcast_to(shape)?;
        Ok(places.to_vec::<i64>()?.into_iter().map(|i| i as usize).collect())
    }

    /// Floats between `low` and `high`.
    pub fn uniform(&mut self, shape: impl Into<Shape>, low: f64, high: f64) -> Result<Tensor> {
        self.floats(shape.into(), |rng, _| low + (high - low) * rng.next_uniform())
    }

    /// Standard normal floats.
    pub fn normal(&mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.floats(shape.into(), |rng, _| rng.next_normal())
    }

    /// Floats of a formula's domain, not closer than 0.05 to its kinks.
    pub fn within(&mut self, shape: impl Into<Shape>, domain: Domain) -> Result<Tensor> {
        self.floats(shape.into(), |rng, _| {
            let x = domain.low + (domain.high - domain.low) * rng.next_uniform();
            let close = domain.kinks.iter().find(|kink| (x - **kink).abs() < 0.05);
            close.map_or(x, |kink| kink + 0.05_f64.copysign(x - kink))
        })
    }

    /// Floats of a domain near multiples of ¼, or, for `which` 1, near those plus ⅛: no element of
    /// the one is closer than 0.08 to any of the other.
    pub fn staggered(
        &mut self,
        shape: impl Into<Shape>,
        domain: Domain,
        which: usize,
    ) -> Result<Tensor> {
        self.floats(shape.into(), |rng, _| {
            let x = domain.low + (domain.high - domain.low) * rng.next_uniform();
            let jitter = 0.04 * (rng.next_uniform() - 0.5);
            (x * 4.0).floor() / 4.0 + which as f64 / 8.0 + 0.05 + jitter
        })
    }

    /// Floats of which no two are closer than 0.005, so that it is clear which is largest.
    pub fn distinct(&mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let n = shape.numel();
        let order = self.rng.permutation(n);
        let strided = std::mem::replace(&mut self.strided, false);
        let x = self.floats(shape, |rng, i| order[i] as f64 * 0.01 + 0.005 * rng.next_uniform());
        self.strided = strided;
        x
    }

    /// Indices below `n`, of type `i64`.
    pub fn indices(&mut self, shape: impl Into<Shape>, n: usize) -> Result<Tensor> {
        let shape = shape.into();
        let indices = (0..shape.numel()).map(|_| self.below(n) as i64).collect();
        Tensor::from_vec(indices, shape)
    }

    /// Floats in one of four layouts.
    fn floats(
        &mut self,
        shape: Shape,
        mut f: impl FnMut(&mut Rng, usize) -> f64,
    ) -> Result<Tensor> {
        let (rng, dtype) = (&mut self.rng, self.dtype);
        let mut packed = |shape: Shape, rng: &mut Rng| {
            let values = (0..shape.numel()).map(|i| f(rng, i)).collect();
            Ok(Tensor::from_vec(values, shape)?.to_dtype(dtype))
        };
        if !self.strided || shape.rank() == 0 {
            return packed(shape, rng);
        }
        let (a, b) = (rng.below(shape.rank()), rng.below(shape.rank()));
        let mut base = shape;
        match rng.below(4) {
            0 => packed(base, rng),
            1 => {
                base.swap(a, b);
                packed(base, rng)?.transpose(a, b)
            }
            2 => {
                base[a] += 3;
                packed(base, rng)?.narrow(a, 1, shape[a])
            }
            _ => {
                base[a] = 1;
                packed(base, rng)?.broadcast_to(shape)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_case_in_every_dtype() {
        let mut layouts = [false; 3];
        for seed in 0..40 {
            let case = |dtype| {
                let mut draw = Draw::new(seed, dtype);
                let shape = draw.shape(2..=4);
                draw.uniform(shape, -1.0, 1.0).unwrap()
            };
            let (single, double) = (case(DType::F32), case(DType::F64));
            assert_eq!((single.shape(), single.strides()), (double.shape(), double.strides()));
            let close = single.to_f64_vec().into_iter().zip(double.to_f64_vec());
            assert!(close.clone().all(|(a, b)| (a - b).abs() < 1e-7));
            let broadcast =
                double.shape().iter().zip(double.strides()).any(|(&n, &s)| n > 1 && s == 0);
            layouts[if broadcast { 2 } else { usize::from(!double.is_contiguous()) }] = true;
        }
        assert_eq!(layouts, [true; 3], "contiguous, strided and broadcast cases occur");
    }

    #[test]
    fn kinks_and_ties_are_avoided() {
        let mut draw = Draw::new(3, DType::F64);
        let domain = Domain::between(-1.0, 1.0).except(0.0, 0.5);
        let x = draw.within([500], domain).unwrap().to_f64_vec();
        assert!(x.iter().all(|x| x.abs() > 0.0499 && (x - 0.5).abs() > 0.0499));
        let [a, b] = [0, 1].map(|i| draw.staggered([50], domain, i).unwrap().to_f64_vec());
        assert!(a.iter().all(|a| b.iter().all(|b| (a - b).abs() > 0.08)));
    }
}
