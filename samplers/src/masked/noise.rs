//! The forward process: tokens turn into masks, each on its own, and stay masks.

use tensor::{Error, Result};

/// The smallest time training draws: the loss weight 1/t is finite there.
pub const MIN_TIME: f64 = 1e-3;

/// The log-linear noise schedule: by time t a token has become a mask with probability
/// `(1 − eps)·t`.
///
/// Underneath is a Markov chain in continuous time whose only moves are from a token to the mask,
/// at [`rate`](Self::rate) σ′(t): `dp/dt = σ′(t)·(𝟙_m − p)`. Its solution is
/// `p(t) = e^(−σ(t))·p(0) + (1 − e^(−σ(t)))·𝟙_m`, so the total noise σ decides everything, and
/// choosing `σ(t) = −ln(1 − (1 − eps)·t)` makes the masked share grow linearly.
///
/// Source: the paper's equations (4) and (6); Sahoo et al. 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogLinear {
    eps: f64,
}

impl LogLinear {
    /// `α_t = 1 − t`: the paper's, and the sampler's of paper and release.
    pub const PAPER: Self = Self { eps: 0.0 };
    /// `α_t = 1 − 0.999·t`: the released training code's, which keeps σ(1) finite.
    pub const RELEASE: Self = Self { eps: 1e-3 };

    /// The schedule that masks a share `1 − eps` of all tokens by time 1.
    ///
    /// Errors: `eps` is not in 0 ≤ eps < 1.
    pub fn new(eps: f64) -> Result<Self> {
        match (0.0..1.0).contains(&eps) {
            true => Ok(Self { eps }),
            false => Err(Error::value("LogLinear", format!("eps {eps} is not in 0 to 1"))),
        }
    }

    /// The probability α_t that a token is still itself at time `t`.
    pub fn alpha(&self, t: f64) -> f64 {
        1.0 - self.mask_probability(t)
    }

    /// The probability `1 − α_t` that a token is a mask at time `t`.
    pub fn mask_probability(&self, t: f64) -> f64 {
        (1.0 - self.eps) * t
    }

    /// The total noise `σ(t) = −ln α_t`.
    pub fn total_noise(&self, t: f64) -> f64 {
        -(-self.mask_probability(t)).ln_1p()
    }

    /// The rate σ′(t) at which a token that is left becomes a mask.
    pub fn rate(&self, t: f64) -> f64 {
        (1.0 - self.eps) / self.alpha(t)
    }

    /// The weight of a masked token's cross-entropy in the bound, `−α′_t/(1 − α_t) = 1/t`: the rate
    /// at which, going backwards, a mask at time `t` is revealed. The same for every `eps`.
    pub fn loss_weight(&self, t: f64) -> f64 {
        1.0 / t
    }

    /// The probability `(α_s − α_t)/(1 − α_t)` that a mask at time `t` is a token at the earlier
    /// time `s`: for this schedule `(t − s)/t`, whatever `eps`.
    pub fn reveal_probability(&self, t: f64, s: f64) -> f64 {
        (t - s) / t
    }
}

/// Times in \[`floor`, 1\], one for each uniform number, each in an equal part of the range of its
/// own: `t = (1 − floor)·u′ + floor` with `u′ = (u_i + i)/n`.
///
/// Each time alone is as good as uniform, but together they cover the range evenly, so the mean of
/// the loss varies less. Stratify over the whole batch: a batch split in two halves that are
/// stratified apart is covered half as finely.
///
/// Source: the paper's equation (8), there called antithetic; Kingma et al. 2021.
pub fn stratified_times(uniforms: &[f64], floor: f64) -> Vec<f64> {
    let n = uniforms.len() as f64;
    let spread = |(i, &u): (usize, &f64)| ((u + i as f64) / n) % 1.0;
    uniforms.iter().enumerate().map(|i_u| (1.0 - floor) * spread(i_u) + floor).collect()
}

/// A row of tokens as the model sees it in training: where `learned`, each token is replaced by
/// `mask` if its uniform number is below `probability`.
///
/// `uniform(i)` is the number of position `i`: stored ones to repeat a run, or a generator's. It is
/// asked for every position, so that what is learned does not move the others' numbers.
///
/// Errors: `clean` and `learned` differ in length.
#[track_caller]
pub fn corrupt(
    clean: &[i64],
    learned: &[bool],
    probability: f64,
    mask: i64,
    mut uniform: impl FnMut(usize) -> f64,
) -> Result<Vec<i64>> {
    if clean.len() != learned.len() {
        let message = format!("{} tokens but {} marks", clean.len(), learned.len());
        return Err(Error::shape("corrupt", message));
    }
    let draw = |(i, (&token, &learned)): (usize, (&i64, &bool))| {
        let hit = uniform(i) < probability;
        if learned && hit { mask } else { token }
    };
    Ok(clean.iter().zip(learned).enumerate().map(draw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_agree_with_their_definitions() {
        for noise in [LogLinear::PAPER, LogLinear::RELEASE] {
            for t in [0.001, 0.2, 0.5, 0.99] {
                assert!(((-noise.total_noise(t)).exp() - noise.alpha(t)).abs() < 1e-15);
                // The weight as the release writes it, σ′/(e^σ − 1).
                let weight = noise.rate(t) / noise.total_noise(t).exp_m1();
                assert!((weight - noise.loss_weight(t)).abs() < 1e-12 * weight);
                let s = 0.7 * t;
                let reveal = (noise.alpha(s) - noise.alpha(t)) / (1.0 - noise.alpha(t));
                assert!((noise.reveal_probability(t, s) - reveal).abs() < 1e-12);
                let slope = (noise.total_noise(t + 1e-6) - noise.total_noise(t - 1e-6)) / 2e-6;
                assert!((slope / noise.rate(t) - 1.0).abs() < 1e-6);
            }
        }
        assert_eq!(LogLinear::PAPER.alpha(1.0), 0.0);
        assert!(LogLinear::RELEASE.total_noise(1.0).is_finite());
    }

    #[test]
    fn stratified_times_have_a_bin_each() {
        let uniforms = [0.99, 0.0, 0.5, 0.25, 0.75];
        for (i, t) in stratified_times(&uniforms, MIN_TIME).into_iter().enumerate() {
            let bin = (t - MIN_TIME) / (1.0 - MIN_TIME) * 5.0;
            assert_eq!(bin.floor() as usize, i);
        }
        assert_eq!(stratified_times(&[0.5], 0.0), [0.5]);
    }

    /// The first two of sixteen: u and t of the official computation in single precision.
    #[test]
    fn stratified_times_of_a_stored_run() {
        let mut uniforms = [0.0; 16];
        uniforms[..2].copy_from_slice(&[0.981_878_876_686_096_2, 0.010_551_452_636_718_75]);
        let times = stratified_times(&uniforms, MIN_TIME);
        assert!((times[0] - 0.062_306_061_387_062_07).abs() < 1e-8);
        assert!((times[1] - 0.064_096_309_244_632_72).abs() < 1e-8);
    }

    #[test]
    fn corruption_spares_what_is_not_learned() {
        let uniforms = [0.1, 0.1, 0.4, 0.6];
        let learned = [false, true, true, true];
        let noisy = corrupt(&[5, 6, 7, 8], &learned, 0.5, 0, |i| uniforms[i]).unwrap();
        assert_eq!(noisy, [5, 0, 0, 8]);
        assert!(corrupt(&[5], &learned, 0.5, 0, |_| 0.0).is_err());
    }
}
