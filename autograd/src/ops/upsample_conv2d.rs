//! Enlarging pictures by repeating pixels, then convolution.

use kernels::conv;
use tensor::{Result, Tensor};

use super::convolution;
use crate::backward::Gradient;
use crate::spec::{Case, Draw};
use crate::{Keep, Kept, OpMany, Spec, Var, apply_many};

/// Enlarging pictures.
impl Var {
    /// Pictures of twice the size, every pixel a square of four, convolved by a filter of odd sides
    /// that keeps that size. The large picture is never made.
    ///
    /// y\[b, o, i, j\] = bias\[o\] + Σ over c, u, v of
    /// w\[o, c, u, v\]·x\[b, c, ⌊(i + u − KH/2)/2⌋, ⌊(j + v − KW/2)/2⌋\], with zeros around x and
    /// KH/2 rounded down. Source: Odena et al. 2016, "Deconvolution and Checkerboard Artifacts".
    ///
    /// Shapes: x \[B, C, H, W\], w \[O, C, KH, KW\], bias \[O\] → \[B, O, 2H, 2W\]. Saves: x, w.
    /// Cost: (KH + 1)·(KW + 1)·C/2 flop an output element, twice that backward. Errors: other
    /// shapes; a filter of an even side; pictures without pixels; not floats.
    #[track_caller]
    pub fn upsample_conv2d(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let mut operands = vec![self, weight];
        operands.extend(bias);
        let mut outputs = apply_many(UpsampleConv2dOp, &operands)?;
        Ok(outputs.pop().expect("a convolution has one output"))
    }
}

#[derive(Debug)]
struct UpsampleConv2dOp;

/// The kernel's description for operands of these shapes; `None` where they do not fit.
fn sizes(x: &[usize], weight: &[usize]) -> Option<conv::Upsample> {
    let (&[batch, channels, height, width], &[filters, inputs, rows, columns]) = (x, weight) else {
        return None;
    };
    let fits = inputs == channels && rows % 2 == 1 && columns % 2 == 1 && height * width > 0;
    let (input, kernel) = ([height, width], [rows, columns]);
    fits.then_some(conv::Upsample { batch, channels, input, filters, kernel })
}

impl OpMany for UpsampleConv2dOp {
    const NAME: &'static str = "upsample_conv2d";
    const CUDA: bool = true;
    type Aux = ();

    fn keeps(&self, i: usize) -> Keep {
        [Keep::x(1), Keep::x(0), Keep::NOTHING][i]
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        let sizes = sizes(x[0].shape(), x[1].shape());
        let message = || "expected pictures, and filters of odd sides".into();
        let conv = convolution::check(Self::NAME, sizes, x, message)?;
        Ok((vec![convolution::forward(conv, x)?], ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let conv = sizes(kept.shape(0), kept.shape(1)).expect("the forward pass has run");
        let dy = dy[0].as_ref().expect("the only output is used");
        convolution::vjp(conv, &kept, dy, needs)
    }
}

/// The registry's entry for `upsample_conv2d`.
pub struct UpsampleConv2d;

impl Spec for UpsampleConv2d {
    fn name(&self) -> &'static str {
        UpsampleConv2dOp::NAME
    }

    fn equation(&self) -> &'static str {
        "Σ over c, u, v of w[o, c, u, v]·x[b, c, ⌊(i + u − KH/2)/2⌋, ⌊(j + v − KW/2)/2⌋] + bias[o]"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [channels, filters] = [(); 2].map(|()| 1 + draw.below(3));
        let batch = draw.dim().min(3);
        let kernel = [1 + 2 * draw.below(2), 1 + 2 * draw.below(2)];
        let [rows, columns] = [1 + draw.below(4), 1 + draw.below(9)];
        let x = draw.uniform([batch, channels, rows, columns], -1.0, 1.0)?;
        let weight = draw.uniform([filters, channels, kernel[0], kernel[1]], -1.0, 1.0)?;
        let bias = draw.uniform([filters], -1.0, 1.0)?;
        let sizes = sizes(x.shape(), weight.shape()).expect("sides are odd");
        let reference = move |x: &[Vec<f64>]| {
            let lines = x[0].chunks(columns).flat_map(|line| [line; 2]);
            let large: Vec<f64> = lines.flatten().flat_map(|&x| [x; 2]).collect();
            conv::reference(sizes.of_enlarged(), &large, &x[1], Some(&x[2]))
        };
        let forward = move |x: &[Var]| x[0].upsample_conv2d(&x[1], Some(&x[2]));
        let magnitude = ((4 * batch.max(1) * rows * columns) as f64).sqrt();
        let case = Case::new(format!("{kernel:?}"), [x, weight, bias], forward, reference);
        Ok(case.magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([1, 512, 32, 32], -1.0, 1.0)?;
        let weight = draw.uniform([512, 512, 3, 3], -1.0, 1.0)?;
        let bias = draw.uniform([512], -1.0, 1.0)?;
        let forward = move |x: &[Var]| x[0].upsample_conv2d(&x[1], Some(&x[2]));
        let flops = 2.0 * 512.0 * 512.0 * 4.0 * 64.0 * 64.0;
        Ok(Case::new("VAE", [x, weight, bias], forward, |_| Vec::new()).flops(flops))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    #[test]
    fn misfits_are_errors_and_no_pictures_are_no_trouble() {
        let ones = |shape: &[usize]| Var::parameter(Tensor::ones(shape, DType::F32));
        let (x, w) = (ones(&[2, 3, 4, 5]), ones(&[4, 3, 3, 3]));
        assert_eq!(*x.upsample_conv2d(&w, None).unwrap().shape(), [2, 4, 8, 10]);
        assert!(x.upsample_conv2d(&ones(&[4, 2, 3, 3]), None).is_err());
        assert!(x.upsample_conv2d(&ones(&[4, 3, 2, 3]), None).is_err());
        assert!(x.upsample_conv2d(&w, Some(&ones(&[3]))).is_err());
        assert!(ones(&[3, 4, 5]).upsample_conv2d(&w, None).is_err());
        assert!(ones(&[2, 3, 0, 5]).upsample_conv2d(&w, None).is_err());
        let y = ones(&[0, 3, 4, 5]).upsample_conv2d(&w, None).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&w).unwrap().to_f64_vec().iter().all(|&dw| dw == 0.0));
    }
}
