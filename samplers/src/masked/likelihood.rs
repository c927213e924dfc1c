//! How probable given tokens are under a masked-diffusion model.
//!
//! Everything here is made of one number: `ℓ(S) = Σ_{i∈S} −ln p(x_i | x_{∖S})`, the cross-entropy
//! of the tokens at positions S when these are masked. The bound that training minimises is a
//! weighted sum of it over all sets,
//!
//! ```text
//! NELBO(x) = ∫₀¹ dt/t Σ_S t^k·(1 − t)^(L−k)·ℓ(S) = Σ_S (k − 1)!·(L − k)!/L!·ℓ(S),  k = |S| > 0
//! ```
//! and since a denoiser that is not told the time may reveal tokens in any order, it is also the
//! mean, over all L! orders, of the chain rule's `Σ_j −ln p(x_{o_j} | x_{o_1}, …, x_{o_{j−1}})`.
//!
//! All results are in nats, and upper bounds of −ln p(x) or exact for one order.

use tensor::rng::Rng;
use tensor::{Error, Result, Tensor};

use super::canvas::{Canvas, Query};
use super::categorical::log_sum_exp;

/// The most positions [`Likelihood::nelbo`] enumerates: a million sets.
const MOST_ENUMERATED: usize = 20;

/// Tokens whose likelihood is asked for, given those around them.
///
/// The denoiser is asked as by the samplers ([`Query`]); the batch item is always 0.
#[derive(Clone, Copy, Debug)]
pub struct Likelihood<'a> {
    /// The whole row.
    pub tokens: &'a [i64],
    /// The positions whose tokens are judged, L of them; the others are given.
    pub scored: &'a [usize],
    /// The mask.
    pub mask: i64,
    /// How many rows the denoiser is asked about at once.
    pub batch: usize,
}

/// A mean of independent samples and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the mean, `√(variance/samples)`.
    pub standard_error: f64,
    /// The number of samples.
    pub samples: usize,
}

impl Likelihood<'_> {
    /// The NELBO by enumeration of all sets of masked positions.
    ///
    /// Cost: 2^L − 1 rows.
    /// Errors: more than 20 positions; a position twice or outside the row, or its token is the
    /// mask; `batch` is 0; the denoiser's own.
    pub fn nelbo(&self, denoiser: impl FnMut(&Query) -> Result<Tensor>) -> Result<f64> {
        let count = self.scored.len();
        if count > MOST_ENUMERATED {
            let message = format!("{count} positions have too many sets to enumerate");
            return Err(Error::value("nelbo", message).note("estimate it instead"));
        }
        let set = |bits: u32| (0..count).filter(move |i| bits >> i & 1 == 1);
        let sets = (1..1_u32 << count).map(|bits| set(bits).map(|i| self.scored[i]).collect());
        let mut bound = 0.0;
        self.for_each_set(sets, denoiser, |surprisals| {
            bound += set_weight(count, surprisals.len()) * surprisals.iter().sum::<f64>();
        })?;
        Ok(bound)
    }

    /// The chain rule in a given order: `Σ_j −ln p(x_{o_j} | given, x_{o_1}, …, x_{o_{j−1}})`, the
    /// exact negative log-likelihood of revealing these tokens one by one.
    ///
    /// Cost: L rows.
    /// Errors: `order` is not the scored positions in some order; and those of [`nelbo`].
    ///
    /// [`nelbo`]: Self::nelbo
    pub fn chain_rule(
        &self,
        order: &[usize],
        denoiser: impl FnMut(&Query) -> Result<Tensor>,
    ) -> Result<f64> {
        let sorted = |positions: &[usize]| {
            let mut sorted = positions.to_vec();
            sorted.sort_unstable();
            sorted
        };
        if sorted(order) != sorted(self.scored) {
            let message = format!("the order {order:?} is not one of {:?}", self.scored);
            return Err(Error::value("chain_rule", message));
        }
        let mut total = 0.0;
        let hidden = (0..order.len()).map(|revealed| order[revealed..].to_vec());
        self.for_each_set(hidden, denoiser, |surprisals| total += surprisals[0])?;
        Ok(total)
    }

    /// An unbiased estimate of the NELBO from `samples` random sets of masked positions.
    ///
    /// A set is drawn by its size, uniform in 1..=L, then its members; it counts `L/k·ℓ(S)`. The
    /// training loss draws a time instead and counts `1/t·ℓ(S)`: the same mean, but a variance
    /// that grows like `∫dt/t` towards time 0. Drawing the size averages the times away.
    ///
    /// Source: Nie et al. 2025 (LLaDA).
    ///
    /// Cost: `samples` rows.
    /// Errors: fewer than 2 samples, nothing to score; and those of [`nelbo`](Self::nelbo).
    pub fn estimate(
        &self,
        samples: usize,
        rng: &mut Rng,
        denoiser: impl FnMut(&Query) -> Result<Tensor>,
    ) -> Result<Estimate> {
        let count = self.scored.len();
        if samples < 2 || count == 0 {
            let message = "an estimate takes at least one position and two samples";
            return Err(Error::value("estimate", message));
        }
        let sets = (0..samples).map(|_| {
            let size = 1 + rng.below(count);
            rng.permutation(count)[..size].iter().map(|&i| self.scored[i]).collect()
        });
        let mut values = Vec::with_capacity(samples);
        self.for_each_set(sets, denoiser, |surprisals| {
            let scale = count as f64 / surprisals.len() as f64;
            values.push(scale * surprisals.iter().sum::<f64>());
        })?;
        Ok(Estimate::of(&values))
    }

    /// Calls `visit` with `−ln p(x_i | x_{∖S})` of each i in S, in the order of S, for every set S.
    fn for_each_set(
        &self,
        sets: impl Iterator<Item = Vec<usize>>,
        mut denoiser: impl FnMut(&Query) -> Result<Tensor>,
        mut visit: impl FnMut(&[f64]),
    ) -> Result<()> {
        self.check()?;
        let mut sets = sets.peekable();
        while sets.peek().is_some() {
            let chunk: Vec<Vec<usize>> = sets.by_ref().take(self.batch).collect();
            let rows: Vec<Vec<i64>> = chunk.iter().map(|set| self.hide(set)).collect();
            let canvas = Canvas::new(&rows, self.mask)?;
            let slots: Vec<usize> = (0..rows.len()).collect();
            let answer = canvas.ask(&slots, &vec![0; rows.len()], &mut denoiser)?;
            let mut logits = Vec::new();
            for (slot, set) in chunk.iter().enumerate() {
                let mut surprisals = Vec::with_capacity(set.len());
                for &position in set {
                    answer.read(slot, position, &mut logits)?;
                    let token = self.tokens[position];
                    surprisals.push(surprisal(&mut logits, token, answer.mask())?);
                }
                visit(&surprisals);
            }
        }
        Ok(())
    }

    fn hide(&self, set: &[usize]) -> Vec<i64> {
        let mut row = self.tokens.to_vec();
        set.iter().for_each(|&position| row[position] = self.mask);
        row
    }

    fn check(&self) -> Result<()> {
        let mut seen = vec![false; self.tokens.len()];
        for &position in self.scored {
            let fresh = seen.get_mut(position).is_some_and(|seen| !std::mem::replace(seen, true));
            if !fresh || self.tokens[position] == self.mask {
                let message = format!("position {position} is double, outside, or a mask");
                return Err(Error::value("Likelihood", message));
            }
        }
        if self.batch == 0 {
            return Err(Error::value("Likelihood", "a batch is at least one row"));
        }
        Ok(())
    }
}

impl Estimate {
    fn of(values: &[f64]) -> Self {
        let samples = values.len();
        let mean = values.iter().sum::<f64>() / samples as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let variance = squares / (samples - 1) as f64;
        Self { mean, standard_error: (variance / samples as f64).sqrt(), samples }
    }
}

/// `(k − 1)!·(n − k)!/n! = 1/(k·C(n, k))`: the integral of `t^(k−1)·(1 − t)^(n−k)` over \[0, 1\].
fn set_weight(n: usize, k: usize) -> f64 {
    let choices: f64 = (0..k).map(|i| (n - i) as f64 / (k - i) as f64).product();
    1.0 / (k as f64 * choices)
}

/// `−ln p(token)` with the mask excluded.
///
/// Errors: the token is not one of the logits'; they are NaN or +∞, or none is finite.
fn surprisal(logits: &mut [f64], token: i64, mask: usize) -> Result<f64> {
    logits[mask] = f64::NEG_INFINITY;
    let total = log_sum_exp(logits.iter().copied());
    match usize::try_from(token).ok().and_then(|token| logits.get(token)) {
        Some(logit) if total.is_finite() => Ok(total - logit),
        Some(_) => Err(Error::value("Likelihood", "the logits are not finite")),
        None => Err(Error::value("Likelihood", format!("token {token} is not in the vocabulary"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: i64 = 2;

    /// Token 1 has probability 0.8, whatever is seen.
    fn denoiser(query: &Query) -> Result<Tensor> {
        assert!(query.items.iter().all(|&item| item == 0));
        let row = [0.2_f64, 0.8, 5.0].map(f64::ln);
        Tensor::from_vec(row.repeat(query.masked.len()), [query.masked.len(), 3])
    }

    fn judged<'a>(tokens: &'a [i64], scored: &'a [usize]) -> Likelihood<'a> {
        Likelihood { tokens, scored, mask: MASK, batch: 3 }
    }

    /// Independent tokens: all orders, and so the bound, give the same sum.
    #[test]
    fn independent_tokens_add_up() {
        let exact = -(0.8_f64.ln() + 0.2_f64.ln());
        let likelihood = judged(&[1, 1, 0, 1], &[1, 2]);
        assert!((likelihood.nelbo(denoiser).unwrap() - exact).abs() < 1e-12);
        for order in [[1, 2], [2, 1]] {
            assert!((likelihood.chain_rule(&order, denoiser).unwrap() - exact).abs() < 1e-12);
        }
        let certain = judged(&[1, 1, 0, 1], &[0, 1, 3]);
        let estimate = certain.estimate(10, &mut Rng::new(0), denoiser).unwrap();
        assert!((estimate.mean + 3.0 * 0.8_f64.ln()).abs() < 1e-12);
        assert!(estimate.standard_error < 1e-12 && estimate.samples == 10);
    }

    #[test]
    fn nothing_scored_costs_nothing() {
        let never = |_: &Query| -> Result<Tensor> { unreachable!("there is nothing to ask") };
        assert_eq!(judged(&[1, 0], &[]).nelbo(never).unwrap(), 0.0);
    }

    #[test]
    fn weights_of_all_sets_add_up_to_a_harmonic_number() {
        // Σ_k C(5, k)/(k·C(5, k)) = 1 + 1/2 + … + 1/5.
        let sum: f64 = (1_u32..32).map(|bits| set_weight(5, bits.count_ones() as usize)).sum();
        assert!((sum - 137.0 / 60.0).abs() < 1e-14);
    }

    #[test]
    fn standard_error() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(estimate.mean, 2.5);
        assert!((estimate.standard_error - (5.0_f64 / 12.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn mistakes_are_errors() {
        let wrong =
            |tokens: &[i64], scored: &[usize]| judged(tokens, scored).nelbo(denoiser).is_err();
        assert!(wrong(&[1, 0], &[0, 0]));
        assert!(wrong(&[1, 0], &[2]));
        assert!(wrong(&[1, MASK], &[1]));
        assert!(wrong(&[1, 7], &[1]));
        assert!(wrong(&[1; 30], &(0..21).collect::<Vec<_>>()));
        let likelihood = judged(&[1, 0], &[0, 1]);
        assert!(likelihood.chain_rule(&[0, 0], denoiser).is_err());
        assert!(likelihood.estimate(1, &mut Rng::new(0), denoiser).is_err());
        assert!(Likelihood { batch: 0, ..likelihood }.nelbo(denoiser).is_err());
    }
}
