//! Operations that move elements and compute nothing: views, joins, and conversions.
//!
//! They take every float type as it is. Views share the elements of what they view.

use tensor::{Axis, DType, Error, Result, Shape, Tensor};

use crate::backward::{Gradient, accumulate_part, compute_dtype};
use crate::{Keep, Kept, Op, OpMany, Var, apply, apply_many};

mod cases;

pub use cases::{BroadcastTo, Cat, Narrow, Permute, Reshape, ToDType};

/// Views and joins. Axes are counted from the first (`0`) or, negative, from behind.
impl Var {
    /// The same elements under another shape.
    ///
    /// yₖ = xₖ, in row-major order.
    /// Source: elementary.
    ///
    /// Shapes: any → `shape`, of as many elements. Saves: nothing. Cost: a copy where the
    /// elements do not lie in that order, else nothing. Errors: another number of elements.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        apply(ReshapeOp(shape.into()), [self])
    }

    /// The axes `from ..= to` as one.
    ///
    /// Shapes: \[.., a, b, ..\] → \[.., a·b, ..\]. Saves: nothing. Cost: as
    /// [`reshape`](Self::reshape). Errors: no such axes.
    #[track_caller]
    pub fn flatten(&self, from: impl Axis, to: impl Axis) -> Result<Self> {
        let shape = *self.value().flatten(from, to)?.shape();
        self.reshape(shape)
    }

    /// A new axis of length one in front of `axis`.
    ///
    /// Shapes: \[.., n\] → \[.., 1, n\]. Saves: nothing. Cost: none. Errors: no such place.
    #[track_caller]
    pub fn unsqueeze(&self, axis: impl Axis) -> Result<Self> {
        let shape = *self.value().unsqueeze(axis)?.shape();
        self.reshape(shape)
    }

    /// The tensor without an axis of length one.
    ///
    /// Shapes: \[.., 1, n\] → \[.., n\]. Saves: nothing. Cost: none. Errors: the axis is longer.
    #[track_caller]
    pub fn squeeze(&self, axis: impl Axis) -> Result<Self> {
        let shape = *self.value().squeeze(axis)?.shape();
        self.reshape(shape)
    }

    /// The axes in another order: axis `a` of the result is axis `axes[a]` of this tensor.
    ///
    /// y\[i, k, j\] = x\[i, j, k\], for the axes \[0, 2, 1\].
    /// Source: elementary.
    ///
    /// Shapes: any → its lengths in that order. Saves: nothing. Cost: none. Errors: `axes` does not
    /// name each axis once.
    #[track_caller]
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        apply(PermuteOp(axes.to_vec()), [self])
    }

    /// The two axes exchanged.
    ///
    /// Shapes: \[.., a, .., b, ..\] → \[.., b, .., a, ..\]. Saves: nothing. Cost: none. Errors: no
    /// such axis.
    #[track_caller]
    pub fn transpose(&self, a: impl Axis, b: impl Axis) -> Result<Self> {
        let (a, b) = (a.of(self.shape(), "transpose")?, b.of(self.shape(), "transpose")?);
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        axes.swap(a, b);
        self.permute(&axes)
    }

    /// Axes of length one, and axes in front, repeated to reach `shape`.
    ///
    /// y\[i, j, k\] = x\[j, 0\], for a shape \[J, 1\].
    /// Source: elementary.
    ///
    /// Shapes: one that broadcasts to `shape` → `shape`. Saves: nothing. Cost: none; its gradient
    /// is a sum. Errors: a length is neither one nor right.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape == *self.shape() { Ok(self.clone()) } else { apply(BroadcastToOp(shape), [self]) }
    }

    /// The elements `start .. start + length` of one axis.
    ///
    /// y\[i, j\] = x\[i, start + j\].
    /// Source: elementary.
    ///
    /// Shapes: \[.., n, ..\] → \[.., length, ..\]. Saves: nothing. Cost: none; its gradient is
    /// added to that part of the input's. Errors: no such axis; the range leaves it.
    #[track_caller]
    pub fn narrow(&self, axis: impl Axis, start: usize, length: usize) -> Result<Self> {
        let axis = axis.of(self.shape(), "narrow")?;
        let mut parts = apply_many(NarrowOp { axis, start, length }, &[self])?;
        Ok(parts.pop().expect("one output"))
    }

    /// One index of an axis, which the result does not have.
    ///
    /// Shapes: \[.., n, ..\] → \[.., ..\]. Saves: nothing. Cost: none. Errors: no such axis or
    /// index.
    #[track_caller]
    pub fn select(&self, axis: impl Axis, index: usize) -> Result<Self> {
        let axis = axis.of(self.shape(), "select")?;
        self.narrow(axis, index, 1)?.squeeze(axis)
    }

    /// An axis cut into `parts` equal pieces.
    ///
    /// Shapes: \[.., parts·n, ..\] → `parts` times \[.., n, ..\]. Saves: nothing. Cost: none; the
    /// gradients of all pieces share one buffer. Errors: no such axis; it does not divide.
    #[track_caller]
    pub fn chunk(&self, axis: impl Axis, parts: usize) -> Result<Vec<Self>> {
        let axis = axis.of(self.shape(), "chunk")?;
        let length = self.shape()[axis];
        if parts == 0 || !length.is_multiple_of(parts) {
            return Err(Error::shape("chunk", format!("axis {axis} does not divide by {parts}"))
                .operand("input", self));
        }
        let n = length / parts;
        let mut chunks = Vec::with_capacity(parts);
        for i in 0..parts {
            chunks.push(self.narrow(axis, i * n, n)?);
        }
        Ok(chunks)
    }

    /// The variables one after the other along an axis they all have.
    ///
    /// y = (a, b, ..) along the axis.
    /// Source: elementary.
    ///
    /// Shapes: \[.., nᵢ, ..\] → \[.., Σ nᵢ, ..\]. Saves: nothing. Cost: one read and one write.
    /// Errors: no variables; element types, or lengths of another axis, that differ.
    #[track_caller]
    pub fn cat(vars: &[&Self], axis: impl Axis) -> Result<Self> {
        let Some(first) = vars.first() else {
            return Err(Error::value("cat", "there is nothing to join"));
        };
        let axis = axis.of(first.shape(), "cat")?;
        let mut joined = apply_many(CatOp { axis }, vars)?;
        Ok(joined.pop().expect("one output"))
    }

    /// Variables of one shape along a new axis, which becomes axis `axis` of the result.
    ///
    /// Shapes: k times \[.., n\] → \[.., k, n\]. Saves: nothing. Cost: one read and one write.
    /// Errors: as [`cat`](Self::cat); no such place.
    #[track_caller]
    pub fn stack(vars: &[&Self], axis: impl Axis) -> Result<Self> {
        let mut layers = Vec::with_capacity(vars.len());
        for var in vars {
            layers.push(var.unsqueeze(axis)?);
        }
        Self::cat(&layers.iter().collect::<Vec<_>>(), axis)
    }

    /// The elements converted to another float type.
    ///
    /// y = x, rounded to nearest even.
    /// Source: elementary.
    ///
    /// Shapes: any → the same. Saves: nothing. Cost: one read and one write; none if they are of
    /// it already. The gradient has the type the input is computed in. Errors: none for floats.
    #[track_caller]
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype() { Ok(self.clone()) } else { apply(ToDTypeOp(dtype), [self]) }
    }
}

/// `part` at `start` of `axis` of a tensor of zeros of shape `shape`.
pub(crate) fn place(part: &Var, shape: Shape, axis: usize, start: usize) -> Result<Var> {
    apply(PlaceOp { shape, axis, start }, [part])
}

/// An operation that is linear, keeps nothing, and reads halves: one forward and one backward
/// expression.
macro_rules! linear {
    ($op:ty, $name:literal, |$self:ident, $x:ident| $forward:expr,
        |$kept:ident, $dy:ident| $backward:expr) => {
        impl Op<1> for $op {
            const NAME: &'static str = $name;
            const KEEPS: [Keep; 1] = [Keep::NOTHING];
            const HALF: bool = true;
            const TWICE: bool = true;
            const CUDA: bool = true;
            type Aux = ();

            fn forward(&$self, [$x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
                Ok(($forward, ()))
            }

            fn vjp(
                &$self,
                $kept: Kept<'_, ()>,
                $dy: &Var,
                _: [bool; 1],
            ) -> Result<[Option<Var>; 1]> {
                Ok([Some($backward)])
            }
        }
    };
}

#[derive(Debug)]
struct ReshapeOp(Shape);

linear!(ReshapeOp, "reshape", |self, x| x.reshape(self.0)?, |kept, dy| {
    dy.reshape(kept.shape(0))?
});

#[derive(Debug)]
struct PermuteOp(Vec<usize>);

linear!(PermuteOp, "permute", |self, x| x.permute(&self.0)?, |_kept, dy| {
    let mut inverse = vec![0; self.0.len()];
    for (to, &from) in self.0.iter().enumerate() {
        inverse[from] = to;
    }
    dy.permute(&inverse)?
});

#[derive(Debug)]
struct BroadcastToOp(Shape);

linear!(BroadcastToOp, "broadcast_to", |self, x| x.broadcast_to(self.0)?, |kept, dy| {
    dy.sum_to(kept.shape(0))?
});

#[derive(Debug)]
struct ToDTypeOp(DType);

linear!(ToDTypeOp, "to_dtype", |self, x| x.to_dtype(self.0), |kept, dy| {
    dy.to_dtype(compute_dtype(kept.dtype(0)))?
});

/// The transpose of narrow, for second derivatives.
#[derive(Debug)]
struct PlaceOp {
    shape: Shape,
    axis: usize,
    start: usize,
}

linear!(
    PlaceOp,
    "place",
    |self, part| accumulate_part(
        Tensor::zeros_on(part.cuda(), self.shape, part.dtype()),
        part,
        self.axis,
        self.start
    )?,
    |kept, dy| dy.narrow(self.axis, self.start, kept.shape(0)[self.axis])?
);

#[derive(Debug)]
struct NarrowOp {
    axis: usize,
    start: usize,
    length: usize,
}

impl OpMany for NarrowOp {
    const NAME: &'static str = "narrow";
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn keeps(&self, _: usize) -> Keep {
        Keep::NOTHING
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        Ok((vec![x[0].narrow(self.axis, self.start, self.length)?], ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        _: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let part = |dy: &Var| Gradient::Part {
            part: dy.clone(),
            shape: *kept.shape(0),
            axis: self.axis,
            start: self.start,
        };
        Ok(vec![dy[0].as_ref().map(part)])
    }
}

#[derive(Debug)]
struct CatOp {
    axis: usize,
}

impl OpMany for CatOp {
    const NAME: &'static str = "cat";
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn keeps(&self, _: usize) -> Keep {
        Keep::NOTHING
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        Ok((vec![Tensor::cat(x, self.axis)?], ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let dy = dy[0].as_ref().expect("the only output is the one that was used");
        let mut end = 0;
        let part = |(i, &need): (usize, &bool)| {
            let length = kept.shape(i)[self.axis];
            end += length;
            need.then(|| Ok(dy.narrow(self.axis, end - length, length)?.into())).transpose()
        };
        needs.iter().enumerate().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_one_gradient() {
        let x = Var::parameter(Tensor::arange(12, DType::F64).reshape([2, 6]).unwrap());
        let parts = x.chunk(1, 3).unwrap();
        let y = parts[0].mul(&parts[2]).unwrap().sum_all().unwrap();
        let grads = y.backward().unwrap();
        let want = [4.0, 5.0, 0.0, 0.0, 0.0, 1.0, 10.0, 11.0, 0.0, 0.0, 6.0, 7.0];
        assert_eq!(grads.get(&x).unwrap().to_f64_vec(), want);
    }

    #[test]
    fn precision_changes_and_gradients_follow() {
        let x = Var::parameter(Tensor::full([2], 0.1, DType::F64));
        let y = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(y.value().to_f64_vec()[0], 0.10009765625);
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().dtype(), DType::F64);
    }

    #[test]
    fn mistakes_are_the_callers() {
        let x = Var::constant(Tensor::zeros([2, 3], DType::F32));
        for (error, line) in [
            (x.reshape([4]).unwrap_err(), line!()),
            (x.narrow(1, 2, 2).unwrap_err(), line!()),
            (x.chunk(1, 2).unwrap_err(), line!()),
            (Var::cat(&[&x, &x.select(0, 0).unwrap()], 0).unwrap_err(), line!()),
            (x.squeeze(1).unwrap_err(), line!()),
        ] {
            assert!(error.to_string().contains(&format!("shape.rs:{line}")), "{error}");
        }
    }
}
