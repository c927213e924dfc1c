//! The registry's entries of the norms along the last axis.

use kernels::reduce::compensated_sum;
use tensor::Result;

use super::{AdaLayerNormOp, LayerNormOp, RmsNormOp};
use crate::spec::{Case, Draw};
use crate::{Op, Spec, Var};

/// (x − μ)/√(σ² + ε), or x/√(mean x² + ε), of rows of `width` elements: the references' half.
fn normalized(x: &[f64], width: usize, eps: f64, centered: bool) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(width.max(1)) {
        let mean_of = |x: &mut dyn Iterator<Item = f64>| compensated_sum(x) / width as f64;
        let mean = if centered { mean_of(&mut row.iter().copied()) } else { 0.0 };
        let square = mean_of(&mut row.iter().map(|x| (x - mean).powi(2)));
        y.extend(row.iter().map(|x| (x - mean) / (square + eps).sqrt()));
    }
    y
}

/// ε of the cases: large, because rows of one or two elements may have next to no variance.
const EPS: f64 = 0.1;

/// The registry's entry for `layer_norm`.
pub struct LayerNorm;

impl Spec for LayerNorm {
    fn name(&self) -> &'static str {
        LayerNormOp::NAME
    }

    fn equation(&self) -> &'static str {
        "(x − μ)/√(σ² + ε)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let shape = draw.shape(1..=3);
        let (x, width) = (draw.uniform(shape, -1.0, 2.0)?, shape[shape.rank() - 1]);
        let reference = move |x: &[Vec<f64>]| normalized(&x[0], width, EPS, true);
        Ok(Case::new("", [x], |x| x[0].layer_norm(EPS), reference))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([2, 1280, 1536], -1.0, 1.0)?;
        let flops = 8.0 * x.numel() as f64;
        Ok(Case::new("SD3", [x], |x| x[0].layer_norm(1e-6), |_| Vec::new()).flops(flops))
    }
}

/// The registry's entry for `ada_layer_norm`.
pub struct AdaLayerNorm;

impl Spec for AdaLayerNorm {
    fn name(&self) -> &'static str {
        AdaLayerNormOp::NAME
    }

    fn equation(&self) -> &'static str {
        "(x − μ)/√(σ² + ε)·(1 + scale) + shift"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let shape = draw.shape(2..=3);
        let (samples, width) = (shape[0], shape[shape.rank() - 1]);
        let x = draw.uniform(shape, -1.0, 2.0)?;
        let shift = draw.uniform([samples, width], -1.0, 1.0)?;
        let scale = draw.uniform([samples, width], -1.0, 1.0)?;
        let per_sample = shape[1..].iter().product::<usize>();
        let reference = move |x: &[Vec<f64>]| {
            let y = normalized(&x[0], width, EPS, true);
            let parameter = |i: usize| i / per_sample * width + i % width;
            let one = |(i, y): (usize, f64)| y * (1.0 + x[2][parameter(i)]) + x[1][parameter(i)];
            y.into_iter().enumerate().map(one).collect()
        };
        let forward = |x: &[Var]| x[0].ada_layer_norm(&x[1], &x[2], EPS);
        // Sums of up to 33² terms over the rows of a sample.
        let magnitude = ((per_sample / width.max(1)) as f64).sqrt();
        Ok(Case::new("", [x, shift, scale], forward, reference).magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([2, 1280, 1536], -1.0, 1.0)?;
        let modulation = draw.uniform([2, 6 * 1536], -1.0, 1.0)?;
        let parts = modulation.chunk(1, 6)?;
        let inputs = [x, parts[0].clone(), parts[1].clone()];
        let forward = |x: &[Var]| x[0].ada_layer_norm(&x[1], &x[2], 1e-6);
        let flops = 10.0 * inputs[0].numel() as f64;
        Ok(Case::new("SD3", inputs, forward, |_| Vec::new()).flops(flops))
    }
}

/// The registry's entry for `rms_norm`.
pub struct RmsNorm;

impl Spec for RmsNorm {
    fn name(&self) -> &'static str {
        RmsNormOp::NAME
    }

    fn equation(&self) -> &'static str {
        "weight·x/√(mean x² + ε)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let shape = draw.shape(1..=3);
        let width = shape[shape.rank() - 1];
        let x = draw.uniform(shape, -1.0, 2.0)?;
        let weight = draw.uniform([width], -1.0, 1.0)?;
        let reference = move |x: &[Vec<f64>]| {
            let y = normalized(&x[0], width, EPS, false);
            y.into_iter().enumerate().map(|(i, y)| y * x[1][i % width]).collect()
        };
        let magnitude = ((shape.numel() / width.max(1)) as f64).sqrt();
        Ok(Case::new("", [x, weight], |x| x[0].rms_norm(&x[1], EPS), reference)
            .magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([256, 4096], -1.0, 1.0)?;
        let weight = draw.uniform([4096], -1.0, 1.0)?;
        let flops = 5.0 * x.numel() as f64;
        Ok(Case::new("T5-XXL", [x, weight], |x| x[0].rms_norm(&x[1], 1e-6), |_| Vec::new())
            .flops(flops))
    }
}
