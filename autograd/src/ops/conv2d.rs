//! Convolution of pictures.

use kernels::conv;
use tensor::{Result, Tensor};

use super::convolution;
use crate::backward::Gradient;
use crate::spec::{Case, Draw};
use crate::{Keep, Kept, OpMany, Spec, Var, apply_many};

/// Where a convolution's filter is laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Input pixels from one output pixel to the next, in both directions.
    pub stride: usize,
    /// Zeros around the input: top, bottom, left, right.
    pub pad: [usize; 4],
}

/// Convolution.
impl Var {
    /// A convolution (without flipping the filter, as is usual).
    ///
    /// y\[b, o, i, j\] = bias\[o\] + Σ over c, u, v of
    /// w\[o, c, u, v\]·x\[b, c, stride·i + u − top, stride·j + v − left\], with zeros around x.
    /// Source: Dumoulin & Visin 2016, §2.4.
    ///
    /// Shapes: x \[B, C, H, W\], w \[O, C, KH, KW\], bias \[O\] → \[B, O, H′, W′\] where
    /// H′ = (H + top + bottom − KH)/stride + 1, rounded down. Saves: x, w. Cost: 2·C·KH·KW flop an
    /// output element, twice that backward. Errors: other shapes; a filter larger than the padded
    /// picture; stride 0; not floats.
    #[track_caller]
    pub fn conv2d(&self, weight: &Self, bias: Option<&Self>, conv: Conv) -> Result<Self> {
        let mut operands = vec![self, weight];
        operands.extend(bias);
        let mut outputs = apply_many(Conv2dOp(conv), &operands)?;
        Ok(outputs.pop().expect("a convolution has one output"))
    }
}

#[derive(Debug)]
struct Conv2dOp(Conv);

impl Conv2dOp {
    /// The kernel's description of a convolution of operands of these shapes; `None` where they do
    /// not fit.
    fn sizes(&self, x: &[usize], weight: &[usize]) -> Option<conv::Conv> {
        let (&[batch, channels, height, width], &[filters, inputs, rows, columns]) = (x, weight)
        else {
            return None;
        };
        let conv = conv::Conv {
            batch,
            channels,
            input: [height, width],
            filters,
            kernel: [rows, columns],
            stride: self.0.stride,
            pad: self.0.pad,
        };
        (inputs == channels && conv.output().is_some()).then_some(conv)
    }
}

impl OpMany for Conv2dOp {
    const NAME: &'static str = "conv2d";
    const CUDA: bool = true;
    type Aux = ();

    fn keeps(&self, i: usize) -> Keep {
        [Keep::x(1), Keep::x(0), Keep::NOTHING][i]
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        let sizes = self.sizes(x[0].shape(), x[1].shape());
        let message = || format!("no such convolution with {:?}", self.0);
        let conv = convolution::check(Self::NAME, sizes, x, message)?;
        Ok((vec![convolution::forward(conv, x)?], ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let conv = self.sizes(kept.shape(0), kept.shape(1)).expect("the forward pass has run");
        let dy = dy[0].as_ref().expect("the only output is used");
        convolution::vjp(conv, &kept, dy, needs)
    }
}

/// The registry's entry for `conv2d`.
pub struct Conv2d;

impl Spec for Conv2d {
    fn name(&self) -> &'static str {
        Conv2dOp::NAME
    }

    fn equation(&self) -> &'static str {
        "Σ over c, u, v of w[o, c, u, v]·x[b, c, stride·i + u − top, stride·j + v − left] + bias[o]"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [channels, filters] = [(); 2].map(|()| 1 + draw.below(4));
        let batch = draw.dim().min(4);
        let kernel = [1 + draw.below(3), 1 + draw.below(3)];
        let input = [kernel[0] + draw.below(6), kernel[1] + draw.below(18)];
        let conv = Conv { stride: 1 + draw.below(2), pad: [(); 4].map(|()| draw.below(2)) };
        let x = draw.uniform([batch, channels, input[0], input[1]], -1.0, 1.0)?;
        let weight = draw.uniform([filters, channels, kernel[0], kernel[1]], -1.0, 1.0)?;
        let bias = draw.uniform([filters], -1.0, 1.0)?;
        let sizes = Conv2dOp(conv).sizes(x.shape(), weight.shape());
        let sizes = sizes.expect("the filter fits the picture");
        let reference = move |x: &[Vec<f64>]| conv::reference(sizes, &x[0], &x[1], Some(&x[2]));
        let forward = move |x: &[Var]| x[0].conv2d(&x[1], Some(&x[2]), conv);
        let magnitude = ((sizes.lens()[2] / filters) as f64).sqrt();
        let case = Case::new(format!("{conv:?}"), [x, weight, bias], forward, reference);
        Ok(case.magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([1, 512, 64, 64], -1.0, 1.0)?;
        let weight = draw.uniform([512, 512, 3, 3], -1.0, 1.0)?;
        let bias = draw.uniform([512], -1.0, 1.0)?;
        let same = Conv { stride: 1, pad: [1; 4] };
        let forward = move |x: &[Var]| x[0].conv2d(&x[1], Some(&x[2]), same);
        let flops = 2.0 * 512.0 * 512.0 * 9.0 * 64.0 * 64.0;
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
        let same = Conv { stride: 1, pad: [1; 4] };
        let (x, w) = (ones(&[2, 3, 5, 5]), ones(&[4, 3, 3, 3]));
        assert_eq!(*x.conv2d(&w, None, same).unwrap().shape(), [2, 4, 5, 5]);
        assert!(x.conv2d(&ones(&[4, 2, 3, 3]), None, same).is_err());
        assert!(x.conv2d(&ones(&[4, 3, 8, 3]), None, same).is_err());
        assert!(x.conv2d(&w, Some(&ones(&[3])), same).is_err());
        assert!(x.conv2d(&w, None, Conv { stride: 0, ..same }).is_err());
        assert!(ones(&[3, 5, 5]).conv2d(&w, None, same).is_err());
        let y = ones(&[0, 3, 5, 5]).conv2d(&w, None, same).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&w).unwrap().to_f64_vec().iter().all(|&dw| dw == 0.0));
    }
}
