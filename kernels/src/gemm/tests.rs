//! Every reader, on both sides, and every writer against plain loops; and the promise about bits.

use std::ops::Range;

use half::{bf16, f16};

use super::plan::TALL;
use super::*;
use crate::lane::on_every_isa;
use crate::par;

/// A number in [-1, 1), with eight bits so that bfloat16 holds it; element i of stream `seed`.
pub(super) fn value(seed: u32, i: usize) -> f64 {
    let mixed = (i as u32 ^ seed << 24).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
    f64::from(mixed >> 24) / 128.0 - 1.0
}

pub(super) fn values<T: Real>(seed: u32, n: usize) -> Vec<T> {
    (0..n).map(|i| T::from_f64(value(seed, i))).collect()
}

/// Sizes around every edge there is: none, one, a panel, a register tile, a block of K, a tile.
#[rustfmt::skip]
pub(super) const SIZES: [[usize; 3]; 13] = [
    [0, 3, 2], [3, 0, 2], [2, 3, 0], [1, 1, 1], [5, 16, 7], [7, 17, KC], [6, 33, KC + 1],
    [13, 31, 40], [25, 48, 2 * KC + 5], [193, 40, 19], [50, 300, 9], [200, 270, 11], [200, 8, 0],
];

/// Rounding of a sum of k products at most 1 in size, each rounded to f32 or f64.
fn tolerance<T: Real>(k: usize) -> f64 {
    let epsilon = if size_of::<T>() == 4 { f64::from(f32::EPSILON) } else { f64::EPSILON };
    epsilon * (k + 4) as f64
}

#[track_caller]
pub(super) fn assert_close<T: Real>(got: &[T], want: &[f64], k: usize) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.to_f64() - want).abs();
        assert!(error <= tolerance::<T>(k) * (1.0 + want.abs()), "{i}: {got} for {want}");
    }
}

/// A product of two operands against loops over what they are said to hold.
#[track_caller]
pub(super) fn check<T: Real>(
    size: Size,
    (a, a_at): (Operand<T>, &dyn Fn(usize, usize, usize) -> f64),
    (b, b_at): (Operand<T>, &dyn Fn(usize, usize, usize) -> f64),
) {
    let mut c = vec![T::from_f64(f64::NAN); size.batch * size.m * size.n];
    gemm(size, a, b, &Store, &mut c);
    assert_close(&c, &reference(size, a_at, b_at), size.k);
}

fn strided_operands<T: Real>() {
    for [m, n, k] in SIZES {
        for (a_padding, b_padding) in [(0, 0), (3, 5)] {
            let size = Size::new(m, n, k);
            let (a, b) = (values::<T>(1, (m + 9) * (k + 9)), values::<T>(2, (k + 9) * (n + 9)));
            let (by_k, by_m) = (k + a_padding, m + a_padding);
            let (by_n, b_by_k) = (n + b_padding, k + b_padding);
            let a_rows = Strided::<T>::new(&a, [by_k, 1]);
            let a_cols = Strided::<T>::new(&a, [by_m, 1]);
            let b_rows = Strided::<T>::new(&b, [by_n, 1]);
            let b_cols = Strided::<T>::new(&b, [b_by_k, 1]);
            let a_rows_at = |_, i, k| value(1, i * by_k + k);
            let a_cols_at = |_, i, k| value(1, k * by_m + i);
            let b_rows_at = |_, k, j| value(2, k * by_n + j);
            let b_cols_at = |_, k, j| value(2, j * b_by_k + k);
            check(size, (a_rows.plain(), &a_rows_at), (b_rows.plain(), &b_rows_at));
            check(size, (a_cols.transposed(), &a_cols_at), (b_cols.transposed(), &b_cols_at));
            // The same by strides in place of `transposed`.
            let a_cols = Strided::<T>::new(&a, [1, by_m]);
            let b_cols = Strided::<T>::new(&b, [1, b_by_k]);
            check(size, (a_cols.plain(), &a_cols_at), (b_cols.plain(), &b_cols_at));
        }
    }
}

#[test]
fn strided_operands_in_f32_and_f64() {
    strided_operands::<f32>();
    strided_operands::<f64>();
}

#[test]
fn any_strides_will_do() {
    let x = values::<f32>(3, 4000);
    for strides in [[100, 3], [0, 2], [2, 0], [0, 1], [1, 0], [0, 0], [70, 2]] {
        let at = |i: usize, j: usize| value(3, i * strides[0] + j * strides[1]);
        let reader = Strided::<f32>::new(&x, strides);
        let (plain, turned) = (reader.plain(), reader.transposed());
        let plain_at = |_: usize, i: usize, j: usize| at(i, j);
        let turned_at = |_: usize, i: usize, j: usize| at(j, i);
        let size = Size::new(9, 20, 30);
        check(size, (plain, &plain_at), (plain, &plain_at));
        check(size, (turned, &turned_at), (turned, &turned_at));
    }
}

#[test]
fn batches_may_be_broadcast_and_interleaved() {
    // Heads [2, 3] of queries stored as [2, token, 3, width], times one matrix for all.
    for (m, width) in [(5, 8), (70, 4)] {
        let size = Size::new(m, 5, width).batched(6);
        let (q, w) = (values::<f32>(4, 6 * m * width), values::<f32>(5, 5 * width));
        let heads =
            Strided::<f32>::new(&q, [3 * width, 1]).batched(&[2, 3], &[m * 3 * width, width]);
        let shared = Strided::<f32>::rows(&w, width);
        let heads_at = |b, i, k| value(4, ((b / 3 * m + i) * 3 + b % 3) * width + k);
        check(
            size,
            (heads.plain(), &heads_at),
            (shared.transposed(), &|_, k, j| value(5, j * width + k)),
        );
        let size = Size::new(m, m, width).batched(6);
        check(size, (heads.plain(), &heads_at), (heads.transposed(), &|b, k, j| heads_at(b, j, k)));
    }
}

fn half_operands<T: Real, E: Stored<T>>(narrow: impl Fn(f64) -> E) {
    for [m, n, k] in SIZES {
        let size = Size::new(m, n, k);
        let a: Vec<E> = (0..m * k).map(|i| narrow(value(6, i))).collect();
        let b: Vec<E> = (0..n * k).map(|i| narrow(value(7, i))).collect();
        let (by_k, by_m) = (Strided::<T, E>::rows(&a, k), Strided::<T, E>::rows(&a, m));
        let (b_by_k, by_n) = (Strided::<T, E>::rows(&b, k), Strided::<T, E>::rows(&b, n));
        let weights_at = |_, r, j| value(7, j * k + r);
        check(
            size,
            (by_k.plain(), &|_, i, r| value(6, i * k + r)),
            (b_by_k.transposed(), &weights_at),
        );
        check(
            size,
            (by_m.transposed(), &|_, i, r| value(6, r * m + i)),
            (by_n.plain(), &|_, r, j| value(7, r * n + j)),
        );
        let packed = PackedB::new(k, n, &b, [1, k]);
        let mut c = vec![T::from_f64(f64::NAN); m * n];
        gemm(size, by_k.plain(), &packed, &Store, &mut c);
        assert_close(&c, &reference(size, |_, i, r| value(6, i * k + r), weights_at), k);
    }
}

#[test]
fn half_precision_operands() {
    half_operands::<f32, bf16>(bf16::from_f64);
    half_operands::<f32, f16>(f16::from_f64);
    half_operands::<f64, bf16>(bf16::from_f64);
    half_operands::<f64, f16>(f16::from_f64);
}

fn modulated_norm<T: Real>() {
    let (samples, rows_per_sample, cols) = (3, 4, 37);
    let rows = samples * rows_per_sample;
    let x = values::<T>(8, rows * cols);
    let (mean, rstd) = (values::<T>(9, rows), values::<T>(10, rows));
    let modulation = values::<T>(11, samples * 2 * cols);
    let reader = ModulatedNorm {
        x: &x,
        cols,
        mean: &mean,
        rstd: &rstd,
        shift: &modulation,
        scale: &modulation[cols..],
        stride: 2 * cols,
        rows_per_sample,
    };
    let at = |_, i: usize, k| {
        let sample = i / rows_per_sample * 2 * cols + k;
        let normal = (value(8, i * cols + k) - value(9, i)) * value(10, i);
        normal * (1.0 + value(11, sample + cols)) + value(11, sample)
    };
    let w = values::<T>(12, cols * rows.max(20));
    let weights = Strided::<T>::rows(&w, cols);
    let weights_at = |_, k, j| value(12, j * cols + k);
    check(Size::new(rows, 20, cols), (reader.plain(), &at), (weights.transposed(), &weights_at));
    // As the right operand of a weight's gradient, Σ over rows.
    let dy = Strided::<T>::rows(&w, 20);
    let dy_at = |_, i, k| value(12, k * 20 + i);
    check(Size::new(20, cols, rows), (dy.transposed(), &dy_at), (reader.plain(), &at));
}

#[test]
fn modulated_norm_on_both_sides() {
    modulated_norm::<f32>();
    modulated_norm::<f64>();
}

fn writers<T: Real>() {
    for [m, n, k] in [[7, 40, 5], [30, 300, 3], [200, 33, 20]] {
        let size = Size::new(m, n, k);
        let (a, b) = (values::<T>(1, m * k), values::<T>(2, n * k));
        let (a, b) = (Strided::<T>::rows(&a, k), Strided::<T>::rows(&b, k));
        let sums = reference(size, |_, i, r| value(1, i * k + r), |_, r, j| value(2, j * k + r));
        let want = |f: &dyn Fn(usize, usize, f64) -> f64| -> Vec<f64> {
            sums.iter().enumerate().map(|(at, &sum)| f(at / n, at % n, sum)).collect()
        };
        let (bias, before) = (values::<T>(3, n.max(m)), values::<T>(4, m * n));
        let run = |writer: &dyn Writer<T>| {
            let (mut out, mut kept) = (before.clone(), values::<T>(5, m * n));
            gemm_keeping(size, a.plain(), b.transposed(), writer, &mut out, &mut kept);
            (out, kept)
        };
        let biased = want(&|_, j, sum| sum + value(3, j));

        assert_close(&run(&Add).0, &want(&|i, j, sum| sum + value(4, i * n + j)), k);
        assert_close(&run(&Bias(Some(&bias))).0, &biased, k);
        assert_close(&run(&Bias(None)).0, &sums, k);
        assert_close(&run(&RowBias(&bias)).0, &want(&|i, _, sum| sum + value(3, i)), k);
        let (gate, residual) = (values::<T>(6, m * (n + 2)), values::<T>(7, m * n));
        let gated = GateResidual {
            bias: Some(&bias),
            gate: &gate,
            gate_stride: n + 2,
            rows_per_sample: 4,
            residual: &residual,
            cols: n,
        };
        let (out, kept) = run(&gated);
        let joined = |i: usize, j, sum| {
            value(7, i * n + j) + value(6, i / 4 * (n + 2) + j) * (sum + value(3, j))
        };
        assert_close(&out, &want(&joined), k);
        assert_close(&kept, &biased, k);

        let mut narrow = vec![bf16::NAN; m * n];
        gemm(size, a.plain(), b.transposed(), &Store, &mut narrow);
        let (plain, _) = run(&Store);
        assert!(narrow.iter().zip(&plain).all(|(n, x)| *n == bf16::from_f64(x.to_f64())));
    }
}

#[test]
fn writers_in_f32_and_f64() {
    writers::<f32>();
    writers::<f64>();
}

/// f32 operands with all their bits in use, so that any other order of summation shows.
fn full(seed: u32, n: usize) -> Vec<f32> {
    (0..n).map(|i| value(seed, i) as f32 * 1.1 + value(seed + 1, i) as f32 * 1e-3).collect()
}

#[test]
fn sums_are_made_in_the_documented_order() {
    let m = 14;
    // Whole sixteens, which are made in the output, but for totals of several blocks; and others.
    for (n, k) in [(35, KC), (48, KC), (35, 2 * KC + 77), (48, 2 * KC + 77)] {
        let [a, b, bias, before] = [m * k, n * k, n, m * n].map(|len| full(len as u32 % 97, len));
        let a_turned = turned(&a, [m, k]);
        let (rows, columns) = (Strided::<f32>::rows(&a, k), Strided::<f32>::rows(&a_turned, m));
        let weights = Strided::<f32>::rows(&b, k);
        let sum = |at: usize| {
            let [a, b] =
                [&a[at / n * k..], &b[at % n * k..]].map(|x| x[..k].chunks(block_depth(k)));
            a.zip(b)
                .map(|(a, b)| a.iter().zip(b).fold(0.0_f32, |sum, (a, &b)| a.mul_add(b, sum)))
                .reduce(|total, sum| total + sum)
                .unwrap()
        };
        let all = |end: &dyn Fn(usize) -> f32| (0..m * n).map(end).collect::<Vec<_>>();
        let (stored, added) = (all(&sum), all(&|at| before[at] + sum(at)));
        let (bias, biased) = (Bias(Some(&bias)), all(&|at| sum(at) + bias[at % n]));
        let ends: [(&dyn Writer<f32>, _); 3] = [(&Store, stored), (&Add, added), (&bias, biased)];
        on_every_isa("matrix products", |isa| {
            for a in [rows.plain(), columns.transposed()] {
                for (writer, want) in &ends {
                    let mut c = before.clone();
                    gemm(Size::new(m, n, k), a, weights.transposed(), *writer, &mut c);
                    assert!(c == *want, "{isa:?} {n} columns, sums of {k}");
                }
            }
        });
    }
}

#[test]
fn bits_depend_on_neither_rows_nor_batch_nor_threads_nor_packing() {
    let (m, n, k) = (230, 290, 420);
    let (a, b) = (full(40, m * k), full(50, n * k));
    let (a_rows, b_rows) = (Strided::<f32>::rows(&a, k), Strided::<f32>::rows(&b, k));
    let product = |rows: Range<usize>| {
        let a = Strided::<f32>::rows(&a[rows.start * k..], k);
        let mut c = vec![0.0; rows.len() * n];
        gemm(Size::new(rows.len(), n, k), a.plain(), b_rows.transposed(), &Store, &mut c);
        c
    };
    let whole = par::with_threads(1, || product(0..m));
    for threads in [2, 3] {
        assert!(par::with_threads(threads, || product(0..m)) == whole);
    }
    for rows in [0..1, 57..58, 100..107, 37..230] {
        assert!(product(rows.clone()) == whole[rows.start * n..rows.end * n]);
    }
    let mut c = vec![0.0; m * n];
    let packed = PackedB::new(k, n, &b, [1, k]);
    gemm(Size::new(m, n, k), a_rows.plain(), &packed, &Store, &mut c);
    assert!(c == whole);
    // 23 products of ten rows.
    let tens = Strided::<f32>::rows(&a, k).batched(&[23], &[10 * k]);
    let size = Size::new(10, n, k).batched(23);
    gemm(size, tens.plain(), b_rows.transposed(), &Store, &mut c);
    assert!(c == whole);
}

/// Tiles of all rows, of some, and of few, which tile that they are in says nothing about a sum.
#[test]
fn few_rows_of_a_large_product_have_the_bits_of_many() {
    let (m, n, k) = (2 * TALL + 1, 85, 2 * KC + 30);
    let (a, b) = (full(60, m * k), full(70, n * k));
    let weights = Strided::<f32>::rows(&b, k);
    let product = |rows: usize| {
        let mut c = vec![0.0; rows * n];
        let a = Strided::<f32>::rows(&a, k);
        gemm(Size::new(rows, n, k), a.plain(), weights.transposed(), &Store, &mut c);
        c
    };
    let whole = product(m);
    for rows in [1, 20, TALL] {
        assert!(product(rows) == whole[..rows * n], "{rows} rows");
    }
}

/// A matrix after the other, each turned round.
fn turned<T: Copy>(x: &[T], [rows, cols]: [usize; 2]) -> Vec<T> {
    let matrices = x.chunks((rows * cols).max(1));
    matrices.flat_map(|x| (0..cols * rows).map(|i| x[i % rows * cols + i / rows])).collect()
}

/// Rows of A are read where they are, packed before, or by each tile, as rows or side by side;
/// columns of B too, by a tile, its first rows, or for all tiles. Slices end where matrices end.
#[test]
fn every_way_of_packing_makes_the_same_sums() {
    let sizes = [
        [3, 109, 130, 33],
        [1, TALL + 12, 40, KC + 76],
        [2, 40, 1100, KC + 276],
        [2, 5, 1100, KC + 76],
        [7, 130, 200, 50],
        [1, 2055, 20, KC],
        [1, 700, 1040, 70],
        [1, 1100, 1100, 300],
        [2, 800, 20, 70],
        [3, 7, 64, 0],
        [1, 96, 112, 40],
    ];
    for [batch, m, n, k] in sizes {
        let size = Size::new(m, n, k).batched(batch);
        let (a, b) = (values::<f32>(1, batch * m * k), values::<f32>(2, batch * k * n));
        let (a_turned, b_turned) = (turned(&a, [m, k]), turned(&b, [k, n]));
        let narrow = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        let (half, half_turned) = (narrow(&a), narrow(&a_turned));
        let (by_a, by_b) = ([m * k], [k * n]);
        let rows = Strided::<f32>::rows(&a, k).batched(&[batch], &by_a);
        let columns = Strided::<f32>::rows(&a_turned, m).batched(&[batch], &by_a);
        let strides = Strided::<f32>::new(&a_turned, [1, m]).batched(&[batch], &by_a);
        let half_rows = Strided::<f32, bf16>::rows(&half, k).batched(&[batch], &by_a);
        let half_columns = Strided::<f32, bf16>::rows(&half_turned, m).batched(&[batch], &by_a);
        let lefts = [
            ("rows", rows.plain()),
            ("columns", columns.transposed()),
            ("strides", strides.plain()),
            ("half rows", half_rows.plain()),
            ("half columns", half_columns.transposed()),
        ];
        let plain = Strided::<f32>::rows(&b, n).batched(&[batch], &by_b);
        let across = Strided::<f32>::rows(&b_turned, k).batched(&[batch], &by_b);
        let shared = Strided::<f32>::rows(&b[..k * n], n);
        let packed = PackedB::new(k, n, &b[..k * n], [n, 1]);
        let half_packed = PackedB::new(k, n, &narrow(&b[..k * n]), [n, 1]);
        let product = |a: Operand<f32>, b: Right<f32>| {
            let mut c = vec![f32::NAN; batch * m * n];
            gemm(size, a, b, &Store, &mut c);
            c
        };
        let want = product(rows.plain(), across.transposed().into());
        let want_shared = product(rows.plain(), shared.plain().into());
        on_every_isa("ways of packing", |isa| {
            for (what, a) in lefts {
                let same = |b: Right<f32>, want: &[f32], with: &str| {
                    assert!(product(a, b) == want, "{size:?} {what} {with} {isa:?}");
                };
                same(plain.plain().into(), &want, "plain");
                same(across.transposed().into(), &want, "transposed");
                same((&packed).into(), &want_shared, "packed");
                same((&half_packed).into(), &want_shared, "packed halves");
            }
        });
    }
}
