//! The times that training draws: where they lie, and what lying evenly is worth.

use ddit::config::Recipe;
use ddit::objective::Draws;
use samplers::flow::{TRAINING_LEVELS, logit_normal_level};
use samplers::masked::{MIN_TIME, stratified_times};
use tensor::rng::Rng;
use tests::stats::{assert_drawn_from, assert_follows, normal_cdf};

use crate::likelihood::{LENGTH, loss_moment};

/// The distribution function of sigmoid(z), z standard normal.
fn logit_normal_cdf(sigma: f64) -> f64 {
    match sigma {
        ..=0.0 => 0.0,
        1.0.. => 1.0,
        _ => normal_cdf((sigma / (1.0 - sigma)).ln()),
    }
}

#[test]
fn equation_8_image_times_are_logit_normal() {
    let drawn = Draws::new(12, 0).image(0..50_000, [1, 1, 1], Recipe::Paper, 0.0).unwrap();
    let sigmas = drawn.sigma.into_iter().map(f64::from).collect();
    assert_follows(sigmas, logit_normal_cdf, "noise levels of recipe paper");

    // The release rounds to its table: so many levels that cells are compared.
    const BINS: usize = 20;
    let mut rng = Rng::new(12);
    let mut counts = [0; BINS];
    for _ in 0..50_000 {
        counts[logit_normal_level(rng.next_normal() as f32) * BINS / TRAINING_LEVELS] += 1;
    }
    let below = |bin: usize| logit_normal_cdf(bin as f64 / BINS as f64);
    let law: [f64; BINS] = std::array::from_fn(|bin| below(bin + 1) - below(bin));
    assert_drawn_from(&counts, &law, "noise levels of recipe release");
}

/// Of K text times one falls into each of K equal parts of [ε, 1], in whichever part of the batch
/// it is asked for.
#[test]
fn equation_8_text_times_have_a_bin_each() {
    const BATCH: usize = 64;
    for step in 0..200 {
        let draws = Draws::new(31, step);
        let times = draws.text(0..BATCH, 0..BATCH, 1).times;
        assert_eq!(draws.text(16..48, 0..BATCH, 1).times, times[16..48]);
        for (i, t) in times.iter().enumerate() {
            let bin = (t - MIN_TIME) / (1.0 - MIN_TIME) * BATCH as f64;
            // Rounding may carry a time over the border of its bin by a few ulp.
            assert!(bin > i as f64 - 1e-9 && bin < (i + 1) as f64 + 1e-9, "{i}: {t}");
        }
    }
}

/// The variance of a batch's loss has two sources. What the times contribute falls like K⁻³
/// when they are stratified, and like K⁻¹ when not; what the masks contribute is the same. Both
/// are computed from the table, exactly but for quadrature, and the first is also seen in times
/// as training draws them.
#[test]
fn equation_8_stratified_times_lower_the_variance_of_the_loss() {
    const BATCH: usize = 8;
    const POINTS: usize = 1024;
    let range = 1.0 - MIN_TIME;
    // By midpoints, a whole number of them to a bin. The square, which is like 1/t near 0, in ln t.
    let times = (0..POINTS).map(|i| MIN_TIME + range * (i as f64 + 0.5) / POINTS as f64);
    let means: Vec<f64> = times.map(|t| loss_moment(LENGTH, t, 1)).collect();
    let variance = |values: &[f64]| {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n
    };
    let octaves = -MIN_TIME.ln();
    let mean_square: f64 = (0..POINTS)
        .map(|i| MIN_TIME * (octaves * (i as f64 + 0.5) / POINTS as f64).exp())
        .map(|t| loss_moment(LENGTH, t, 2) * t * octaves / POINTS as f64 / range)
        .sum();
    let square_of_means = means.iter().map(|mean| mean * mean).sum::<f64>() / POINTS as f64;
    let by_masks = (mean_square - square_of_means) / BATCH as f64;
    let independent = variance(&means) / BATCH as f64;
    let in_bins = |batch: usize| {
        means.chunks(POINTS / batch).map(variance).sum::<f64>() / batch.pow(2) as f64
    };
    let stratified = in_bins(BATCH);
    let ratio = (by_masks + independent) / (by_masks + stratified);
    println!(
        "variance of the loss of {BATCH} texts, independent over stratified times: {ratio:.3}; \
         of the times' share alone: {:.1}",
        independent / stratified
    );
    assert!(ratio > 1.0 && ratio < 1.05 && independent > 8.0 * stratified);
    let doubled = stratified / in_bins(2 * BATCH);
    assert!((7.0..9.0).contains(&doubled), "twice the batch: {doubled}");

    let mut rng = Rng::new(32);
    let batches: Vec<f64> = (0..2000)
        .map(|_| {
            let uniforms: Vec<f64> = (0..BATCH).map(|_| rng.next_uniform()).collect();
            let times = stratified_times(&uniforms, MIN_TIME);
            times.iter().map(|&t| loss_moment(LENGTH, t, 1)).sum::<f64>() / BATCH as f64
        })
        .collect();
    // The variance of 2000 values is known to about √(2/2000), 3 %.
    let seen = variance(&batches) / stratified;
    assert!((0.85..1.15).contains(&seen), "{seen} of the variance there should be");
}
