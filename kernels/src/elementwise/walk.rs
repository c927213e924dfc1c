//! How operands of any strides are walked through, in the fewest axes.

/// Axes a call may have, and one more.
const MAX_RANK: usize = 8;

/// A loop nest over the output: lengths of axes and each operand's strides.
pub(super) struct Walk<const K: usize> {
    pub rank: usize,
    pub lengths: [usize; MAX_RANK],
    pub strides: [[usize; MAX_RANK]; K],
}

/// A place in a [`Walk`]: the index, and each operand's offset at the start of its last axis.
pub(super) struct Place<const K: usize> {
    index: [usize; MAX_RANK],
    pub offsets: [usize; K],
}

impl<const K: usize> Walk<K> {
    /// Axes of length one are dropped and neighbours that lie evenly in every operand merged; at
    /// least one axis remains.
    pub fn new(shape: &[usize], strides: [&[usize]; K]) -> Self {
        assert!(shape.len() < MAX_RANK, "{shape:?} has more than {} axes", MAX_RANK - 1);
        let mut walk = Walk { rank: 1, lengths: [1; MAX_RANK], strides: [[0; MAX_RANK]; K] };
        for (axis, &length) in shape.iter().enumerate().filter(|(_, length)| **length != 1) {
            let last = walk.rank - 1;
            let first = walk.lengths[last] == 1;
            let even = (0..K).all(|k| walk.strides[k][last] == strides[k][axis] * length);
            if !first && !even {
                walk.rank += 1;
            }
            let at = walk.rank - 1;
            walk.lengths[at] *= length;
            for k in 0..K {
                walk.strides[k][at] = strides[k][axis];
            }
        }
        walk
    }

    /// The place of output element `position`, but at the start of its run, and how far into the
    /// run it is.
    pub fn place(&self, position: usize) -> (Place<K>, usize) {
        let last = self.rank - 1;
        let mut place = Place { index: [0; MAX_RANK], offsets: [0; K] };
        let mut rest = position / self.lengths[last];
        for axis in (0..last).rev() {
            place.index[axis] = rest % self.lengths[axis];
            rest /= self.lengths[axis];
            for k in 0..K {
                place.offsets[k] += place.index[axis] * self.strides[k][axis];
            }
        }
        (place, position % self.lengths[last])
    }

    /// Moves to the start of the next run.
    pub fn advance(&self, place: &mut Place<K>) {
        for axis in (0..self.rank - 1).rev() {
            place.index[axis] += 1;
            let wraps = place.index[axis] == self.lengths[axis];
            for k in 0..K {
                let stride = self.strides[k][axis];
                place.offsets[k] += stride;
                if wraps {
                    place.offsets[k] -= stride * self.lengths[axis];
                }
            }
            if !wraps {
                return;
            }
            place.index[axis] = 0;
        }
    }
}
