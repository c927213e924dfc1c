//! Views: other shapes of the same elements. They cost nothing and copy nothing, except where a
//! [`reshape`](Tensor::reshape) asks for an order the memory does not have.

use crate::shape::Axis;
use crate::{Error, Result, Shape, Tensor};

/// Views. Axes are counted from the first (`0`) or, negative, from behind (`-1` is the last).
impl Tensor {
    /// The two axes exchanged.
    ///
    /// Errors: no such axis.
    #[track_caller]
    pub fn transpose(&self, a: impl Axis, b: impl Axis) -> Result<Self> {
        let a = a.of(self.shape(), "transpose")?;
        let b = b.of(self.shape(), "transpose")?;
        Ok(self.with_layout(self.layout.transpose(a, b)))
    }

    /// The axes in another order: axis `a` of the result is axis `axes[a]` of this tensor.
    ///
    /// Errors: `axes` does not name each axis once.
    #[track_caller]
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let each_once = (0..self.rank()).all(|axis| axes.contains(&axis));
        if axes.len() != self.rank() || !each_once {
            let message = format!("{axes:?} does not name each axis once");
            return Err(Error::shape("permute", message).operand("input", self));
        }
        Ok(self.with_layout(self.layout.permute(axes)))
    }

    /// The elements `start .. start + length` of one axis.
    ///
    /// Errors: no such axis; the range leaves it.
    #[track_caller]
    pub fn narrow(&self, axis: impl Axis, start: usize, length: usize) -> Result<Self> {
        let axis = axis.of(self.shape(), "narrow")?;
        if start.checked_add(length).is_none_or(|end| end > self.shape()[axis]) {
            let message = format!("{length} elements from {start} do not lie in axis {axis}");
            return Err(Error::shape("narrow", message).operand("input", self));
        }
        Ok(self.with_layout(self.layout.narrow(axis, start, length)))
    }

    /// Element `index` of one axis; the axis goes.
    ///
    /// Errors: no such axis; the index leaves it.
    #[track_caller]
    pub fn select(&self, axis: impl Axis, index: usize) -> Result<Self> {
        let axis = axis.of(self.shape(), "select")?;
        if index >= self.shape()[axis] {
            let message = format!("index {index} does not lie in axis {axis}");
            return Err(Error::shape("select", message).operand("input", self));
        }
        Ok(self.with_layout(self.layout.narrow(axis, index, 1).without_axis(axis)))
    }

    /// The tensor cut along one axis into `parts` equal pieces.
    ///
    /// Errors: no such axis; its length is no multiple of `parts`.
    #[track_caller]
    pub fn chunk(&self, axis: impl Axis, parts: usize) -> Result<Vec<Self>> {
        let axis = axis.of(self.shape(), "chunk")?;
        let length = self.shape()[axis];
        if parts == 0 || !length.is_multiple_of(parts) {
            let message = format!("axis {axis} does not divide into {parts} equal parts");
            return Err(Error::shape("chunk", message).operand("input", self));
        }
        let piece = length / parts;
        let view = |part| self.with_layout(self.layout.narrow(axis, part * piece, piece));
        Ok((0..parts).map(view).collect())
    }

    /// A new axis of length one, which becomes axis `axis` of the result.
    ///
    /// Errors: no such place; too many axes.
    #[track_caller]
    pub fn unsqueeze(&self, axis: impl Axis) -> Result<Self> {
        let Some(axis) = axis.index(self.rank() + 1) else {
            let message = format!("there is no place {} for an axis", axis.written());
            return Err(Error::shape("unsqueeze", message).operand("input", self));
        };
        let shape = self.shape().with_axis(axis, 1)?;
        Ok(self.with_layout(self.layout.with_axis(axis, shape)))
    }

    /// Without an axis, which has length one.
    ///
    /// Errors: no such axis; its length is not one.
    #[track_caller]
    pub fn squeeze(&self, axis: impl Axis) -> Result<Self> {
        let axis = axis.of(self.shape(), "squeeze")?;
        if self.shape()[axis] != 1 {
            let message = format!("axis {axis} has not length 1");
            return Err(Error::shape("squeeze", message).operand("input", self));
        }
        Ok(self.with_layout(self.layout.without_axis(axis)))
    }

    /// Axes of length one repeated, and axes added in front, to reach `shape`.
    ///
    /// Errors: an axis that is neither of length one nor already right.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        match self.layout.broadcast_to(shape) {
            Some(layout) => Ok(self.with_layout(layout)),
            None => Err(Error::shape("broadcast_to", "only axes of length 1 can be repeated")
                .operand("input", self)
                .operand("target", &shape)),
        }
    }

    /// The same elements in row-major order under another shape.
    /// A view where the memory allows it, else a copy.
    ///
    /// Errors: the numbers of elements differ.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        let numel = shape.checked_bytes(1);
        if numel.is_none() || numel != self.shape().checked_bytes(1) {
            return Err(Error::shape("reshape", "the numbers of elements differ")
                .operand("input", (self, format!("{} elements", self.numel())))
                .operand("target", (&shape, format!("{} elements", shape.numel()))));
        }
        let view = self.layout.reshape(shape).map(|layout| self.with_layout(layout));
        Ok(view.unwrap_or_else(|| {
            let copy = self.to_owned_copy();
            copy.with_layout(crate::layout::Layout::contiguous(shape, 0))
        }))
    }

    /// Axes `from` to `to`, both included, joined into one.
    ///
    /// Errors: no such axis; `from` comes after `to`.
    #[track_caller]
    pub fn flatten(&self, from: impl Axis, to: impl Axis) -> Result<Self> {
        let from = from.of(self.shape(), "flatten")?;
        let to = to.of(self.shape(), "flatten")?;
        if from > to {
            let message = format!("axis {from} comes after axis {to}");
            return Err(Error::shape("flatten", message).operand("input", self));
        }
        let shape = self.shape();
        let joined = shape[from..=to].iter().fold(1, |n: usize, &l| n.saturating_mul(l));
        let lengths = [&shape[..from], &[joined], &shape[to + 1..]].concat();
        self.reshape(&lengths[..])
    }

    /// The same elements, adjacent and in row-major order: this tensor if it is so already, else a
    /// copy.
    ///
    /// Cost: one read and one write of the elements. Rows are copied whole; a transpose goes by
    /// tiles.
    pub fn contiguous(&self) -> Self {
        if self.is_contiguous() { self.clone() } else { self.to_owned_copy() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn matrix() -> Tensor {
        Tensor::arange(6, DType::F32).reshape([2, 3]).unwrap()
    }

    #[test]
    fn views_share_memory() {
        let x = matrix();
        let view = x.transpose(-1, 0).unwrap().narrow(0, 1, 2).unwrap().unsqueeze(-1).unwrap();
        assert_eq!(*view.shape(), [2, 2, 1]);
        assert_eq!(view.to_f64_vec(), [1.0, 4.0, 2.0, 5.0]);
        assert_eq!(view.raw_slice::<f32>().unwrap().0.as_ptr(), x.slice().unwrap()[1..].as_ptr());
        let repeated = x.select(0, 0).unwrap().broadcast_to([2, 3]).unwrap();
        assert_eq!((repeated.to_f64_vec().len(), repeated.strides()), (6, &[0, 1][..]));
    }

    #[test]
    fn reshape_copies_only_when_it_must() {
        let x = matrix();
        let same = |y: &Tensor| y.slice::<f32>().unwrap().as_ptr() == x.slice().unwrap().as_ptr();
        assert!(same(&x.flatten(0, -1).unwrap()));
        let turned = x.transpose(0, 1).unwrap().reshape([6]).unwrap();
        assert!(!same(&turned));
        assert_eq!(turned.to_f64_vec(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn impossible_views_are_errors() {
        let x = matrix();
        assert!(x.transpose(0, 2).is_err());
        assert!(x.permute(&[0, 0]).is_err());
        assert!(x.narrow(0, usize::MAX, 2).is_err() && x.narrow(0, 2, 0).is_ok());
        assert!(x.select(1, 3).is_err());
        assert!(x.chunk(1, 2).is_err() && x.chunk(1, 3).unwrap().len() == 3);
        assert!(x.squeeze(0).is_err() && x.unsqueeze(3).is_err());
        assert!(x.broadcast_to([3, 3]).is_err() && x.broadcast_to([3]).is_err());
        assert!(x.reshape([7]).is_err() && x.reshape([usize::MAX, 6]).is_err());
        assert!(x.flatten(1, 0).is_err());
    }
}
