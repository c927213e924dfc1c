//! Scratch memory that a thread keeps: kernels called thousands of times a step allocate nothing.

use std::cell::RefCell;

use crate::Real;

/// A cache line: the alignment of all scratch.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct Line([u64; 8]);

impl Line {
    pub const EMPTY: Self = Self([0; 8]);
}

thread_local! {
    /// The thread's buffers that are not in use. Several, because uses nest.
    static IDLE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with one slice for each of `lens`, of unspecified contents, aligned to cache lines.
///
/// The memory is the thread's own and is kept for the next call. Calls may nest.
pub fn with<T: Real, R, const N: usize>(lens: [usize; N], f: impl FnOnce([&mut [T]; N]) -> R) -> R {
    let per_line = size_of::<Line>() / size_of::<T>();
    let lines = lens.map(|len| len.div_ceil(per_line));
    let mut buffer = take(lines.iter().sum());
    let mut rest = bytemuck::cast_slice_mut(&mut buffer);
    let mut slices = lens.into_iter().zip(lines).map(|(len, lines)| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(lines * per_line);
        rest = tail;
        &mut head[..len]
    });
    let result = f(std::array::from_fn(|_| slices.next().expect("one slice for each length")));
    IDLE.with_borrow_mut(|idle| idle.push(buffer));
    result
}

/// The smallest idle buffer of at least `lines` lines; if there is none, the largest, grown.
fn take(lines: usize) -> Vec<Line> {
    let mut buffer = IDLE.with_borrow_mut(|idle| {
        let large_enough = (0..idle.len()).filter(|&i| idle[i].len() >= lines);
        let smallest = large_enough.min_by_key(|&i| idle[i].len());
        let largest = || (0..idle.len()).max_by_key(|&i| idle[i].len());
        smallest.or_else(largest).map_or_else(Vec::new, |i| idle.swap_remove(i))
    });
    if buffer.len() < lines {
        // A new buffer, not a resized one: nobody needs the old contents copied.
        buffer = vec![Line::EMPTY; lines];
    }
    buffer
}

#[cfg(test)]
mod tests {
    #[test]
    fn slices_are_disjoint_aligned_and_reentrant() {
        super::with([3, 0, 20], |[a, b, c]: [&mut [f32]; 3]| {
            a.fill(1.0);
            c.fill(2.0);
            super::with([40], |[inner]: [&mut [f64]; 1]| inner.fill(9.0));
            assert!(b.is_empty() && a == [1.0; 3] && c == [2.0; 20]);
            assert_eq!(c.as_ptr() as usize % 64, 0);
        });
    }

    #[test]
    fn nested_buffers_are_kept_too() {
        let addresses = || {
            super::with([1000], |[a]: [&mut [f32]; 1]| {
                super::with([10], |[b]: [&mut [f32]; 1]| (a.as_ptr(), b.as_ptr()))
            })
        };
        assert_eq!(addresses(), addresses());
    }
}
