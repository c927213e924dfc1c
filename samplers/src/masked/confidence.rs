//! Unmasking in the order of the model's confidence.

use std::ops::ControlFlow;

use tensor::rng::Rng;
use tensor::{Result, Tensor};

use super::canvas::{Canvas, Query, TextStep};
use super::categorical::{Decoding, inverse_cdf};
use super::predictions::Predictions;
use super::{check_generators, check_steps};

/// In each step draws a token for every hole, and keeps those the model is surest of.
///
/// Tokens revealed in one step are drawn independently of one another, and that is the error of few
/// steps; it is smallest where the model is sure. So this order needs fewer calls for the same
/// quality, at the price of another law than the reverse process: likely texts become likelier.
///
/// Source: Chang et al. 2022 (MaskGIT); Kim et al. 2025 (margin); Wu et al. 2025 (threshold).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// What counts as sure.
    pub score: Score,
    /// How many holes a step reveals.
    pub pace: Pace,
    /// How the denoiser's distribution is sharpened for drawing. Scores are of the distribution
    /// as it is: at temperature 0 they would otherwise all be alike.
    pub decoding: Decoding,
}

/// How sure the model is of a hole. Equal scores are taken from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The probability of the token that was drawn.
    Probability,
    /// The lead of the likeliest token over the second.
    Margin,
    /// `Σ p·ln p`: 0 when certain, `−ln V` when all tokens are alike.
    NegativeEntropy,
    /// A uniform number. With one hole a step the order of the reverse process itself, so then
    /// the law of its limit of infinitely many steps.
    Random,
}

/// How many holes of a row a step reveals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Equally many in each of so many steps; those left over come first.
    Even(usize),
    /// All whose score is at least this, and always the best one.
    AtLeast(f64),
}

struct Candidate {
    position: usize,
    token: usize,
    score: f64,
}

impl Confidence {
    /// Fills the holes of each row, with randomness from its own generator.
    ///
    /// `observe` is called after each step; when it answers [`ControlFlow::Break`], sampling ends
    /// and the canvas is returned as it is.
    ///
    /// Errors: no steps; not one generator a row; a temperature or share out of range; the
    /// denoiser's own, or its answer is not as [`Query`] demands.
    pub fn sample(
        &self,
        mut canvas: Canvas,
        rngs: &mut [Rng],
        mut denoiser: impl FnMut(&Query) -> Result<Tensor>,
        mut observe: impl FnMut(&TextStep) -> ControlFlow<()>,
    ) -> Result<Canvas> {
        self.decoding.check()?;
        check_generators(&canvas, rngs)?;
        let steps = self.most_steps(&canvas);
        check_steps(steps)?;
        for index in 0..steps {
            let asked = canvas.unfinished();
            if asked.is_empty() {
                break;
            }
            let predictions = canvas.ask(&asked, &asked, &mut denoiser)?;
            let mut revealed = Vec::new();
            for (slot, &row) in asked.iter().enumerate() {
                let holes: Vec<usize> = canvas.masked(row).collect();
                let mut candidates = self.draw(&predictions, slot, &holes, &mut rngs[row])?;
                candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
                candidates.truncate(self.count(&candidates, steps - index));
                for &Candidate { position, token, .. } in &candidates {
                    canvas.reveal(row, position, token);
                    revealed.push((row, position));
                }
            }
            let (asked, revealed) = (&asked, &revealed);
            if observe(&TextStep { index, steps, canvas: &canvas, asked, revealed }).is_break() {
                break;
            }
        }
        Ok(canvas)
    }

    /// How many steps it can take at most.
    fn most_steps(&self, canvas: &Canvas) -> usize {
        let holes = (0..canvas.batch()).map(|row| canvas.masked(row).count());
        match self.pace {
            Pace::Even(steps) => steps,
            Pace::AtLeast(_) => holes.max().unwrap_or(0).max(1),
        }
    }

    /// A token and its score for each hole of a row.
    fn draw(
        &self,
        predictions: &Predictions,
        slot: usize,
        holes: &[usize],
        rng: &mut Rng,
    ) -> Result<Vec<Candidate>> {
        let mut plain = Vec::new();
        let mut sharp = Vec::new();
        let mut candidates = Vec::with_capacity(holes.len());
        for &position in holes {
            predictions.read(slot, position, &mut plain)?;
            sharp.clone_from(&plain);
            Decoding::default().sharpen(&mut plain, predictions.mask())?;
            self.decoding.sharpen(&mut sharp, predictions.mask())?;
            let token = inverse_cdf(&sharp, rng.next_uniform());
            let score = match self.score {
                Score::Probability => plain[token],
                Score::Margin => margin(&plain),
                Score::NegativeEntropy => negative_entropy(&plain),
                Score::Random => rng.next_uniform(),
            };
            candidates.push(Candidate { position, token, score });
        }
        Ok(candidates)
    }

    /// How many of the candidates, best first, to reveal with so many steps left.
    fn count(&self, candidates: &[Candidate], steps_left: usize) -> usize {
        match self.pace {
            Pace::Even(_) => candidates.len().div_ceil(steps_left),
            Pace::AtLeast(least) => candidates.partition_point(|c| c.score >= least).max(1),
        }
    }
}

fn margin(probabilities: &[f64]) -> f64 {
    let [mut first, mut second] = [0.0_f64; 2];
    for &p in probabilities {
        second = second.max(first.min(p));
        first = first.max(p);
    }
    first - second
}

fn negative_entropy(probabilities: &[f64]) -> f64 {
    probabilities.iter().filter(|&&p| p > 0.0).map(|&p| p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: i64 = 3;

    /// Position 0 is split evenly in two, position 1 is 0.6 to 0.2 and 0.2, position 2 is certain.
    fn denoiser(query: &Query) -> Result<Tensor> {
        let table = [[0.5_f64, 0.5, 0.0, 1.0], [0.2, 0.6, 0.2, 1.0], [0.0, 0.0, 1.0, 1.0]];
        let rows = query.masked.iter().flat_map(|&cell| table[cell % 3].map(f64::ln));
        Tensor::from_vec(rows.collect::<Vec<_>>(), [query.masked.len(), 4])
    }

    /// The positions in the order they are revealed, a list for each step.
    fn order(score: Score, pace: Pace) -> Vec<Vec<usize>> {
        let canvas = Canvas::new(&[[MASK; 3]], MASK).unwrap();
        let mut order = Vec::new();
        let observe = |step: &TextStep| {
            order.push(step.revealed.iter().map(|&(_, position)| position).collect());
            ControlFlow::Continue(())
        };
        let decoding = Decoding { temperature: 0.0, top_p: 1.0 };
        let sampler = Confidence { score, pace, decoding };
        let filled = sampler.sample(canvas, &mut [Rng::new(0)], denoiser, observe).unwrap();
        assert_eq!(filled.row(0), [0, 1, 2]);
        order
    }

    #[test]
    fn surest_first() {
        let one = Pace::Even(3);
        assert_eq!(order(Score::Probability, one), [[2], [1], [0]]);
        assert_eq!(order(Score::Margin, one), [[2], [1], [0]]);
        // ln 2 = 0.69 nats against 0.95.
        assert_eq!(order(Score::NegativeEntropy, one), [[2], [0], [1]]);
    }

    #[test]
    fn pace() {
        let by = |pace| order(Score::Probability, pace);
        assert_eq!(by(Pace::Even(1)), [[2, 1, 0]]);
        assert_eq!(by(Pace::Even(2)), [vec![2, 1], vec![0]]);
        assert_eq!(by(Pace::Even(50)), [[2], [1], [0]], "done early, stops early");
        assert_eq!(by(Pace::AtLeast(0.55)), [vec![2, 1], vec![0]]);
        assert_eq!(by(Pace::AtLeast(2.0)), [[2], [1], [0]]);
    }

    #[test]
    fn scores() {
        assert!((margin(&[0.1, 0.6, 0.3]) - 0.3).abs() < 1e-15);
        assert_eq!(margin(&[1.0, 0.0]), 1.0);
        assert!((negative_entropy(&[0.5, 0.5, 0.0]) + std::f64::consts::LN_2).abs() < 1e-15);
    }
}
