//! Drawing a token from logits, in double precision.
//!
//! Precision is not pedantry here. A race of exponential clocks run in `f32`, as in the release,
//! cannot tell rare tokens apart: its uniform numbers have 24 bits, so clocks faster than 2⁻²⁴ do
//! not occur and the tail of the vocabulary is cut short, a lower temperature than was asked for.
//! Inverting the distribution function in `f64` has no such floor, and takes one number, not V.

use tensor::{Error, Result};

/// How a distribution over tokens is sharpened before drawing from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// Logits are divided by this: 1 is the model's own distribution, 0 always takes the likeliest.
    pub temperature: f64,
    /// Only the likeliest tokens that together hold this share of the probability are drawn from
    /// (the one that passes the mark included). 1 keeps all.
    /// Source: Holtzman et al. 2020.
    pub top_p: f64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0 }
    }
}

impl Decoding {
    /// Errors: a temperature below 0 or not finite; `top_p` outside (0, 1].
    #[track_caller]
    pub(super) fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let message = format!("the temperature {} is not 0 or more", self.temperature);
            return Err(Error::value("Decoding", message));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let message = format!("top_p {} is not within (0, 1]", self.top_p);
            return Err(Error::value("Decoding", message));
        }
        Ok(())
    }

    /// Turns a row of logits into the probabilities to draw from, in place. The mask gets none.
    ///
    /// Errors: no token has a finite logit, or one is NaN or +∞.
    pub(super) fn sharpen(&self, row: &mut [f64], mask: usize) -> Result<()> {
        row[mask] = f64::NEG_INFINITY;
        let best = largest(row.iter().copied());
        if !best.is_finite() {
            return Err(Error::value("Decoding", "the logits are not finite")
                .note("the denoiser diverged, or overflowed a 16-bit type"));
        }
        if self.temperature == 0.0 {
            let winner = argmax(row);
            row.fill(0.0);
            row[winner] = 1.0;
            return Ok(());
        }
        row.iter_mut().for_each(|logit| *logit = ((*logit - best) / self.temperature).exp());
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= total);
        if self.top_p < 1.0 {
            keep_nucleus(row, self.top_p);
        }
        Ok(())
    }
}

/// Zeroes all but the likeliest entries that together reach `share`, and scales these to sum 1.
/// Of equal entries the first are kept.
fn keep_nucleus(row: &mut [f64], share: f64) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let (mut kept, mut held) = (0, 0.0);
    while held < share && kept < order.len() {
        held += row[order[kept]];
        kept += 1;
    }
    order[kept..].iter().for_each(|&token| row[token] = 0.0);
    row.iter_mut().for_each(|p| *p /= held);
}

/// `ln Σ exp(x)`, without overflow. −∞ of nothing; NaN if any is NaN.
pub(super) fn log_sum_exp(row: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = largest(row.clone());
    if !largest.is_finite() {
        return largest;
    }
    largest + row.map(|x| (x - largest).exp()).sum::<f64>().ln()
}

/// The largest entry. −∞ of nothing; NaN if any is NaN.
fn largest(row: impl Iterator<Item = f64>) -> f64 {
    row.fold(f64::NEG_INFINITY, |best, x| if x > best || x.is_nan() { x } else { best })
}

/// The first of the largest entries.
pub(super) fn argmax<T: PartialOrd>(row: &[T]) -> usize {
    let later_wins = |best: usize, next: usize| if row[next] > row[best] { next } else { best };
    (0..row.len()).fold(0, later_wins)
}

/// The entry in which a uniform number in \[0, 1) falls when the entries are laid end to end:
/// entry v with probability `p_v/Σp`. Never one of weight 0.
pub(super) fn inverse_cdf(weights: &[f64], uniform: f64) -> usize {
    let target = uniform * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    let passed = weights.iter().position(|&weight| {
        reached += weight;
        reached > target
    });
    // Rounding of the product can put the target on the very end.
    let last = || weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
    passed.unwrap_or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sharpened(temperature: f64, top_p: f64, logits: &[f64]) -> Vec<f64> {
        let mut row = logits.to_vec();
        Decoding { temperature, top_p }.sharpen(&mut row, 0).unwrap();
        row
    }

    fn ln(p: [f64; 5]) -> [f64; 5] {
        p.map(f64::ln)
    }

    fn assert_close(left: &[f64], right: &[f64]) {
        let close = left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close && left.len() == right.len(), "{left:?} is not {right:?}");
    }

    #[test]
    fn temperature_and_nucleus() {
        let logits = ln([7.0, 0.1, 0.4, 0.3, 0.2]);
        assert_close(&sharpened(1.0, 1.0, &logits), &[0.0, 0.1, 0.4, 0.3, 0.2]);
        assert_close(&sharpened(0.5, 1.0, &logits), &[0.0, 1., 16., 9., 4.].map(|p| p / 30.0));
        assert_close(&sharpened(0.0, 1.0, &logits), &[0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_close(&sharpened(1.0, 0.6, &logits), &[0.0, 0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
        assert_close(&sharpened(1.0, 1e-9, &logits), &[0.0, 0.0, 1.0, 0.0, 0.0]);
        let even = ln([1.0, 0.25, 0.25, 0.25, 0.25]);
        assert_close(&sharpened(1.0, 0.5, &even), &[0.0, 0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn impossible_logits_are_errors() {
        let try_row = |mut row: Vec<f64>| Decoding::default().sharpen(&mut row, 0);
        assert!(try_row(vec![0.0, f64::NAN, 1.0]).is_err());
        assert!(try_row(vec![0.0, f64::INFINITY, 1.0]).is_err());
        assert!(try_row(vec![0.0, f64::NEG_INFINITY, f64::NEG_INFINITY]).is_err());
        assert!(try_row(vec![0.0, f64::NEG_INFINITY, 1.0]).is_ok());
        let check = |temperature, top_p| Decoding { temperature, top_p }.check();
        assert!(check(0.0, 1.0).is_ok());
        assert!(check(-1.0, 1.0).is_err() && check(f64::NAN, 1.0).is_err());
        assert!(check(1.0, 0.0).is_err() && check(1.0, 1.5).is_err());
    }

    #[test]
    fn inverse_cdf_of_borders() {
        let weights = [0.0, 0.5, 0.0, 0.5, 0.0];
        assert_eq!(inverse_cdf(&weights, 0.0), 1);
        assert_eq!(inverse_cdf(&weights, 0.499), 1);
        assert_eq!(inverse_cdf(&weights, 0.5), 3);
        assert_eq!(inverse_cdf(&weights, 1.0), 3);
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one_and_spare_the_mask(
            logits in prop::collection::vec(-800.0..800.0, 2..40),
            temperature in 0.0..3.0,
            top_p in 0.01..=1.0,
            uniform in 0.0..1.0,
        ) {
            let row = sharpened(temperature, top_p, &logits);
            prop_assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(row[0] == 0.0 && row[inverse_cdf(&row, uniform)] > 0.0);
        }
    }
}
