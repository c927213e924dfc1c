//! Copies between buffers of different strides, by words of 1, 2, 4 or 8 bytes.
//!
//! Three things make a strided copy fast, and each has its loop below: whole runs where the last
//! axis is adjacent on both sides; square tiles where the source is adjacent along another axis
//! than the target (a transpose); and merging axes beforehand, which turns most views into one of
//! these two.

use kernels::par::{self, Cell, Cells};

use crate::Shape;
use crate::layout::{MergedStrides, merge};

/// Side of a transposed tile in elements: whole cache lines of f32, and 4 KiB a tile.
const TILE: usize = 32;

/// Elements below which a copy is not divided among threads.
const PIECE: usize = 1 << 16;

/// Sets `target` at every index of `shape` to `source` at that index.
///
/// `source` and `target` begin at the first element of their views. The target is a part of a
/// row-major tensor: no axis's stride is less than the reach of the axes after it.
pub(crate) fn copy<T: Copy + Send + Sync>(
    shape: &Shape,
    source: &[T],
    source_strides: &[usize],
    target: &mut [T],
    target_strides: &[usize],
) {
    if !shape.contains(&0) {
        let (shape, strides) = merge(shape, [source_strides, target_strides]);
        divide(shape, strides, source, target);
    }
}

/// Divides large copies, for as many threads as there are: a transposed matrix by its columns, for
/// pieces of few rows would each read a part of every line of the source; and others by the first
/// axis, in halves.
fn divide<T: Copy + Send + Sync>(
    shape: Shape,
    strides: MergedStrides,
    source: &[T],
    target: &mut [T],
) {
    let is_large = shape.numel() > PIECE;
    let [from, to] = strides;
    match shape[..] {
        [rows, columns]
            if is_large && from[0] == 1 && from[1] > 1 && [to[0], to[1]] == [columns, 1] =>
        {
            let width = PIECE.div_ceil(rows).next_multiple_of(TILE);
            let cells = Cells::new(&mut target[..rows * columns], [rows, columns], [rows, width]);
            par::for_each(columns.div_ceil(width), rows * columns, |i| {
                transpose(&source[i * width * from[1]..], from[1], cells.take(0, [0, i]));
            });
        }
        [length, ..] if is_large && length > 1 => {
            let half = length / 2;
            let (before, after) = target.split_at_mut(half * to[0]);
            let rest = &source[half * from[0]..];
            // About a nanosecond for each of the larger half's elements.
            par::join(
                shape.numel() / 2,
                || divide(shape.with_length(0, half), strides, source, before),
                || divide(shape.with_length(0, length - half), strides, rest, after),
            );
        }
        _ => copy_piece(shape, strides, source, target),
    }
}

fn copy_piece<T: Copy>(shape: Shape, [from, to]: MergedStrides, source: &[T], target: &mut [T]) {
    let Some((&length, outer)) = shape.split_last() else {
        target[0] = source[0];
        return;
    };
    let last = outer.len();
    let across = (0..last).find(|&axis| from[axis] == 1 && shape[axis] > 1);
    match (from[last], to[last], across) {
        (1, 1, _) => each(outer, [&from, &to], |[s, t]| {
            target[t..t + length].copy_from_slice(&source[s..s + length]);
        }),
        (0, 1, _) => each(outer, [&from, &to], |[s, t]| {
            target[t..t + length].fill(source[s]);
        }),
        (from_last, 1, Some(axis)) => {
            let rows = shape[axis];
            let outer = Shape::from(outer).with_length(axis, 1);
            each(&outer, [&from, &to], |[s, t]| {
                let cell = Cell::new(&mut target[t..], [rows, length], to[axis]);
                transpose(&source[s..], from_last, cell);
            });
        }
        (from_last, to_last, _) => each(outer, [&from, &to], |[s, t]| {
            for i in 0..length {
                target[t + i * to_last] = source[s + i * from_last];
            }
        }),
    }
}

/// `target[r, c] = source[r + c·source_column]`, by way of a tile.
///
/// Rows and columns are often a power of two apart, and then their cache lines fall into a few sets
/// of the cache and evict each other. So each line is touched only once: read whole into the tile,
/// which is small and near, and written whole from there.
fn transpose<T: Copy>(source: &[T], source_column: usize, mut target: Cell<T>) {
    let [rows, columns] = [target.rows().end, target.columns().end];
    let mut tile = [source[0]; TILE * TILE];
    for row in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - row);
        for column in (0..columns).step_by(TILE) {
            let width = TILE.min(columns - column);
            for c in 0..width {
                let start = row + (column + c) * source_column;
                let line = &source[start..start + height];
                line.iter().zip(tile[c..].iter_mut().step_by(TILE)).for_each(|(x, y)| *y = *x);
            }
            for (r, line) in tile.chunks_exact(TILE).take(height).enumerate() {
                target.row(row + r)[column..column + width].copy_from_slice(&line[..width]);
            }
        }
    }
}

/// Calls `visit` with the offsets in both buffers of every index of `lengths`, last axis fastest.
fn each(lengths: &[usize], strides: [&[usize]; 2], mut visit: impl FnMut([usize; 2])) {
    let mut index = [0; crate::shape::MAX_RANK];
    let mut offsets = [0; 2];
    'next: loop {
        visit(offsets);
        for axis in (0..lengths.len()).rev() {
            index[axis] += 1;
            if index[axis] < lengths[axis] {
                offsets[0] += strides[0][axis];
                offsets[1] += strides[1][axis];
                continue 'next;
            }
            offsets[0] -= (lengths[axis] - 1) * strides[0][axis];
            offsets[1] -= (lengths[axis] - 1) * strides[1][axis];
            index[axis] = 0;
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    /// Every order of three axes, so that each of the loops above runs, against index arithmetic.
    #[test]
    fn copies_every_permutation() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let sizes = [[9, 101, 83], [1, 2, PIECE + 3]].map(Shape::from);
        for (shape, axes) in sizes.iter().flat_map(|&shape| orders.map(|axes| (shape, axes))) {
            let source: Vec<u32> = (0..shape.numel() as u32).collect();
            let view = Layout::contiguous(shape, 0).permute(&axes);
            let packed = Layout::contiguous(*view.shape(), 0);
            let mut target = vec![0; shape.numel()];
            copy(view.shape(), &source, view.strides(), &mut target, packed.strides());
            let &[a, b, c] = view.strides() else { unreachable!("three axes") };
            let mut at = 0;
            for i in 0..view.shape()[0] {
                for j in 0..view.shape()[1] {
                    for k in 0..view.shape()[2] {
                        assert_eq!(target[at], source[i * a + j * b + k * c], "{axes:?}");
                        at += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn repeats_and_scatters() {
        let mut target = [0; 6];
        copy(&Shape::from([2, 3]), &[7, 8], &[1, 0], &mut target, &[3, 1]);
        assert_eq!(target, [7, 7, 7, 8, 8, 8]);
        copy(&Shape::from([2, 2]), &[1, 2, 3, 4], &[2, 1], &mut target[1..], &[3, 1]);
        assert_eq!(target, [7, 1, 2, 8, 3, 4]);
    }
}
