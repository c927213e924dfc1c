//! The reverse process: what a mask becomes, given a guess at the clean token.

use tensor::{DType, Element, Error, Result, Tensor};

use super::categorical::log_sum_exp;
use super::noise::LogLinear;

/// What the release adds in place of −∞: to the mask's logit, and as the log-probability of every
/// token but its own where a token is given.
const NEVER: f64 = -1e6;

/// Log-probabilities of the clean tokens under the two rules of SUBS: a clean token is never the
/// mask, and a token that is not masked is itself.
///
/// ```text
/// masked position:  log_softmax(logits with −10⁶ added at the mask)
/// given token x:    0 at x, −10⁶ elsewhere
/// ```
/// Source: Sahoo et al. 2024; −10⁶ for −∞ as in the release.
///
/// Shapes: `logits` \[B, L, V\] F32 or F64; `ids` \[B, L\] I64 → \[B, L, V\].
/// Cost: one exponential a logit of a masked position.
/// Errors: shapes or types differ from these; the mask or an id is outside 0..V.
#[track_caller]
pub fn subs_log_probs(logits: &Tensor, ids: &Tensor, mask: i64) -> Result<Tensor> {
    let [batch, length, vocab] = logits.dims()?;
    let fits = ids.shape() == &[batch, length];
    let known = |id: i64| usize::try_from(id).is_ok_and(|id| id < vocab);
    let tokens = ids.to_vec::<i64>()?;
    if !fits || !known(mask) || !tokens.iter().all(|&id| known(id)) {
        let message = "ids and mask must be one of the logits' tokens for each position";
        return Err(Error::shape("subs_log_probs", message)
            .operand("logits", logits)
            .operand("ids", (ids, format!("mask {mask}"))));
    }
    match logits.dtype() {
        DType::F32 => typed_subs::<f32>(logits, &tokens, mask),
        DType::F64 => typed_subs::<f64>(logits, &tokens, mask),
        _ => Err(Error::dtype("subs_log_probs", "f32 or f64 only").operand("logits", logits)),
    }
}

fn typed_subs<T: Element>(logits: &Tensor, tokens: &[i64], mask: i64) -> Result<Tensor> {
    let packed = logits.contiguous();
    let vocab = packed.shape()[2];
    let rows = packed.slice::<T>()?.chunks_exact(vocab);
    Ok(Tensor::build(packed.shape(), |log_probs: &mut [T]| {
        for ((out, row), &token) in log_probs.chunks_exact_mut(vocab).zip(rows).zip(tokens) {
            if token != mask {
                out.fill(T::from_f64(NEVER));
                out[token as usize] = T::from_f64(0.0);
                continue;
            }
            let logit = |v: usize| row[v].to_f64() + if v == mask as usize { NEVER } else { 0.0 };
            let total = log_sum_exp((0..vocab).map(logit));
            out.iter_mut().enumerate().for_each(|(v, out)| *out = T::from_f64(logit(v) - total));
        }
    }))
}

/// The exact posterior `q(x_s | x_t, x₀)` of one position, averaged over a distribution of x₀.
///
/// A token stays. A mask stays with probability `(1 − α_s)/(1 − α_t)`, and with the rest becomes a
/// token drawn from `clean`.
///
/// Source: the paper's equation (5), normalised.
///
/// Shapes: `clean` \[V\], the probabilities of x₀, 0 at the mask → \[V\].
/// Errors: not `0 ≤ s < t ≤ 1`; `current` or `mask` outside 0..V.
#[track_caller]
pub fn posterior(
    noise: &LogLinear,
    [t, s]: [f64; 2],
    current: i64,
    clean: &[f64],
    mask: i64,
) -> Result<Vec<f64>> {
    if !(0.0 <= s && s < t && t <= 1.0) {
        return Err(Error::value("posterior", format!("no step from time {t} back to {s}")));
    }
    let index = |id: i64| usize::try_from(id).ok().filter(|&id| id < clean.len());
    let (Some(current), Some(mask)) = (index(current), index(mask)) else {
        let message = format!("token {current} or mask {mask} is not one of {}", clean.len());
        return Err(Error::value("posterior", message));
    };
    let mut next = vec![0.0; clean.len()];
    if current == mask {
        let reveal = noise.reveal_probability(t, s);
        next.iter_mut().zip(clean).for_each(|(next, clean)| *next = reveal * clean);
        next[mask] = 1.0 - reveal;
    } else {
        next[current] = 1.0;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subs_rules() {
        let logits = Tensor::from_slice(&[1.0_f32, 9.0, 1.0, 0.3, 0.1, 0.2], [1, 2, 3]).unwrap();
        let ids = Tensor::from_slice(&[1_i64, 2], [1, 2]).unwrap();
        let log_probs = subs_log_probs(&logits, &ids, 1).unwrap().to_f64_vec();
        assert!((log_probs[0] - 0.5_f64.ln()).abs() < 1e-7);
        assert!((log_probs[1] + 1e6).abs() < 10.0, "a clean token is never the mask");
        assert_eq!(log_probs[3..], [-1e6, -1e6, 0.0], "a given token is itself");
    }

    #[test]
    fn posterior_of_mask_and_token() {
        let clean = [0.25, 0.75, 0.0];
        let from_mask = posterior(&LogLinear::PAPER, [0.8, 0.2], 2, &clean, 2).unwrap();
        for (p, expected) in from_mask.iter().zip([0.1875, 0.5625, 0.25]) {
            assert!((p - expected).abs() < 1e-15);
        }
        let from_token = posterior(&LogLinear::PAPER, [0.8, 0.2], 0, &clean, 2).unwrap();
        assert_eq!(from_token, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn mistakes_are_errors() {
        let logits = Tensor::zeros([1, 2, 3], DType::F32);
        let ids = |ids: [i64; 2]| Tensor::from_slice(&ids, [1, 2]).unwrap();
        assert!(subs_log_probs(&logits, &ids([0, 3]), 1).is_err());
        assert!(subs_log_probs(&logits, &ids([0, -1]), 1).is_err());
        assert!(subs_log_probs(&logits, &ids([0, 1]), 3).is_err());
        assert!(subs_log_probs(&logits.to_dtype(DType::BF16), &ids([0, 1]), 1).is_err());
        for times in [[0.5, 0.5], [0.5, 0.6], [1.1, 0.5], [0.5, f64::NAN]] {
            assert!(posterior(&LogLinear::PAPER, times, 0, &[1.0, 0.0], 1).is_err());
        }
        assert!(posterior(&LogLinear::PAPER, [1.0, 0.0], 2, &[1.0, 0.0], 1).is_err());
    }
}
