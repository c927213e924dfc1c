//! The joint objective of a training step: `L = L_image + λ L_text`.
//!
//! The two terms are two passes over different pairs: in one the text is clean and the image
//! noisy, in the other the reverse. A batch may be worked off in equal parts; the gradient is the
//! mean over them, and the random numbers are the whole batch's, so the parts change only memory
//! and rounding. Source: Li et al. 2025, eq. (9).
//!
//! Where a text encoder reads for the transformer, the image pass takes its states as they are;
//! the text pass leads back into it, as far as something in it learns.

use autograd::{Grads, no_grad};
use tensor::{Error, Result, Tensor};

use super::draws::Draws;
use super::image::{ImageDraws, Noised, drop_captions, image_loss_form};
use super::noise::{ByNoise, Loss};
use super::text::{Corrupted, TextDraws, Texts};
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
    /// The image loss of some pairs.
    ///
    /// Errors: lengths that do not fit each other; those of the networks.
    #[track_caller]
    pub fn image_loss(
        &self,
        model: &Model,
        pairs: &ImagePairs,
        draws: &ImageDraws,
    ) -> Result<Loss> {
        let ids = drop_captions(pairs.ids, &self.null, &draws.drop)?;
        let texts = no_grad(|| model.read(&ids, self.null.len()))?;
        let noised = Noised::new(pairs.latents, draws)?;
        noised.loss(&model.transformer, texts.input(), image_loss_form(self.recipe))
    }

    /// The text loss of some pairs; a constant 0 where no token is masked.
    ///
    /// Errors: lengths that do not fit each other; those of the networks.
    #[track_caller]
    pub fn text_loss(&self, model: &Model, pairs: &TextPairs, draws: &TextDraws) -> Result<Loss> {
        let corrupted = Corrupted::new(&pairs.texts, draws, self.mask, self.recipe)?;
        let texts = model.read(&corrupted.ids, corrupted.length)?;
        corrupted.loss(&model.transformer, pairs.latents, texts.input())
    }

    /// Adds to `sums` the losses of some pairs, and the gradient of the joint loss, each times
    /// `share`. The two passes go backward one after the other: only one graph is alive at a time.
    ///
    /// Errors: as the losses.
    pub fn add_gradients(
        &self,
        model: &Model,
        (images, image_draws): (&ImagePairs, &ImageDraws),
        (texts, text_draws): (&TextPairs, &TextDraws),
        share: f64,
        sums: &mut (Grads, Losses),
    ) -> Result<()> {
        let (grads, losses) = sums;
        let mut descend = |loss: Loss, weight: f64, by_noise: &mut ByNoise| -> Result<f64> {
            let weight = weight * share;
            if loss.mean.is_tracked() && weight != 0.0 {
                loss.mean.mul_scalar(weight)?.backward_into(grads)?;
            }
            by_noise.add(&loss.by_noise());
            Ok(loss.mean.item()? * share)
        };
        let image = self.image_loss(model, images, image_draws)?;
        losses.image += descend(image, 1.0, &mut losses.image_by_noise)?;
        let text = self.text_loss(model, texts, text_draws)?;
        losses.text += descend(text, self.text_weight, &mut losses.text_by_noise)?;
        losses.total = losses.image + self.text_weight * losses.text;
        Ok(())
    }

    /// The gradient of the joint loss of a batch, worked off in `parts` equal parts, and the
    /// losses.
    ///
    /// Errors: a batch that does not divide into the parts; as the losses.
    pub fn gradients(
        &self,
        model: &Model,
        images: &ImagePairs,
        texts: &TextPairs,
        draws: &Draws,
        parts: usize,
    ) -> Result<(Grads, Losses)> {
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
        let mut sums = (Grads::default(), Losses::default());
        for part in 0..parts {
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
            self.add_gradients(
                model,
                (&image_pairs, &image_draws),
                (&text_pairs, &text_draws),
                1.0 / parts as f64,
                &mut sums,
            )?;
        }
        Ok(sums)
    }
}
