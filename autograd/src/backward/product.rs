//! Gradients that are kept as the two matrices they are the product of.

use kernels::reduce;
use tensor::{DType, Result, Shape, Tensor};

use crate::ops::matmul::multiply;
use crate::{Var, compute_dtype};

/// leftᵀ·right, kept as the two: see [`Gradient::product`](super::Gradient::product).
#[derive(Clone, Debug)]
pub struct Product {
    /// \[R, O\], of a type that is computed in.
    left: Var,
    /// \[R, I\]; may be halves.
    right: Var,
}

/// The most rows: the product is made once, however many passes the rows came in, so what they cost
/// is the [norm](Product::sum_squares), which grows with their square.
pub(crate) const FEW_ROWS: usize = 64;

/// How many times smaller than their product the two have to be.
const SMALLER: usize = 4;

impl Product {
    /// The product of rows that are there as several parts, in this machine's memory; `None` if
    /// they do not fit each other, or keeping the two is not worth it.
    pub(super) fn of<const N: usize>(left: [&Tensor; N], right: [&Tensor; N]) -> Option<Self> {
        let (&[_, outputs], &[_, inputs]) = (&left[0].shape()[..], &right[0].shape()[..]) else {
            return None;
        };
        let (mut rows, dtypes) = (0, [left[0], right[0]].map(Tensor::dtype));
        for parts in left.into_iter().zip(right) {
            let (&[n, o], &[m, i]) = (&parts.0.shape()[..], &parts.1.shape()[..]) else {
                return None;
            };
            let fits = [n, o, i] == [m, outputs, inputs]
                && [parts.0, parts.1].map(Tensor::dtype) == dtypes
                && parts.0.cuda().or(parts.1.cuda()).is_none();
            rows += if fits { n } else { return None };
        }
        let [l, r] = dtypes.map(compute_dtype);
        let is_computed = dtypes[0] == l && l == r && dtypes.iter().all(|dtype| dtype.is_float());
        let is_small = SMALLER * rows * (outputs + inputs) <= outputs * inputs;
        if !is_computed || rows > FEW_ROWS || !is_small {
            return None;
        }
        // Copies: what they are copied from may be part of something large.
        let joined = |parts: [&Tensor; N]| Tensor::cat(&parts, 0).expect("parts of one width");
        Some(Self { left: Var::constant(joined(left)), right: Var::constant(joined(right)) })
    }

    /// The sum of two, if it is worth keeping as a product.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        let ([l1, r1], [l2, r2]) = (self.factors(), other.factors());
        Self::of([&l1, &l2], [&r1, &r2])
    }

    pub(super) fn shape(&self) -> Shape {
        [self.left.shape()[1], self.right.shape()[1]].into()
    }

    pub(super) fn dtype(&self) -> DType {
        self.left.dtype()
    }

    /// The two.
    pub(super) fn factors(&self) -> [Tensor; 2] {
        [&self.left, &self.right].map(Var::value)
    }

    /// The gradient.
    pub(super) fn whole(&self) -> Tensor {
        let [left, right] = self.factors();
        let left = left.transpose(0, 1).expect("there are two axes");
        multiply(&left, &right).expect("as many rows of one type")
    }

    /// Σ g² of the gradient: Σᵢⱼ (l·lᵀ)ᵢⱼ·(r·rᵀ)ᵢⱼ, in float64, without making it.
    ///
    /// Where elements of it might overflow, it is made to see whether they do.
    pub(super) fn sum_squares(&self) -> Result<f64> {
        let rows = self.left.shape()[0];
        let [left, right] = self.factors().map(|x| {
            let x = x.to_dtype(DType::F64);
            multiply(&x, &x.transpose(0, 1)?)?.to_vec::<f64>()
        });
        let (left, right) = (left?, right?);
        let sizes = (0..rows).map(|i| (left[i * rows + i] * right[i * rows + i]).sqrt());
        if sizes.sum::<f64>() < f64::from(f32::MAX) {
            let sum: f64 = left.iter().zip(&right).map(|(l, r)| l * r).sum();
            // Rows that cancel leave a rounding error, of either sign.
            return Ok(sum.max(0.0));
        }
        sum_squares(&self.whole())
    }
}

/// Σ g² of a gradient in this machine's memory.
pub(super) fn sum_squares(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous();
    match gradient.dtype() {
        DType::F64 => Ok(reduce::sum_squares(gradient.slice::<f64>()?)),
        _ => Ok(reduce::sum_squares(gradient.slice::<f32>()?)),
    }
}
