//! One plot for each equation of the paper: what the library computes, as dots, on what it should
//! be, as a line.

use std::ops::ControlFlow;

use autograd::optim::{AdamW, AdamWConfig};
use ddit::config::Recipe;
use ddit::objective::{Draws, ImagePairs, TextPairs, Texts};
use ddit::plot::Plot;
use samplers::flow::{FlowStep, Guidance, Pass, Schedule, Solver, interpolate, velocity_target};
use samplers::masked::{Likelihood, LogLinear, MIN_TIME, corrupt, posterior, stratified_times};
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

use crate::mixture::{Mixture, TWO_PEAKS, exact_flow, marginal_velocity};
use crate::{table, tiny};

const BLUE: &str = "#1f77b4";
const RED: &str = "#d62728";
const GREEN: &str = "#2ca02c";
const GREY: &str = "#999";
const PALE: &str = "#cfe2f0";

/// File names and contents.
///
/// Errors: none of the caller's making.
pub fn all() -> Result<Vec<(String, String)>> {
    let figures: [(u32, fn() -> Result<String>); 10] = [
        (1, path),
        (2, flow),
        (3, regression),
        (4, chain),
        (5, reverse),
        (6, masking),
        (7, likelihood),
        (8, times),
        (9, joint),
        (10, guidance),
    ];
    figures.into_iter().map(|(n, draw)| Ok((format!("equation-{n}.svg"), draw()?))).collect()
}

/// `n` values evenly over a range, both ends included.
fn grid([low, high]: [f64; 2], n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| low + (high - low) * i as f64 / (n - 1) as f64)
}

/// A function's graph.
fn graph(range: [f64; 2], n: usize, f: impl Fn(f64) -> f64) -> Vec<[f64; 2]> {
    grid(range, n).map(|x| [x, f(x)]).collect()
}

/// Draws from [`TWO_PEAKS`].
fn data(rng: &mut Rng, n: usize) -> Result<Tensor> {
    let draw = |_| {
        let (_, mean, deviation) = TWO_PEAKS[usize::from(rng.next_uniform() > TWO_PEAKS[0].0)];
        mean + deviation * rng.next_normal()
    };
    Tensor::from_vec((0..n).map(draw).collect::<Vec<f64>>(), [n])
}

fn path() -> Result<String> {
    const SAMPLES: usize = 10_000;
    const SHOWN: usize = 24;
    let mut rng = Rng::new(1);
    let (clean, noise) = (data(&mut rng, SAMPLES)?, rng.normal([SAMPLES], DType::F64)?);
    let sigmas: Vec<f64> = grid([0.0, 1.0], 9).collect();
    let at = |&sigma: &f64| Ok(interpolate(&clean, &noise, &[sigma as f32])?.to_f64_vec());
    let states = sigmas.iter().map(at).collect::<Result<Vec<_>>>()?;
    let mut plot = Plot::new("x_σ = (1 − σ) x₀ + σ ε", ["σ", "x"], [0.0, 1.0], [-3.0, 3.0]);
    for i in 0..SHOWN {
        let points = sigmas.iter().zip(&states).map(|(&sigma, x)| [sigma, x[i]]);
        plot = plot.line(PALE, "", &points.collect::<Vec<_>>());
    }
    let mean: f64 = TWO_PEAKS.iter().map(|(w, m, _)| w * m).sum();
    let square: f64 = TWO_PEAKS.iter().map(|(w, m, s)| w * (s * s + m * m)).sum();
    let spread = |sigma: f64| {
        let a = 1.0 - sigma;
        (a * a * (square - mean * mean) + sigma * sigma).sqrt()
    };
    for (side, name) in [(0.0, "mean ± deviation, closed form"), (1.0, ""), (-1.0, "")] {
        let line = graph([0.0, 1.0], 41, |sigma| (1.0 - sigma) * mean + side * spread(sigma));
        plot = plot.line(GREY, name, &line);
    }
    let mut dots = Vec::new();
    for (&sigma, x) in sigmas.iter().zip(&states) {
        let mean = x.iter().sum::<f64>() / SAMPLES as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / SAMPLES as f64;
        dots.extend([-1.0, 0.0, 1.0].map(|side| [sigma, mean + side * variance.sqrt()]));
    }
    Ok(plot.dots(RED, "the same of 10,000 pairs", &dots).finish())
}

fn flow() -> Result<String> {
    const POINTS: usize = 13;
    let noise: Vec<f64> = grid([-3.0, 3.0], POINTS).collect();
    let mut plot = Plot::new("dx/dσ = v(x, σ)", ["1 − σ", "x"], [0.0, 1.0], [-3.5, 3.5]);
    for (i, &x) in noise.iter().enumerate() {
        let name = if i == 0 { "closed form" } else { "" };
        let path = graph([0.0, 1.0], 41, |time| exact_flow(TWO_PEAKS, x, 1.0 - time));
        plot = plot.line(GREY, name, &path);
    }
    let mut dots: Vec<[f64; 2]> = noise.iter().map(|&x| [0.0, x]).collect();
    let schedule = Schedule::from_sigmas((0..=8).map(|i| 1.0 - i as f32 / 8.0).collect())?;
    let velocity = |x: &Tensor, sigma: f32| {
        let field = |x: f64| marginal_velocity(TWO_PEAKS, x, f64::from(sigma));
        Tensor::from_vec(x.to_f64_vec().into_iter().map(field).collect::<Vec<_>>(), x.shape())
    };
    let mut step = 0;
    Solver::Heun.integrate(
        &Tensor::from_vec(noise, [POINTS])?,
        &schedule,
        velocity,
        |state: &FlowStep| {
            step += 1;
            let states = state.state.to_f64_vec().into_iter();
            dots.extend(states.map(|x| [f64::from(step) / 8.0, x]));
            ControlFlow::Continue(())
        },
    )?;
    Ok(plot.dots(RED, "Heun, 8 steps", &dots).finish())
}

fn regression() -> Result<String> {
    const SAMPLES: usize = 40_000;
    const BINS: usize = 40;
    let mut rng = Rng::new(3);
    let (clean, noise) = (data(&mut rng, SAMPLES)?, rng.normal([SAMPLES], DType::F64)?);
    let states = interpolate(&clean, &noise, &[0.5])?.to_f64_vec();
    let targets = velocity_target(&clean, &noise)?.to_f64_vec();
    let mut bins = [[0.0; 2]; BINS];
    for (x, target) in states.into_iter().zip(&targets) {
        let bin = (10.0 * (x + 2.0)).floor();
        if (0.0..BINS as f64).contains(&bin) {
            let [count, sum] = &mut bins[bin as usize];
            (*count, *sum) = (*count + 1.0, *sum + target);
        }
    }
    let mean = |(i, [count, sum]): (usize, [f64; 2])| [(i as f64 + 0.5) / 10.0 - 2.0, sum / count];
    let means = bins.into_iter().enumerate().filter(|(_, [count, _])| *count > 50.0).map(mean);
    let title = "what minimises E‖v − (ε − x₀)‖² at σ = ½";
    Ok(Plot::new(title, ["x_σ", "velocity"], [-2.0, 2.0], [-2.0, 3.0])
        .line(
            GREY,
            "E[ε − x₀ | x_σ], closed form",
            &graph([-2.0, 2.0], 81, |x| marginal_velocity(TWO_PEAKS, x, 0.5)),
        )
        .dots(RED, "mean target of 40,000 pairs", &means.collect::<Vec<_>>())
        .finish())
}

fn chain() -> Result<String> {
    const STEPS: usize = 40;
    let noise = LogLinear::PAPER;
    // dp/dt = −σ′(t)·p for the share of a token that is left, by the midpoint rule.
    let mut left = 1.0;
    let mut integrated = vec![[0.0, left]];
    for step in 0..STEPS - 1 {
        let h = 1.0 / STEPS as f64;
        let t = step as f64 * h;
        let middle = left * (1.0 - 0.5 * h * noise.rate(t));
        left -= h * noise.rate(t + 0.5 * h) * middle;
        integrated.push([t + h, left]);
    }
    let masked: Vec<[f64; 2]> = integrated.iter().map(|[t, p]| [*t, 1.0 - p]).collect();
    Ok(Plot::new("dp/dt = Q_t p, absorbing", ["t", "probability"], [0.0, 1.0], [0.0, 1.0])
        .line(GREY, "closed form", &graph([0.0, 1.0], 2, |t| noise.alpha(t)))
        .line(GREY, "", &graph([0.0, 1.0], 2, |t| noise.mask_probability(t)))
        .dots(BLUE, "token, the chain integrated", &integrated)
        .dots(RED, "mask, the chain integrated", &masked)
        .finish())
}

fn reverse() -> Result<String> {
    let noise = LogLinear::PAPER;
    let mut rng = Rng::new(5);
    let mut plot = Plot::new(
        "q(x_s is the mask | x_t is the mask)",
        ["s", "probability"],
        [0.0, 1.0],
        [0.0, 1.0],
    );
    for (t, colour) in [(1.0, BLUE), (0.75, GREEN), (0.5, RED), (0.25, GREY)] {
        let closed = |s: f64| {
            let earlier = posterior(&noise, [t, s], 2, &[0.5, 0.5, 0.0], 2)?;
            Ok([s, earlier[2]])
        };
        let line = grid([0.0, t - 1e-9], 20).map(closed).collect::<Result<Vec<_>>>()?;
        let mut dots = Vec::new();
        for s in (1..8).map(|i| t * f64::from(i) / 8.0) {
            dots.push([s, still_masked(&noise, [t, s], &mut rng)?]);
        }
        plot = plot.line(colour, &format!("t = {t}"), &line).dots(colour, "", &dots);
    }
    Ok(plot.finish())
}

/// Of 4,000 words that turn into masks on the way from time 0 to t, the share that were masks by
/// time s.
fn still_masked(noise: &LogLinear, [t, s]: [f64; 2], rng: &mut Rng) -> Result<f64> {
    const WORDS: usize = 4_000;
    let first = noise.mask_probability(s);
    let by_s = corrupt(&[0; WORDS], &[true; WORDS], first, 1, |_| rng.next_uniform())?;
    let left: Vec<bool> = by_s.iter().map(|&token| token == 0).collect();
    let then = 1.0 - noise.alpha(t) / noise.alpha(s);
    let by_t = corrupt(&by_s, &left, then, 1, |_| rng.next_uniform())?;
    let masks = |tokens: &[i64]| tokens.iter().sum::<i64>() as f64;
    Ok(masks(&by_s) / masks(&by_t))
}

fn masking() -> Result<String> {
    let mut rng = Rng::new(6);
    let noise = LogLinear::PAPER;
    let share = |t: f64| {
        let p = noise.mask_probability(t);
        let noisy = corrupt(&[0; 400], &[true; 400], p, 1, |_| rng.next_uniform())?;
        Ok([t, noisy.iter().sum::<i64>() as f64 / 400.0])
    };
    let shares = grid([0.0, 1.0], 41).map(share).collect::<Result<Vec<_>>>()?;
    Ok(Plot::new("q(x_t | x) = Cat(α_t x + (1 − α_t) m)", ["t", "share"], [0.0, 1.0], [0.0, 1.0])
        .line(GREY, "1 − α_t", &graph([0.0, 1.0], 2, |t| noise.mask_probability(t)))
        .dots(RED, "masked share of 400 tokens", &shares)
        .finish())
}

fn likelihood() -> Result<String> {
    let (tokens, scored) = ([3, 0, 2, 2, 0, 3, 0, 2], [0, 1, 2, 3, 4, 5, 6, 7]);
    let judged = Likelihood { tokens: &tokens, scored: &scored, mask: table::MASK, batch: 64 };
    let exact = judged.nelbo(table::same_for_all)?;
    let left_to_right = judged.chain_rule(&scored, table::same_for_all)?;
    let (mut means, mut low, mut high) = (Vec::new(), Vec::new(), Vec::new());
    for power in 2..=13 {
        let x = f64::from(power);
        let found = judged.estimate(1 << power, &mut Rng::new(7), table::same_for_all)?;
        means.push([x, found.mean]);
        low.push([x, found.mean - found.standard_error]);
        high.push([x, found.mean + found.standard_error]);
    }
    let range = [exact - 6.0, exact + 6.0];
    Ok(Plot::new("NELBO of eight tokens", ["log₂ samples", "nats"], [2.0, 13.0], range)
        .line(GREY, "all 255 sets", &[[2.0, exact], [13.0, exact]])
        .line(GREEN, "chain rule, left to right", &[[2.0, left_to_right], [13.0, left_to_right]])
        .dots(RED, "estimate ± standard error", &means)
        .line(RED, "", &low)
        .line(RED, "", &high)
        .finish())
}

fn times() -> Result<String> {
    const BINS: usize = 40;
    const SAMPLES: usize = 40_000;
    let mut counts = [0.0; BINS];
    for sigma in Draws::new(8, 0).image(0..SAMPLES, [1, 1, 1], Recipe::Paper, 0.0)?.sigma {
        counts[((sigma * BINS as f32) as usize).min(BINS - 1)] += (BINS as f64) / SAMPLES as f64;
    }
    let histogram: Vec<[f64; 2]> =
        (0..BINS).map(|i| [(i as f64 + 0.5) / BINS as f64, counts[i]]).collect();
    let density = |s: f64| {
        let z = (s / (1.0 - s)).ln();
        (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() / (s * (1.0 - s))
    };
    let mut rng = Rng::new(8);
    let uniforms: Vec<f64> = (0..16).map(|_| rng.next_uniform()).collect();
    let row = |times: &[f64], y: f64| times.iter().map(|&t| [t, y]).collect::<Vec<_>>();
    Ok(Plot::new("times that training draws", ["t", "density"], [0.0, 1.0], [0.0, 2.4])
        .line(GREY, "logit-normal density", &graph([1e-3, 0.999], 200, density))
        .dots(BLUE, "image times", &histogram)
        .dots(RED, "16 text times, stratified", &row(&stratified_times(&uniforms, MIN_TIME), 0.1))
        .dots(GREEN, "16 independent ones", &row(&uniforms, 0.2))
        .finish())
}

/// Means over this many steps of the tiny model's training.
const WINDOW: usize = 25;

fn joint() -> Result<String> {
    const BATCH: usize = 16;
    const LENGTH: usize = 4;
    let (model, params) = tiny::model()?;
    let objective = tiny::objective(Recipe::Paper, 0.2, LENGTH);
    let latents = tiny::latents(9, BATCH)?;
    // Pictures of two kinds, nearly all 0 or nearly all 1, and a caption that names the kind.
    let size = latents.numel() / BATCH;
    let noise = latents.to_f64_vec().into_iter().enumerate();
    let pixels: Vec<f64> = noise.map(|(i, z)| (i / size % 2) as f64 + 0.1 * z).collect();
    let latents = Tensor::from_vec(pixels, latents.shape())?;
    let ids: Vec<u32> = (0..BATCH as u32).flat_map(|i| [4 + i % 2, 5, 6, 1]).collect();
    let learned = vec![true; ids.len()];
    let images = ImagePairs { latents: &latents, ids: &ids };
    let texts = Texts { ids: &ids, learned: &learned, counted: None, length: LENGTH };
    let texts = TextPairs { latents: &latents, texts };
    let mut optimizer = AdamW::new(&params, AdamWConfig::default())?;
    let mut curves = [const { Vec::new() }; 3];
    for window in 0..16 {
        let mut sums = [0.0; 3];
        for step in 0..WINDOW {
            let draws = Draws::new(9, (window * WINDOW + step) as u64);
            let (grads, losses) = objective.gradients(&model, &images, &texts, &draws, 1)?;
            optimizer.step(&grads, 3e-3)?;
            let values = [losses.total, losses.image, losses.text];
            sums.iter_mut().zip(values).for_each(|(sum, loss)| *sum += loss / WINDOW as f64);
        }
        let x = (window * WINDOW + WINDOW / 2) as f64;
        curves.iter_mut().zip(sums).for_each(|(curve, mean)| curve.push([x, mean]));
    }
    let [total, image, text] = &curves;
    Ok(Plot::new("L = L_image + 0.2 L_text", ["step", "loss"], [0.0, 400.0], [0.0, 6.0])
        .line(BLUE, "L", total)
        .line(GREEN, "L_image", image)
        .line(RED, "L_text", text)
        .finish())
}

fn guidance() -> Result<String> {
    const CLASS: Mixture = &[(1.0, 0.5, 1.0)];
    const NULL: Mixture = &[(1.0, 0.0, 1.0)];
    let sigmas = (0..=64).map(|i| 1.0 - i as f32 / 64.0).collect();
    let schedule = Schedule::from_sigmas(sigmas)?;
    let model = |x: &Tensor, sigma: f32, pass: Pass| {
        let mixtures: &[Mixture] =
            if pass == Pass::Conditional { &[CLASS] } else { &[NULL, CLASS] };
        let velocity =
            |(x, mixture): (f64, &Mixture)| marginal_velocity(mixture, x, f64::from(sigma));
        let values = x.to_f64_vec().into_iter().zip(mixtures).map(velocity);
        Tensor::from_vec(values.collect::<Vec<f64>>(), x.shape())
    };
    let end = |scale: f64| {
        let guidance = Guidance::new(scale as f32);
        let velocity = |x: &Tensor, sigma: f32| guidance.velocity(x, sigma, model);
        let start = Tensor::zeros([1], DType::F64);
        let next = |_: &FlowStep| ControlFlow::Continue(());
        Ok([scale, Solver::Midpoint.integrate(&start, &schedule, velocity, next)?.item()?])
    };
    let ends = grid([1.0, 9.0], 17).map(end).collect::<Result<Vec<_>>>()?;
    let title = "v = s v(c) + (1 − s) v(∅): from N(0, 1) to N(½, 1) and beyond";
    Ok(Plot::new(title, ["s", "where x = 0 ends"], [1.0, 9.0], [0.0, 5.0])
        .line(GREY, "½ s, closed form", &graph([1.0, 9.0], 2, |scale| 0.5 * scale))
        .dots(RED, "guided flow", &ends)
        .finish())
}
