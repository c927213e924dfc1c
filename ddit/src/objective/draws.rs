//! Every random choice of a training step, as a pure function of seed, step and sample.
//!
//! So the numbers a sample meets do not depend on how the batch is divided into micro-batches, and
//! a run that is resumed meets the ones it would have met.

use std::ops::Range;

use samplers::masked::{MIN_TIME, stratified_times};
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

use super::image::{ImageDraws, noise_level};
use super::text::TextDraws;
use crate::config::Recipe;

/// The random choices of one step.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    seed: u64,
    step: u64,
}

/// What numbers are for; each purpose has streams of its own. Purposes from 16 on are those of the
/// [data](crate::data::Purpose).
#[derive(Clone, Copy)]
enum Purpose {
    Image = 1,
    Text,
    Posterior,
}

impl Draws {
    /// The choices of step `step` of a run with this seed.
    pub fn new(seed: u64, step: u64) -> Self {
        Self { seed, step }
    }

    /// What the image loss draws for these samples of the batch, whose latents have the shape
    /// \[C_in, height, width\].
    ///
    /// Errors: none that a shape of the caller's making could cause.
    pub fn image(
        &self,
        samples: Range<usize>,
        latents: [usize; 3],
        recipe: Recipe,
        caption_dropout: f64,
    ) -> Result<ImageDraws> {
        let (mut sigma, mut drop, mut noise) = (Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            let mut rng = self.rng(Purpose::Image, sample);
            sigma.push(noise_level(recipe, rng.next_normal() as f32));
            drop.push(rng.next_uniform() < caption_dropout);
            noise.push(rng.normal(latents, DType::F32)?);
        }
        let noise = Tensor::stack(&noise.iter().collect::<Vec<_>>(), 0)?;
        Ok(ImageDraws { sigma, noise, drop })
    }

    /// What the text loss draws for these samples, with times stratified over `stratum`, a range
    /// of samples that contains them: the whole batch, or in recipe `release` the micro-batch.
    pub fn text(&self, samples: Range<usize>, stratum: Range<usize>, length: usize) -> TextDraws {
        let uniforms = stratum.clone().map(|i| self.rng(Purpose::Text, i).uniform_at(0));
        let times = stratified_times(&uniforms.collect::<Vec<_>>(), MIN_TIME);
        let first = samples.start - stratum.start;
        let row = |i: usize| {
            let rng = self.rng(Purpose::Text, i);
            (1..=length as u64).map(move |position| rng.uniform_at(position))
        };
        TextDraws {
            times: times[first..first + samples.len()].to_vec(),
            uniforms: samples.flat_map(row).collect(),
        }
    }

    /// Standard normal numbers for sampling latents from an autoencoder's posterior:
    /// \[samples, C_z, height, width\].
    ///
    /// Errors: none that a shape of the caller's making could cause.
    pub fn posterior(&self, samples: Range<usize>, latents: [usize; 3]) -> Result<Tensor> {
        let one = |sample| self.rng(Purpose::Posterior, sample).normal(latents, DType::F32);
        let all = samples.map(one).collect::<Result<Vec<_>>>()?;
        Tensor::stack(&all.iter().collect::<Vec<_>>(), 0)
    }

    /// The stream of one sample: 8 bits of purpose, 36 of step, 20 of sample.
    fn rng(&self, purpose: Purpose, sample: usize) -> Rng {
        debug_assert!(self.step < 1 << 36 && sample < 1 << 20, "streams would be shared");
        Rng::new(self.seed).stream((purpose as u64) << 56 | self.step << 20 | sample as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_meet_the_same_numbers() {
        let draws = Draws::new(3, 17);
        let whole = draws.image(0..4, [2, 3, 3], Recipe::Paper, 0.5).unwrap();
        let half = draws.image(2..4, [2, 3, 3], Recipe::Paper, 0.5).unwrap();
        assert_eq!((&whole.sigma[2..], &whole.drop[2..]), (&half.sigma[..], &half.drop[..]));
        let tail = whole.noise.narrow(0, 2, 2).unwrap();
        assert_eq!(tail.to_f64_vec(), half.noise.to_f64_vec());
        let (whole, half) = (draws.text(0..4, 0..4, 5), draws.text(2..4, 0..4, 5));
        assert_eq!(
            (&whole.times[2..], &whole.uniforms[10..]),
            (&half.times[..], &half.uniforms[..])
        );
        let quarter = |t: &f64| ((t - MIN_TIME) / (1.0 - MIN_TIME) * 4.0) as usize;
        let mut bins: Vec<_> = whole.times.iter().map(quarter).collect();
        bins.dedup();
        assert_eq!(bins.len(), 4, "a time in every quarter");
    }

    #[test]
    fn steps_and_purposes_differ() {
        let draws = |step| Draws::new(3, step);
        let noise = |step| draws(step).posterior(0..1, [1, 2, 2]).unwrap().to_f64_vec();
        assert_ne!(noise(1), noise(2));
        let image = draws(1).image(0..1, [1, 2, 2], Recipe::Paper, 0.0).unwrap();
        assert_ne!(image.noise.to_f64_vec(), noise(1));
        assert_eq!(image.drop, [false]);
    }
}
