//! Softmax and its logarithm along an axis.

use kernels::ptx::Team;
use kernels::{Real, softmax};
use tensor::{Axis, Cuda, DType, Element, Error, Result, Tensor};

use super::product::rows;
use crate::spec::{Case, Draw};
use crate::{Keep, Kept, Op, Spec, Var, apply};

/// Softmax.
impl Var {
    /// Non-negative numbers that sum to one along an axis, in the proportions of exponentials.
    ///
    /// y = exp(x) / Σ exp(x) over the axis, computed as exp(x − max x).
    /// Source: Bridle 1990, §2.
    ///
    /// Shapes: any → same. Saves: y. Cost: an exponential and 4 flop an element; fused on the last
    /// axis, transposed from others. Errors: no such axis; elements are not floats.
    #[track_caller]
    pub fn softmax(&self, axis: impl Axis) -> Result<Self> {
        along(self, axis.of(self.shape(), "softmax")?, SoftmaxOp::<false>)
    }

    /// The logarithm of [`softmax`](Self::softmax), exact where that underflows.
    ///
    /// y = x − ln Σ exp(x) over the axis.
    /// Source: Bridle 1990, §2.
    ///
    /// Shapes, saves, cost, errors: as [`softmax`](Self::softmax).
    #[track_caller]
    pub fn log_softmax(&self, axis: impl Axis) -> Result<Self> {
        along(self, axis.of(self.shape(), "log_softmax")?, SoftmaxOp::<true>)
    }
}

/// Applies an operation on last axes to another axis.
#[track_caller]
fn along(x: &Var, axis: usize, op: impl Op<1>) -> Result<Var> {
    let last = x.rank() - 1;
    if axis == last {
        return apply(op, [x]);
    }
    apply(op, [&x.transpose(axis, last)?])?.transpose(axis, last)
}

/// Softmax, or its logarithm, along the last axis.
#[derive(Debug)]
struct SoftmaxOp<const LOGARITHM: bool>;

impl<const LOGARITHM: bool> Op<1> for SoftmaxOp<LOGARITHM> {
    const NAME: &'static str = if LOGARITHM { "log_softmax" } else { "softmax" };
    const KEEPS: [Keep; 1] = [Keep::Y];
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        fn run<T: Real + Element>(logarithm: bool, x: &Tensor) -> Result<Tensor> {
            let n = x.shape()[x.rank() - 1];
            let mut y = Tensor::uninit(x.shape(), x.dtype());
            let kernel = if logarithm { softmax::log_softmax } else { softmax::softmax };
            kernel(x.contiguous().slice::<T>()?, n, y.slice_mut()?);
            Ok(y)
        }
        match (x.cuda(), x.dtype()) {
            (Some(gpu), DType::F32) => Ok((Self::forward_on(gpu, x)?, ())),
            (None, DType::F32) => Ok((run::<f32>(LOGARITHM, x)?, ())),
            (None, DType::F64) => Ok((run::<f64>(LOGARITHM, x)?, ())),
            _ => Err(Error::dtype(Self::NAME, "elements are not floats").operand("input", x)),
        }
    }

    fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        fn run<T: Real + Element>(logarithm: bool, y: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let n = y.shape()[y.rank() - 1];
            let mut dx = Tensor::uninit(y.shape(), y.dtype());
            let kernel = match logarithm {
                true => softmax::log_softmax_backward,
                false => softmax::softmax_backward,
            };
            kernel(y.slice::<T>()?, n, dy.contiguous().slice()?, dx.slice_mut()?);
            Ok(dx)
        }
        let (y, dy) = (kept.y().value(), dy.value());
        let dx = match (y.cuda(), y.dtype()) {
            (Some(gpu), _) => Self::backward_on(gpu, &y, &dy)?,
            (None, DType::F64) => run::<f64>(LOGARITHM, &y, &dy)?,
            (None, _) => run::<f32>(LOGARITHM, &y, &dy)?,
        };
        Ok([Some(Var::constant(dx))])
    }
}

impl<const LOGARITHM: bool> SoftmaxOp<LOGARITHM> {
    fn forward_on(gpu: &Cuda, x: &Tensor) -> Result<Tensor> {
        let [rows, n] = rows(x.shape());
        let (x, mut y) = (x.contiguous(), Tensor::uninit_on(Some(gpu), x.shape(), x.dtype()));
        let team = Team::of(n);
        let make = || softmax::ptx::forward(LOGARITHM, team);
        let kernel = gpu.kernel(&format!("{} forward {team:?}", Self::NAME), make)?;
        kernel.input(&x).output(&mut y).numbers([rows, n]).run([rows, 1, 1])?;
        Ok(y)
    }

    fn backward_on(gpu: &Cuda, y: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let [rows, n] = rows(y.shape());
        let (dy, mut dx) = (dy.contiguous(), Tensor::uninit_on(Some(gpu), y.shape(), y.dtype()));
        let team = Team::of(n);
        let make = || softmax::ptx::backward(LOGARITHM, team);
        let kernel = gpu.kernel(&format!("{} backward {team:?}", Self::NAME), make)?;
        kernel.input(y).input(&dy).output(&mut dx).numbers([rows, n]).run([rows, 1, 1])?;
        Ok(dx)
    }
}

/// The registry's entry for `softmax`.
pub struct Softmax;

impl Spec for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn equation(&self) -> &'static str {
        "exp(x)/Σ exp(x)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        case(draw, false)
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        bench(draw, Var::softmax)
    }
}

/// The registry's entry for `log_softmax`.
pub struct LogSoftmax;

impl Spec for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }

    fn equation(&self) -> &'static str {
        "x − ln Σ exp(x)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        case(draw, true)
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        bench(draw, Var::log_softmax)
    }
}

fn case(draw: &mut Draw, logarithm: bool) -> Result<Case> {
    let shape = draw.shape(1..=3);
    let axis = draw.below(shape.rank());
    let x = draw.uniform(shape, -3.0, 3.0)?;
    let op = if logarithm { Var::log_softmax } else { Var::softmax };
    let inner: usize = shape[axis + 1..].iter().product();
    let n = shape[axis];
    let reference = move |x: &[Vec<f64>]| {
        // Element i is number i / inner % n of a line that begins so far before it.
        let line = |i: usize| (0..n).map(move |j| i - i / inner % n * inner + j * inner);
        let sum = |i| line(i).map(|k| x[0][k].exp()).sum::<f64>();
        let y = |i: usize| match logarithm {
            true => x[0][i] - sum(i).ln(),
            false => x[0][i].exp() / sum(i),
        };
        (0..x[0].len()).map(y).collect()
    };
    Ok(Case::new(format!("axis {axis}"), [x], move |x| op(&x[0], axis), reference))
}

fn bench(draw: &mut Draw, op: fn(&Var, usize) -> Result<Var>) -> Result<Case> {
    let x = draw.uniform([24, 320, 320], -3.0, 3.0)?;
    Ok(Case::new("[24, 320, 320]", [x], move |x| op(&x[0], 2), |_| Vec::new())
        .flops(5.0 * 24.0 * 320.0 * 320.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_sum_to_one_along_any_axis() {
        let x = Var::constant(Tensor::arange(24, DType::F32).reshape([2, 3, 4]).unwrap());
        for axis in 0..3 {
            let sums = x.softmax(axis).unwrap().sum(&[axis], false).unwrap().value();
            assert!(sums.to_f64_vec().iter().all(|sum| (sum - 1.0).abs() < 1e-6));
        }
        assert!(x.softmax(3).is_err());
        let ids = Var::constant(Tensor::arange(3, DType::I64));
        assert!(ids.log_softmax(0).is_err());
    }
}
