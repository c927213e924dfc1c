//! The one loop that runs every elementwise formula.
//!
//! Output is dense and cut into chunks of fixed length, which threads share. Axes that lie evenly
//! in all operands are merged first ([`Walk`]), so that most calls are one long run; within a run
//! an operand advances by 1 (a vector load), by 0 (one value for all: broadcasting) or by its
//! stride (gathered). An element's value depends on nothing but its operands: chunking changes no
//! bit.

use super::formula::Pointwise;
use super::together::each_vector;
use super::walk::Walk;
use crate::lane::LANES;
use crate::{Real, Simd, Task, par};

/// Elements of a task: 64 KiB of f32, which with two operands stay in a second-level cache.
const CHUNK: usize = 1 << 14;

/// y = f(x₀, x₁, …) at every index of `shape`, in row-major order.
///
/// Each operand is a slice that begins with its first element, and a stride for each axis: index
/// (i, j, …) is at i·stride₀ + j·stride₁ + …; stride 0 broadcasts. `y` has an element per index.
///
/// # Panics
/// If `y` or the strides do not fit `shape`, an operand ends too early, or `shape` has more than
/// eight axes.
pub fn map<const K: usize, T: Real, F: Pointwise<K>>(
    f: &F,
    shape: &[usize],
    x: [(&[T], &[usize]); K],
    y: &mut [T],
) {
    map_runs(shape, x, y, &|x, y| {
        if const { F::RARE } { run_scalars(f, x, y) } else { T::dispatch(Run { f, x, y }) }
    });
}

/// What [`map`] does for every formula alike, compiled once for all of them: calls `run` for each
/// stretch of the output along which every operand advances by one stride.
fn map_runs<const K: usize, T: Real>(
    shape: &[usize],
    x: [(&[T], &[usize]); K],
    y: &mut [T],
    run: &(dyn Fn([Operand<'_, T>; K], &mut [T]) + Sync),
) {
    assert_eq!(y.len(), shape.iter().product::<usize>(), "y has an element per index of {shape:?}");
    let walk = Walk::new(shape, x.map(|(_, strides)| strides));
    let x = x.map(|(x, _)| x);
    par::chunks_mut(y, CHUNK, y.len(), |i, mut y| {
        let last = walk.rank - 1;
        let (mut place, mut skip) = walk.place(i * CHUNK);
        while !y.is_empty() {
            let (stretch, rest) = y.split_at_mut((walk.lengths[last] - skip).min(y.len()));
            let operand = |k: usize| {
                let stride = walk.strides[k][last];
                Operand { x: &x[k][place.offsets[k] + skip * stride..], stride }
            };
            run(std::array::from_fn(operand), stretch);
            walk.advance(&mut place);
            (y, skip) = (rest, 0);
        }
    });
}

/// `y += x`, element by element.
pub fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    assert_eq!(y.len(), x.len(), "as many elements are added as there are");
    par::chunks_mut(y, CHUNK, y.len() / 2, |i, y| {
        T::dispatch(AddAssign { x: &x[i * CHUNK..][..y.len()], y });
    });
}

/// Adds `x`, of shape \[outer, len, inner\], to the part `start .. start + len` of the middle axis
/// of `y`, of shape \[outer, n, inner\].
pub fn add_region<T: Real>(
    y: &mut [T],
    [outer, n, inner]: [usize; 3],
    start: usize,
    x: &[T],
    len: usize,
) {
    assert_eq!((y.len(), x.len()), (outer * n * inner, outer * len * inner));
    assert!(start + len <= n, "the part {start}..{} lies within {n}", start + len);
    if x.is_empty() {
        return;
    }
    let rows = CHUNK.div_ceil(len * inner);
    par::chunks_mut(y, rows * n * inner, x.len() / 2, |i, y| {
        let x = x[i * rows * len * inner..].chunks(len * inner);
        for (y, x) in y.chunks_mut(n * inner).zip(x) {
            T::dispatch(AddAssign { y: &mut y[start * inner..][..len * inner], x });
        }
    });
}

/// A formula on one stretch of the output.
struct Run<'a, 'f, const K: usize, T, F> {
    f: &'f F,
    x: [Operand<'a, T>; K],
    y: &'a mut [T],
}

impl<const K: usize, T: Real, F: Pointwise<K>> Task<T> for Run<'_, '_, K, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Run { f, x, y } = self;
        if const { S::IN_REGISTERS } {
            let done = if contiguous(&x) { run_blocks(isa, f, x, y) } else { 0 };
            run_strided(isa, f, x, y, done);
        } else {
            run_scalars(f, x, y);
        }
    }
}

/// What a run reads: elements 0, stride, 2·stride, … of `x`.
#[derive(Clone, Copy)]
struct Operand<'a, T> {
    x: &'a [T],
    stride: usize,
}

#[inline(always)]
fn contiguous<const K: usize, T>(operands: &[Operand<'_, T>; K]) -> bool {
    let mut all = true;
    for operand in operands {
        all &= operand.stride == 1;
    }
    all
}

/// Runs the whole vectors of contiguous operands, and answers how many elements that were.
#[inline(always)]
fn run_blocks<const K: usize, S: Simd, F: Pointwise<K>>(
    isa: S,
    f: &F,
    operands: [Operand<'_, S::T>; K],
    y: &mut [S::T],
) -> usize {
    let mut x = [&[][..]; K];
    for k in 0..K {
        x[k] = operands[k].x[..y.len()].as_chunks::<LANES>().0;
    }
    let blocks = y.as_chunks_mut::<LANES>().0;
    let load = |i: usize| {
        let mut v = [isa.splat(S::T::ONE); K];
        for k in 0..K {
            v[k] = isa.load(&x[k][i]);
        }
        v
    };
    each_vector(isa, f, blocks.len(), load, |i, v| isa.store(v, &mut blocks[i]));
    blocks.len() * LANES
}

/// Runs operands of any stride, from element `start` on.
#[inline(always)]
fn run_strided<const K: usize, S: Simd, F: Pointwise<K>>(
    isa: S,
    f: &F,
    operands: [Operand<'_, S::T>; K],
    y: &mut [S::T],
    mut start: usize,
) {
    let mut constants = [isa.splat(S::T::ONE); K];
    for k in 0..K {
        constants[k] = isa.splat(operands[k].x[0]);
    }
    while start < y.len() {
        let n = LANES.min(y.len() - start);
        let mut v = constants;
        for k in 0..K {
            let Operand { x, stride } = operands[k];
            if stride == 1 {
                v[k] = isa.load_head(&x[start..start + n], S::T::ONE);
            } else if stride > 1 {
                let mut gathered = [S::T::ONE; LANES];
                for i in 0..n {
                    gathered[i] = x[(start + i) * stride];
                }
                v[k] = isa.load(&gathered);
            }
        }
        isa.store_head(f.at(v), &mut y[start..start + n]);
        start += n;
    }
}

/// The same, one element at a time: where lanes are no registers they only make the code larger.
#[inline(always)]
fn run_scalars<const K: usize, T: Real, F: Pointwise<K>>(
    f: &F,
    operands: [Operand<'_, T>; K],
    y: &mut [T],
) {
    for (i, y) in y.iter_mut().enumerate() {
        let mut v = [T::ONE; K];
        for k in 0..K {
            v[k] = operands[k].x[i * operands[k].stride];
        }
        *y = f.at(v);
    }
}

/// `y += x`.
struct AddAssign<'a, T> {
    y: &'a mut [T],
    x: &'a [T],
}

impl<T: Real> Task<T> for AddAssign<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let (y, y_tail) = self.y.as_chunks_mut::<LANES>();
        let (x, x_tail) = self.x.as_chunks::<LANES>();
        for (y, x) in y.iter_mut().zip(x) {
            isa.store(isa.load(y) + isa.load(x), y);
        }
        for (y, x) in y_tail.iter_mut().zip(x_tail) {
            *y += *x;
        }
    }
}

#[cfg(test)]
mod tests;
