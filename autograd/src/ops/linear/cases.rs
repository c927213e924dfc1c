//! The registry's entries of the linear layers.

use kernels::elementwise::{Unary, exprs::GeluTanh};
use tensor::{Result, Tensor};

use super::LinearOp;
use super::gate_residual::LinearGateResidualOp;
use super::mlp::MlpGateResidualOp;
use crate::spec::{Case, Draw};
use crate::{OpMany, Spec, Var};

/// x, W and b of a random layer.
fn layer(draw: &mut Draw) -> Result<[Tensor; 3]> {
    let (mut shape, outputs) = (draw.shape(2..=3), draw.dim());
    let width = shape.rank() - 1;
    shape[width] = draw.dim();
    let weight = draw.uniform([outputs, shape[width]], -1.0, 1.0)?;
    Ok([draw.uniform(shape, -1.0, 1.0)?, weight, draw.uniform([outputs], -1.0, 1.0)?])
}

/// Rows, outputs and inputs of the layer.
fn sizes([x, weight, _]: &[Tensor; 3]) -> [usize; 3] {
    let rows = x.shape()[..x.rank() - 1].iter().product();
    [rows, weight.shape()[0], weight.shape()[1]]
}

/// Root of the most terms that a result or a gradient of the layer sums.
fn magnitude(sizes: [usize; 3]) -> f64 {
    (sizes.into_iter().fold(0, usize::max) as f64).sqrt()
}

/// x·Wᵀ + b by plain loops.
fn reference(x: &[f64], weight: &[f64], bias: Option<&Vec<f64>>, sizes: [usize; 3]) -> Vec<f64> {
    let [rows, outputs, inputs] = sizes;
    let one = |i: usize| {
        let (row, output) = (i / outputs, i % outputs);
        let dot = (0..inputs).map(|k| x[row * inputs + k] * weight[output * inputs + k]);
        dot.sum::<f64>() + bias.map_or(0.0, |bias| bias[output])
    };
    (0..rows * outputs).map(one).collect()
}

/// The registry's entry for `linear`, with and without bias.
pub struct Linear;

impl Spec for Linear {
    fn name(&self) -> &'static str {
        LinearOp::NAME
    }

    fn equation(&self) -> &'static str {
        "x·Wᵀ + b"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let operands = layer(draw)?;
        let sizes = sizes(&operands);
        let [x, weight, bias] = operands;
        let case = if draw.below(3) > 0 {
            let forward = |x: &[Var]| x[0].linear(&x[1], Some(&x[2]));
            let reference = move |x: &[Vec<f64>]| reference(&x[0], &x[1], Some(&x[2]), sizes);
            Case::new("", [x, weight, bias], forward, reference)
        } else {
            let forward = |x: &[Var]| x[0].linear(&x[1], None);
            let reference = move |x: &[Vec<f64>]| reference(&x[0], &x[1], None, sizes);
            Case::new("no bias", [x, weight], forward, reference)
        };
        Ok(case.magnitude(magnitude(sizes)))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([2, 589, 1536], -1.0, 1.0)?;
        let weight = draw.uniform([1536, 1536], -1.0, 1.0)?;
        let bias = draw.uniform([1536], -1.0, 1.0)?;
        let forward = |x: &[Var]| x[0].linear(&x[1], Some(&x[2]));
        let flops = 2.0 * 1178.0 * 1536.0 * 1536.0;
        Ok(Case::new("SD3", [x, weight, bias], forward, |_| Vec::new()).flops(flops))
    }
}

/// The registry's entry for `linear_gate_residual`.
pub struct LinearGateResidual;

impl Spec for LinearGateResidual {
    fn name(&self) -> &'static str {
        LinearGateResidualOp::NAME
    }

    fn equation(&self) -> &'static str {
        "residual + gate·(x·Wᵀ + b)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let operands = layer(draw)?;
        let sizes = sizes(&operands);
        let [x, weight, bias] = operands;
        let (samples, outputs) = (x.shape()[0], weight.shape()[0]);
        let mut shape = *x.shape();
        shape[x.rank() - 1] = outputs;
        let gate = draw.uniform([samples, outputs], -1.0, 1.0)?;
        let residual = draw.uniform(shape, -1.0, 1.0)?;
        let per_sample = shape[1..].iter().product::<usize>();
        let forward = |x: &[Var]| x[0].linear_gate_residual(&x[1], &x[2], &x[3], &x[4]);
        let reference = move |x: &[Vec<f64>]| {
            let branch = reference(&x[0], &x[1], Some(&x[2]), sizes);
            let gate = |i: usize| x[3][i / per_sample * outputs + i % outputs];
            branch.iter().enumerate().map(|(i, branch)| x[4][i] + gate(i) * branch).collect()
        };
        let operands = [x, weight, bias, gate, residual];
        Ok(Case::new("", operands, forward, reference).magnitude(magnitude(sizes)))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([2, 589, 1536], -1.0, 1.0)?;
        let weight = draw.uniform([1536, 1536], -1.0, 1.0)?;
        let bias = draw.uniform([1536], -1.0, 1.0)?;
        let gate = draw.uniform([2, 1536], -1.0, 1.0)?;
        let residual = draw.uniform([2, 589, 1536], -1.0, 1.0)?;
        let forward = |x: &[Var]| x[0].linear_gate_residual(&x[1], &x[2], &x[3], &x[4]);
        let flops = 2.0 * 1178.0 * 1536.0 * 1536.0;
        let operands = [x, weight, bias, gate, residual];
        Ok(Case::new("SD3", operands, forward, |_| Vec::new()).flops(flops))
    }
}

/// The registry's entry for `mlp_gate_residual`.
pub struct MlpGateResidual;

impl Spec for MlpGateResidual {
    fn name(&self) -> &'static str {
        MlpGateResidualOp::NAME
    }

    fn equation(&self) -> &'static str {
        "residual + gate·(gelu(x·W₁ᵀ + b₁)·W₂ᵀ + b₂)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [x, up, up_bias] = layer(draw)?;
        let (hidden, samples, outputs) = (up.shape()[0], x.shape()[0], draw.dim());
        let down = draw.uniform([outputs, hidden], -1.0, 1.0)?;
        let down_bias = draw.uniform([outputs], -1.0, 1.0)?;
        let gate = draw.uniform([samples, outputs], -1.0, 1.0)?;
        let mut shape = *x.shape();
        shape[x.rank() - 1] = outputs;
        let residual = draw.uniform(shape, -1.0, 1.0)?;
        let rows = x.shape()[..x.rank() - 1].iter().product();
        let (inputs, per_sample) = (up.shape()[1], shape[1..].iter().product::<usize>());
        let reference = move |x: &[Vec<f64>]| {
            let before = reference(&x[0], &x[1], Some(&x[2]), [rows, hidden, inputs]);
            let gelu: Vec<f64> = before.into_iter().map(|h| GeluTanh.f(h)).collect();
            let branch = reference(&gelu, &x[3], Some(&x[4]), [rows, outputs, hidden]);
            let gate = |i: usize| x[5][i / per_sample * outputs + i % outputs];
            branch.iter().enumerate().map(|(i, branch)| x[6][i] + gate(i) * branch).collect()
        };
        let operands = [x, up, up_bias, down, down_bias, gate, residual];
        let most = [rows, hidden, inputs, outputs].into_iter().fold(0, usize::max);
        Ok(Case::new("", operands, forward_mlp, reference).magnitude(most as f64))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let mut draw = |shape: &[usize]| draw.uniform(shape, -1.0, 1.0);
        let (x, gate) = (draw(&[2, 589, 1536])?, draw(&[2, 1536])?);
        let (up, up_bias) = (draw(&[6144, 1536])?, draw(&[6144])?);
        let (down, down_bias) = (draw(&[1536, 6144])?, draw(&[1536])?);
        let operands = [x.clone(), up, up_bias, down, down_bias, gate, x];
        let flops = 4.0 * 1178.0 * 6144.0 * 1536.0;
        Ok(Case::new("SD3", operands, forward_mlp, |_| Vec::new()).flops(flops))
    }
}

fn forward_mlp(x: &[Var]) -> Result<Var> {
    x[0].mlp_gate_residual([&x[1], &x[2]], [&x[3], &x[4]], &x[5], &x[6])
}
