//! Enlarging pictures by repeating pixels.

use kernels::{Real, conv};
use tensor::{DType, Element, Error, Result, Tensor};

use crate::spec::{Case, Draw};
use crate::{Keep, Kept, Op, Spec, Var, apply};

/// Enlarging pictures.
impl Var {
    /// Pictures of twice the size: every pixel becomes a square of four.
    ///
    /// y\[.., 2i + a, 2j + b\] = x\[.., i, j\] for a, b in {0, 1}.
    ///
    /// Shapes: \[.., H, W\] → \[.., 2H, 2W\]. Saves: nothing. Cost: one read, a write of four times
    /// as much. Errors: fewer than two axes; not floats.
    #[track_caller]
    pub fn upsample_nearest2x(&self) -> Result<Self> {
        apply(Upsample, [self])
    }
}

/// Runs a kernel from pictures of `x` to pictures of a side `numerator/denominator` as long.
fn resize<T: Real + Element>(
    x: &Tensor,
    [numerator, denominator]: [usize; 2],
    kernel: fn([usize; 2], &[T], &mut [T]),
) -> Result<Tensor> {
    let (x, mut shape, last) = (x.contiguous(), *x.shape(), x.rank() - 2);
    for side in &mut shape[last..] {
        *side = *side * numerator / denominator;
    }
    let mut y = Tensor::uninit(shape, x.dtype());
    let small = if numerator < denominator { &shape } else { x.shape() };
    kernel([small[last], small[last + 1]], x.slice()?, y.slice_mut()?);
    Ok(y)
}

#[derive(Debug)]
struct Upsample;

impl Op<1> for Upsample {
    const NAME: &'static str = "upsample_nearest2x";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        if x.rank() < 2 {
            return Err(Error::shape(Self::NAME, "expected pictures [.., H, W]").operand("x", x));
        }
        let y = match x.dtype() {
            DType::F32 => resize(x, [2, 1], conv::upsample_nearest2x::<f32>)?,
            DType::F64 => resize(x, [2, 1], conv::upsample_nearest2x::<f64>)?,
            _ => return Err(Error::dtype(Self::NAME, "elements are not floats").operand("x", x)),
        };
        Ok((y, ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(apply(SumSquares, [dy])?)])
    }
}

/// The sum of every square of four: the transpose of [`Upsample`].
#[derive(Debug)]
struct SumSquares;

impl Op<1> for SumSquares {
    const NAME: &'static str = "upsample_nearest2x";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const TWICE: bool = true;
    type Aux = ();

    fn forward(&self, [dy]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        let dx = match dy.dtype() {
            DType::F64 => resize(dy, [1, 2], conv::upsample_nearest2x_backward::<f64>)?,
            _ => resize(dy, [1, 2], conv::upsample_nearest2x_backward::<f32>)?,
        };
        Ok((dx, ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, dz: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(apply(Upsample, [dz])?)])
    }
}

/// The registry's entry for `upsample_nearest2x`.
pub struct UpsampleNearest2x;

impl Spec for UpsampleNearest2x {
    fn name(&self) -> &'static str {
        Upsample::NAME
    }

    fn equation(&self) -> &'static str {
        "y[.., 2i + a, 2j + b] = x[.., i, j]"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let shape = draw.shape(2..=4);
        let [rows, columns] = [shape[shape.rank() - 2], shape[shape.rank() - 1]];
        let x = draw.uniform(shape, -1.0, 1.0)?;
        let reference = move |x: &[Vec<f64>]| {
            let planes = x[0].chunks((rows * columns).max(1));
            let pixels = |plane| {
                (0..4 * rows * columns)
                    .map(move |at| (plane, at / (2 * columns), at % (2 * columns)))
            };
            let places = planes.flat_map(pixels);
            places.map(|(plane, row, column)| plane[row / 2 * columns + column / 2]).collect()
        };
        Ok(Case::new("", [x], |x| x[0].upsample_nearest2x(), reference))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let x = draw.uniform([1, 512, 64, 64], -1.0, 1.0)?;
        Ok(Case::new("VAE", [x], |x| x[0].upsample_nearest2x(), |_| Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_are_enlarged() {
        let zeros = |shape: &[usize], dtype| Var::constant(Tensor::zeros(shape, dtype));
        assert!(zeros(&[3], DType::F32).upsample_nearest2x().is_err());
        assert!(zeros(&[3, 3], DType::I64).upsample_nearest2x().is_err());
        let y = zeros(&[2, 0, 3], DType::F32).upsample_nearest2x().unwrap();
        assert_eq!(*y.shape(), [2, 0, 6]);
    }
}
