//! The forward process from its generator, and the posterior from Bayes' rule.

use samplers::masked::{LogLinear, corrupt, posterior};
use tensor::rng::Rng;
use tests::stats::assert_drawn_from;

/// Three tokens and the mask.
const STATES: usize = 4;
const MASK: usize = 3;

type Matrix = [[f64; STATES]; STATES];

fn matrix(entry: impl Fn(usize, usize) -> f64) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| entry(i, j)))
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    matrix(|i, j| (0..STATES).map(|k| a[i][k] * b[k][j]).sum())
}

/// The exponential by halving until small, the power series, and squaring back.
fn exponential(a: &Matrix) -> Matrix {
    const HALVINGS: i32 = 20;
    let small = matrix(|i, j| a[i][j] / 2_f64.powi(HALVINGS));
    let identity = matrix(|i, j| f64::from(i == j));
    // I + A(I + A/2(I + A/3(…))), from the inside out.
    let series = (1..12).rev().fold(identity, |sum, k| {
        let next = product(&small, &sum);
        matrix(|i, j| identity[i][j] + next[i][j] / f64::from(k))
    });
    (0..HALVINGS).fold(series, |power, _| product(&power, &power))
}

/// The generator's only moves are from a token to the mask, at unit rate.
fn generator() -> Matrix {
    matrix(|i, j| if i == MASK { 0.0 } else { f64::from(j == MASK) - f64::from(i == j) })
}

/// `q(x_t | x_s)`, with the tokens' share that survives between the two times.
fn kernel(noise: &LogLinear, s: f64, t: f64) -> Matrix {
    let survive = noise.alpha(t) / noise.alpha(s);
    let token = |i, j| survive * f64::from(i == j) + (1.0 - survive) * f64::from(j == MASK);
    matrix(|i, j| if i == MASK { f64::from(j == MASK) } else { token(i, j) })
}

/// The integral of the noise rate from 0 to `t`, by Simpson's rule.
fn integrated_rate(noise: &LogLinear, t: f64) -> f64 {
    const PANELS: u32 = 4096;
    let weight = |i: u32| if i.is_multiple_of(PANELS) { 1 } else { 2 + 2 * (i % 2) };
    let value = |i: u32| noise.rate(t * f64::from(i) / f64::from(PANELS));
    let sum: f64 = (0..=PANELS).map(|i| f64::from(weight(i)) * value(i)).sum();
    sum * t / f64::from(PANELS) / 3.0
}

/// The generators of all times commute, so the chain's kernel is the exponential of their integral.
#[test]
fn equation_4_matrix_exponential_equals_the_closed_form() {
    for noise in [LogLinear::PAPER, LogLinear::RELEASE] {
        for t in [0.01, 0.3, 0.5, 0.9] {
            let total = integrated_rate(&noise, t);
            let chain = exponential(&matrix(|i, j| total * generator()[i][j]));
            let closed = kernel(&noise, 0.0, t);
            for (chain, closed) in chain.iter().flatten().zip(closed.iter().flatten()) {
                assert!((chain - closed).abs() < 1e-10, "t = {t}: {chain} and {closed}");
            }
        }
    }
}

/// `q(x_s | x_t, x₀)` by Bayes' rule, or `None` where x₀ cannot become x_t.
fn bayes(noise: &LogLinear, [t, s]: [f64; 2], current: usize, clean: usize) -> Option<Vec<f64>> {
    let (prior, step) = (kernel(noise, 0.0, s), kernel(noise, s, t));
    let joint: Vec<f64> = (0..STATES).map(|x| prior[clean][x] * step[x][current]).collect();
    let evidence: f64 = joint.iter().sum();
    (evidence > 0.0).then(|| joint.into_iter().map(|joint| joint / evidence).collect())
}

#[test]
fn equation_5_posterior_equals_bayes_enumeration() {
    let times = (1..=20).flat_map(|i| (0..i).map(move |j| [i, j].map(|n| f64::from(n) / 20.0)));
    let pairs = (0..MASK).flat_map(|clean| [(clean, clean), (MASK, clean)]);
    for (times, (current, clean)) in times.flat_map(|t| pairs.clone().map(move |pair| (t, pair))) {
        for noise in [LogLinear::PAPER, LogLinear::RELEASE] {
            let one_hot: [f64; STATES] = std::array::from_fn(|x| f64::from(x == clean));
            let ours = posterior(&noise, times, current as i64, &one_hot, MASK as i64).unwrap();
            assert!((ours.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            // At time 1 the paper's tokens are all masks: a token is no evidence then.
            let Some(expected) = bayes(&noise, times, current, clean) else { continue };
            for (ours, expected) in ours.iter().zip(expected) {
                assert!((ours - expected).abs() < 1e-12, "{current} from {clean} at {times:?}");
            }
        }
    }
}

/// All eight patterns of three masked positions have their product probabilities.
#[test]
fn equation_6_tokens_are_masked_independently() {
    for (noise, t) in [(LogLinear::PAPER, 0.3), (LogLinear::RELEASE, 0.8)] {
        let p = noise.mask_probability(t);
        let mut rng = Rng::new(21);
        let mut counts = [0; 8];
        for _ in 0..100_000 {
            let uniforms: [f64; 3] = std::array::from_fn(|_| rng.next_uniform());
            let row = corrupt(&[0, 1, 2], &[true; 3], p, 9, |i| uniforms[i]).unwrap();
            let pattern: usize = (0..3).map(|i| usize::from(row[i] == 9) << i).sum();
            counts[pattern] += 1;
        }
        let law: [f64; 8] = std::array::from_fn(|pattern| {
            let masked = pattern.count_ones() as i32;
            p.powi(masked) * (1.0 - p).powi(3 - masked)
        });
        assert_drawn_from(&counts, &law, "masking");
    }
}
