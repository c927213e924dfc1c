//! Layer norm, adaptive layer norm and RMS norm: normalisation along the last axis.

use kernels::norm::{self, Rows, Slopes};
use kernels::{Real, norm::Affine};
use tensor::{DType, Element, Error, Result, Shape, Tensor};

use crate::{Keep, Kept, Op, Var, apply};

mod cases;
mod gpu;

pub use cases::{AdaLayerNorm, LayerNorm, RmsNorm};

/// Normalisation along the last axis.
impl Var {
    /// Layer normalisation without parameters: mean 0 and variance 1 along the last axis.
    ///
    /// y = (x − μ)/√(σ² + ε).
    /// Source: Ba et al. 2016, §3.
    ///
    /// Shapes: x \[.., C\] → same. Saves: x, μ \[..\], 1/σ \[..\]. Cost: 8 flop an element, one read
    /// and one write. Errors: no axis; elements are not floats.
    #[track_caller]
    pub fn layer_norm(&self, eps: f64) -> Result<Self> {
        apply(LayerNormOp { eps }, [self])
    }

    /// Layer normalisation whose scale and shift belong to the sample.
    ///
    /// y = (x − μ)/√(σ² + ε)·(1 + scale) + shift.
    /// Source: Peebles & Xie 2023, §3.2 (adaLN).
    ///
    /// Shapes: x \[B, .., C\], shift and scale \[B, C\] (chunks of one modulation are read in
    /// place) → like x. Saves: x, shift, scale, μ \[B, ..\], 1/σ \[B, ..\]. Cost: 8 flop an
    /// element, one read and one write. Errors: other shapes; elements are not floats.
    #[track_caller]
    pub fn ada_layer_norm(&self, shift: &Self, scale: &Self, eps: f64) -> Result<Self> {
        apply(AdaLayerNormOp { eps }, [self, shift, scale])
    }

    /// Normalisation by the root of the mean square, times a weight.
    ///
    /// y = weight·x/√(mean x² + ε) along the last axis.
    /// Source: Zhang & Sennrich 2019, eq. (4).
    ///
    /// Shapes: x \[.., C\], weight \[C\] → like x. Saves: x, weight, 1/σ \[..\]. Cost: 5 flop an
    /// element, one read and one write. Errors: other shapes; elements are not floats.
    #[track_caller]
    pub fn rms_norm(&self, weight: &Self, eps: f64) -> Result<Self> {
        apply(RmsNormOp { eps }, [self, weight])
    }
}

/// What normalised rows are multiplied by and added to.
#[derive(Clone)]
enum Parameters {
    None,
    Modulation { shift: Tensor, scale: Tensor },
    Weight(Tensor),
}

/// A norm of one tensor, whichever it is.
struct Norm<'a> {
    name: &'static str,
    x: &'a Tensor,
    eps: f64,
    parameters: Parameters,
}

/// μ and 1/σ of each row.
type Statistics = [Tensor; 2];

impl Norm<'_> {
    /// Errors unless the parameters fit x.
    fn check(&self) -> Result<()> {
        let Some(&width) = self.x.shape().last() else {
            return Err(Error::shape(self.name, "there is no axis").operand("input", self.x));
        };
        let expected: &[usize] = match self.parameters {
            Parameters::None => return Ok(()),
            Parameters::Modulation { .. } => &[self.x.shape()[0], width],
            Parameters::Weight(_) => &[width],
        };
        let operands = match &self.parameters {
            Parameters::None => vec![],
            Parameters::Modulation { shift, scale } => vec![("shift", shift), ("scale", scale)],
            Parameters::Weight(weight) => vec![("weight", weight)],
        };
        match operands.iter().find(|(_, p)| p.shape()[..] != *expected) {
            None if self.x.rank() > expected.len() - 1 => Ok(()),
            None => Err(Error::shape(self.name, "the input has no axis of samples")
                .operand("input", self.x)),
            Some((name, parameter)) => {
                Err(Error::shape(self.name, format!("{name} should be {expected:?}"))
                    .operand("input", self.x)
                    .operand(*name, *parameter))
            }
        }
    }

    /// The parameters with adjacent elements in rows that are so far apart.
    fn packed_parameters(&self) -> (Parameters, usize) {
        let width = self.x.shape()[self.x.rank() - 1];
        // Chunks of a modulation [B, 6C] have rows of adjacent elements, 6C apart.
        let (mut parameters, mut stride) = (self.parameters.clone(), width);
        match &mut parameters {
            Parameters::None => {}
            Parameters::Weight(weight) => *weight = weight.contiguous(),
            Parameters::Modulation { shift, scale } => {
                if shift.strides() == scale.strides() && (shift.strides()[1] == 1 || width == 1) {
                    stride = shift.strides()[0];
                } else {
                    (*shift, *scale) = (shift.contiguous(), scale.contiguous());
                }
            }
        }
        (parameters, stride)
    }

    /// Calls `f` with the kernel's description of this norm.
    fn rows<T: Real + Element, R>(&self, f: impl FnOnce(&Rows<T>) -> Result<R>) -> Result<R> {
        let shape = self.x.shape();
        let width = shape[shape.rank() - 1];
        let (parameters, stride) = self.packed_parameters();
        let affine = match &parameters {
            Parameters::None => Affine::Identity,
            Parameters::Weight(weight) => Affine::Weight(weight.slice()?),
            Parameters::Modulation { shift, scale } => Affine::Modulation {
                shift: shift.raw_slice()?.0,
                scale: scale.raw_slice()?.0,
                stride,
            },
        };
        let rows = self.x.numel() / width;
        let centered = !matches!(parameters, Parameters::Weight(_));
        let rows_per_sample = match affine {
            Affine::Modulation { .. } => rows / shape[0],
            _ => rows,
        };
        f(&Rows { width, rows_per_sample, eps: self.eps, centered, affine })
    }

    fn forward(&self) -> Result<(Tensor, Statistics)> {
        self.check()?;
        match (self.x.cuda(), self.x.dtype()) {
            (Some(gpu), DType::F32) => self.forward_on(gpu),
            (None, DType::F32) => self.forward_in::<f32>(),
            (None, DType::F64) => self.forward_in::<f64>(),
            _ => Err(Error::dtype(self.name, "elements are not floats").operand("input", self.x)),
        }
    }

    fn forward_in<T: Real + Element>(&self) -> Result<(Tensor, Statistics)> {
        let (shape, dtype) = (*self.x.shape(), self.x.dtype());
        let rows: usize = shape[..shape.rank() - 1].iter().product();
        let [mut y, mut mean, mut rstd] =
            [shape, [rows].into(), [rows].into()].map(|shape| Tensor::uninit(shape, dtype));
        if self.x.numel() > 0 {
            let x = self.x.contiguous();
            let (mean, rstd) = (mean.slice_mut()?, rstd.slice_mut()?);
            self.rows(|norm| {
                norm::normalize::<T>(norm, x.slice()?, y.slice_mut()?, mean, rstd);
                Ok(())
            })?;
        }
        Ok((y, [mean, rstd]))
    }

    /// What has arrived of the gradient of x, for [`backward`](Self::backward) to add to: the CPU's
    /// kernel does.
    fn before<A>(&self, kept: Kept<'_, A>) -> Option<Tensor> {
        if self.x.cuda().is_some() { None } else { kept.take_before(0) }
    }

    /// The gradient of x, added to what has arrived [before](Self::before), and, if wanted, those of
    /// the gain and the shift.
    fn backward(
        &self,
        statistics: &Statistics,
        dy: &Var,
        before: Option<Tensor>,
        slopes: bool,
    ) -> Result<(Var, Option<[Var; 2]>)> {
        // Of the gain and of the shift.
        let shape = match &self.parameters {
            Parameters::None => [0].into(),
            Parameters::Weight(weight) => *weight.shape(),
            Parameters::Modulation { scale, .. } => *scale.shape(),
        };
        let (dy, slopes) = (dy.value(), slopes.then_some(shape));
        let (dx, slopes) = match (self.x.cuda(), self.x.dtype()) {
            (Some(gpu), _) => self.backward_on(gpu, statistics, &dy, slopes)?,
            (None, DType::F64) => self.backward_in::<f64>(statistics, &dy, before, slopes)?,
            (None, _) => self.backward_in::<f32>(statistics, &dy, before, slopes)?,
        };
        Ok((Var::constant(dx), slopes.map(|slopes| slopes.map(Var::constant))))
    }

    fn backward_in<T: Real + Element>(
        &self,
        [mean, rstd]: &Statistics,
        dy: &Tensor,
        before: Option<Tensor>,
        slopes: Option<Shape>,
    ) -> Result<(Tensor, Option<[Tensor; 2]>)> {
        let dtype = self.x.dtype();
        if self.x.numel() == 0 {
            let slopes = slopes.map(|shape| [(); 2].map(|()| Tensor::zeros(shape, dtype)));
            return Ok((Tensor::zeros(self.x.shape(), dtype), slopes));
        }
        let (x, dy) = (self.x.contiguous(), dy.contiguous());
        let adds = before.is_some();
        let mut dx = before.unwrap_or_else(|| Tensor::uninit(x.shape(), dtype));
        let mut sums = [slopes.unwrap_or([0].into()); 2].map(|shape| Tensor::uninit(shape, dtype));
        let [gain, shift] = &mut sums;
        let into = Slopes { gain: gain.slice_mut()?, shift: shift.slice_mut()? };
        self.rows(|norm| {
            let statistics = [mean.slice()?, rstd.slice()?];
            let (x, dy, dx) = (x.slice::<T>()?, dy.slice()?, (dx.slice_mut()?, adds));
            norm::normalize_backward(norm, x, statistics, dy, dx, slopes.map(|_| into));
            Ok(())
        })?;
        Ok((dx, slopes.map(|_| sums)))
    }
}

#[derive(Debug)]
struct LayerNormOp {
    eps: f64,
}

impl LayerNormOp {
    fn norm<'a>(&self, x: &'a Tensor) -> Norm<'a> {
        Norm { name: Self::NAME, x, eps: self.eps, parameters: Parameters::None }
    }
}

impl Op<1> for LayerNormOp {
    const NAME: &'static str = "layer_norm";
    const KEEPS: [Keep; 1] = [Keep::x(0)];
    const CUDA: bool = true;
    const AGAIN: bool = true;
    type Aux = Statistics;

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, Statistics)> {
        self.norm(x).forward()
    }

    fn vjp(&self, kept: Kept<'_, Statistics>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        let x = kept.x(0).value();
        let norm = self.norm(&x);
        let (dx, _) = norm.backward(kept.aux, dy, norm.before(kept), false)?;
        Ok([Some(dx)])
    }
}

#[derive(Debug)]
struct AdaLayerNormOp {
    eps: f64,
}

impl AdaLayerNormOp {
    fn norm<'a>(&self, x: &'a Tensor, shift: Tensor, scale: Tensor) -> Norm<'a> {
        let parameters = Parameters::Modulation { shift, scale };
        Norm { name: Self::NAME, x, eps: self.eps, parameters }
    }
}

impl Op<3> for AdaLayerNormOp {
    const NAME: &'static str = "ada_layer_norm";
    // The gradients of x and scale need x and its statistics, that of x the scale as well.
    const KEEPS: [Keep; 3] = [Keep::x(0).and(Keep::x(2)); 3];
    const CUDA: bool = true;
    const AGAIN: bool = true;
    type Aux = Statistics;

    fn forward(&self, [x, shift, scale]: [&Tensor; 3]) -> Result<(Tensor, Statistics)> {
        self.norm(x, shift.clone(), scale.clone()).forward()
    }

    fn vjp(
        &self,
        kept: Kept<'_, Statistics>,
        dy: &Var,
        needs: [bool; 3],
    ) -> Result<[Option<Var>; 3]> {
        // No gradient depends on the shift: any modulation will do in its place.
        let (x, scale) = (kept.x(0).value(), kept.x(2).value());
        let norm = self.norm(&x, scale.clone(), scale);
        let before = norm.before(kept);
        let (dx, slopes) = norm.backward(kept.aux, dy, before, needs[1] || needs[2])?;
        let [scale, shift] = slopes.map_or([None, None], |slopes| slopes.map(Some));
        Ok([Some(dx), shift, scale])
    }
}

#[derive(Debug)]
struct RmsNormOp {
    eps: f64,
}

impl RmsNormOp {
    fn norm<'a>(&self, x: &'a Tensor, weight: Tensor) -> Norm<'a> {
        Norm { name: Self::NAME, x, eps: self.eps, parameters: Parameters::Weight(weight) }
    }
}

impl Op<2> for RmsNormOp {
    const NAME: &'static str = "rms_norm";
    const KEEPS: [Keep; 2] = [Keep::x(0).and(Keep::x(1)); 2];
    const CUDA: bool = true;
    const AGAIN: bool = true;
    /// 1/σ of each row.
    type Aux = Tensor;

    fn forward(&self, [x, weight]: [&Tensor; 2]) -> Result<(Tensor, Tensor)> {
        let (y, [_, rstd]) = self.norm(x, weight.clone()).forward()?;
        Ok((y, rstd))
    }

    fn vjp(&self, kept: Kept<'_, Tensor>, dy: &Var, needs: [bool; 2]) -> Result<[Option<Var>; 2]> {
        // Nothing is subtracted from the rows.
        let mean = Tensor::zeros_on(kept.aux.cuda(), kept.aux.shape(), kept.aux.dtype());
        let x = kept.x(0).value();
        let norm = self.norm(&x, kept.x(1).value());
        let statistics = [mean, kept.aux.clone()];
        let (dx, slopes) = norm.backward(&statistics, dy, norm.before(kept), needs[1])?;
        Ok([Some(dx), slopes.map(|[weight, _]| weight)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_do_not_fit_are_named() {
        let ones = |shape: &[usize]| Var::constant(Tensor::ones(shape, DType::F32));
        let x = ones(&[2, 3, 4]);
        let error = x.ada_layer_norm(&ones(&[2, 4]), &ones(&[3, 4]), 1e-6).unwrap_err();
        assert!(error.to_string().contains("scale should be [2, 4]"), "{error}");
        assert!(x.rms_norm(&ones(&[3]), 1e-6).is_err());
        assert!(ones(&[]).layer_norm(1e-6).is_err());
        assert!(ones(&[4]).ada_layer_norm(&ones(&[4, 4]), &ones(&[4, 4]), 1e-6).is_err());
    }

    #[test]
    fn nothing_is_normalized_to_nothing() {
        for shape in [[0, 3, 4], [2, 0, 4], [2, 3, 0]] {
            let x = Var::parameter(Tensor::ones(shape, DType::F32));
            let scale = Var::parameter(Tensor::ones([shape[0], shape[2]], DType::F32));
            let y = x.ada_layer_norm(&scale, &scale, 1e-6).unwrap();
            let grads = y.sum_all().unwrap().backward().unwrap();
            assert_eq!(*grads.get(&x).unwrap().shape(), shape);
            assert!(grads.get(&scale).unwrap().to_f64_vec().iter().all(|&g| g == 0.0));
        }
    }
}
