//! Joining tensors, and gathering rows.

use std::borrow::Cow;

use crate::shape::Axis;
use crate::{Cuda, Error, Result, Tensor};

impl Tensor {
    /// The tensors one after the other along an axis they all have.
    ///
    /// Errors: no tensors; element types, devices, or lengths of another axis, that differ; no such
    /// axis.
    #[track_caller]
    pub fn cat(tensors: &[&Self], axis: impl Axis) -> Result<Self> {
        let Some(first) = tensors.first() else {
            return Err(Error::value("cat", "there is nothing to join"));
        };
        let axis = axis.of(first.shape(), "cat")?;
        let mut length = 0;
        for (i, tensor) in tensors.iter().enumerate() {
            let fits = tensor.rank() == first.rank()
                && tensor.shape().with_length(axis, 0) == first.shape().with_length(axis, 0);
            if !fits {
                let message = format!("shapes differ on another axis than {axis}");
                return Err(join_error(Error::shape("cat", message), first, i, tensor));
            }
            if tensor.dtype() != first.dtype() {
                return Err(join_error(Error::dtype("cat", "types differ"), first, i, tensor));
            }
            if tensor.device() != first.device() {
                return Err(join_error(Error::device("cat", "devices differ"), first, i, tensor));
            }
            length += tensor.shape()[axis];
        }
        if let Some(gpu) = first.cuda() {
            return Ok(cat_on(gpu, tensors, axis, length));
        }
        let mut joined = Self::uninit(first.shape().with_length(axis, length), first.dtype());
        let mut start = 0;
        for tensor in tensors {
            let part = joined.layout.narrow(axis, start, tensor.shape()[axis]);
            joined.write_part(&part, tensor);
            start += tensor.shape()[axis];
        }
        Ok(joined)
    }

    /// Tensors of one shape, put along a new axis, which becomes axis `axis` of the result.
    ///
    /// Errors: no tensors; shapes or element types that differ; no such place; too many axes.
    #[track_caller]
    pub fn stack(tensors: &[&Self], axis: impl Axis) -> Result<Self> {
        let Some(first) = tensors.first() else {
            return Err(Error::value("stack", "there is nothing to join"));
        };
        let mut layers = Vec::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if tensor.shape() != first.shape() {
                return Err(join_error(Error::shape("stack", "shapes differ"), first, i, tensor));
            }
            layers.push(tensor.unsqueeze(axis)?);
        }
        Self::cat(&layers.iter().collect::<Vec<_>>(), axis)
    }

    /// The slices `indices` of the first axis, in that order, repeats allowed.
    ///
    /// Errors: the tensor has no axes, or is in a GPU's memory; an index leaves the first one.
    #[track_caller]
    pub fn index_rows(&self, indices: &[usize]) -> Result<Self> {
        self.expect_here("index_rows", self.dtype())?;
        let axis = 0.of(self.shape(), "index_rows")?;
        if let Some(index) = indices.iter().find(|&&index| index >= self.shape()[axis]) {
            let message = format!("index {index} does not lie in axis 0");
            return Err(Error::shape("index_rows", message).operand("input", self));
        }
        let mut rows = Self::uninit(self.shape().with_length(axis, indices.len()), self.dtype());
        for (to, &from) in indices.iter().enumerate() {
            let part = rows.layout.narrow(axis, to, 1);
            rows.write_part(&part, &self.with_layout(self.layout.narrow(axis, from, 1)));
        }
        Ok(rows)
    }
}

/// [`Tensor::cat`] in a GPU's memory: parts one after the other, as if along the first axis, and
/// then turned, which costs a second pass where the axis is another.
fn cat_on(gpu: &Cuda, tensors: &[&Tensor], axis: usize, length: usize) -> Tensor {
    let first = |x: &Tensor| {
        let mut axes: Vec<usize> = (0..x.rank()).collect();
        axes[..=axis].rotate_right(1);
        x.with_layout(x.layout.permute(&axes))
    };
    let shape = first(tensors[0]).shape().with_length(0, length);
    let mut joined = Tensor::uninit_on(Some(gpu), shape, tensors[0].dtype());
    let mut start = 0;
    for part in tensors.iter().map(|x| first(x)) {
        joined.write_on(gpu, start, &part);
        start += part.numel();
    }
    let mut axes: Vec<usize> = (0..shape.rank()).collect();
    axes[..=axis].rotate_left(1);
    joined.with_layout(joined.layout.permute(&axes)).contiguous()
}

fn join_error(error: Error, first: &Tensor, i: usize, tensor: &Tensor) -> Error {
    let name: Cow<'static, str> = format!("number {i}").into();
    error.operand("number 0", first).operand(name, tensor)
}

#[cfg(test)]
mod tests {
    use crate::{DType, Tensor};

    #[test]
    fn joins_views_along_any_axis() {
        let x = Tensor::arange(6, DType::I64).reshape([2, 3]).unwrap();
        let y = Tensor::full([3, 2], 9.0, DType::I64).transpose(0, 1).unwrap();
        let wide = Tensor::cat(&[&x, &y.narrow(1, 0, 1).unwrap()], -1).unwrap();
        assert_eq!(wide.to_f64_vec(), [0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 5.0, 9.0]);
        let tall = Tensor::cat(&[&x, &y], 0).unwrap();
        assert_eq!((*tall.shape(), tall.to_f64_vec()[6]), ([4, 3].into(), 9.0));
        let stacked = Tensor::stack(&[&x, &y], 1).unwrap();
        assert_eq!(*stacked.shape(), [2, 2, 3]);
        assert_eq!(stacked.select(1, 0).unwrap().to_f64_vec(), x.to_f64_vec());
    }

    #[test]
    fn gathers_rows() {
        let x = Tensor::arange(6, DType::F32).reshape([3, 2]).unwrap();
        let y = x.index_rows(&[2, 0, 2]).unwrap();
        assert_eq!(y.to_f64_vec(), [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
        assert!(x.index_rows(&[3]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (x, y) = (Tensor::zeros([2, 3], DType::F32), Tensor::zeros([2, 4], DType::F32));
        let text = Tensor::cat(&[&x, &x, &y], 0).unwrap_err().to_string();
        assert!(text.contains("number 2  [2, 4]"), "{text}");
        assert!(Tensor::cat(&[&x, &x.to_dtype(DType::F64)], 0).is_err());
        assert!(Tensor::stack(&[&x, &y], 0).is_err() && Tensor::cat(&[], 0).is_err());
    }
}
