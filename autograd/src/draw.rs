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

/// How a test's tensor lies in memory: as the view of a packed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In row-major order.
    Packed,
    /// With two axes exchanged.
    Transposed(usize, usize),
    /// A part of a longer axis, with one index before it and two behind.
    Sliced(usize),
    /// One index of an axis, repeated.
    Broadcast(usize),
}

impl Layout {
    /// The shape of the packed tensor that a tensor of `shape` is a view of.
    pub fn base(self, mut shape: Shape) -> Shape {
        match self {
            Self::Packed => {}
            Self::Transposed(a, b) => shape.swap(a, b),
            Self::Sliced(axis) => shape[axis] += 3,
            Self::Broadcast(axis) => shape[axis] = 1,
        }
        shape
    }

    /// The view of `shape` of a packed tensor of the [`base`](Self::base)'s shape.
    ///
    /// Errors: another shape than that; no such axis.
    pub fn view(self, base: &Tensor, shape: Shape) -> Result<Tensor> {
        match self {
            Self::Packed => Ok(base.clone()),
            Self::Transposed(a, b) => base.transpose(a, b),
            Self::Sliced(axis) => base.narrow(axis, 1, shape[axis]),
            Self::Broadcast(_) => base.broadcast_to(shape),
        }
    }
}

/// Lengths worth trying: none, one, some small ones, and some around a vector of lanes.
const LENGTHS: [usize; 13] = [0, 1, 1, 2, 2, 3, 3, 4, 5, 7, 16, 17, 33];

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

    /// The length of an axis, from 0 to 33.
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
        self.floats(shape.into(), |rng| low + (high - low) * rng.next_uniform())
    }

    /// Standard normal floats.
    pub fn normal(&mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.floats(shape.into(), Rng::next_normal)
    }

    /// Floats of a formula's domain, not closer than 0.05 to its kinks.
    pub fn within(&mut self, shape: impl Into<Shape>, domain: Domain) -> Result<Tensor> {
        self.floats(shape.into(), |rng| {
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
        self.floats(shape.into(), |rng| {
            let x = domain.low + (domain.high - domain.low) * rng.next_uniform();
            let jitter = 0.04 * (rng.next_uniform() - 0.5);
            (x * 4.0).floor() / 4.0 + which as f64 / 8.0 + 0.05 + jitter
        })
    }

    /// Floats of which no two are closer than 0.005, so that it is clear which is largest.
    pub fn distinct(&mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.laid_out(shape.into(), 3, |rng, n| {
            let order = rng.permutation(n).into_iter();
            order.map(|place| place as f64 * 0.01 + 0.005 * rng.next_uniform()).collect()
        })
    }

    /// Indices below `n`, of type `i64`.
    pub fn indices(&mut self, shape: impl Into<Shape>, n: usize) -> Result<Tensor> {
        let shape = shape.into();
        let indices = (0..shape.numel()).map(|_| self.below(n) as i64).collect();
        Tensor::from_vec(indices, shape)
    }

    /// Floats in one of four layouts.
    fn floats(&mut self, shape: Shape, mut f: impl FnMut(&mut Rng) -> f64) -> Result<Tensor> {
        self.laid_out(shape, 4, |rng, n| (0..n).map(|_| f(rng)).collect())
    }

    /// As many floats as `f` is asked for, in one of the first `layouts` of four: the last one
    /// repeats elements.
    fn laid_out(
        &mut self,
        shape: Shape,
        layouts: usize,
        f: impl FnOnce(&mut Rng, usize) -> Vec<f64>,
    ) -> Result<Tensor> {
        let rng = &mut self.rng;
        let mut layout = Layout::Packed;
        if self.strided && shape.rank() > 0 {
            let (a, b) = (rng.below(shape.rank()), rng.below(shape.rank()));
            layout = match rng.below(layouts) {
                0 => Layout::Packed,
                1 => Layout::Transposed(a, b),
                2 => Layout::Sliced(a),
                _ => Layout::Broadcast(a),
            };
        }
        let base = layout.base(shape);
        let packed = Tensor::from_vec(f(rng, base.numel()), base)?.to_dtype(self.dtype);
        layout.view(&packed, shape)
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
