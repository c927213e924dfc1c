//! How the weights follow the gradient: AdamW's numbers and the learning rate's course.

use autograd::optim::{AdamWConfig, Ema};
use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    Constant,
    /// It falls to 0 along half a cosine.
    Cosine,
    /// It stays, and falls to 0 in a straight line over the last fifth of the steps.
    Linear,
}

/// How the weights follow the gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// What the learning rate does then.
    pub decay: Decay,
    /// How slowly AdamW's two averages of the gradient move.
    pub betas: [f64; 2],
    /// Added to the root of the second average.
    pub epsilon: f64,
    /// Share of a weight that a learning rate of 1 takes away at every step.
    pub weight_decay: f64,
    /// The gradient's norm above which it is scaled down to it.
    pub clip: f64,
    /// Decay d of the average of the weights that is kept for inference.
    pub ema: f64,
    /// Whether that decay is `min(d, (1 + k) / (10 + k))` after k steps, as suits weights that are
    /// far from where they will be.
    pub ema_warmup: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            warmup: 100,
            decay: Decay::Cosine,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip: 2.0,
            ema: 0.999,
            ema_warmup: true,
        }
    }
}

impl OptimizerConfig {
    /// AdamW's numbers.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            betas: self.betas,
            eps: self.epsilon,
            weight_decay: self.weight_decay,
            clip: Some(self.clip),
            ema: Some(match self.ema_warmup {
                true => Ema::Rising(self.ema),
                false => Ema::Constant(self.ema),
            }),
        }
    }

    /// The learning rate of step `k` of `steps`, counted from 0: a straight rise from 0 during the
    /// warm-up, then what [`Decay`] says.
    pub fn rate(&self, k: u64, steps: u64) -> f64 {
        let (k, steps, warmup) = (k as f64, steps as f64, self.warmup as f64);
        if k < warmup {
            return self.learning_rate * k / warmup;
        }
        let left = (steps - k) / (steps - warmup).max(1.0);
        self.learning_rate
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Cosine => 0.5 - 0.5 * (std::f64::consts::PI * left).cos(),
                Decay::Linear => (left * 5.0).min(1.0),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rates_follow_their_schedule() {
        let optimizer =
            |decay| OptimizerConfig { learning_rate: 2.0, warmup: 10, decay, ..Default::default() };
        let rates = |decay| [0, 5, 10, 60, 110].map(|k| optimizer(decay).rate(k, 110));
        assert_eq!(rates(Decay::Constant), [0.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(rates(Decay::Linear), [0.0, 1.0, 2.0, 2.0, 0.0]);
        let cosine = rates(Decay::Cosine);
        assert_eq!(cosine[..3], [0.0, 1.0, 2.0]);
        assert!((cosine[3] - 1.0).abs() < 1e-12 && cosine[4].abs() < 1e-12);
        assert_eq!(optimizer(Decay::Linear).rate(100, 110), 1.0, "half of the last fifth");
    }
}
