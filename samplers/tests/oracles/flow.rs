//! Flows whose velocity and end are known in closed form.

use std::ops::ControlFlow;

use samplers::flow::{
    FlowStep, Guidance, Pass, Schedule, Solver, TRAINING_LEVELS, interpolate, logit_normal_level,
};
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

use crate::stats::{assert_drawn_from, normal_cdf};

/// Weight, mean and standard deviation of the parts of a mixture of Gaussians on the line.
type Mixture = &'static [(f64, f64, f64)];

const TWO_PEAKS: Mixture = &[(0.4, -1.5, 0.6), (0.6, 1.0, 0.8)];

fn go_on(_: &FlowStep) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The marginal velocity `E[ε − x₀ | x_σ = x]`. Within a part all is jointly Gaussian:
/// `x_σ ~ N(aμ, a²s² + σ²)` with a = 1 − σ, and the conditional means are linear in x.
fn marginal_velocity(mixture: Mixture, x: f64, sigma: f64) -> f64 {
    let a = 1.0 - sigma;
    let (mut weight, mut velocity) = (0.0, 0.0);
    for &(share, mean, deviation) in mixture {
        let variance = (a * deviation).powi(2) + sigma * sigma;
        let offset = x - a * mean;
        let likelihood = share * (-0.5 * offset * offset / variance).exp() / variance.sqrt();
        let clean = mean + a * deviation * deviation / variance * offset;
        let noise = sigma / variance * offset;
        weight += likelihood;
        velocity += likelihood * (noise - clean);
    }
    velocity / weight
}

/// Where the flow takes noise `x`. On the line a flow cannot let points overtake one another, so
/// it keeps the share of probability to their left: Φ(x) = F₀(end). Solved by bisection.
fn exact_end(mixture: Mixture, x: f64) -> f64 {
    let share =
        |y: f64| -> f64 { mixture.iter().map(|&(w, m, s)| w * normal_cdf((y - m) / s)).sum() };
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        *(if share(middle) < normal_cdf(x) { &mut low } else { &mut high }) = middle;
    }
    0.5 * (low + high)
}

fn field(velocity: impl Fn(f64, f64) -> f64) -> impl FnMut(&Tensor, f32) -> Result<Tensor> {
    move |x, sigma| {
        let x_values = x.to_f64_vec();
        let values = x_values.into_iter().map(|x| velocity(x, f64::from(sigma)));
        Tensor::from_vec(values.collect::<Vec<f64>>(), x.shape())
    }
}

/// N equal steps; exact in `f32` for powers of two.
fn equal_steps(steps: usize) -> Schedule {
    let sigmas = (0..=steps).map(|i| 1.0 - i as f32 / steps as f32);
    Schedule::from_sigmas(sigmas.collect()).unwrap()
}

fn worst_error(solver: Solver, steps: usize) -> f64 {
    let starts: Vec<f64> = (-8..=8).map(|i| f64::from(i) / 4.0).collect();
    let start = Tensor::from_slice(&starts, [starts.len()]).unwrap();
    let velocity = field(|x, sigma| marginal_velocity(TWO_PEAKS, x, sigma));
    let end = solver.integrate(&start, &equal_steps(steps), velocity, go_on).unwrap();
    let errors = end.to_f64_vec().into_iter().zip(starts);
    errors.map(|(end, start)| (end - exact_end(TWO_PEAKS, start)).abs()).fold(0.0, f64::max)
}

#[test]
fn solvers_converge_at_their_order() {
    for (solver, order) in [(Solver::Euler, 1.0), (Solver::Heun, 2.0), (Solver::Midpoint, 2.0)] {
        let errors = [32, 64, 128, 256, 512].map(|steps| worst_error(solver, steps));
        assert!(errors[4] < 0.01, "{solver:?} does not converge: {errors:?}");
        for pair in errors.windows(2) {
            let slope = (pair[0] / pair[1]).log2();
            assert!((slope - order).abs() < 0.15, "{solver:?} has order {slope:.2}: {errors:?}");
        }
    }
}

/// The released schedule of 28 steps in single precision lands near the end too.
#[test]
fn released_schedule_in_single_precision() {
    let schedule = Schedule::shifted(28, 3.0).unwrap();
    let start = Tensor::from_slice(&[-1.0_f32, 0.3, 1.2], [3]).unwrap();
    let mut double = field(|x, sigma| marginal_velocity(TWO_PEAKS, x, sigma));
    let velocity = |x: &Tensor, sigma: f32| Ok(double(x, sigma)?.to_dtype(DType::F32));
    let end = Solver::Euler.integrate(&start, &schedule, velocity, go_on).unwrap();
    for (end, start) in end.to_f64_vec().into_iter().zip(start.to_f64_vec()) {
        assert!((end - exact_end(TWO_PEAKS, start)).abs() < 0.1, "from {start} to {end}");
    }
}

/// With N(0, 1) as null class and N(μ, 1) as the caption's, `v_c − v_∅ = −μ·σ/(a² + σ²)` is linear
/// in μ. So guidance by g is the flow to N(g·μ, 1), which takes x to x + g·μ.
#[test]
fn guidance_between_gaussians_overshoots_by_the_scale() {
    const CLASS: Mixture = &[(1.0, 0.5, 1.0)];
    const NULL: Mixture = &[(1.0, 0.0, 1.0)];
    let velocity_of = |mixture: Mixture, x: &Tensor, sigma: f32| {
        field(move |x, sigma| marginal_velocity(mixture, x, sigma))(x, sigma)
    };
    let model = |x: &Tensor, sigma: f32, pass: Pass| match pass {
        Pass::Conditional => velocity_of(CLASS, x, sigma),
        Pass::NullThenConditional => {
            let half = x.shape()[0] / 2;
            let null = velocity_of(NULL, &x.narrow(0, 0, half)?, sigma)?;
            Tensor::cat(&[&null, &velocity_of(CLASS, &x.narrow(0, half, half)?, sigma)?], 0)
        }
    };
    let start = Tensor::from_slice(&[-1.0_f64, 0.0, 0.7], [3]).unwrap();
    for (scale, mean) in [(7.0, 3.5), (1.5, 0.75), (1.0, 0.5), (0.0, 0.5)] {
        let guidance = Guidance::new(scale);
        let velocity = |x: &Tensor, sigma: f32| guidance.velocity(x, sigma, model);
        let end = Solver::Midpoint.integrate(&start, &equal_steps(512), velocity, go_on).unwrap();
        for (end, start) in end.to_f64_vec().into_iter().zip(start.to_f64_vec()) {
            assert!((end - start - mean).abs() < 1e-4, "scale {scale}: from {start} to {end}");
        }
    }
}

/// Mean and variance of x_σ are those of the interpolant: `aμ` and `a²s² + σ²`.
#[test]
fn interpolant_has_the_right_moments() {
    let n = 100_000;
    let mut rng = Rng::new(11);
    let noise = rng.normal([n], DType::F64).unwrap();
    let data: Vec<f64> = (0..n).map(|_| 2.0 + 0.5 * rng.next_normal()).collect();
    let data = Tensor::from_vec(data, [n]).unwrap();
    for sigma in [0.1_f32, 0.5, 0.9] {
        let x = interpolate(&data, &noise, &[sigma]).unwrap().to_f64_vec();
        let sigma = f64::from(sigma);
        let variance = (0.5 * (1.0 - sigma)).powi(2) + sigma * sigma;
        let mean = x.iter().sum::<f64>() / n as f64;
        let spread = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        let errors = [(variance / n as f64).sqrt(), variance * (2.0 / n as f64).sqrt()];
        assert!((mean - 2.0 * (1.0 - sigma)).abs() < 4.9 * errors[0]);
        assert!((spread - variance).abs() < 4.9 * errors[1]);
    }
}

/// Training levels follow the logistic function of a normal number.
#[test]
fn training_levels_are_logit_normal() {
    const BINS: usize = 20;
    let mut rng = Rng::new(12);
    let mut counts = [0; BINS];
    for _ in 0..50_000 {
        counts[logit_normal_level(rng.next_normal() as f32) * BINS / TRAINING_LEVELS] += 1;
    }
    let below = |bin: usize| match bin as f64 / BINS as f64 {
        0.0 => 0.0,
        1.0 => 1.0,
        share => normal_cdf((share / (1.0 - share)).ln()),
    };
    let law: [f64; BINS] = std::array::from_fn(|bin| below(bin + 1) - below(bin));
    assert_drawn_from(&counts, &law, "training levels");
}
