//! Sums by two fixed trees.
//!
//! * Rows (inner = 1): a block of 2048 elements goes into four vectors of sixteen lanes, 32
//!   additions deep, then through the tree of lanes; blocks are added in float64.
//! * Columns: 64 rows at a time, four rows added to each other before they meet the total; the
//!   sums of 64 are rows again, until one is left. Rows are read as they lie in memory, so that
//!   a column sum streams its input like any other pass.
//!
//! A thread's share is fixed by the problem, and every output is computed by one thread.

use crate::lane::LANES;
use crate::{Real, Simd, Task, par};

/// Elements of a row that are added in lanes before lanes are added to each other.
pub(super) const BLOCK: usize = 2048;

/// Blocks of a row that one task adds.
pub(super) const BLOCKS: usize = 16;

/// Rows that a column sum adds at once.
pub(super) const ROWS: usize = 64;

/// Outputs of a column sum that one task writes: 64 rows of so many columns are some 20 µs.
const COLUMNS: usize = 1024;

/// How many rows before its turn one is fetched to a column sum.
const AHEAD: usize = 8;

/// `y[o, j] = Σᵢ x[o, i, j]` for x of shape \[outer, n, inner\].
///
/// # Panics
/// If a slice has another length than its shape.
pub fn sum<T: Real>(x: &[T], [outer, n, inner]: [usize; 3], y: &mut [T]) {
    assert_eq!((x.len(), y.len()), (outer * n * inner, outer * inner), "slices fit the shape");
    if inner == 1 {
        sum_rows(x, n, y);
    } else {
        sum_columns([x], [outer, n, inner], y);
    }
}

/// `sum[o, j] = Σᵢ x[o, i, j]·y[o, i, j]` for x and y of shape \[outer, n, inner\], as if the products
/// were written first, and then columns added.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn sum_products<T: Real>(x: [&[T]; 2], [outer, n, inner]: [usize; 3], sum: &mut [T]) {
    assert!(x.iter().all(|x| x.len() == outer * n * inner), "slices fit the shape");
    assert_eq!(sum.len(), outer * inner, "slices fit the shape");
    sum_columns(x, [outer, n, inner], sum);
}

/// Σ x², in float64.
pub fn sum_squares<T: Real>(x: &[T]) -> f64 {
    let segments = x.len().div_ceil(BLOCK * BLOCKS);
    let partial = par::map(segments, x.len() / 4, |i| {
        let x = &x[i * BLOCK * BLOCKS..];
        T::dispatch(SumSquares(&x[..x.len().min(BLOCK * BLOCKS)]))
    });
    partial.iter().sum()
}

/// `y[o, j] = maxᵢ x[o, i, j]` for x of shape \[outer, n, inner\], and the first i where it is.
///
/// A NaN counts as larger than any number.
///
/// # Panics
/// If n is 0 or a slice has another length than its shape.
pub fn max<T: Real>(x: &[T], [outer, n, inner]: [usize; 3], y: &mut [T], at: &mut [u32]) {
    assert!(n > 0, "the maximum of nothing is undefined");
    assert_eq!((x.len(), y.len()), (outer * n * inner, outer * inner), "slices fit the shape");
    if x.is_empty() {
        return;
    }
    par::chunks2_mut((y, inner), (at, inner), x.len(), |o, y, at| {
        let mut rows = x[o * n * inner..][..n * inner].chunks(inner);
        y.copy_from_slice(rows.next().expect("n is positive"));
        at.fill(0);
        for (i, row) in (1..).zip(rows) {
            for ((y, at), x) in y.iter_mut().zip(at.iter_mut()).zip(row) {
                let nan = |v: T| v.partial_cmp(&v).is_none();
                if *x > *y || (nan(*x) && !nan(*y)) {
                    (*y, *at) = (*x, i);
                }
            }
        }
    });
}

/// The transpose of [`max`]: `dx[o, at[o, j], j] = dy[o, j]`, and nothing else is written.
///
/// # Panics
/// If a slice has another length than its shape, or an index is n or more.
pub fn spread<T: Real>(dy: &[T], at: &[u32], [outer, n, inner]: [usize; 3], dx: &mut [T]) {
    assert_eq!((dx.len(), dy.len()), (outer * n * inner, outer * inner), "slices fit the shape");
    for (k, (&dy, &i)) in dy.iter().zip(at).enumerate() {
        let (o, j) = (k / inner, k % inner);
        dx[o * n * inner..][..n * inner][i as usize * inner + j] = dy;
    }
}

fn sum_rows<T: Real>(x: &[T], n: usize, y: &mut [T]) {
    let ns = x.len() / 8;
    if n <= BLOCK * BLOCKS {
        let rows = (BLOCK * BLOCKS / n.max(1)).max(1);
        par::chunks_mut(y, rows, ns, |i, y| {
            T::dispatch(SumRows { x: &x[i * rows * n..][..y.len() * n], n, y });
        });
        return;
    }
    // Few long rows: tasks are parts of a row.
    for (y, row) in y.iter_mut().zip(x.chunks(n)) {
        let parts = par::map(n.div_ceil(BLOCK * BLOCKS), ns, |i| {
            let part = &row[i * BLOCK * BLOCKS..];
            T::dispatch(SumRow(&part[..part.len().min(BLOCK * BLOCKS)]))
        });
        *y = T::from_f64(parts.iter().sum());
    }
}

/// Each row's sum.
struct SumRows<'a, T> {
    x: &'a [T],
    n: usize,
    y: &'a mut [T],
}

impl<T: Real> Task<T> for SumRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        for (i, y) in self.y.iter_mut().enumerate() {
            *y = T::from_f64(sum_row(isa, &self.x[i * self.n..][..self.n]));
        }
    }
}

/// One part of a row.
struct SumRow<'a, T>(&'a [T]);

impl<T: Real> Task<T> for SumRow<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) -> f64 {
        sum_row(isa, self.0)
    }
}

#[inline(always)]
fn sum_row<S: Simd>(isa: S, x: &[S::T]) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(BLOCK) {
        let mut lanes = [isa.splat(S::T::ZERO); 4];
        for quad in block.chunks(4 * LANES) {
            for (k, x) in quad.chunks(LANES).enumerate() {
                lanes[k] = lanes[k] + isa.load_head(x, S::T::ZERO);
            }
        }
        total += isa.sum((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])).to_f64();
    }
    total
}

/// Columns of products of N arrays.
fn sum_columns<T: Real, const N: usize>(x: [&[T]; N], [outer, n, inner]: [usize; 3], y: &mut [T]) {
    let ns = x[0].len() / 8;
    if n <= ROWS {
        par::chunks_mut(y, COLUMNS, ns, |i, y| {
            T::dispatch(SumColumns { x, n, per_outer: 1, inner, start: i * COLUMNS, y });
        });
        return;
    }
    let groups = n.div_ceil(ROWS);
    let mut partial = vec![T::ZERO; outer * groups * inner];
    par::chunks_mut(&mut partial, COLUMNS, ns, |i, y| {
        T::dispatch(SumColumns { x, n, per_outer: groups, inner, start: i * COLUMNS, y });
    });
    sum_columns([&partial], [outer, groups, inner], y);
}

/// Outputs `start ..` of the sums over groups of up to [`ROWS`] rows; `per_outer` groups hold the
/// n rows of one outer index.
struct SumColumns<'a, T, const N: usize> {
    x: [&'a [T]; N],
    n: usize,
    per_outer: usize,
    inner: usize,
    start: usize,
    y: &'a mut [T],
}

impl<T: Real, const N: usize> Task<T> for SumColumns<'_, T, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let SumColumns { x, n, per_outer, inner, start, mut y } = self;
        let mut position = start;
        while !y.is_empty() {
            let (group, column) = (position / inner, position % inner);
            let (part, rest) = y.split_at_mut((inner - column).min(y.len()));
            let first = group % per_outer * ROWS;
            let rows = ROWS.min(n - first.min(n));
            let start = (group / per_outer * n + first) * inner;
            position += part.len();
            add_rows(isa, x.map(|x| &x[start..][..rows * inner]), inner, column, part);
            y = rest;
        }
    }
}

/// `y[j] = Σᵢ x[i, column + j]` for a product x of N arrays, four rows at a time.
#[inline(always)]
fn add_rows<S: Simd, const N: usize>(
    isa: S,
    x: [&[S::T]; N],
    inner: usize,
    column: usize,
    y: &mut [S::T],
) {
    y.fill(S::T::ZERO);
    for first in (0..x[0].len()).step_by(4 * inner) {
        let rows = ((x[0].len() - first) / inner).min(4);
        let mut j = 0;
        while j < y.len() {
            let width = LANES.min(y.len() - j);
            let mut v = [isa.splat(S::T::ZERO); 4];
            for k in 0..rows {
                let place = first + k * inner + column + j;
                isa.prefetch(&x[0][place..], AHEAD * inner);
                v[k] = isa.load_head(&x[0][place..][..width], S::T::ZERO);
                for factor in &x[1..] {
                    isa.prefetch(&factor[place..], AHEAD * inner);
                    v[k] = v[k] * isa.load_head(&factor[place..][..width], S::T::ZERO);
                }
            }
            let total = isa.load_head(&y[j..j + width], S::T::ZERO);
            isa.store_head(total + ((v[0] + v[1]) + (v[2] + v[3])), &mut y[j..j + width]);
            j += width;
        }
    }
}

/// Σ x² in sixteen float64 lanes.
struct SumSquares<'a, T>(&'a [T]);

impl<T: Real> Task<T> for SumSquares<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, _: S) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (blocks, tail) = self.0.as_chunks::<LANES>();
        for block in blocks {
            for i in 0..LANES {
                let x = block[i].to_f64();
                lanes[i] += x * x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(tail) {
            *lane += x.to_f64() * x.to_f64();
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::{reference_max, reference_sum};

    fn values(n: usize) -> Vec<f32> {
        let word = |i: u32| crate::random::philox4x32([5, 0], [i, 0, 0, 0])[0];
        (0..n as u32).map(|i| word(i) as f32 / u32::MAX as f32 - 0.25).collect()
    }

    const SHAPES: [[usize; 3]; 9] = [
        [1, 1, 1],
        [3, 5, 1],
        [7, 2500, 1],
        [2, 70_001, 1],
        [3, 5, 7],
        [1, 4099, 33],
        [2, 65, 4099],
        [5, 0, 3],
        [0, 3, 2],
    ];

    #[test]
    fn sums_match_float64_in_any_pool() {
        for shape in SHAPES {
            let [outer, n, inner] = shape;
            let x = values(outer * n * inner);
            let x64: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let want = reference_sum(&x64, shape);
            let run = |threads| {
                let mut y = vec![f32::NAN; outer * inner];
                par::with_threads(threads, || sum(&x, shape, &mut y));
                y
            };
            let y = run(1);
            // Trees are at most 40 additions deep here, of magnitudes that add up to n/2.
            let bound = 40.0 * f64::from(f32::EPSILON) / 2.0 * n as f64 / 2.0;
            for (y, want) in y.iter().zip(&want) {
                assert!((f64::from(*y) - want).abs() <= bound, "{shape:?}: {y} against {want}");
            }
            assert_eq!(run(2), y, "{shape:?}: threads change no bit");
            let mut y = vec![f64::NAN; outer * inner];
            sum(&x64, shape, &mut y);
            assert!(
                y.iter().zip(&want).all(|(y, want)| (y - want).abs() <= 1e-15 * n as f64 * 40.0)
            );
        }
    }

    #[test]
    fn products_are_added_as_if_they_were_written_first() {
        for shape in SHAPES.into_iter().filter(|shape| shape[2] > 1) {
            let [outer, n, inner] = shape;
            let x = values(outer * n * inner);
            let y: Vec<f32> = x.iter().rev().copied().collect();
            let written: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x * y).collect();
            let [mut want, mut got] = [f32::NAN, 0.0].map(|x| vec![x; outer * inner]);
            sum(&written, shape, &mut want);
            for threads in 1..3 {
                par::with_threads(threads, || sum_products([&x, &y], shape, &mut got));
                assert_eq!(got, want, "{shape:?}");
            }
        }
    }

    #[test]
    fn norms_are_sums_in_float64() {
        let x = values(70_001);
        let want: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((sum_squares(&x) - want).abs() < 1e-12 * want);
        assert_eq!(sum_squares::<f32>(&[]), 0.0);
    }

    /// Partial sums are added in their order, not in that in which tasks finish.
    #[test]
    fn norms_do_not_depend_on_which_task_is_done_first() {
        // From one task's elements to the next sums grow by 1/3: another order rounds otherwise.
        let size = |i: usize| 1.0 + (i / (BLOCK * BLOCKS)) as f32 / 3.0;
        let x: Vec<f32> =
            values(40 * BLOCK * BLOCKS).iter().enumerate().map(|(i, x)| x * size(i)).collect();
        let run = |threads| par::with_threads(threads, || sum_squares(&x).to_bits());
        let want = run(1);
        assert!((0..20).all(|_| run(3) == want));
    }

    #[test]
    fn maxima_and_where_they_are() {
        for shape in SHAPES.into_iter().filter(|shape| shape[1] > 0) {
            let [outer, n, inner] = shape;
            let x = values(outer * n * inner);
            let x64: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let (mut y, mut at) = (vec![0.0; outer * inner], vec![0; outer * inner]);
            max(&x, shape, &mut y, &mut at);
            let y64: Vec<f64> = y.iter().map(|&y| y.into()).collect();
            assert_eq!(y64, reference_max(&x64, shape));
            for (k, (y, at)) in y.iter().zip(at).enumerate() {
                assert_eq!(x[(k / inner * n + at as usize) * inner + k % inner], *y);
            }
        }
        let mut dx = [0.0f32; 12];
        spread(&[1.0, 2.0, 3.0, 4.0], &[0, 2, 1, 1], [2, 3, 2], &mut dx);
        assert_eq!(dx, [1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
        let (mut y, mut at) = ([0.0], [0]);
        max(&[1.0, f32::NAN, 3.0, f32::NAN, 9.0], [1, 5, 1], &mut y, &mut at);
        assert!(y[0].is_nan() && at[0] == 1);
        max(&[2.0f64, 2.0], [1, 2, 1], &mut [0.0], &mut at);
        assert_eq!(at[0], 0, "the first of equals");
    }
}
