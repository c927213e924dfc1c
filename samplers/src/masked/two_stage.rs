//! The exact sampler: first *whether* a mask is revealed, then *which* token it becomes.

use std::ops::ControlFlow;

use tensor::rng::Rng;
use tensor::{Result, Tensor};

use super::canvas::{Canvas, Query, TextStep};
use super::categorical::{Decoding, inverse_cdf};
use super::{check_generators, check_steps};

/// Ancestral sampling from the posterior of the paper's equation (5), in two draws.
///
/// From time t to the earlier time s a mask is revealed with probability `(t − s)/t`, independently
/// of what it becomes. So that is decided first, and only if some mask of a row is to be revealed
/// is the denoiser asked about the row. On N equal steps from 1 to 0 the probability at step i is
/// `1/(N − i)`: the last step reveals all that is left, and no hole can survive.
///
/// Steps in which nothing is revealed cost nothing, so many steps cost at most one call for each
/// hole, and approach the order in which a continuous-time sampler would reveal them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoStage {
    /// The number of steps N.
    pub steps: usize,
    /// How the denoiser's distribution is sharpened; the default keeps it.
    pub decoding: Decoding,
}

impl TwoStage {
    /// The denoiser's own distribution in `steps` steps.
    pub fn new(steps: usize) -> Self {
        Self { steps, decoding: Decoding::default() }
    }

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
        check_steps(self.steps)?;
        check_generators(&canvas, rngs)?;
        for index in 0..self.steps {
            if canvas.unfinished().is_empty() {
                break;
            }
            let share = 1.0 / (self.steps - index) as f64;
            let revealed = whether(&canvas, rngs, share);
            let asked = self.which(&mut canvas, &revealed, rngs, &mut denoiser)?;
            let steps = self.steps;
            let (asked, revealed) = (&asked, &revealed);
            if observe(&TextStep { index, steps, canvas: &canvas, asked, revealed }).is_break() {
                break;
            }
        }
        Ok(canvas)
    }

    /// Draws a token for each of `holes`, and returns the rows the denoiser was asked about.
    fn which(
        &self,
        canvas: &mut Canvas,
        holes: &[(usize, usize)],
        rngs: &mut [Rng],
        denoiser: &mut impl FnMut(&Query) -> Result<Tensor>,
    ) -> Result<Vec<usize>> {
        let mut rows: Vec<usize> = holes.iter().map(|&(row, _)| row).collect();
        rows.dedup();
        if rows.is_empty() {
            return Ok(rows);
        }
        let predictions = canvas.ask(&rows, &rows, denoiser)?;
        let mut weights = Vec::new();
        for &(row, position) in holes {
            let slot = rows.binary_search(&row).expect("rows holds the row of every hole");
            predictions.read(slot, position, &mut weights)?;
            self.decoding.sharpen(&mut weights, predictions.mask())?;
            canvas.reveal(row, position, inverse_cdf(&weights, rngs[row].next_uniform()));
        }
        Ok(rows)
    }
}

/// The holes that a step reveals, each with probability `share`; by row, then position.
fn whether(canvas: &Canvas, rngs: &mut [Rng], share: f64) -> Vec<(usize, usize)> {
    let mut revealed = Vec::new();
    for (row, rng) in rngs.iter_mut().enumerate() {
        let chosen = canvas.masked(row).filter(|_| rng.next_uniform() < share);
        revealed.extend(chosen.map(|position| (row, position)));
    }
    revealed
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    const MASK: i64 = 2;

    /// Token 0 is certain.
    fn certain(query: &Query) -> Result<Tensor> {
        let row = [0.0_f32, f32::NEG_INFINITY, 50.0];
        Tensor::from_vec(row.repeat(query.masked.len()), [query.masked.len(), 3])
    }

    fn go_on(_: &TextStep) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn fills_every_hole_and_no_other() {
        let canvas = Canvas::new(&[[MASK, 1, MASK], [1, 1, 1]], MASK).unwrap();
        let mut rngs = [Rng::new(0), Rng::new(1)];
        let mut revealed = 0;
        let observe = |step: &TextStep| {
            assert!(step.asked.is_empty() == step.revealed.is_empty());
            revealed += step.revealed.len();
            ControlFlow::Continue(())
        };
        let sampler = TwoStage::new(5);
        let filled = sampler.sample(canvas, &mut rngs, certain, observe).unwrap();
        assert_eq!(filled.to_tensor().to_vec::<i64>().unwrap(), [0, 1, 0, 1, 1, 1]);
        assert_eq!(revealed, 2);
    }

    #[test]
    fn many_steps_cost_one_call_a_hole() {
        let canvas = Canvas::new(&[[MASK; 6]], MASK).unwrap();
        let mut calls = 0;
        let counting = |query: &Query| {
            calls += 1;
            certain(query)
        };
        TwoStage::new(100_000).sample(canvas, &mut [Rng::new(3)], counting, go_on).unwrap();
        assert_eq!(calls, 6);
    }

    #[test]
    fn observer_can_stop() {
        let canvas = Canvas::new(&[[MASK; 6]], MASK).unwrap();
        let stop = |_: &TextStep| ControlFlow::Break(());
        let left = TwoStage::new(6).sample(canvas, &mut [Rng::new(3)], certain, stop).unwrap();
        assert!(left.masked(0).count() > 0);
    }

    #[test]
    fn mistakes_are_errors() {
        let canvas = || Canvas::new(&[[MASK; 2]], MASK).unwrap();
        let run = |sampler: TwoStage, rngs: &mut [Rng]| {
            sampler.sample(canvas(), rngs, certain, go_on).is_err()
        };
        assert!(run(TwoStage::new(0), &mut [Rng::new(0)]));
        assert!(run(TwoStage::new(2), &mut []));
        let decoding = Decoding { temperature: -1.0, top_p: 1.0 };
        assert!(run(TwoStage { steps: 2, decoding }, &mut [Rng::new(0)]));
        let wrong = |_: &Query| Ok(Tensor::zeros([1, 1], DType::F32));
        let answer = TwoStage::new(1).sample(canvas(), &mut [Rng::new(0)], wrong, go_on);
        assert!(answer.is_err());
    }
}
