//! Enlarging pictures by repeating pixels, then convolution.

use kernels::{Real, conv};
use tensor::{DType, Element, Error, Result, Tensor};

use super::product::check_floats;
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

fn check(x: &[&Tensor]) -> Result<conv::Upsample> {
    let (image, weight, bias) = (x[0], x[1], x.get(2));
    let fits = bias.is_none_or(|bias| bias.shape()[..] == weight.shape()[..1]);
    let Some(sizes) = sizes(image.shape(), weight.shape()).filter(|_| fits) else {
        let message = "expected pictures, and filters of odd sides";
        let error = Error::shape(UpsampleConv2dOp::NAME, message)
            .operand("x", (image, "[B, C, H, W]"))
            .operand("weight", (weight, "[O, C, KH, KW]"));
        return Err(match bias {
            Some(bias) => error.operand("bias", (*bias, "[O]")),
            None => error,
        });
    };
    check_floats(UpsampleConv2dOp::NAME, &[("x", image), ("weight", weight)])?;
    Ok(sizes)
}

impl OpMany for UpsampleConv2dOp {
    const NAME: &'static str = "upsample_conv2d";
    type Aux = ();

    fn keeps(&self, i: usize) -> Keep {
        [Keep::x(1), Keep::x(0), Keep::NOTHING][i]
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        fn run<T: Real + Element>(sizes: conv::Upsample, x: &[Tensor]) -> Result<Tensor> {
            let [rows, columns] = sizes.input.map(|side| 2 * side);
            let mut y = Tensor::uninit([sizes.batch, sizes.filters, rows, columns], x[0].dtype());
            let bias = x.get(2).map(Tensor::slice::<T>).transpose()?;
            sizes.forward(x[0].slice()?, x[1].slice()?, bias, y.slice_mut()?);
            Ok(y)
        }
        let sizes = check(x)?;
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
        /// The gradient of operand `i` from the other one.
        fn run<T: Real + Element>(
            sizes: conv::Upsample,
            i: usize,
            other: &Tensor,
            dy: &Tensor,
            gradient: &mut Tensor,
        ) -> Result<()> {
            let (other, dy, gradient) = (other.slice::<T>()?, dy.slice()?, gradient.slice_mut()?);
            match i {
                0 => sizes.input_gradient(other, dy, gradient),
                _ => sizes.weight_gradient(other, dy, gradient),
            }
            Ok(())
        }
        let dy_var = dy[0].as_ref().expect("the only output is used");
        let dy = dy_var.value().contiguous();
        let sizes = sizes(kept.shape(0), kept.shape(1)).expect("the forward pass has run");
        let gradient = |i: usize| {
            let other = kept.x(1 - i).value().contiguous();
            let mut gradient = Tensor::uninit(kept.shape(i), dy.dtype());
            match dy.dtype() {
                DType::F64 => run::<f64>(sizes, i, &other, &dy, &mut gradient)?,
                _ => run::<f32>(sizes, i, &other, &dy, &mut gradient)?,
            }
            Ok(Var::constant(gradient))
        };
        let along_bias = || dy_var.sum(&[0, 2, 3], false);
        let all: [&dyn Fn() -> Result<Var>; 3] = [&|| gradient(0), &|| gradient(1), &along_bias];
        let wanted = needs.iter().zip(all);
        wanted.map(|(&need, f)| need.then(|| f().map(Gradient::Whole)).transpose()).collect()
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
