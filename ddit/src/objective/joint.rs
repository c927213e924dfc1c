//! The joint objective of a training step: `L = L_image + λ L_text`.
//!
//! The two terms are two passes over different pairs: in one the text is clean and the image
//! noisy, in the other the reverse. A batch may be worked off in equal parts; the gradient is the
//! mean over them, and the random numbers are the whole batch's, so the parts change only memory
//! and rounding. Source: Li et al. 2025, eq. (9).
//!
//! Where a text encoder reads for the transformer, the image pass takes its states as they are;
//! the text pass leads back into it, as far as something in it learns.

use autograd::Grads;
use tensor::{Error, Result, Tensor};

use super::draws::Draws;
use super::noise::ByNoise;
use super::step::Step;
use super::text::Texts;
use crate::config::Recipe;
use crate::pipeline::Model;

/// What is minimised.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Which reading of the two losses.
    pub recipe: Recipe,
    /// λ: 0.2 in pre-training, 1 in instruction tuning.
    pub text_weight: f64,
    /// Probability that a caption gives way to the null text in the image pass.
    pub caption_dropout: f64,
    /// How far the noise levels of pictures are [shifted](super::ImageDraws::shifted); 1 in both
    /// recipes.
    pub noise_shift: f64,
    /// Token ids of the null text, L: `</s>` and padding.
    pub null: Vec<u32>,
    /// The token that stands for an unknown one.
    pub mask: u32,
}

/// Pictures to be generated from their captions.
#[derive(Clone, Copy, Debug)]
pub struct ImagePairs<'a> {
    /// Clean latents on the transformer's scale \[B, C_in, height, width\].
    pub latents: &'a Tensor,
    /// Token ids of the captions, B·L.
    pub ids: &'a [u32],
}

/// Texts to be generated from their pictures.
#[derive(Clone, Copy, Debug)]
pub struct TextPairs<'a> {
    /// Clean latents on the transformer's scale \[B, C_in, height, width\].
    pub latents: &'a Tensor,
    /// The texts.
    pub texts: Texts<'a>,
}

/// The values of a step's losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// The image loss.
    pub image: f64,
    /// The text loss, before weighting.
    pub text: f64,
    /// The joint loss.
    pub total: f64,
    /// The image losses of the pictures, by noise level.
    pub image_by_noise: ByNoise,
    /// The text losses of the texts, by noise level.
    pub text_by_noise: ByNoise,
}

impl Objective {
    /// The gradient of the joint loss of a batch, worked off in `parts` equal parts, and the
    /// losses.
    ///
    /// Errors: a batch that does not divide into the parts; those of the networks.
    pub fn gradients(
        &self,
        model: &Model,
        images: &ImagePairs,
        texts: &TextPairs,
        draws: &Draws,
        parts: usize,
    ) -> Result<(Grads, Losses)> {
        let step = self.step(model, images, texts, draws, parts)?;
        let (grads, found) = self.descend(model, &step)?;
        Ok((grads, step.losses(self, &found)?))
    }

    /// What a step over a batch takes in, in `parts` equal parts.
    ///
    /// Errors: a batch that does not divide into the parts; lengths that do not fit each other;
    /// tokens that the model does not know.
    pub fn step(
        &self,
        model: &Model,
        images: &ImagePairs,
        texts: &TextPairs,
        draws: &Draws,
        parts: usize,
    ) -> Result<Step> {
        let (image_batch, text_batch) = (images.latents.shape()[0], texts.latents.shape()[0]);
        let divides = |batch: usize| parts > 0 && batch > 0 && batch.is_multiple_of(parts);
        if !divides(image_batch) || !divides(text_batch) {
            let message = format!("{image_batch} pictures and {text_batch} texts in {parts} parts");
            return Err(Error::value("gradients", message));
        }
        let [_, channels, height, width] = images.latents.dims()?;
        let (shape, length) = ([channels, height, width], self.null.len());
        if images.ids.len() != image_batch * length || !texts.texts.fits(text_batch) {
            let message = "the batches' latents and tokens do not belong together";
            return Err(Error::shape("gradients", message)
                .operand("images", (images.latents, format!("{} ids", images.ids.len())))
                .operand("texts", (texts.latents, format!("{} ids", texts.texts.ids.len()))));
        }
        let passes = (0..parts).map(|part| {
            let range = |batch: usize| part * batch / parts..(part + 1) * batch / parts;
            let samples = range(image_batch);
            let image_draws = draws
                .image(samples.clone(), shape, self.recipe, self.caption_dropout)?
                .shifted(self.noise_shift);
            let latents = images.latents.narrow(0, samples.start, samples.len())?;
            let ids = &images.ids[samples.start * length..samples.end * length];
            let image_pairs = ImagePairs { latents: &latents, ids };

            let samples = range(text_batch);
            let stratum = match self.recipe {
                Recipe::Paper => 0..text_batch,
                Recipe::Release => samples.clone(),
            };
            let text_draws = draws.text(samples.clone(), stratum, texts.texts.length);
            let latents = texts.latents.narrow(0, samples.start, samples.len())?;
            let text_pairs = TextPairs { latents: &latents, texts: texts.texts.part(samples) };
            let image = self.image_pass(model, &image_pairs, &image_draws)?;
            Ok((image, self.text_pass(model, &text_pairs, &text_draws)?))
        });
        passes.collect::<Result<_>>().map(Step)
    }
}
