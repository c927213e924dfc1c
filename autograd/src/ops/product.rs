//! What the operations made of matrix products share.

use kernels::Real;
use kernels::gemm::{Reader, Stored, Strided};
use tensor::{DType, Element, Error, Result, Shape, Tensor, bf16, f16};

/// A type that products are computed in.
pub(super) trait Float: Real + Element {
    /// The last two axes of `x` as a matrix, those before as a batch, wherever they lie in memory.
    ///
    /// Errors: elements that do not widen to this type.
    fn reader(x: &Tensor) -> Result<Box<dyn Reader<Self> + '_>>;
}

impl Float for f32 {
    fn reader(x: &Tensor) -> Result<Box<dyn Reader<f32> + '_>> {
        match x.dtype() {
            DType::BF16 => strided::<f32, bf16>(x),
            DType::F16 => strided::<f32, f16>(x),
            _ => strided::<f32, f32>(x),
        }
    }
}

impl Float for f64 {
    fn reader(x: &Tensor) -> Result<Box<dyn Reader<f64> + '_>> {
        strided::<f64, f64>(x)
    }
}

fn strided<'a, T: Real, E: Stored<T> + Element>(x: &'a Tensor) -> Result<Box<dyn Reader<T> + 'a>> {
    let (elements, strides) = x.raw_slice::<E>()?;
    let (batch, matrix) = strides.split_at(strides.len() - 2);
    let reader = Strided::new(elements, [matrix[0], matrix[1]]);
    Ok(Box::new(reader.batched(&x.shape()[..batch.len()], batch)))
}

/// Errors unless every operand is of floats.
pub(super) fn check_floats(name: &'static str, operands: &[(&'static str, &Tensor)]) -> Result<()> {
    match operands.iter().find(|(_, x)| !x.dtype().is_float()) {
        None => Ok(()),
        Some((operand, x)) => {
            Err(Error::dtype(name, "elements are not floats").operand(*operand, *x))
        }
    }
}

/// A shape's rows, all axes but the last as one: \[.., C\] → \[R, C\].
pub(super) fn rows(shape: &Shape) -> [usize; 2] {
    let (&width, outer) = shape.split_last().expect("the caller has checked the rank");
    [outer.iter().product(), width]
}
