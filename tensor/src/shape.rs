//! The lengths of a tensor's axes, inline: a shape never touches the heap.

use std::fmt;
use std::ops::Deref;

use crate::{Error, Result};

/// The most axes a tensor may have: batch, head, two of space, and two to spare for patches.
pub const MAX_RANK: usize = 6;

/// The lengths of a tensor's axes; reads as a slice.
///
/// ```
/// use tensor::Shape;
/// let shape = Shape::from([2, 3, 4]);
/// assert_eq!((shape.rank(), shape.numel(), shape[1]), (3, 24, 3));
/// assert_eq!(shape.to_string(), "[2, 3, 4]");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    /// Lengths, then zeros: equal shapes are equal arrays.
    lengths: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape from lengths known only at run time.
    ///
    /// Errors: more than [`MAX_RANK`] axes.
    #[track_caller]
    pub fn new(lengths: &[usize]) -> Result<Self> {
        if lengths.len() > MAX_RANK {
            return Err(Error::shape(
                "shape",
                format!("{lengths:?} has {} axes, at most {MAX_RANK} are possible", lengths.len()),
            ));
        }
        let mut shape = Self { rank: lengths.len(), ..Self::default() };
        shape.lengths[..lengths.len()].copy_from_slice(lengths);
        Ok(shape)
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of elements; `usize::MAX` where the product is larger.
    pub fn numel(&self) -> usize {
        self.iter().fold(1, |product: usize, &length| product.saturating_mul(length))
    }

    /// The number of bytes with elements of `size` bytes, or `None` if that overflows.
    pub fn checked_bytes(&self, size: usize) -> Option<usize> {
        if self.contains(&0) {
            return Some(0);
        }
        self.iter().try_fold(size, |product, &length| product.checked_mul(length))
    }

    /// The shape two operands share after broadcasting: axes are matched from the last; a length
    /// of one, or a missing axis, stretches. `None` where two lengths differ and neither is one.
    pub fn broadcast(&self, other: &Self) -> Option<Self> {
        let rank = self.rank.max(other.rank);
        let mut shape = Self { rank, ..Self::default() };
        for from_end in 1..=rank {
            let length = |s: &Self| s.rank.checked_sub(from_end).map_or(1, |axis| s.lengths[axis]);
            shape.lengths[rank - from_end] = match (length(self), length(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(shape)
    }

    /// This shape with another length on one axis.
    pub fn with_length(mut self, axis: usize, length: usize) -> Self {
        self[axis] = length;
        self
    }

    /// This shape with one more axis, put in front of `axis`.
    ///
    /// Errors: already [`MAX_RANK`] axes.
    #[track_caller]
    pub(crate) fn with_axis(mut self, axis: usize, length: usize) -> Result<Self> {
        if self.rank == MAX_RANK {
            return Err(Error::shape("shape", format!("{self} already has {MAX_RANK} axes")));
        }
        self.rank += 1;
        self.lengths.copy_within(axis..MAX_RANK - 1, axis + 1);
        self.lengths[axis] = length;
        Ok(self)
    }

    /// This shape without one axis.
    pub(crate) fn without_axis(mut self, axis: usize) -> Self {
        self.lengths.copy_within(axis + 1.., axis);
        self.lengths[MAX_RANK - 1] = 0;
        self.rank -= 1;
        self
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.lengths[..self.rank]
    }
}

impl std::ops::DerefMut for Shape {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.lengths[..self.rank]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(lengths: [usize; N]) -> Self {
        const { assert!(N <= MAX_RANK, "a shape has at most MAX_RANK axes") };
        let mut shape = Self { rank: N, ..Self::default() };
        shape.lengths[..N].copy_from_slice(&lengths);
        shape
    }
}

/// For lengths the program itself made. Lengths from a file go through [`Shape::new`].
///
/// # Panics
/// With more than [`MAX_RANK`] axes.
impl From<&[usize]> for Shape {
    #[track_caller]
    fn from(lengths: &[usize]) -> Self {
        Self::new(lengths).expect("a shape has at most MAX_RANK axes")
    }
}

impl From<&Self> for Shape {
    fn from(shape: &Self) -> Self {
        *shape
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        **self == *other
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// An axis number: counted from the first (`0`), or from behind (`-1` is the last).
pub trait Axis: Copy {
    /// The axis as an index into a shape of `rank` axes, or `None` if there is no such axis.
    fn index(self, rank: usize) -> Option<usize>;

    /// The number as written, for errors.
    fn written(self) -> i64;

    /// [`index`](Self::index), or the error of `op` that says what is possible.
    #[track_caller]
    fn of(self, shape: &Shape, op: &'static str) -> Result<usize> {
        match self.index(shape.rank()) {
            Some(axis) => Ok(axis),
            None => Err(Error::shape(op, format!("there is no axis {}", self.written()))
                .operand("input", (shape, format!("rank {}", shape.rank())))),
        }
    }
}

macro_rules! axis {
    ($($type:ty),*) => {$(
        impl Axis for $type {
            #[allow(unused_comparisons, reason = "one body for signed and unsigned types")]
            fn index(self, rank: usize) -> Option<usize> {
                let written = i64::try_from(self).ok()?;
                let index = if written < 0 { written + i64::try_from(rank).ok()? } else { written };
                usize::try_from(index).ok().filter(|&axis| axis < rank)
            }
            fn written(self) -> i64 {
                i64::try_from(self).unwrap_or(i64::MAX)
            }
        }
    )*};
}
axis!(i32, isize, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_matches_from_the_last_axis() {
        let broadcast = |a: &[usize], b: &[usize]| Shape::from(a).broadcast(&Shape::from(b));
        assert_eq!(broadcast(&[4, 1, 3], &[5, 1]), Some(Shape::from([4, 5, 3])));
        assert_eq!(broadcast(&[], &[2]), Some(Shape::from([2])));
        assert_eq!(broadcast(&[0], &[1]), Some(Shape::from([0])));
        assert_eq!(broadcast(&[2, 3], &[2]), None);
    }

    #[test]
    fn axes_come_and_go() {
        let shape = Shape::from([2, 3]);
        assert_eq!(shape.with_axis(1, 7).unwrap(), [2, 7, 3]);
        assert_eq!(shape.with_axis(2, 7).unwrap().without_axis(0), Shape::from([3, 7]));
        assert!(Shape::from([1; 6]).with_axis(0, 1).is_err());
        assert!(Shape::new(&[1; 7]).is_err());
    }

    #[test]
    fn products_do_not_wrap() {
        let huge = Shape::from([usize::MAX, 2]);
        assert_eq!((huge.numel(), huge.checked_bytes(1)), (usize::MAX, None));
        assert_eq!(Shape::from([usize::MAX, 2, 0]).checked_bytes(8), Some(0));
    }

    #[test]
    fn negative_axes_count_from_behind() {
        assert_eq!(((-1).index(3), 2_usize.index(3), (-4).index(3)), (Some(2), Some(2), None));
    }
}
