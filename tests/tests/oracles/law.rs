//! The law of each sampler, against the law of the process it claims to follow, enumerated.

use std::ops::ControlFlow;

use samplers::masked::{Canvas, Confidence, DdpmCache, Decoding, Pace, Score, TextStep, TwoStage};
use tensor::rng::Rng;
use tests::stats::assert_drawn_from;
use tests::table::{MASK, VOCAB, probabilities, same_for_all};

const LENGTH: usize = 3;
const STATES: usize = VOCAB.pow(LENGTH as u32);
const SAMPLES: usize = 30_000;

/// A probability for each row of tokens.
type Law = [f64; STATES];

fn go_on(_: &TextStep) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn decode(state: usize) -> [i64; LENGTH] {
    std::array::from_fn(|i| (state / VOCAB.pow(i as u32) % VOCAB) as i64)
}

fn encode(row: &[i64]) -> usize {
    row.iter().rev().fold(0, |state, &token| state * VOCAB + token as usize)
}

fn start_at(row: &[i64; LENGTH]) -> Law {
    let mut law = [0.0; STATES];
    law[encode(row)] = 1.0;
    law
}

/// One step in which every mask is revealed with probability `reveal`, independently, to a token
/// from the table's distribution after `sharpen`.
fn step(law: &Law, reveal: f64, sharpen: impl Fn(Vec<f64>) -> Vec<f64>) -> Law {
    let mut next = [0.0; STATES];
    for (state, &weight) in law.iter().enumerate().filter(|&(_, &weight)| weight > 0.0) {
        let row = decode(state);
        let moves: [Vec<f64>; LENGTH] = std::array::from_fn(|i| {
            if row[i] != MASK {
                return (0..VOCAB).map(|v| f64::from(v as i64 == row[i])).collect();
            }
            let mut p = sharpen(probabilities(&row, i, 0));
            p.iter_mut().for_each(|p| *p *= reveal);
            p[MASK as usize] = 1.0 - reveal;
            p
        });
        for (state, next) in next.iter_mut().enumerate() {
            let to = decode(state);
            *next += weight * (0..LENGTH).map(|i| moves[i][to[i] as usize]).product::<f64>();
        }
    }
    next
}

fn unchanged(p: Vec<f64>) -> Vec<f64> {
    p
}

/// All weight on the first of the likeliest tokens.
fn likeliest(p: Vec<f64>) -> Vec<f64> {
    let best = (0..VOCAB).fold(0, |best, v| if p[v] > p[best] { v } else { best });
    (0..VOCAB).map(|v| f64::from(v == best)).collect()
}

/// The law of N equal steps of the posterior, from time 1 to 0.
fn exact(row: &[i64; LENGTH], steps: usize, sharpen: impl Fn(Vec<f64>) -> Vec<f64>) -> Law {
    let share = |i: usize| 1.0 / (steps - i) as f64;
    (0..steps).fold(start_at(row), |law, i| step(&law, share(i), &sharpen))
}

/// How often each outcome comes of many rows alike, each with its own stream.
fn count(row: &[i64; LENGTH], sample: impl FnOnce(Canvas, &mut [Rng]) -> Canvas) -> Vec<usize> {
    let canvas = Canvas::new(&vec![row; SAMPLES], MASK).unwrap();
    let mut rngs: Vec<Rng> = (0..SAMPLES as u64).map(|i| Rng::new(41).stream(i)).collect();
    let filled = sample(canvas, &mut rngs);
    let mut counts = vec![0; STATES];
    (0..SAMPLES).for_each(|i| counts[encode(filled.row(i))] += 1);
    counts
}

const BLANK: [i64; LENGTH] = [MASK; LENGTH];
const HOLES: [i64; LENGTH] = [MASK, 2, MASK];

#[test]
fn equation_5_two_stage_sampler_has_the_law_of_the_posterior() {
    for (row, steps) in [(BLANK, 1), (BLANK, 2), (BLANK, 3), (BLANK, 8), (HOLES, 4)] {
        let counts = count(&row, |canvas, rngs| {
            TwoStage::new(steps).sample(canvas, rngs, same_for_all, go_on).unwrap()
        });
        let what = format!("{row:?} in {steps} steps");
        assert_drawn_from(&counts, &exact(&row, steps, unchanged), &what);
    }
}

/// In time, too, the samplers follow the process: each hole is revealed in each of N steps with
/// probability 1/N. (The release ends at time 10⁻⁵: too close to 0 to be noticed.)
#[test]
fn holes_are_revealed_uniformly_in_time() {
    const STEPS: usize = 8;
    let mut counts = [[0; STEPS]; 2];
    let [two_stage, released] = &mut counts;
    count(&BLANK, |canvas, rngs| {
        let observe = |step: &TextStep| {
            two_stage[step.index] += step.revealed.len();
            ControlFlow::Continue(())
        };
        TwoStage::new(STEPS).sample(canvas, rngs, same_for_all, observe).unwrap()
    });
    count(&BLANK, |canvas, rngs| {
        let observe = |step: &TextStep| {
            released[step.index] += step.revealed.len();
            ControlFlow::Continue(())
        };
        DdpmCache::new(STEPS).sample(canvas, rngs, same_for_all, observe).unwrap()
    });
    for counts in counts {
        assert_drawn_from(&counts, &[1.0 / STEPS as f64; STEPS], "steps of revealing");
    }
}

/// The test has power: the law depends on the number of steps, and the samples can tell.
#[test]
fn laws_of_different_step_counts_differ() {
    let counts = count(&BLANK, |canvas, rngs| {
        TwoStage::new(2).sample(canvas, rngs, same_for_all, go_on).unwrap()
    });
    let other = exact(&BLANK, 3, unchanged);
    let compared = std::panic::catch_unwind(|| assert_drawn_from(&counts, &other, "3 steps"));
    assert!(compared.is_err());
}

#[test]
fn temperature_and_nucleus_have_their_law() {
    let decoding = Decoding { temperature: 0.7, top_p: 0.8 };
    let sharpen = |p: Vec<f64>| {
        let mut p: Vec<f64> = p.into_iter().map(|p| p.powf(1.0 / 0.7)).collect();
        let total: f64 = p.iter().sum();
        let nucleus: Vec<bool> = (0..VOCAB)
            .map(|v| p.iter().filter(|&&other| other > p[v]).sum::<f64>() < 0.8 * total)
            .collect();
        p.iter_mut().zip(nucleus).for_each(|(p, kept)| *p *= f64::from(kept));
        let held: f64 = p.iter().sum();
        p.into_iter().map(|p| p / held).collect()
    };
    let counts = count(&BLANK, |canvas, rngs| {
        TwoStage { steps: 3, decoding }.sample(canvas, rngs, same_for_all, go_on).unwrap()
    });
    assert_drawn_from(&counts, &exact(&BLANK, 3, sharpen), "temperature 0.7, top-p 0.8");
}

/// With few tokens the release's race in single precision is exact enough. Its steps end at 10⁻⁵,
/// where what is left gets its likeliest token.
#[test]
fn equation_5_released_sampler_has_the_law_of_the_posterior() {
    for (row, steps) in [(BLANK, 1), (BLANK, 3), (BLANK, 8), (HOLES, 4)] {
        let time = |i: usize| 1.0 - (1.0 - 1e-5) * i as f64 / steps as f64;
        let reveal = |i: usize| (time(i) - time(i + 1)) / time(i);
        let last = (0..steps).fold(start_at(&row), |law, i| step(&law, reveal(i), unchanged));
        let law = step(&last, 1.0, likeliest);
        for reuse in [true, false] {
            let counts = count(&row, |canvas, rngs| {
                let sampler = DdpmCache { reuse, ..DdpmCache::new(steps) };
                sampler.sample(canvas, rngs, same_for_all, go_on).unwrap()
            });
            assert_drawn_from(&counts, &law, &format!("{row:?} in {steps} steps, {reuse}"));
        }
    }
}

/// One random hole at a time: the mean over all orders of the chain rule, which is the limit of
/// the reverse process for infinitely many steps.
#[test]
fn one_random_hole_a_step_is_the_continuous_limit() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let law: Law = std::array::from_fn(|state| {
        let to = decode(state);
        let chain = |order: [usize; 3]| {
            let mut row = BLANK;
            let mut reveal = |i: usize| {
                let p = probabilities(&row, i, 0)[to[i] as usize];
                row[i] = to[i];
                p
            };
            order.into_iter().map(&mut reveal).product::<f64>()
        };
        orders.into_iter().map(chain).sum::<f64>() / 6.0
    });
    let sampler = Confidence {
        score: Score::Random,
        pace: Pace::Even(LENGTH),
        decoding: Decoding::default(),
    };
    let counts =
        count(&BLANK, |canvas, rngs| sampler.sample(canvas, rngs, same_for_all, go_on).unwrap());
    assert_drawn_from(&counts, &law, "one random hole a step");

    // And the reverse process tends to it: its distance falls like 1/N.
    let distance = |steps: usize| -> f64 {
        exact(&BLANK, steps, unchanged).iter().zip(&law).map(|(p, q)| (p - q).abs()).sum()
    };
    let ratio = distance(64) / distance(128);
    assert!((ratio - 2.0).abs() < 0.1 && distance(128) < 0.05, "{ratio} {}", distance(128));
}
