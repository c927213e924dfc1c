//! Weighted cross-entropy over a vocabulary, from scores or from what the scores are made of.
//!
//! For rows r with target yᵣ and weight wᵣ: `loss = Σᵣ wᵣ·(log Σᵥ exp zᵣᵥ − zᵣ,yᵣ)`. One word may
//! be forbidden: its score counts as −∞, as the mask token's does in masked diffusion (the SUBS
//! parametrisation of Sahoo et al. 2024, section 3.2).
//!
//! A vocabulary of 32,128 words makes scores the largest tensor of a training step, so
//! [`linear_forward`] and [`linear_backward`] never hold more than [`ROWS`] rows of them: scores
//! z = x·Wᵀ + b of a block are made, used and overwritten. What outlives the forward pass is a number
//! or two a row; the backward pass makes the scores again.

pub mod ptx;

use crate::gemm::{self, Add, Bias, Reader, Size, Store, Strided, Writer};
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task, par, reduce, scratch};

/// Most rows of scores that exist at a time, 33 MB of 32,128 words: for each block of them all
/// weights are read, and their gradient is read and written.
pub const ROWS: usize = 256;

/// What the rows are scored against.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The right word of each row.
    pub ids: &'a [u32],
    /// The weight of each row.
    pub weights: &'a [f64],
    /// The word that counts as impossible.
    pub forbidden: Option<u32>,
}

impl<'a> Targets<'a> {
    /// Those of `rows`.
    fn part(&self, rows: std::ops::Range<usize>) -> Targets<'a> {
        let (ids, weights) = (&self.ids[rows.clone()], &self.weights[rows]);
        Targets { ids, weights, forbidden: self.forbidden }
    }
}

/// The loss of scores \[R, V\]; each row's part of it in `parts` \[R\], and its log-sum-exp in
/// `lse` \[R\].
///
/// # Panics
/// If slices do not fit each other or an id is no word.
pub fn forward<T: Real>(
    scores: &[T],
    words: usize,
    targets: Targets,
    parts: &mut [f64],
    lse: &mut [T],
) -> f64 {
    assert_eq!(scores.len(), lse.len() * words, "one row of scores for each target");
    assert_eq!((targets.ids.len(), targets.weights.len()), (lse.len(), lse.len()));
    assert_eq!(parts.len(), lse.len(), "one part for each target");
    par::chunks_mut(lse, 1, scores.len(), |row, lse| {
        let scores = &scores[row * words..][..words];
        lse[0] = T::dispatch(LogSumExp { scores, forbidden: targets.forbidden });
    });
    for (row, part) in parts.iter_mut().enumerate() {
        let right = scores[row * words + targets.ids[row] as usize];
        *part = targets.weights[row] * (lse[row].to_f64() - right.to_f64());
    }
    parts.iter().sum()
}

/// Replaces scores by `dy · ∂loss/∂scores`, given the `lse` of [`forward`].
///
/// # Panics
/// As [`forward`].
pub fn backward<T: Real>(scores: &mut [T], words: usize, targets: Targets, lse: &[T], dy: f64) {
    assert_eq!(scores.len(), lse.len() * words, "one row of scores for each target");
    if words == 0 {
        return;
    }
    par::chunks_mut(scores, words, scores.len(), |row, scores| {
        let weight = T::from_f64(dy * targets.weights[row]);
        T::dispatch(Softmax { scores, lse: lse[row], weight });
        if let Some(word) = targets.forbidden {
            scores[word as usize] = T::ZERO;
        }
        let right = &mut scores[targets.ids[row] as usize];
        *right = *right - weight;
    });
}

/// x, W and b of the scores x·Wᵀ + b: rows \[R, C\], words \[V, C\], one number a word.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a, T> {
    /// \[R, C\]
    pub x: &'a [T],
    /// \[V, C\]
    pub weight: &'a [T],
    /// \[V\]
    pub bias: &'a [T],
    /// C
    pub width: usize,
}

impl<T: Real> Linear<'_, T> {
    /// Calls `f` with the numbers and the scores of some of `rows` rows after the other, of about as
    /// many each time, the most at first.
    fn blocks(&self, rows: usize, mut f: impl FnMut(std::ops::Range<usize>, &mut [T])) {
        let Linear { x, weight, bias, width } = *self;
        let words = bias.len();
        let blocks = rows.div_ceil(ROWS);
        for i in 0..blocks {
            let [start, end] = [i, i + 1].map(|i| (rows * i).div_ceil(blocks));
            scratch::with([(end - start) * words], |[scores]| {
                let x = Strided::rows(&x[start * width..end * width], width);
                let weight = Strided::rows(weight, width);
                let size = Size::new(end - start, words, width);
                gemm::gemm(size, x.plain(), weight.transposed(), &Bias(Some(bias)), scores);
                f(start..end, scores);
            });
        }
    }
}

/// [`forward`] of the scores x·Wᵀ + b.
///
/// # Panics
/// As [`forward`].
pub fn linear_forward<T: Real>(
    linear: Linear<T>,
    targets: Targets,
    parts: &mut [f64],
    lse: &mut [T],
) -> f64 {
    let mut loss = 0.0;
    linear.blocks(targets.ids.len(), |rows, scores| {
        let words = linear.bias.len();
        let (targets, parts) = (targets.part(rows.clone()), &mut parts[rows.clone()]);
        loss += forward(scores, words, targets, parts, &mut lse[rows]);
    });
    loss
}

/// Gradients of [`linear_forward`] times `dy`; an empty slice is one that nobody asked for.
///
/// All are overwritten: `dx` \[R, C\], `dw` \[V, C\] and `db` \[V\].
///
/// # Panics
/// As [`forward`]; also if a gradient is neither empty nor as long as its operand.
pub fn linear_backward<T: Real>(
    linear: Linear<T>,
    targets: Targets,
    lse: &[T],
    dy: f64,
    [dx, dw, db]: [&mut [T]; 3],
) {
    let Linear { x, weight, width, bias } = linear;
    let words = bias.len();
    if targets.ids.is_empty() {
        dw.fill(T::ZERO);
        db.fill(T::ZERO);
    }
    linear.blocks(targets.ids.len(), |rows, scores| {
        let is_first = rows.start == 0;
        backward(scores, words, targets.part(rows.clone()), &lse[rows.clone()], dy);
        let block = rows.start * width..rows.end * width;
        let ds = Strided::rows(scores, words);
        if !dx.is_empty() {
            let size = Size::new(rows.len(), width, words);
            let weight = Strided::rows(weight, width);
            gemm::gemm(size, ds.plain(), weight.plain(), &Store, &mut dx[block.clone()]);
        }
        if !dw.is_empty() {
            let x = Strided::rows(&x[block], width);
            let size = Size::new(words, width, rows.len());
            let writer: &dyn Writer<T> = if is_first { &Store } else { &Add };
            gemm::gemm(size, ds.transposed(), x.plain(), writer, dw);
        }
        if !db.is_empty() {
            let size = [1, rows.len(), words];
            if is_first {
                reduce::sum(scores, size, db);
            } else {
                scratch::with([words], |[sums]| {
                    reduce::sum(scores, size, sums);
                    db.iter_mut().zip(&*sums).for_each(|(db, &sum)| *db += sum);
                });
            }
        }
    });
}

/// log Σ exp of a row, with lanes across words.
struct LogSumExp<'a, T> {
    scores: &'a [T],
    forbidden: Option<u32>,
}

impl<T: Real> LogSumExp<'_, T> {
    /// The i-th sixteen scores, −∞ for the forbidden word and beyond the end.
    #[inline(always)]
    fn chunk<S: Simd<T = T>>(&self, isa: S, i: usize, scores: &[T]) -> S::V {
        let first = i * LANES;
        match self.forbidden {
            Some(word) if (first..first + scores.len()).contains(&(word as usize)) => {
                let mut lanes = [T::NEG_INFINITY; LANES];
                lanes[..scores.len()].copy_from_slice(scores);
                lanes[word as usize - first] = T::NEG_INFINITY;
                isa.load(&lanes)
            }
            _ => isa.load_head(scores, T::NEG_INFINITY),
        }
    }
}

impl<T: Real> Task<T> for LogSumExp<'_, T> {
    type Output = T;
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) -> T {
        let mut largest = isa.splat(T::NEG_INFINITY);
        for (i, scores) in self.scores.chunks(LANES).enumerate() {
            largest = largest.max(self.chunk(isa, i, scores));
        }
        let largest = isa.largest(largest);
        let mut sum = isa.splat(T::ZERO);
        for (i, scores) in self.scores.chunks(LANES).enumerate() {
            sum = sum + (self.chunk(isa, i, scores) - isa.splat(largest)).exp();
        }
        largest + isa.sum(sum).ln()
    }
}

/// `weight · exp(score − lse)` in place.
struct Softmax<'a, T> {
    scores: &'a mut [T],
    lse: T,
    weight: T,
}

impl<T: Real> Task<T> for Softmax<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let (lse, weight) = (isa.splat(self.lse), isa.splat(self.weight));
        for chunk in self.scores.chunks_mut(LANES) {
            let p = (isa.load_head(chunk, T::ZERO) - lse).exp();
            isa.store_head(p * weight, chunk);
        }
    }
}

/// Plain float64 loss of scores \[R, V\]: what [`forward`] is checked against.
pub fn reference(scores: &[f64], words: usize, targets: Targets) -> f64 {
    let row_loss = |(row, (&id, &weight)): (&[f64], (&u32, &f64))| {
        let allowed = |v: &usize| targets.forbidden != Some(*v as u32);
        let sum: f64 = (0..words).filter(allowed).map(|v| row[v].exp()).sum();
        weight * (sum.ln() - row[id as usize])
    };
    let rows = scores.chunks(words.max(1));
    rows.zip(targets.ids.iter().zip(targets.weights)).map(row_loss).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::on_every_isa;

    fn numbers(n: usize, scale: f64, seed: u32) -> Vec<f64> {
        let word = |i: usize| crate::random::philox4x32([seed, 0], [i as u32, 0, 0, 0])[0];
        (0..n).map(|i| scale * (f64::from(word(i)) / f64::from(u32::MAX) - 0.5)).collect()
    }

    /// (ids, weights) for so many rows.
    fn targets(rows: usize, words: usize) -> (Vec<u32>, Vec<f64>) {
        let ids = (0..rows).map(|r| ((r * 7 + 1) % (words - 1)) as u32).collect();
        (ids, numbers(rows, 2.0, 9))
    }

    #[test]
    fn losses_are_the_reference_s_with_and_without_a_forbidden_word() {
        for (rows, words) in [(1, 2), (3, 17), (200, 46), (5, 1000)] {
            let scores = numbers(rows * words, 30.0, 3);
            let (ids, weights) = targets(rows, words);
            for forbidden in [None, Some(words as u32 - 1)] {
                let targets = Targets { ids: &ids, weights: &weights, forbidden };
                let want = reference(&scores, words, targets);
                let mut parts = vec![0.0; rows];
                let got = forward(&scores, words, targets, &mut parts, &mut vec![0.0; rows]);
                assert!((got - want).abs() < 1e-12 * rows as f64, "{got} {want}");
                let last = rows - 1;
                let (ids, weights) = (&ids[last..], &weights[last..]);
                let alone = Targets { ids, weights, forbidden };
                let want_part = reference(&scores[last * words..], words, alone);
                assert!((parts[last] - want_part).abs() < 1e-12, "{} {want_part}", parts[last]);
                let single: Vec<f32> = scores.iter().map(|&x| x as f32).collect();
                let got = forward(&single, words, targets, &mut parts, &mut vec![0.0; rows]);
                assert!((got - want).abs() < 1e-5 * rows as f64, "{got} {want}");
            }
        }
    }

    #[test]
    fn gradients_of_the_fused_head_are_those_of_its_parts() {
        let (rows, words, width) = (2 * ROWS + 5, 19, 7);
        let (x, w) = (numbers(rows * width, 2.0, 1), numbers(words * width, 2.0, 2));
        let b = numbers(words, 2.0, 5);
        let (ids, weights) = targets(rows, words);
        let targets = Targets { ids: &ids, weights: &weights, forbidden: Some(18) };
        let linear = Linear { x: &x, weight: &w, bias: &b, width };
        let (mut lse, mut parts) = (vec![0.0; rows], vec![0.0; rows]);
        let total = linear_forward(linear, targets, &mut parts, &mut lse);
        let sum: f64 = parts.iter().sum();
        assert!((sum - total).abs() < 1e-11, "{sum} {total}");
        let (mut dx, mut dw, mut db) = (vec![1.0; x.len()], vec![1.0; w.len()], vec![1.0; words]);
        linear_backward(linear, targets, &lse, 0.5, [&mut dx, &mut dw, &mut db]);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            let linear = Linear { x, weight: w, bias: b, width };
            0.5 * linear_forward(linear, targets, &mut vec![0.0; rows], &mut vec![0.0; rows])
        };
        let slope = |f: &dyn Fn(f64) -> f64| (f(1e-5) - f(-1e-5)) / 2e-5;
        let moved = |v: &[f64], i: usize, h: f64| {
            let mut v = v.to_vec();
            v[i] += h;
            v
        };
        for i in [0, 3, width * ROWS + 1, x.len() - 1] {
            let want = slope(&|h| loss(&moved(&x, i, h), &w, &b));
            assert!((dx[i] - want).abs() < 1e-8, "x {i}: {} {want}", dx[i]);
        }
        let none = Targets { ids: &[], weights: &[], forbidden: None };
        let (mut no_w, mut no_b) = (vec![1.0; w.len()], vec![1.0; words]);
        let of_none = Linear { x: &[], ..linear };
        linear_backward(of_none, none, &[], 0.5, [&mut [], &mut no_w, &mut no_b]);
        assert!(no_w.iter().chain(&no_b).all(|&slope| slope == 0.0));
        for i in [0, 50, w.len() - 1] {
            let want = slope(&|h| loss(&x, &moved(&w, i, h), &b));
            assert!((dw[i] - want).abs() < 1e-7, "w {i}: {} {want}", dw[i]);
        }
        for i in [0, 18] {
            let want = slope(&|h| loss(&x, &w, &moved(&b, i, h)));
            assert!((db[i] - want).abs() < 1e-7, "b {i}: {} {want}", db[i]);
        }
    }

    #[test]
    fn bits_are_the_same_on_every_instruction_set_and_any_number_of_threads() {
        let (rows, words) = (40, 333);
        let scores: Vec<f32> = numbers(rows * words, 9.0, 4).iter().map(|&x| x as f32).collect();
        let (ids, weights) = targets(rows, words);
        let targets = Targets { ids: &ids, weights: &weights, forbidden: Some(5) };
        let run = || {
            let (mut scores, mut lse) = (scores.clone(), vec![0.0; rows]);
            let loss = forward(&scores, words, targets, &mut vec![0.0; rows], &mut lse);
            backward(&mut scores, words, targets, &lse, 1.0);
            (loss.to_bits(), scores)
        };
        let want = run();
        on_every_isa("cross-entropy", |isa| {
            assert_eq!(par::with_threads(2, run), want, "{isa:?}");
        });
    }
}
