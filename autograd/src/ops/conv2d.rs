//! Convolution of pictures.

use kernels::conv;
use tensor::{DType, Element, Error, Result, Tensor};

use super::product::check_floats;
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
    /// The kernel's description of a convolution of operands of these shapes, and its output's
    /// shape; `None` where they do not fit.
    fn sizes(&self, x: &[usize], weight: &[usize]) -> Option<(conv::Conv, [usize; 4])> {
        let (&[batch, channels, height, width], &[filters, inputs, kernel_height, kernel_width]) =
            (x, weight)
        else {
            return None;
        };
        let conv = conv::Conv {
            batch,
            channels,
            input: [height, width],
            filters,
            kernel: [kernel_height, kernel_width],
            stride: self.0.stride,
            pad: self.0.pad,
        };
        let [rows, columns] = conv.output()?;
        (inputs == channels).then_some((conv, [batch, filters, rows, columns]))
    }

    fn check(&self, x: &[&Tensor]) -> Result<(conv::Conv, [usize; 4])> {
        let (image, weight, bias) = (x[0], x[1], x.get(2));
        let sizes = self.sizes(image.shape(), weight.shape());
        let fits = bias.is_none_or(|bias| bias.shape()[..] == weight.shape()[..1]);
        let Some(sizes) = sizes.filter(|_| fits) else {
            let message = format!("no such convolution with {:?}", self.0);
            let error = Error::shape(Self::NAME, message)
                .operand("x", (image, "[B, C, H, W]"))
                .operand("weight", (weight, "[O, C, KH, KW]"));
            return Err(match bias {
                Some(bias) => error.operand("bias", (*bias, "[O]")),
                None => error,
            });
        };
        check_floats(Self::NAME, &[("x", image), ("weight", weight)])?;
        Ok(sizes)
    }
}

impl OpMany for Conv2dOp {
    const NAME: &'static str = "conv2d";
    type Aux = ();

    fn keeps(&self, i: usize) -> Keep {
        [Keep::x(1), Keep::x(0), Keep::NOTHING][i]
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        fn run<T: kernels::Real + Element>(
            (conv, shape): (conv::Conv, [usize; 4]),
            x: &[Tensor],
        ) -> Result<Tensor> {
            let mut y = Tensor::uninit(shape, x[0].dtype());
            let bias = x.get(2).map(Tensor::slice::<T>).transpose()?;
            conv::forward(conv, x[0].slice()?, x[1].slice()?, bias, y.slice_mut()?);
            Ok(y)
        }
        let sizes = self.check(x)?;
        let packed: Vec<_> = x.iter().map(|x| x.contiguous()).collect();
        let y = match x[0].dtype() {
            DType::F64 => run::<f64>(sizes, &packed)?,
            _ => run::<f32>(sizes, &packed)?,
        };
        Ok((vec![y], ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        fn along_x<T: kernels::Real + Element>(
            conv: conv::Conv,
            weight: &Tensor,
            dy: &Tensor,
            dx: &mut Tensor,
        ) -> Result<()> {
            conv::transposed::<T>(conv, weight.slice()?, None, dy.slice()?, dx.slice_mut()?);
            Ok(())
        }
        fn along_weight<T: kernels::Real + Element>(
            conv: conv::Conv,
            x: &Tensor,
            dy: &Tensor,
            dw: &mut Tensor,
        ) -> Result<()> {
            conv::weight_gradient::<T>(conv, x.slice()?, dy.slice()?, dw.slice_mut()?);
            Ok(())
        }
        let dy_var = dy[0].as_ref().expect("the only output is used");
        let dy = dy_var.value().contiguous();
        let (conv, _) = self.sizes(kept.shape(0), kept.shape(1)).expect("the forward pass has run");
        let gradient = |i: usize| {
            let other = kept.x(1 - i).value().contiguous();
            let mut gradient = Tensor::uninit(kept.shape(i), dy.dtype());
            match (i, dy.dtype()) {
                (0, DType::F64) => along_x::<f64>(conv, &other, &dy, &mut gradient)?,
                (0, _) => along_x::<f32>(conv, &other, &dy, &mut gradient)?,
                (_, DType::F64) => along_weight::<f64>(conv, &other, &dy, &mut gradient)?,
                (_, _) => along_weight::<f32>(conv, &other, &dy, &mut gradient)?,
            }
            Ok(Var::constant(gradient))
        };
        let along_bias = || dy_var.sum(&[0, 2, 3], false);
        let all: [&dyn Fn() -> Result<Var>; 3] = [&|| gradient(0), &|| gradient(1), &along_bias];
        let wanted = needs.iter().zip(all);
        wanted.map(|(&need, f)| need.then(|| f().map(Gradient::Whole)).transpose()).collect()
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
        let op = Conv2dOp(conv);
        let (sizes, shape) =
            op.sizes(x.shape(), weight.shape()).expect("the filter fits the picture");
        let reference = move |x: &[Vec<f64>]| conv::reference(sizes, &x[0], &x[1], Some(&x[2]));
        let forward = move |x: &[Var]| x[0].conv2d(&x[1], Some(&x[2]), conv);
        let magnitude = ((shape.iter().product::<usize>() / filters) as f64).sqrt();
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
