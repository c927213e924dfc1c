//! Group norm of pictures.

use kernels::Real;
use kernels::norm::{self, Group};
use kernels::reduce::compensated_sum;
use tensor::{DType, Element, Error, Result, Tensor};

use crate::spec::{Case, Draw};
use crate::{Keep, Kept, Op, Spec, Var, apply};

mod gpu;

/// Group norm.
impl Var {
    /// Normalises groups of channels of each sample together; then an affine map per channel.
    ///
    /// y = (x − μ)/√(σ² + ε)·weight + bias, with μ and σ² over C/G channels and all pixels.
    /// Source: Wu & He 2018, eq. (7).
    ///
    /// Shapes: x \[B, C, ..\], weight and bias \[C\] → like x. Saves: x, weight, bias, μ \[B, G\],
    /// 1/σ \[B, G\]. Cost: 8 flop an element; three reads and a write. Errors: `groups` does not divide C; other
    /// shapes; elements are not floats.
    #[track_caller]
    pub fn group_norm(&self, weight: &Self, bias: &Self, groups: usize, eps: f64) -> Result<Self> {
        apply(GroupNormOp { groups, eps, silu: false }, [self, weight, bias])
    }

    /// [`group_norm`](Self::group_norm) followed by SiLU, in one pass.
    ///
    /// y = silu(group_norm(x)).
    ///
    /// Shapes, saves, errors: as there. Cost: 8 flop and a SiLU an element; three reads, a write.
    #[track_caller]
    pub fn group_norm_silu(
        &self,
        weight: &Self,
        bias: &Self,
        groups: usize,
        eps: f64,
    ) -> Result<Self> {
        apply(GroupNormOp { groups, eps, silu: true }, [self, weight, bias])
    }
}

#[derive(Debug)]
struct GroupNormOp {
    groups: usize,
    eps: f64,
    silu: bool,
}

/// μ and 1/σ of each group.
type Statistics = [Tensor; 2];

impl GroupNormOp {
    /// The kernel's description of this norm of an input of this shape.
    fn group<'a, T: Real + Element>(
        &self,
        shape: &[usize],
        weight: &'a Tensor,
        bias: &'a Tensor,
    ) -> Result<Group<'a, T>> {
        Ok(Group {
            channels: shape[1],
            groups: self.groups,
            pixels: shape[2..].iter().product(),
            eps: self.eps,
            weight: weight.slice()?,
            bias: bias.slice()?,
            silu: self.silu,
        })
    }

    fn check(&self, [x, weight, bias]: [&Tensor; 3]) -> Result<()> {
        let channels = x.shape().get(1).copied().unwrap_or(0);
        let message = if x.rank() < 2 {
            "expected an input [B, C, ..]".into()
        } else if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            format!("{} groups do not divide {channels} channels", self.groups)
        } else if [weight, bias].iter().any(|p| p.shape()[..] != [channels]) {
            format!("weight and bias should be [{channels}]")
        } else {
            return Ok(());
        };
        Err(Error::shape("group_norm", message)
            .operand("input", x)
            .operand("weight", weight)
            .operand("bias", bias))
    }
}

impl Op<3> for GroupNormOp {
    const NAME: &'static str = "group_norm";
    const KEEPS: [Keep; 3] = [Keep::x(0).and(Keep::x(1)).and(Keep::x(2)); 3];
    const CUDA: bool = true;
    const AGAIN: bool = true;
    type Aux = Statistics;

    fn forward(&self, operands @ [x, weight, bias]: [&Tensor; 3]) -> Result<(Tensor, Statistics)> {
        fn run<T: Real + Element>(
            op: &GroupNormOp,
            [x, weight, bias]: [&Tensor; 3],
        ) -> Result<(Tensor, Statistics)> {
            let (mut y, groups) = (Tensor::uninit(x.shape(), x.dtype()), [x.shape()[0], op.groups]);
            let [mut mean, mut rstd] = [(); 2].map(|()| Tensor::uninit(groups, x.dtype()));
            if x.numel() > 0 {
                let norm = op.group::<T>(x.shape(), weight, bias)?;
                let (mean, rstd) = (mean.slice_mut()?, rstd.slice_mut()?);
                norm::group_norm(&norm, x.slice()?, y.slice_mut()?, mean, rstd);
            }
            Ok((y, [mean, rstd]))
        }
        self.check(operands)?;
        let packed = [x, weight, bias].map(Tensor::contiguous);
        match (x.cuda(), x.dtype()) {
            (Some(gpu), DType::F32) => self.forward_on(gpu, packed.each_ref()),
            (None, DType::F32) => run::<f32>(self, packed.each_ref()),
            (None, DType::F64) => run::<f64>(self, packed.each_ref()),
            _ => Err(Error::dtype("group_norm", "elements are not floats").operand("input", x)),
        }
    }

    fn vjp(&self, kept: Kept<'_, Statistics>, dy: &Var, _: [bool; 3]) -> Result<[Option<Var>; 3]> {
        fn run<T: Real + Element>(
            op: &GroupNormOp,
            [mean, rstd]: &Statistics,
            [x, weight, bias, dy]: [&Tensor; 4],
        ) -> Result<[Tensor; 3]> {
            if x.numel() == 0 {
                return Ok([x, weight, bias].map(|x| Tensor::zeros(x.shape(), x.dtype())));
            }
            let norm = op.group::<T>(x.shape(), weight, bias)?;
            let mut slopes = [x, weight, bias].map(|x| Tensor::uninit(x.shape(), x.dtype()));
            let [dx, dweight, dbias] = &mut slopes;
            let parameters = [dweight.slice_mut()?, dbias.slice_mut()?];
            let statistics = [mean.slice()?, rstd.slice()?];
            let (x, dy, dx) = (x.slice()?, dy.slice()?, dx.slice_mut()?);
            norm::group_norm_backward(&norm, x, statistics, dy, dx, parameters);
            Ok(slopes)
        }
        let operands = [kept.x(0), kept.x(1), kept.x(2), dy].map(|x| x.value().contiguous());
        let slopes = match (dy.value().cuda(), dy.dtype()) {
            (Some(gpu), _) => self.backward_on(gpu, kept.aux, operands.each_ref())?,
            (None, DType::F64) => run::<f64>(self, kept.aux, operands.each_ref())?,
            (None, _) => run::<f32>(self, kept.aux, operands.each_ref())?,
        };
        Ok(slopes.map(|dx| Some(Var::constant(dx))))
    }
}

/// The registry's entry for `group_norm`, with and without SiLU.
pub struct GroupNorm;

impl Spec for GroupNorm {
    fn name(&self) -> &'static str {
        GroupNormOp::NAME
    }

    fn equation(&self) -> &'static str {
        "(x − μ)/√(σ² + ε)·weight + bias"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let (groups, silu) = (1 + draw.below(3), draw.below(2) == 1);
        let [samples, height, width] = [1 + draw.below(3), draw.dim(), 1 + draw.below(5)];
        let channels = groups * (1 + draw.below(3));
        let x = draw.uniform([samples, channels, height, width], -1.0, 2.0)?;
        let weight = draw.uniform([channels], -1.0, 1.0)?;
        let bias = draw.uniform([channels], -1.0, 1.0)?;
        let (pixels, eps) = (height * width, 0.1);
        let reference = move |x: &[Vec<f64>]| {
            let mut y = Vec::with_capacity(x[0].len());
            for group in x[0].chunks((channels / groups * pixels).max(1)) {
                let n = group.len() as f64;
                let mean = compensated_sum(group.iter().copied()) / n;
                let variance = compensated_sum(group.iter().map(|x| (x - mean).powi(2))) / n;
                for x_i in group {
                    let c = y.len() / pixels % channels;
                    let z = (x_i - mean) / (variance + eps).sqrt() * x[1][c] + x[2][c];
                    y.push(if silu { z / (1.0 + (-z).exp()) } else { z });
                }
            }
            y
        };
        let forward = move |x: &[Var]| match silu {
            true => x[0].group_norm_silu(&x[1], &x[2], groups, eps),
            false => x[0].group_norm(&x[1], &x[2], groups, eps),
        };
        let label = format!("G = {groups}, silu: {silu}");
        let magnitude = ((samples * pixels) as f64).sqrt();
        Ok(Case::new(label, [x, weight, bias], forward, reference).magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([1, 512, 64, 64], -1.0, 1.0)?;
        let [weight, bias] = [draw.uniform([512], -1.0, 1.0)?, draw.uniform([512], -1.0, 1.0)?];
        let forward = |x: &[Var]| x[0].group_norm_silu(&x[1], &x[2], 32, 1e-6);
        let flops = 12.0 * x.numel() as f64;
        Ok(Case::new("VAE, with SiLU", [x, weight, bias], forward, |_| Vec::new()).flops(flops))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misfits_are_errors_and_nothing_is_normalized_to_nothing() {
        let ones = |shape: &[usize]| Var::parameter(Tensor::ones(shape, DType::F32));
        let (x, weight) = (ones(&[2, 6, 3]), ones(&[6]));
        assert!(x.group_norm(&weight, &weight, 4, 1e-6).is_err());
        assert!(x.group_norm(&weight, &weight, 0, 1e-6).is_err());
        assert!(x.group_norm(&ones(&[3]), &weight, 3, 1e-6).is_err());
        assert!(weight.group_norm(&weight, &weight, 3, 1e-6).is_err());
        let empty = ones(&[2, 6, 0]);
        let y = empty.group_norm(&weight, &weight, 3, 1e-6).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&weight).unwrap().to_f64_vec(), [0.0; 6]);
    }
}
