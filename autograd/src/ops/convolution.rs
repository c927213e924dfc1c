//! What the convolutions share: the check of their operands, and the way to their kernels.

use kernels::{Real, conv};
use tensor::{DType, Element, Error, Result, Tensor};

use super::product::check_floats;
use crate::backward::Gradient;
use crate::{Kept, Var};

mod gpu;

use gpu::OnGpu;

/// The kernels of a convolution of x with w.
pub(super) trait Convolution: OnGpu {
    /// The lengths of y, \[B, O, H′, W′\].
    fn shape(self) -> [usize; 4];
    /// y of x and w.
    fn forward<T: Real>(self, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]);
    /// x̄ of w and ȳ.
    fn along_x<T: Real>(self, w: &[T], dy: &[T], dx: &mut [T]);
    /// w̄ of x and ȳ.
    fn along_w<T: Real>(self, x: &[T], dy: &[T], dw: &mut [T]);
}

impl Convolution for conv::Conv {
    fn shape(self) -> [usize; 4] {
        let [rows, columns] = self.output().expect("operands have been checked");
        [self.batch, self.filters, rows, columns]
    }
    fn forward<T: Real>(self, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
        conv::forward(self, x, w, bias, y);
    }
    fn along_x<T: Real>(self, w: &[T], dy: &[T], dx: &mut [T]) {
        conv::transposed(self, w, None, dy, dx);
    }
    fn along_w<T: Real>(self, x: &[T], dy: &[T], dw: &mut [T]) {
        conv::weight_gradient(self, x, dy, dw);
    }
}

impl Convolution for conv::Upsample {
    fn shape(self) -> [usize; 4] {
        let [rows, columns] = self.input.map(|length| 2 * length);
        [self.batch, self.filters, rows, columns]
    }
    fn forward<T: Real>(self, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
        conv::Upsample::forward(self, x, w, bias, y);
    }
    fn along_x<T: Real>(self, w: &[T], dy: &[T], dx: &mut [T]) {
        self.input_gradient(w, dy, dx);
    }
    fn along_w<T: Real>(self, x: &[T], dy: &[T], dw: &mut [T]) {
        self.weight_gradient(x, dy, dw);
    }
}

/// The convolution of operands x, w and perhaps bias, where x and w fit: then it is `conv`.
///
/// Errors: they do not, or the bias is not one number a filter; elements are not floats.
pub(super) fn check<C>(
    name: &'static str,
    conv: Option<C>,
    operands: &[&Tensor],
    message: impl FnOnce() -> String,
) -> Result<C> {
    let (x, w, bias) = (operands[0], operands[1], operands.get(2));
    let fits = bias.is_none_or(|bias| bias.shape()[..] == w.shape()[..1]);
    let Some(conv) = conv.filter(|_| fits) else {
        let error = Error::shape(name, message())
            .operand("x", (x, "[B, C, H, W]"))
            .operand("weight", (w, "[O, C, KH, KW]"));
        return Err(match bias {
            Some(bias) => error.operand("bias", (*bias, "[O]")),
            None => error,
        });
    };
    check_floats(name, &[("x", x), ("weight", w)])?;
    Ok(conv)
}

/// y of checked operands.
pub(super) fn forward<C: Convolution>(conv: C, operands: &[&Tensor]) -> Result<Tensor> {
    fn run<T: Real + Element>(conv: impl Convolution, packed: &[Tensor]) -> Result<Tensor> {
        let mut y = Tensor::uninit(conv.shape(), packed[0].dtype());
        let bias = packed.get(2).map(Tensor::slice::<T>).transpose()?;
        conv.forward(packed[0].slice()?, packed[1].slice()?, bias, y.slice_mut()?);
        Ok(y)
    }
    let packed: Vec<_> = operands.iter().map(|x| x.contiguous()).collect();
    match (packed[0].cuda(), packed[0].dtype()) {
        (Some(gpu), _) => {
            let y = conv.forward_on(gpu, [&packed[0], &packed[1]], packed.get(2))?;
            y.reshape(conv.shape())
        }
        (None, DType::F64) => run::<f64>(conv, &packed),
        (None, _) => run::<f32>(conv, &packed),
    }
}

/// The gradients of x, w and bias, of those that are needed. x and w are kept for each other's.
pub(super) fn vjp<C: Convolution>(
    conv: C,
    kept: &Kept<'_, ()>,
    dy: &Var,
    needs: &[bool],
) -> Result<Vec<Option<Gradient>>> {
    /// The gradient of operand `i` from the other one.
    fn run<T: Real + Element>(
        conv: impl Convolution,
        i: usize,
        [other, dy]: [&Tensor; 2],
        gradient: &mut Tensor,
    ) -> Result<()> {
        let (other, dy, gradient) = (other.slice::<T>()?, dy.slice()?, gradient.slice_mut()?);
        match i {
            0 => conv.along_x(other, dy, gradient),
            _ => conv.along_w(other, dy, gradient),
        }
        Ok(())
    }
    let packed = dy.value().contiguous();
    let gradient = |i: usize| {
        let operands = [&kept.x(1 - i).value().contiguous(), &packed];
        if let Some(gpu) = packed.cuda() {
            let gradient = match i {
                0 => conv.along_x_on(gpu, operands)?,
                _ => conv.along_w_on(gpu, operands)?,
            };
            return Ok(Var::constant(gradient.reshape(*kept.shape(i))?));
        }
        let mut gradient = Tensor::uninit(kept.shape(i), packed.dtype());
        match packed.dtype() {
            DType::F64 => run::<f64>(conv, i, operands, &mut gradient)?,
            _ => run::<f32>(conv, i, operands, &mut gradient)?,
        }
        Ok(Var::constant(gradient))
    };
    let along_bias = || dy.sum(&[0, 2, 3], false);
    let all: [&dyn Fn() -> Result<Var>; 3] = [&|| gradient(0), &|| gradient(1), &along_bias];
    let wanted = needs.iter().zip(all);
    wanted.map(|(&need, f)| need.then(|| f().map(Gradient::Whole)).transpose()).collect()
}
