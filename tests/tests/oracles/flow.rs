//! Flows whose velocity and end are known in closed form.

use std::ops::ControlFlow;

use autograd::Var;
use ddit::objective::{ImageDraws, Noised};
use samplers::flow::{
    FlowStep, Guidance, ImageLoss, Pass, Schedule, Solver, guide, interpolate, velocity_target,
};
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};
use tests::mixture::{Mixture, TWO_PEAKS, exact_end, marginal_velocity};
use tests::stats::mean_and_error;

fn go_on(_: &FlowStep) -> ControlFlow<()> {
    ControlFlow::Continue(())
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

/// In log-log, the error over the number of steps is a line whose slope is the solver's order.
#[test]
fn equation_2_solvers_converge_at_their_order() {
    for (solver, order) in [(Solver::Euler, 1.0), (Solver::Heun, 2.0), (Solver::Midpoint, 2.0)] {
        let errors = [8, 16, 32, 64, 128, 256, 512].map(|steps| worst_error(solver, steps));
        assert!(errors[6] < 0.01, "{solver:?} does not converge: {errors:?}");
        for pair in errors[2..].windows(2) {
            let slope = (pair[0] / pair[1]).log2();
            assert!((slope - order).abs() < 0.15, "{solver:?} has order {slope:.2}: {errors:?}");
        }
        // The least-squares line through 8 to 128 steps, log₂ of which is -2..=2 from its mean.
        let line = errors[..5].iter().zip([-2.0, -1.0, 0.0, 1.0, 2.0]);
        let slope = -line.map(|(error, x)| x * error.log2()).sum::<f64>() / 10.0;
        assert!((slope - order).abs() < 0.25, "{solver:?} has order {slope:.2}: {errors:?}");
    }
}

/// A part of a mixture in the plane: its weight, mean, and covariance [xx, xy, yy].
type Part = (f64, [f64; 2], [f64; 3]);

const PLANE: [Part; 2] =
    [(0.3, [-2.0, 0.5], [0.5, 0.3, 0.4]), (0.7, [1.0, -1.0], [0.3, -0.2, 0.9])];

/// `E[ε − x₀ | x_σ = x]` in the plane: as [`marginal_velocity`], with matrices for variances.
fn plane_velocity(x: [f64; 2], sigma: f64) -> [f64; 2] {
    let a = 1.0 - sigma;
    let (mut weight, mut velocity) = (0.0, [0.0; 2]);
    for (share, mean, [xx, xy, yy]) in PLANE {
        let [vxx, vxy, vyy] = [a * a * xx + sigma * sigma, a * a * xy, a * a * yy + sigma * sigma];
        let determinant = vxx * vyy - vxy * vxy;
        let offset = [x[0] - a * mean[0], x[1] - a * mean[1]];
        // V⁻¹·offset
        let pull = [
            (vyy * offset[0] - vxy * offset[1]) / determinant,
            (vxx * offset[1] - vxy * offset[0]) / determinant,
        ];
        let distance = offset[0] * pull[0] + offset[1] * pull[1];
        let likelihood = share * (-0.5 * distance).exp() / determinant.sqrt();
        let clean = [
            mean[0] + a * (xx * pull[0] + xy * pull[1]),
            mean[1] + a * (xy * pull[0] + yy * pull[1]),
        ];
        weight += likelihood;
        for axis in 0..2 {
            velocity[axis] += likelihood * (sigma * pull[axis] - clean[axis]);
        }
    }
    velocity.map(|velocity| velocity / weight)
}

/// From noise, the flow makes samples with the mean and covariance of the data.
#[test]
fn equation_2_samples_have_the_mean_and_covariance_of_the_data() {
    const SAMPLES: usize = 20_000;
    let start = Rng::new(13).normal([SAMPLES, 2], DType::F64).unwrap();
    let velocity = |x: &Tensor, sigma: f32| {
        let points = x.to_f64_vec();
        let field = points.chunks(2).flat_map(|x| plane_velocity([x[0], x[1]], f64::from(sigma)));
        Tensor::from_vec(field.collect::<Vec<_>>(), x.shape())
    };
    let end = Solver::Heun.integrate(&start, &equal_steps(64), velocity, go_on).unwrap();
    let points: Vec<[f64; 2]> = end.to_f64_vec().chunks(2).map(|x| [x[0], x[1]]).collect();

    let of_parts = |f: &dyn Fn(&Part) -> f64| PLANE.iter().map(|part| part.0 * f(part)).sum();
    let mean: [f64; 2] = std::array::from_fn(|axis| of_parts(&|part| part.1[axis]));
    for axis in 0..2 {
        let values: Vec<f64> = points.iter().map(|x| x[axis]).collect();
        let (found, error) = mean_and_error(&values);
        assert!((found - mean[axis]).abs() < 4.9 * error, "mean {found} ± {error} of {mean:?}");
    }
    for (entry, [i, j]) in [[0, 0], [0, 1], [1, 1]].into_iter().enumerate() {
        // E[(x_i − μ_i)(x_j − μ_j)]: the covariance within the parts and that of their means.
        let covariance = of_parts(&|(_, center, within)| {
            within[entry] + (center[i] - mean[i]) * (center[j] - mean[j])
        });
        let values: Vec<f64> = points.iter().map(|x| (x[i] - mean[i]) * (x[j] - mean[j])).collect();
        let (found, error) = mean_and_error(&values);
        assert!((found - covariance).abs() < 4.9 * error, "{found} ± {error} of {covariance}");
    }
}

/// Regression finds the marginal velocity. The best linear map of `x_σ` depends on nothing but
/// means and covariances, and these four pairs have those of x₀ ~ N(μ, s²) and ε ~ N(0, 1)
/// exactly. So the minimiser of the loss is the closed form to the last digits.
#[test]
fn equation_3_minimiser_is_the_conditional_mean() {
    const DATA: Mixture = &[(1.0, 0.7, 0.5)];
    let pairs = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)];
    let of = |values: [f64; 4]| Tensor::from_slice(&values, [4, 1, 1, 1]).unwrap();
    let (clean, noise) = (of(pairs.map(|(x, _)| 0.7 + 0.5 * x)), of(pairs.map(|(_, e)| e)));
    for (form, sigma) in [ImageLoss::Velocity, ImageLoss::CleanEstimate]
        .into_iter()
        .flat_map(|form| [0.25_f32, 0.5, 0.875].map(|sigma| (form, sigma)))
    {
        let draws =
            ImageDraws { sigma: vec![sigma; 4], noise: noise.clone(), drop: vec![false; 4] };
        let noised = Noised::new(&clean, &draws).unwrap();
        let [slope, offset] = [0.0, 0.0].map(|x| Var::parameter(Tensor::full([1], x, DType::F64)));
        for _ in 0..4000 {
            let velocity = noised.state.mul(&slope).unwrap().add(&offset).unwrap();
            let grads = noised.velocity_loss(&velocity, form).unwrap().backward().unwrap();
            for weight in [&slope, &offset] {
                // The loss is weighted by σ² in one form: so are its gradient and our step's.
                let step = 0.4 / f64::from(form.weight(sigma))
                    * grads.get(weight).unwrap().item().unwrap();
                let moved = weight.item().unwrap() - step;
                weight.set_value(Tensor::full([1], moved, DType::F64)).unwrap();
            }
        }
        for x in [-1.0, 0.0, 2.0] {
            let found = slope.item().unwrap() * x + offset.item().unwrap();
            let exact = marginal_velocity(DATA, x, f64::from(sigma));
            assert!((found - exact).abs() < 1e-12, "{form:?} at {sigma}: {found} and {exact}");
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
fn equation_10_guidance_between_gaussians_overshoots_by_the_scale() {
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

#[test]
fn equation_10_scale_one_is_the_caption_and_zero_the_null_text() {
    let mut rng = Rng::new(14);
    for dtype in [DType::F32, DType::F64] {
        let [null, caption] = [0, 1].map(|_| rng.normal([64], dtype).unwrap());
        let bits = |x: &Tensor| x.to_f64_vec().into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&guide(&null, &caption, 1.0).unwrap()), bits(&caption));
        assert_eq!(bits(&guide(&null, &caption, 0.0).unwrap()), bits(&null));
        // A sampler that is not guided does not even ask for the null text.
        let only_caption = |_: &Tensor, _: f32, pass: Pass| {
            assert_eq!(pass, Pass::Conditional);
            Ok(caption.clone())
        };
        let state = Tensor::zeros([64], dtype);
        let alone = Guidance::new(1.0).velocity(&state, 0.5, only_caption).unwrap();
        assert_eq!(bits(&alone), bits(&caption));
        // In between and beyond, s·v_c + (1 − s)·v_∅.
        let guided = guide(&null, &caption, 7.0).unwrap().to_f64_vec();
        for ((guided, c), n) in guided.iter().zip(caption.to_f64_vec()).zip(null.to_f64_vec()) {
            assert!((guided - (7.0 * c - 6.0 * n)).abs() < 1e-5);
        }
    }
}

/// Mean and variance of x_σ are those of the interpolant: `aμ` and `a²s² + σ²`.
#[test]
fn equation_1_noisy_data_have_the_moments_of_the_path() {
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

/// The velocity is the path's slope: `x_σ` moves by `(σ′ − σ)·v`.
#[test]
fn equation_2_velocity_is_the_slope_of_the_path() {
    let mut rng = Rng::new(15);
    let [clean, noise] = [0, 1].map(|_| rng.normal([64], DType::F64).unwrap());
    let at = |sigma| interpolate(&clean, &noise, &[sigma]).unwrap().to_f64_vec();
    let velocity = velocity_target(&clean, &noise).unwrap().to_f64_vec();
    for ((here, there), v) in at(0.25).iter().zip(at(0.75)).zip(velocity) {
        assert!((there - here - 0.5 * v).abs() < 1e-14);
    }
}
