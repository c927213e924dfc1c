//! The released sampler, in the released precision.

use std::ops::ControlFlow;

use tensor::rng::Rng;
use tensor::{Result, Tensor};

use super::canvas::{Canvas, Query, TextStep};
use super::categorical::{Decoding, argmax};
use super::{check_generators, check_steps};

/// Ancestral sampling by a race: in each step every hole draws, from one categorical distribution,
/// either a token or to stay a mask, and takes the largest of V ratios.
///
/// ```text
/// q = P·(t − s) for tokens, s for the mask;   g = 10⁻¹⁰ − ln(u + 10⁻¹⁰);   argmax q/g
/// ```
/// With u uniform, g is an exponential clock and the first to ring has the law q/Σq. In `f32` a
/// clock cannot be faster than 2⁻²⁴, so tokens with `P·(t − s) ≪ s·2⁻²⁴` hardly ever win: the more
/// steps, the lower the temperature. [`TwoStage`](super::TwoStage) has no such floor.
///
/// The denoiser sees no time, so while no token of a row changes, its P is reused; that gives the
/// name, and for many steps most of the speed. Holes left at the end get their likeliest token.
///
/// Source: the released pipeline; Sahoo et al. 2024 (the cache).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdpmCache {
    /// The number of steps.
    pub steps: usize,
    /// Where time ends: steps are equal from 1 to `eps`.
    pub eps: f64,
    /// Whether P is reused. The tokens are the same either way; only the calls are more.
    pub reuse: bool,
}

/// Which uniform numbers the race needs: V of them, for one hole in one step.
///
/// The release draws an array \[steps, B, L, V\]; whoever stored one finds the line here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The step, from 0.
    pub step: usize,
    /// The row of the batch.
    pub row: usize,
    /// The position in the row.
    pub position: usize,
}

/// The denoiser's P for one row.
#[derive(Clone)]
struct Clean {
    vocab: usize,
    /// At the row's masks, one after the other.
    probabilities: Vec<f32>,
}

impl DdpmCache {
    /// As released: time ends at 10⁻⁵, and P is reused.
    pub fn new(steps: usize) -> Self {
        Self { steps, eps: 1e-5, reuse: true }
    }

    /// Fills the holes of each row, with randomness from its own generator.
    ///
    /// Errors: not one generator a row; those of [`replay`](Self::replay), which see.
    pub fn sample(
        &self,
        canvas: Canvas,
        rngs: &mut [Rng],
        denoiser: impl FnMut(&Query) -> Result<Tensor>,
        observe: impl FnMut(&TextStep) -> ControlFlow<()>,
    ) -> Result<Canvas> {
        check_generators(&canvas, rngs)?;
        // 24 bits, as many as the release's numbers have; more would round up to 1.
        let coarse = |rng: &mut Rng| (rng.next_u64() >> 40) as f32 / (1 << 24) as f32;
        let uniforms = |draw: Draw, out: &mut [f32]| out.fill_with(|| coarse(&mut rngs[draw.row]));
        self.replay(canvas, uniforms, denoiser, observe)
    }

    /// Fills the holes of each row with given randomness: `uniforms` writes the numbers a [`Draw`]
    /// asks for.
    ///
    /// `observe` is called after each step; when it answers [`ControlFlow::Break`], sampling ends
    /// and the canvas is returned as it is, holes included. All steps are run and reported, also
    /// when nothing is left to do; the last filling of holes is not a step.
    ///
    /// Errors: no steps; the denoiser's own, or its answer is not as [`Query`] demands.
    pub fn replay(
        &self,
        mut canvas: Canvas,
        mut uniforms: impl FnMut(Draw, &mut [f32]),
        mut denoiser: impl FnMut(&Query) -> Result<Tensor>,
        mut observe: impl FnMut(&TextStep) -> ControlFlow<()>,
    ) -> Result<Canvas> {
        check_steps(self.steps)?;
        let mut clean = vec![None; canvas.batch()];
        for index in 0..self.steps {
            if !self.reuse {
                clean.fill(None);
            }
            let asked = refresh(&canvas, &mut clean, &mut denoiser)?;
            let winners = race(&canvas, &clean, self.times(index), index, &mut uniforms);
            for &((row, position), token) in &winners {
                canvas.reveal(row, position, token);
                clean[row] = None;
            }
            let revealed: Vec<_> = winners.iter().map(|&(hole, _)| hole).collect();
            let (steps, asked, revealed) = (self.steps, &asked, &revealed);
            if observe(&TextStep { index, steps, canvas: &canvas, asked, revealed }).is_break() {
                return Ok(canvas);
            }
        }
        refresh(&canvas, &mut clean, &mut denoiser)?;
        take_likeliest(&mut canvas, &clean);
        Ok(canvas)
    }

    /// The times a step starts from and leads to, `t` and `s`, rounded as the release rounds them:
    /// `t` from a grid laid out from both ends, `s = t − dt`.
    fn times(&self, step: usize) -> [f32; 2] {
        let (end, steps) = (self.eps as f32, self.steps as f32);
        let spacing = (end - 1.0) / steps;
        let t = if 2 * step < self.steps {
            1.0 + spacing * step as f32
        } else {
            end - spacing * (self.steps - step) as f32
        };
        [t, t - ((1.0 - self.eps) / self.steps as f64) as f32]
    }
}

/// Asks the denoiser about each row that has masks but no P, and returns these rows.
fn refresh(
    canvas: &Canvas,
    clean: &mut [Option<Clean>],
    denoiser: &mut impl FnMut(&Query) -> Result<Tensor>,
) -> Result<Vec<usize>> {
    let mut rows = canvas.unfinished();
    rows.retain(|&row| clean[row].is_none());
    if rows.is_empty() {
        return Ok(rows);
    }
    let predictions = canvas.ask(&rows, &rows, denoiser)?;
    let mut line = Vec::new();
    for (slot, &row) in rows.iter().enumerate() {
        let mut probabilities = Vec::new();
        for position in canvas.masked(row) {
            predictions.read(slot, position, &mut line)?;
            Decoding::default().sharpen(&mut line, predictions.mask())?;
            probabilities.extend(line.iter().map(|&p| p as f32));
        }
        clean[row] = Some(Clean { vocab: line.len(), probabilities });
    }
    Ok(rows)
}

/// The holes whose race was won by a token, with that token.
fn race(
    canvas: &Canvas,
    clean: &[Option<Clean>],
    [t, s]: [f32; 2],
    step: usize,
    uniforms: &mut impl FnMut(Draw, &mut [f32]),
) -> Vec<((usize, usize), usize)> {
    let mask = canvas.mask() as usize;
    let mut winners = Vec::new();
    let mut clocks = Vec::new();
    for (row, position, clean) in holes(canvas, clean) {
        clocks.resize(clean.len(), 0.0);
        uniforms(Draw { step, row, position }, &mut clocks);
        for (v, (clock, &p)) in clocks.iter_mut().zip(clean).enumerate() {
            let weight = if v == mask { s } else { p * (t - s) };
            *clock = weight / (1e-10 - (*clock + 1e-10).ln());
        }
        let winner = argmax(&clocks);
        if winner != mask {
            winners.push(((row, position), winner));
        }
    }
    winners
}

/// Noise removal: every hole gets its likeliest token.
fn take_likeliest(canvas: &mut Canvas, clean: &[Option<Clean>]) {
    let best = holes(canvas, clean).map(|(row, position, p)| (row, position, argmax(p)));
    let best: Vec<_> = best.collect();
    best.into_iter().for_each(|(row, position, token)| canvas.reveal(row, position, token));
}

/// Each hole as (row, position, P there).
fn holes<'a>(
    canvas: &'a Canvas,
    clean: &'a [Option<Clean>],
) -> impl Iterator<Item = (usize, usize, &'a [f32])> {
    let known = clean.iter().enumerate().filter_map(|(row, clean)| Some((row, clean.as_ref()?)));
    known.flat_map(|(row, clean)| {
        let lines = clean.probabilities.chunks_exact(clean.vocab);
        canvas.masked(row).zip(lines).map(move |(position, line)| (row, position, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    const MASK: i64 = 1;

    /// The tokens 0 and 2 with probabilities 0.75 and 0.25, whatever is seen.
    fn denoiser(query: &Query) -> Result<Tensor> {
        let row = [0.75_f32.ln(), 3.0, 0.25_f32.ln()];
        Tensor::from_vec(row.repeat(query.masked.len()), [query.masked.len(), 3])
    }

    fn go_on(_: &TextStep) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn times_run_from_one_to_eps() {
        let sampler = DdpmCache::new(4);
        assert_eq!(sampler.times(0), [1.0, 1.0 - 0.249_997_5]);
        let [t, s] = sampler.times(3);
        assert!((t - 0.250_007_5).abs() < 1e-7 && (s - 1e-5).abs() < 1e-7);
    }

    /// One step, worked out by hand: t = 1, s = 10⁻⁵. With equal clocks the likeliest token wins;
    /// a clock fast enough (u near 1) lets the other token win; only a very fast one the mask.
    #[test]
    fn the_fastest_clock_wins() {
        let run = |numbers: [f32; 3]| {
            let canvas = Canvas::new(&[[MASK]], MASK).unwrap();
            let mut after = Vec::new();
            let observe = |step: &TextStep| {
                after.extend_from_slice(step.canvas.row(0));
                ControlFlow::Continue(())
            };
            let uniforms = |draw: Draw, out: &mut [f32]| {
                assert_eq!(draw, Draw { step: 0, row: 0, position: 0 });
                out.copy_from_slice(&numbers);
            };
            let filled = DdpmCache::new(1).replay(canvas, uniforms, denoiser, observe).unwrap();
            (after[0], filled.row(0)[0])
        };
        assert_eq!(run([0.5, 0.5, 0.5]), (0, 0));
        assert_eq!(run([0.5, 0.5, 0.9]), (2, 2));
        assert_eq!(run([0.5, 0.999_999, 0.5]), (MASK, 0), "a hole left gets its likeliest token");
    }

    /// With the fastest clock there is, 2⁻²⁴, against a middling one for the mask: a token of
    /// probability 10⁻³ is revealed in the first of 256 steps, one of 10⁻⁶ is not.
    #[test]
    fn rare_tokens_lose_even_with_the_fastest_clock() {
        for (rare, wins) in [(1e-3_f32, true), (1e-6, false)] {
            let canvas = Canvas::new(&[[MASK]], MASK).unwrap();
            let denoiser = |_: &Query| Tensor::from_slice(&[0.0, 0.0, rare.ln()], [1, 3]);
            let fastest = 1.0 - f32::EPSILON / 2.0;
            let uniforms = |_: Draw, out: &mut [f32]| out.copy_from_slice(&[0.5, 0.5, fastest]);
            let stop = |_: &TextStep| ControlFlow::Break(());
            let after = DdpmCache::new(256).replay(canvas, uniforms, denoiser, stop).unwrap();
            assert_eq!(after.row(0)[0] == 2, wins, "probability {rare}");
        }
    }

    #[test]
    fn unchanged_rows_are_not_asked_about_again() {
        let run = |reuse: bool| {
            let canvas = Canvas::new(&[[MASK; 4], [MASK, 0, 0, 0]], MASK).unwrap();
            let (mut asked, mut changed) = (Vec::new(), Vec::new());
            let observe = |step: &TextStep| {
                asked.push(step.asked.len());
                changed.push(step.revealed.len());
                ControlFlow::Continue(())
            };
            let sampler = DdpmCache { reuse, ..DdpmCache::new(40) };
            let mut rngs = [Rng::new(5), Rng::new(6)];
            let filled = sampler.sample(canvas, &mut rngs, denoiser, observe).unwrap();
            assert_eq!(asked.len(), 40);
            (filled, asked.iter().sum::<usize>())
        };
        let ((cached, few), (plain, many)) = (run(true), run(false));
        assert_eq!(cached, plain);
        assert!(few <= 5 && many > 20, "{few} and {many} rows asked about");
    }

    #[test]
    fn mistakes_are_errors() {
        let canvas = Canvas::new(&[[MASK; 4]], MASK).unwrap();
        let half = |_: Draw, out: &mut [f32]| out.fill(0.5);
        assert!(DdpmCache::new(0).replay(canvas.clone(), half, denoiser, go_on).is_err());
        let wrong = |_: &Query| Ok(Tensor::zeros([4, 3, 2], DType::F32));
        assert!(DdpmCache::new(2).replay(canvas.clone(), half, wrong, go_on).is_err());
        assert!(DdpmCache::new(2).sample(canvas, &mut [], denoiser, go_on).is_err());
    }
}
