//! A step as tensors: all of it that is not the networks', made before they run.
//!
//! Whatever differs from one step to the next is in these tensors, and their shapes are always the
//! same on a GPU. So the networks' part of a step is a function of them that can be recorded.

use autograd::{Grads, Var, no_grad};
use tensor::{Error, Result, Tensor};

use super::image::{ImageDraws, Noised, drop_captions, image_loss_form};
use super::joint::{ImagePairs, Losses, Objective, TextPairs};
use super::noise::{ByNoise, Loss};
use super::text::{Asked, Corrupted, TextDraws};
use crate::mmdit::TextInput;
use crate::pipeline::Model;
use crate::text::Tokens;

/// What is done with every tensor of a step.
type Each<'a> = &'a mut dyn FnMut(&Tensor) -> Result<Tensor>;

/// What the image pass of some pairs takes in.
#[derive(Clone, Debug)]
pub struct ImagePass {
    captions: Tokens,
    noised: Noised,
    /// Of the times \[B, 256\].
    features: Tensor,
}

/// What the text pass of some pairs takes in.
#[derive(Clone, Debug)]
pub struct TextPass {
    texts: Tokens,
    latents: Tensor,
    asked: Asked,
}

/// A step: both passes over every part of a batch.
#[derive(Clone, Debug)]
pub struct Step(pub Vec<(ImagePass, TextPass)>);

/// Tensors that [`Objective::descend`] finds in a part: mean and parts of each pass's loss.
const FOUND: usize = 4;

/// Texts as the transformer takes them: a text encoder's states of them, or themselves.
fn input<'a>(tokens: &'a Tokens, states: &'a Option<Var>) -> TextInput<'a> {
    states.as_ref().map_or(TextInput::Tokens(tokens), TextInput::States)
}

impl ImagePass {
    fn map(&self, f: Each) -> Result<Self> {
        let (captions, noised) = (self.captions.map(f)?, self.noised.map(f)?);
        Ok(Self { captions, noised, features: f(&self.features)? })
    }

    fn loss(&self, objective: &Objective, model: &Model) -> Result<Loss> {
        let states = no_grad(|| model.states(&self.captions))?;
        let (text, features) = (input(&self.captions, &states), self.features.clone());
        let features = Var::constant(features);
        let velocity = model.transformer.velocity_at(&self.noised.state, text, &features)?;
        self.noised.loss(&velocity, image_loss_form(objective.recipe))
    }

    /// A loss that was found, with the pictures it is of.
    fn loss_of(&self, mean: Var, parts: Tensor) -> Loss {
        let levels: Vec<f64> = self.noised.sigma.iter().map(|&sigma| f64::from(sigma)).collect();
        Loss { mean, parts, samples: (0..levels.len()).collect(), levels }
    }
}

impl TextPass {
    fn map(&self, f: Each) -> Result<Self> {
        let (texts, latents) = (self.texts.map(f)?, f(&self.latents)?);
        Ok(Self { texts, latents, asked: self.asked.map(f)? })
    }

    fn loss(&self, model: &Model) -> Result<Loss> {
        let states = model.states(&self.texts)?;
        self.asked.loss(&model.transformer, &self.latents, input(&self.texts, &states))
    }
}

impl Step {
    /// All tensors, in the order that [`with`](Self::with) takes them.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut all = Vec::new();
        let found = self.map(&mut |x| {
            all.push(x.clone());
            Ok(x.clone())
        });
        found.expect("looking is no error");
        all
    }

    /// The same step with other tensors of the same shapes.
    ///
    /// Errors: too few of them.
    pub fn with(&self, tensors: &[Tensor]) -> Result<Self> {
        let mut left = tensors.iter();
        let lacks = || Error::value("step", format!("has more than {} tensors", tensors.len()));
        self.map(&mut |_| left.next().cloned().ok_or_else(lacks))
    }

    fn map(&self, f: Each) -> Result<Self> {
        let part = |(image, text): &(ImagePass, TextPass)| Ok((image.map(f)?, text.map(f)?));
        self.0.iter().map(part).collect::<Result<_>>().map(Self)
    }

    /// The share of one part in the whole.
    fn share(&self) -> f64 {
        1.0 / self.0.len() as f64
    }

    /// The values of the losses that [`Objective::descend`] found. On a GPU it waits for them.
    ///
    /// Errors: the GPU's.
    pub fn losses(&self, objective: &Objective, found: &[Tensor]) -> Result<Losses> {
        let (mut losses, share) = (Losses::default(), self.share());
        let read = |loss: Loss, by_noise: &mut ByNoise| {
            by_noise.add(&loss.by_noise());
            Ok(loss.mean.item()? * share)
        };
        for ((image, text), found) in self.0.iter().zip(found.chunks_exact(FOUND)) {
            let mean = |i: usize| Var::constant(found[i].clone());
            let loss = image.loss_of(mean(0), found[1].clone());
            losses.image += read(loss, &mut losses.image_by_noise)?;
            let loss = text.asked.loss_of(mean(2), found[3].clone());
            losses.text += read(loss, &mut losses.text_by_noise)?;
        }
        losses.total = losses.image + objective.text_weight * losses.text;
        Ok(losses)
    }
}

impl Objective {
    /// What the image pass of some pairs takes in.
    ///
    /// Errors: lengths that do not fit each other; tokens that the model does not know.
    #[track_caller]
    pub fn image_pass(
        &self,
        model: &Model,
        pairs: &ImagePairs,
        draws: &ImageDraws,
    ) -> Result<ImagePass> {
        let ids = drop_captions(pairs.ids, &self.null, &draws.drop)?;
        let noised = Noised::new(pairs.latents, draws)?;
        let features = model.transformer.time_features(&noised.times())?.value();
        Ok(ImagePass { captions: model.tokens(&ids, self.null.len())?, noised, features })
    }

    /// What the text pass of some pairs takes in.
    ///
    /// Errors: as [`image_pass`](Self::image_pass).
    #[track_caller]
    pub fn text_pass(
        &self,
        model: &Model,
        pairs: &TextPairs,
        draws: &TextDraws,
    ) -> Result<TextPass> {
        let corrupted = Corrupted::new(&pairs.texts, draws, self.mask, self.recipe)?;
        let (head, device) = (model.transformer.text_head(), model.transformer.device());
        let asked = corrupted.asked(head.weight.shape()[0], &device)?;
        let texts = model.tokens(&corrupted.ids, corrupted.length)?;
        Ok(TextPass { texts, latents: pairs.latents.clone(), asked })
    }

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
        self.image_pass(model, pairs, draws)?.loss(self, model)
    }

    /// The text loss of some pairs; a constant 0 where no token is masked.
    ///
    /// Errors: lengths that do not fit each other; those of the networks.
    #[track_caller]
    pub fn text_loss(&self, model: &Model, pairs: &TextPairs, draws: &TextDraws) -> Result<Loss> {
        self.text_pass(model, pairs, draws)?.loss(model)
    }

    /// The gradient of the joint loss of a step, the mean over its parts; and what was found of the
    /// losses, which [`Step::losses`] reads. The two passes of a part go backward one after the
    /// other: only one graph is alive at a time.
    ///
    /// Errors: those of the networks.
    pub fn descend(&self, model: &Model, step: &Step) -> Result<(Grads, Vec<Tensor>)> {
        let (mut grads, mut found) = (Grads::default(), Vec::new());
        let mut descend = |loss: Loss, weight: f64| -> Result<()> {
            let weight = weight * step.share();
            if loss.mean.is_tracked() && weight != 0.0 {
                loss.mean.mul_scalar(weight)?.backward_into(&mut grads)?;
            }
            found.extend([loss.mean.value(), loss.parts]);
            Ok(())
        };
        for (image, text) in &step.0 {
            descend(image.loss(self, model)?, 1.0)?;
            descend(text.loss(model)?, self.text_weight)?;
        }
        Ok((grads, found))
    }
}
