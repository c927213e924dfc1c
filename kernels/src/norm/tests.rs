//! Norms against their references, and the same bits however they are run.

use super::*;
use crate::Real;
use crate::lane::on_every_isa;
use crate::par::with_threads;
use crate::random::philox4x32;

/// Uniform in [-1, 1) around `center`.
fn numbers<T: Real>(seed: u32, len: usize, center: f64) -> Vec<T> {
    let word = |i: usize| philox4x32([seed, 1], [i as u32, 0, 0, 0])[0];
    let uniform = |i| f64::from(word(i)) / f64::from(1u32 << 31) - 1.0;
    (0..len).map(|i| T::from_f64(uniform(i) + center)).collect()
}

fn to_f64<T: Real>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// A kind of norm, and the shape \[B, S, C\] of its input.
type Case = (&'static str, [usize; 3]);

/// The fast and the slow answers: y, dx, dgain, dshift.
fn run<T: Real>((kind, [batch, tokens, width]): Case) -> [[Vec<f64>; 4]; 2] {
    let nan = |len| vec![T::from_f64(f64::NAN); len];
    let x: Vec<T> = numbers(1, batch * tokens * width, 0.3);
    let dy: Vec<T> = numbers(2, x.len(), 0.1);
    // Parts of one modulation with something between and behind them.
    let stride = 2 * width + 3;
    let modulation: Vec<T> = numbers(3, batch * stride, 0.0);
    let (scale, shift) = match modulation.get(width + 1..) {
        Some(shift) => (&modulation[..], shift),
        None => (&modulation[..], &modulation[..]),
    };
    let affine = match kind {
        "layer" => Affine::Identity,
        "ada" => Affine::Modulation { scale, shift, stride },
        _ => Affine::Weight(&dy[..if dy.is_empty() { 0 } else { width }]),
    };
    let centered = kind != "rms";
    let norm = Rows { width, rows_per_sample: tokens, eps: 1e-6, centered, affine };
    let rows = batch * tokens;
    let [mut y, mut mean, mut rstd] = [x.len(), rows, rows].map(nan);
    normalize(&norm, &x, &mut y, &mut mean, &mut rstd);
    let samples = if kind == "ada" { batch } else { 1 };
    let [mut dx, mut dgain, mut dshift] = [x.len(), samples * width, samples * width].map(nan);
    let slopes = Slopes { gain: &mut dgain, shift: &mut dshift };
    normalize_backward(&norm, &x, [&mean, &rstd], &dy, (&mut dx, false), Some(slopes));
    let mut dx2 = nan(x.len());
    normalize_backward(&norm, &x, [&mean, &rstd], &dy, (&mut dx2, false), None);
    assert!(dx == dx2, "asking for other gradients changes that of x");
    let mut sum = dy.clone();
    normalize_backward(&norm, &x, [&mean, &rstd], &dy, (&mut sum, true), None);
    let want = dy.iter().zip(&dx).map(|(&before, &dx)| before + dx);
    assert!(want.eq(sum), "added to what was there");
    let mut r = rows_reference(&norm, &x, &dy);
    if tokens == 0 {
        // Without rows the reference cannot know how many samples there are.
        (r.dgain, r.dshift) = (vec![0.0; dgain.len()], vec![0.0; dshift.len()]);
    }
    [[y, dx, dgain, dshift].map(|v| to_f64(&v)), [r.y, r.dx, r.dgain, r.dshift]]
}

/// Likewise for group norm of \[B, C, pixels\] in G groups.
fn run_group<T: Real>(
    [batch, channels, pixels]: [usize; 3],
    groups: usize,
    silu: bool,
) -> [[Vec<f64>; 4]; 2] {
    let nan = |len| vec![T::from_f64(f64::NAN); len];
    let x: Vec<T> = numbers(1, batch * channels * pixels, 0.3);
    let dy: Vec<T> = numbers(2, x.len(), 0.1);
    let (weight, bias) = (numbers(3, channels, 1.0), numbers(4, channels, 0.0));
    let norm = Group { channels, groups, pixels, eps: 1e-6, weight: &weight, bias: &bias, silu };
    let [mut y, mut mean, mut rstd] = [x.len(), batch * groups, batch * groups].map(nan);
    group_norm(&norm, &x, &mut y, &mut mean, &mut rstd);
    let [mut dx, mut dgain, mut dshift] = [x.len(), channels, channels].map(nan);
    let slopes = [&mut dgain[..], &mut dshift[..]];
    group_norm_backward(&norm, &x, [&mean, &rstd], &dy, &mut dx, slopes);
    let r = group_reference(&norm, &x, &dy);
    [[y, dx, dgain, dshift].map(|v| to_f64(&v)), [r.y, r.dx, r.dgain, r.dshift]]
}

/// All answers, fast and slow, of shapes with every kind of edge.
fn all<T: Real>() -> Vec<(String, [[Vec<f64>; 4]; 2])> {
    let mut answers = Vec::new();
    for kind in ["layer", "ada", "rms"] {
        for shape in [
            [1, 1, 1],
            [2, 3, 2],
            [3, 65, 16],
            [2, 130, 33],
            [1, 4, 384],
            [2, 0, 8],
            [0, 3, 8],
            [5, 1, 5000],
        ] {
            answers.push((format!("{kind} {shape:?}"), run::<T>((kind, shape))));
        }
    }
    for (shape, groups) in [
        ([1, 2, 3], 1),
        ([2, 6, 1], 3),
        ([2, 8, 17], 8),
        ([3, 4, 64], 2),
        ([1, 3, 5000], 1),
        ([0, 4, 4], 2),
    ] {
        for silu in [false, true] {
            let answer = run_group::<T>(shape, groups, silu);
            answers.push((format!("group {shape:?} {groups} {silu}"), answer));
        }
    }
    answers
}

/// The largest difference relative to the largest number.
fn error([fast, slow]: &[[Vec<f64>; 4]; 2]) -> f64 {
    let mut worst = 0.0f64;
    for (fast, slow) in fast.iter().zip(slow) {
        assert_eq!(fast.len(), slow.len());
        let size = slow.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        for (f, s) in fast.iter().zip(slow) {
            assert!(!f.is_nan());
            worst = worst.max((f - s).abs() / size);
        }
    }
    worst
}

#[test]
fn norms_equal_their_references() {
    for (name, answers) in all::<f64>() {
        // A group of 15,000 elements: the reference adds them one after the other, and an error of
        // its mean counts Σ dy times in dgain.
        assert!(error(&answers) < 1e-11, "{:e} in {name}", error(&answers));
    }
    for (name, answers) in all::<f32>() {
        // Rows of two elements amplify: 1/σ may be ten times the inputs.
        assert!(error(&answers) < 3e-6, "{:e} in {name}", error(&answers));
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    let fast = || all::<f32>().into_iter().map(|(_, [fast, _])| fast).collect::<Vec<_>>();
    let want = with_threads(1, fast);
    on_every_isa("norms", |isa| assert!(with_threads(3, fast) == want, "{isa:?}"));
}

#[test]
fn a_layer_norm_does_not_see_a_shift_of_its_input() {
    let answer = |shift: f64| {
        let x: Vec<f64> = numbers(9, 64, 0.0).into_iter().map(|x: f64| x + shift).collect();
        let norm = Rows {
            width: 64,
            rows_per_sample: 1,
            eps: 1e-6,
            centered: true,
            affine: Affine::Identity,
        };
        let (mut y, mut statistics) = (vec![0.0; 64], [[0.0], [0.0]]);
        let [mean, rstd] = &mut statistics;
        normalize(&norm, &x, &mut y, mean, rstd);
        y
    };
    for (a, b) in answer(0.0).iter().zip(answer(1000.0)) {
        assert!((a - b).abs() < 1e-12);
    }
}
