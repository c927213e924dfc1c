//! How a tensor's axes lie in its buffer: lengths, strides and a first element.
//!
//! Element `(i₀, i₁, …)` is at `offset + Σ iₐ·strideₐ`. Strides count elements and are never
//! negative; stride 0 repeats one element along a broadcast axis. Views are arithmetic on this
//! struct and touch no data. Invariant kept by every method: a view reaches only elements that the
//! layout it came from reaches.

use crate::Shape;
use crate::shape::MAX_RANK;

/// Lengths, strides and first element of a view into a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// Elements one after the other, last axis fastest, from `offset` on.
    pub(crate) fn contiguous(shape: Shape, offset: usize) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1_usize;
        for axis in (0..shape.rank()).rev() {
            strides[axis] = stride;
            stride = stride.saturating_mul(shape[axis].max(1));
        }
        Self { shape, strides, offset }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank()]
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Elements from the first to the last one reachable, both included; 0 when there are none.
    pub(crate) fn span(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        1 + self.shape.iter().zip(self.strides()).map(|(n, s)| (n - 1) * s).sum::<usize>()
    }

    /// Whether the elements are adjacent and in order. The stride of an axis of length one is
    /// never used, and so not asked about.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&length, &stride) in self.shape.iter().zip(self.strides()).rev() {
            if length == 0 {
                return true;
            }
            if length > 1 {
                if stride != expected {
                    return false;
                }
                expected *= length;
            }
        }
        true
    }

    /// Axis `a` of the result is axis `axes[a]` of this layout; `axes` is a permutation.
    pub(crate) fn permute(&self, axes: &[usize]) -> Self {
        let mut view = *self;
        for (to, &from) in axes.iter().enumerate() {
            view.shape[to] = self.shape[from];
            view.strides[to] = self.strides[from];
        }
        view
    }

    pub(crate) fn transpose(&self, a: usize, b: usize) -> Self {
        let mut view = *self;
        view.shape.swap(a, b);
        view.strides.swap(a, b);
        view
    }

    /// `length` elements of one axis from `start`; `start + length` is within the axis.
    pub(crate) fn narrow(&self, axis: usize, start: usize, length: usize) -> Self {
        let mut view = *self;
        view.shape = self.shape.with_length(axis, length);
        // An empty view has no first element to move to.
        if !view.shape.contains(&0) {
            view.offset += start * self.strides[axis];
        }
        view
    }

    pub(crate) fn without_axis(&self, axis: usize) -> Self {
        let mut view = *self;
        view.shape = self.shape.without_axis(axis);
        view.strides.copy_within(axis + 1.., axis);
        view
    }

    /// A new axis of length one in front of `axis`; `shape` is this shape with it.
    pub(crate) fn with_axis(&self, axis: usize, shape: Shape) -> Self {
        let mut view = *self;
        view.shape = shape;
        view.strides.copy_within(axis..MAX_RANK - 1, axis + 1);
        view.strides[axis] = 0;
        view
    }

    /// Repeats axes of length one, and adds axes in front, to reach `shape`.
    /// `None` where a length is neither one nor already right.
    pub(crate) fn broadcast_to(&self, shape: Shape) -> Option<Self> {
        let new = shape.rank().checked_sub(self.shape.rank())?;
        let mut view = Self { shape, strides: [0; MAX_RANK], offset: self.offset };
        for (axis, (&from, &stride)) in self.shape.iter().zip(self.strides()).enumerate() {
            match shape[new + axis] {
                to if to == from => view.strides[new + axis] = stride,
                _ if from == 1 => {}
                _ => return None,
            }
        }
        Some(view)
    }

    /// The same elements in the same order under another shape of equal `numel`, or `None` where
    /// that takes a copy.
    ///
    /// Axes that lie evenly in memory are merged first. Each merged axis must then be the product
    /// of consecutive axes of the new shape, which split it evenly again.
    pub(crate) fn reshape(&self, shape: Shape) -> Option<Self> {
        if shape.contains(&0) {
            return Some(Self::contiguous(shape, self.offset));
        }
        let (merged, strides) = self.merged();
        let mut view = Self::contiguous(shape, self.offset);
        let mut axis = shape.rank();
        for (&length, &stride) in merged.iter().zip(&strides).rev() {
            let mut covered = 1;
            while covered < length {
                // Axes of the new shape remain, since the products of both shapes are equal.
                axis -= 1;
                view.strides[axis] = stride * covered;
                covered *= shape[axis];
            }
            if covered != length {
                return None;
            }
        }
        Some(view)
    }

    /// Fewest axes that visit the same elements in the same order: axes of length one dropped,
    /// neighbours that lie evenly merged.
    fn merged(&self) -> (Shape, [usize; MAX_RANK]) {
        let (shape, [strides, _]) = merge(&self.shape, [self.strides(), self.strides()]);
        (shape, strides)
    }
}

/// The strides of two buffers, for a shape without needless axes.
pub(crate) type MergedStrides = [[usize; MAX_RANK]; 2];

/// Drops axes of length one and merges neighbours that lie evenly in both of two buffers. A loop
/// over the result visits the same pairs of elements in the same order, in fewer, longer runs.
pub(crate) fn merge(shape: &Shape, strides: [&[usize]; 2]) -> (Shape, MergedStrides) {
    let (mut lengths, mut merged) = ([0; MAX_RANK], [[0; MAX_RANK]; 2]);
    let mut rank = 0;
    for axis in (0..shape.rank()).filter(|&axis| shape[axis] != 1) {
        let lies_evenly =
            |k: usize| merged[k][rank - 1] == strides[k][axis].saturating_mul(shape[axis]);
        if rank > 0 && lies_evenly(0) && lies_evenly(1) {
            rank -= 1;
            lengths[rank] *= shape[axis];
        } else {
            lengths[rank] = shape[axis];
        }
        for k in 0..2 {
            merged[k][rank] = strides[k][axis];
        }
        rank += 1;
    }
    (Shape::from(&lengths[..rank]), merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Layout {
        Layout::contiguous(Shape::from([4, 6]), 0)
    }

    #[test]
    fn views_are_arithmetic() {
        let view = matrix().narrow(1, 2, 3).transpose(0, 1);
        assert_eq!((view.shape, view.strides(), view.offset()), ([3, 4].into(), &[1, 6][..], 2));
        assert_eq!(view.span(), 2 + 3 * 6 + 1);
        assert!(!view.is_contiguous());
        assert!(matrix().narrow(0, 1, 2).is_contiguous());
    }

    #[test]
    fn reshape_splits_and_joins_what_lies_evenly() {
        let reshape = |layout: &Layout, shape: &[usize]| {
            layout.reshape(Shape::from(shape)).map(|view| view.strides().to_vec())
        };
        assert_eq!(reshape(&matrix(), &[2, 2, 6]), Some(vec![12, 6, 1]));
        assert_eq!(reshape(&matrix(), &[24]), Some(vec![1]));
        let columns = matrix().narrow(1, 0, 4);
        assert_eq!(reshape(&columns, &[4, 2, 1, 2]), Some(vec![6, 2, 2, 1]));
        assert_eq!(reshape(&columns, &[16]), None);
        assert_eq!(reshape(&matrix().transpose(0, 1), &[24]), None);
        let repeated = Layout::contiguous(Shape::from([1]), 0).broadcast_to(Shape::from([6]));
        assert_eq!(reshape(&repeated.unwrap(), &[2, 3]), Some(vec![0, 0]));
    }

    #[test]
    fn broadcasting_repeats_without_reading_further() {
        let row = Layout::contiguous(Shape::from([3]), 5);
        let view = row.broadcast_to(Shape::from([2, 3])).unwrap();
        assert_eq!((view.strides(), view.span()), (&[0, 1][..], 3));
        assert_eq!(row.broadcast_to(Shape::from([3, 2])), None);
    }
}
