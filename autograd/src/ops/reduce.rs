//! Sums, means and maxima over axes.

use std::ops::Range;
use std::sync::Arc;

use kernels::{Real, reduce};
use tensor::{Axis, DType, Element, Error, Result, Shape, Tensor};

use crate::spec::{Case, Draw};
use crate::{Aux, Keep, Kept, Op, Spec, Var, apply};

mod gpu;

pub(super) use gpu::add as add_on_gpu;

/// Reductions. Axes are counted from the first (`0`) or, negative, from behind.
impl Var {
    /// The sum over `axes`, which stay as axes of length one if `keep` is set.
    ///
    /// y = Σ x over the axes, by a fixed tree of additions (see [`kernels::reduce`]).
    /// Source: elementary.
    ///
    /// Shapes: \[.., n, ..\] → \[.., 1, ..\] or \[.., ..\]. Saves: nothing. Cost: one read.
    /// Errors: no such axis; one named twice; elements are not floating-point numbers.
    #[track_caller]
    pub fn sum<A: Axis>(&self, axes: &[A], keep: bool) -> Result<Self> {
        let (kept, dropped) = reduced(self.shape(), axes, "sum")?;
        let sum = self.sum_to(&kept)?;
        if keep { Ok(sum) } else { sum.reshape(dropped) }
    }

    /// The mean over `axes`, which stay as axes of length one if `keep` is set.
    ///
    /// y = 1/n · Σ x over the axes, of n elements together.
    ///
    /// Shapes, saves, cost, errors: as [`sum`](Self::sum).
    #[track_caller]
    pub fn mean<A: Axis>(&self, axes: &[A], keep: bool) -> Result<Self> {
        let sum = self.sum(axes, keep)?;
        sum.mul_scalar(sum.numel() as f64 / self.numel() as f64)
    }

    /// The sum of all elements, y = Σ x.
    ///
    /// Shapes: any → \[\]. Saves: nothing. Cost: one read. Errors: as [`sum`](Self::sum).
    #[track_caller]
    pub fn sum_all(&self) -> Result<Self> {
        self.sum(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// The mean of all elements, y = 1/n · Σ x.
    ///
    /// Shapes: any → \[\]. Saves: nothing. Cost: one read. Errors: as [`sum`](Self::sum).
    #[track_caller]
    pub fn mean_all(&self) -> Result<Self> {
        self.mean(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// The mean of squared differences, y = 1/n · Σ (a − b)², over all elements.
    ///
    /// Shapes: a \[..\] and b \[..\], or two that broadcast to that → \[\]. Saves: a − b \[..\]. Cost:
    /// four passes. Errors: as [`sub`](Self::sub).
    #[track_caller]
    pub fn mse(&self, other: &Self) -> Result<Self> {
        self.sub(other)?.square()?.mean_all()
    }

    /// The sum over the axes that broadcasting to this shape would have stretched: the transpose
    /// of [`broadcast_to`](Self::broadcast_to).
    ///
    /// Shapes: one that `shape` broadcasts to → `shape`. Saves: nothing. Cost: one read.
    /// Errors: `shape` does not broadcast to this one; elements are not floating-point numbers.
    #[track_caller]
    pub fn sum_to(&self, shape: &Shape) -> Result<Self> {
        if shape == self.shape() { Ok(self.clone()) } else { apply(SumTo(*shape), [self]) }
    }

    /// The largest element along an axis, which stays as one of length one if `keep` is set.
    ///
    /// y = max x over the axis; the gradient goes to the first element that equals it.
    /// Source: elementary.
    ///
    /// Shapes: \[.., n, ..\] → \[.., 1, ..\] or \[.., ..\]. Saves: u32 places like y.
    /// Cost: one read. Errors: no such axis, or nothing on it; not floating-point numbers.
    #[track_caller]
    pub fn max(&self, axis: impl Axis, keep: bool) -> Result<Self> {
        let axis = axis.of(self.shape(), "max")?;
        let max = apply(MaxAlong(axis), [self])?;
        if keep { Ok(max) } else { max.squeeze(axis) }
    }
}

/// `shape` with `axes` of length one, and without them.
#[track_caller]
fn reduced<A: Axis>(shape: &Shape, axes: &[A], name: &'static str) -> Result<(Shape, Shape)> {
    let mut gone = vec![false; shape.rank()];
    for axis in axes {
        let index = axis.of(shape, name)?;
        if std::mem::replace(&mut gone[index], true) {
            return Err(Error::shape(name, format!("axis {} is named twice", axis.written()))
                .operand("input", shape));
        }
    }
    let mut kept = *shape;
    for axis in (0..shape.rank()).filter(|&axis| gone[axis]) {
        kept[axis] = 1;
    }
    let rest = (0..shape.rank()).filter(|&axis| !gone[axis]).map(|axis| shape[axis]);
    Ok((kept, Shape::from(&rest.collect::<Vec<_>>()[..])))
}

/// The product of lengths before, at and after `axes` of `shape`.
fn split(shape: &Shape, axes: Range<usize>) -> [usize; 3] {
    let product = |lengths: &[usize]| lengths.iter().product();
    [product(&shape[..axes.start]), product(&shape[axes.clone()]), product(&shape[axes.end..])]
}

/// The error of an operation that computes with floats only.
fn not_floats(name: &'static str, x: &Tensor) -> Error {
    Error::dtype(name, "elements are not numbers to compute with").operand("input", x)
}

/// The sum over the axes that are longer than in this shape.
#[derive(Debug)]
struct SumTo(Shape);

impl Op<1> for SumTo {
    const NAME: &'static str = "sum";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        if self.0.broadcast(x.shape()) != Some(*x.shape()) {
            return Err(Error::shape("sum", "not a shape that broadcasts to the input's")
                .operand("input", x)
                .operand("shape", &self.0));
        }
        let add: &Add<'_> = match (x.cuda(), x.dtype()) {
            (Some(gpu), DType::F32) => &|x, parts| gpu::add(gpu, x, parts),
            (None, DType::F32) => &add_on_cpu::<f32>,
            (None, DType::F64) => &add_on_cpu::<f64>,
            _ => return Err(not_floats("sum", x)),
        };
        Ok((sum_to(x, &self.0, add)?, ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(dy.broadcast_to(kept.shape(0))?)])
    }
}

/// Sums of packed elements \[outer, n, inner\] along the middle axis, in a tensor of any shape.
type Add<'a> = dyn Fn(&Tensor, [usize; 3]) -> Result<Tensor> + 'a;

fn add_on_cpu<T: Real + Element>(x: &Tensor, parts: [usize; 3]) -> Result<Tensor> {
    let mut y = Tensor::uninit([parts[0] * parts[2]], x.dtype());
    reduce::sum(x.slice::<T>()?, parts, y.slice_mut::<T>()?);
    Ok(y)
}

/// Sums over runs of adjacent axes, the last run first.
fn sum_to(x: &Tensor, shape: &Shape, add: &Add<'_>) -> Result<Tensor> {
    let added = x.rank() - shape.rank();
    let stretched =
        |axis: usize, from: &Shape| from[axis] != 1 && (axis < added || shape[axis - added] == 1);
    let mut sum = x.contiguous();
    let mut end = x.rank();
    while end > 0 {
        if !stretched(end - 1, x.shape()) {
            end -= 1;
            continue;
        }
        // Axes of length one may lie within a run.
        let mut start = end - 1;
        while start > 0 && (stretched(start - 1, x.shape()) || x.shape()[start - 1] == 1) {
            start -= 1;
        }
        let parts = split(sum.shape(), start..end);
        let mut lengths = *sum.shape();
        lengths[start..end].fill(1);
        sum = add(&sum, parts)?.reshape(lengths)?;
        end = start;
    }
    sum.reshape(*shape)
}

/// Where each maximum is along the axis, in the memory of the tensor that it is the maximum of.
#[derive(Clone, Debug)]
enum Places {
    Here(Arc<[u32]>),
    OnGpu(Tensor),
}

impl Aux for Places {
    fn memory(&self, see: &mut dyn FnMut(Range<usize>)) {
        match self {
            Self::Here(places) => places.memory(see),
            Self::OnGpu(places) => places.memory(see),
        }
    }
}

/// The maximum along an axis.
#[derive(Debug)]
struct MaxAlong(usize);

impl Op<1> for MaxAlong {
    const NAME: &'static str = "max";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = Places;

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, Places)> {
        fn run<T: Real + Element>(x: &Tensor, parts: [usize; 3]) -> Result<(Tensor, Places)> {
            let outputs = parts[0] * parts[2];
            let (mut y, mut at) = (Tensor::uninit([outputs], x.dtype()), vec![0; outputs]);
            reduce::max(x.slice::<T>()?, parts, y.slice_mut::<T>()?, &mut at);
            Ok((y, Places::Here(at.into())))
        }
        if x.shape()[self.0] == 0 {
            return Err(Error::shape("max", "the axis is empty").operand("input", x));
        }
        let (packed, parts) = (x.contiguous(), split(x.shape(), self.0..self.0 + 1));
        let (y, at) = match (x.cuda(), x.dtype()) {
            (Some(gpu), DType::F32) => {
                let (y, at) = gpu::max(gpu, &packed, parts)?;
                (y, Places::OnGpu(at))
            }
            (None, DType::F32) => run::<f32>(&packed, parts)?,
            (None, DType::F64) => run::<f64>(&packed, parts)?,
            _ => return Err(not_floats("max", x)),
        };
        Ok((y.reshape(x.shape().with_length(self.0, 1))?, at))
    }

    fn vjp(&self, kept: Kept<'_, Places>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        let spread = Spread { at: kept.aux.clone(), shape: *kept.shape(0), axis: self.0 };
        Ok([Some(apply(spread, [dy])?)])
    }
}

/// Numbers put where the maxima are, among zeros: the vjp of [`MaxAlong`] as an operation.
#[derive(Clone, Debug)]
struct Spread {
    at: Places,
    shape: Shape,
    axis: usize,
}

impl Op<1> for Spread {
    const NAME: &'static str = "max";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [dy]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        fn run<T: Real + Element>(
            dy: &Tensor,
            at: &[u32],
            parts: [usize; 3],
            dx: &mut Tensor,
        ) -> Result<()> {
            reduce::spread(dy.slice::<T>()?, at, parts, dx.slice_mut::<T>()?);
            Ok(())
        }
        let (packed, parts) = (dy.contiguous(), split(&self.shape, self.axis..self.axis + 1));
        let mut dx = Tensor::zeros_on(dy.cuda(), self.shape, dy.dtype());
        match (&self.at, dy.cuda(), dy.dtype()) {
            (Places::OnGpu(at), Some(gpu), _) => gpu::spread(gpu, &packed, at, parts, &mut dx)?,
            (Places::Here(at), None, DType::F64) => run::<f64>(&packed, at, parts, &mut dx)?,
            (Places::Here(at), None, _) => run::<f32>(&packed, at, parts, &mut dx)?,
            _ => unreachable!("a gradient lies where its operation was computed"),
        }
        Ok((dx, ()))
    }

    /// The elements of z̄ at the maxima: those that a one-hot mask leaves of it.
    fn vjp(&self, kept: Kept<'_, ()>, dz: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        let ones = Tensor::ones(kept.shape(0), dz.dtype()).to_device(&dz.value().device())?;
        let mask = apply(self.clone(), [&Var::constant(ones)])?;
        Ok([Some(dz.mul(&mask)?.sum_to(kept.shape(0))?)])
    }
}

/// The registry's entry for `sum`.
pub struct Sum;

impl Spec for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn equation(&self) -> &'static str {
        "Σ x over axes"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [a, b, c] = [draw.dim(), draw.dim(), draw.dim()];
        let x = draw.uniform([a, b, c], -1.0, 2.0)?;
        let (axes, parts): (&[usize], _) = match draw.below(4) {
            0 => (&[0], [1, a, b * c]),
            1 => (&[1], [a, b, c]),
            2 => (&[1, 2], [a, b * c, 1]),
            _ => (&[2, 0, 1], [1, a * b * c, 1]),
        };
        let forward = move |x: &[Var]| x[0].sum(axes, false);
        Ok(Case::new(format!("[{a}, {b}, {c}] over {axes:?}"), [x], forward, move |x| {
            reduce::reference_sum(&x[0], parts)
        })
        .magnitude((parts[1] as f64).sqrt()))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([1280, 1536], -1.0, 1.0)?;
        Ok(Case::new("[1280, 1536] over 0", [x], |x| x[0].sum(&[0], false), |_| Vec::new())
            .flops(1280.0 * 1536.0))
    }
}

/// The registry's entry for `max`.
pub struct Max;

impl Spec for Max {
    fn name(&self) -> &'static str {
        "max"
    }

    fn equation(&self) -> &'static str {
        "max x along an axis"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [a, b, c] = [draw.dim(), draw.dim().max(1), draw.dim()];
        let x = draw.distinct([a, b, c])?;
        Ok(Case::new(
            format!("[{a}, {b}, {c}]"),
            [x],
            |x| x[0].max(1, false),
            move |x| reduce::reference_max(&x[0], [a, b, c]),
        ))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([1280, 1536], -1.0, 1.0)?;
        Ok(Case::new("[1280, 1536]", [x], |x| x[0].max(-1, false), |_| Vec::new())
            .flops(1280.0 * 1536.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_dropped_or_kept() {
        let x = Var::constant(Tensor::arange(24, DType::F32).reshape([2, 3, 4]).unwrap());
        assert_eq!(*x.sum(&[0, 2], true).unwrap().shape(), [1, 3, 1]);
        assert_eq!(x.sum(&[0, 2], false).unwrap().value().to_f64_vec(), [60.0, 92.0, 124.0]);
        assert_eq!(x.mean(&[-1], false).unwrap().value().to_f64_vec()[1], 5.5);
        assert_eq!(x.mean_all().unwrap().item().unwrap(), 11.5);
        assert_eq!(*x.max(1, true).unwrap().shape(), [2, 1, 4]);
        assert!(x.sum(&[0, -3], false).is_err() && x.sum(&[3], false).is_err());
        assert!(x.sum_to(&Shape::from([5])).is_err());
    }

    #[test]
    fn sums_undo_broadcasts_across_axes_of_one() {
        let x = Var::constant(Tensor::ones([2, 1, 3, 4, 1, 5], DType::F64));
        for shape in [&[3, 1, 1, 5][..], &[2, 1, 1, 4, 1, 1], &[5], &[1], &[4, 1, 1], &[]] {
            let sum = x.sum_to(&Shape::from(shape)).unwrap();
            let want = 120.0 / shape.iter().product::<usize>() as f64;
            assert!(sum.value().to_f64_vec().iter().all(|&y| y == want), "{shape:?}");
            assert_eq!(**sum.shape(), *shape);
        }
    }
}
