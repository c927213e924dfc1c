//! The text loss: masked diffusion beside a clean image.
//!
//! ```text
//! t ~ U[ε, 1]    x_t: each learnt token becomes the mask with probability t
//! L = E Σ_i [x_t,i is the mask] −log p_θ(x_i | x_t, image) / t
//! ```
//!
//! Only masked tokens carry a loss, so only they go through the text head, which scores every word
//! but the mask. (On a GPU all do, the others with weight 0: so each step is the same work, which can
//! be recorded.) Source: Li et al. 2025, eqs. (7) and (8); Sahoo et al. 2024 (MDLM), §3.

use std::ops::Range;

use autograd::{Rows, Targets, Var};
use samplers::masked::{LogLinear, corrupt};
use tensor::{DType, Device, Error, Result, Tensor};

use super::noise::Loss;
use crate::config::Recipe;
use crate::mmdit::{Mmdit, TextInput};

/// The random choices behind the loss of B texts of L tokens.
#[derive(Clone, Debug)]
pub struct TextDraws {
    /// Diffusion time of each text.
    pub times: Vec<f64>,
    /// A uniform number for each token, B·L: it is masked where the number is below the
    /// probability of masking.
    pub uniforms: Vec<f64>,
}

/// Texts to learn from.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// Token ids, B·L.
    pub ids: &'a [u32],
    /// Per token, whether it may be masked and is learnt: not so in a question.
    pub learned: &'a [bool],
    /// Where given, per token, whether it counts in the loss: padding may be left out. The
    /// published models learn padding like text.
    pub counted: Option<&'a [bool]>,
    /// Tokens of a text, L.
    pub length: usize,
}

impl<'a> Texts<'a> {
    /// Some of the texts.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn part(&self, texts: Range<usize>) -> Self {
        let tokens = texts.start * self.length..texts.end * self.length;
        Self {
            ids: &self.ids[tokens.clone()],
            learned: &self.learned[tokens.clone()],
            counted: self.counted.map(|counted| &counted[tokens]),
            length: self.length,
        }
    }

    /// Whether these are `count` texts.
    pub fn fits(&self, count: usize) -> bool {
        let all = count * self.length;
        let counted = self.counted.map_or(all, <[bool]>::len);
        [self.ids.len(), self.learned.len(), counted] == [all; 3]
    }
}

/// Texts as the network sees them, and what it is asked.
#[derive(Clone, Debug)]
pub struct Corrupted {
    /// Token ids with masks, B·L.
    pub ids: Vec<u32>,
    /// Tokens of a text, L.
    pub length: usize,
    /// Which of the B·L tokens are to be told.
    pub rows: Vec<usize>,
    /// What each of them is.
    pub targets: Vec<u32>,
    /// The weight of each one's −log p in the loss.
    pub weights: Vec<f64>,
    /// The token that stands for an unknown one.
    pub mask: u32,
    /// Diffusion time of each text.
    pub times: Vec<f64>,
}

impl Corrupted {
    /// Texts corrupted at the drawn times.
    ///
    /// Recipe `paper` masks with probability t and takes the mean over texts of the mean over a
    /// text's learnt tokens. `release` masks with 0.999 t, and divides by the number of all
    /// tokens, prompts and padding included (or of all that count, where `counted` is given): so
    /// short answers weigh little. The weight is 1/t in both.
    ///
    /// Errors: lengths that do not fit each other.
    #[track_caller]
    pub fn new(texts: &Texts, draws: &TextDraws, mask: u32, recipe: Recipe) -> Result<Self> {
        let Texts { ids, learned, counted, length } = *texts;
        let (all, batch) = (ids.len(), draws.times.len());
        if !texts.fits(batch) || draws.uniforms.len() != all {
            let message = format!(
                "{batch} texts of {length} tokens, but {all} ids, {} marks, {} numbers",
                learned.len(),
                draws.uniforms.len()
            );
            return Err(Error::shape("text loss", message));
        }
        let counts = |i: usize| counted.is_none_or(|counted| counted[i]);
        let noise = match recipe {
            Recipe::Paper => LogLinear::PAPER,
            Recipe::Release => LogLinear::RELEASE,
        };
        let total = (0..all).filter(|&i| counts(i)).count();
        let mut corrupted = Self {
            ids: Vec::with_capacity(all),
            length,
            rows: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
            mask,
            times: draws.times.clone(),
        };
        for (text, &time) in draws.times.iter().enumerate() {
            let row = text * length..(text + 1) * length;
            let share = match recipe {
                Recipe::Paper => batch * row.clone().filter(|&i| learned[i] && counts(i)).count(),
                Recipe::Release => total,
            };
            let clean: Vec<i64> = ids[row.clone()].iter().map(|&id| i64::from(id)).collect();
            let uniform = |i: usize| draws.uniforms[text * length + i];
            let probability = noise.mask_probability(time);
            let noisy =
                corrupt(&clean, &learned[row.clone()], probability, i64::from(mask), uniform)?;
            for (i, id) in row.zip(noisy) {
                let hidden = id == i64::from(mask);
                corrupted.ids.push(if hidden { mask } else { ids[i] });
                if hidden && learned[i] && counts(i) {
                    corrupted.rows.push(i);
                    corrupted.targets.push(ids[i]);
                    corrupted.weights.push(noise.loss_weight(time) / share as f64);
                }
            }
        }
        Ok(corrupted)
    }

    /// The corrupted texts for a model that embeds ids.
    pub fn input(&self) -> TextInput<'_> {
        TextInput::Ids(&self.ids, self.length)
    }

    /// What the network is asked, of a vocabulary of so many words, where it computes on `device`.
    ///
    /// Errors: a token that is none of these words.
    #[track_caller]
    pub fn asked(&self, words: usize, device: &Device) -> Result<Asked> {
        let sample = |row: &usize| row / self.length;
        let (times, mask) = (self.times.clone(), Some(self.mask));
        if *device == Device::Cpu {
            let targets = Targets::new(&self.targets, &self.weights, words, mask)?;
            let rows = Some(Rows::new(&self.rows, self.ids.len())?);
            return Ok(Asked {
                rows,
                targets,
                samples: self.rows.iter().map(sample).collect(),
                times,
            });
        }
        // Any word but the mask does where nothing is asked.
        let mut targets = vec![u32::from(self.mask == 0); self.ids.len()];
        let mut weights = vec![0.0; self.ids.len()];
        for ((&row, &target), &weight) in self.rows.iter().zip(&self.targets).zip(&self.weights) {
            (targets[row], weights[row]) = (target, weight);
        }
        let targets = Targets::new(&targets, &weights, words, mask)?;
        let samples = (0..self.ids.len()).map(|row| sample(&row)).collect();
        Ok(Asked { rows: None, targets, samples, times })
    }

    /// The weighted cross-entropy of the masked tokens, and the part of each in it. `text` holds
    /// the corrupted ids, or a text encoder's states of them.
    ///
    /// Shapes: `latents` \[B, C_in, height, width\], clean.   Errors: those of the network.
    #[track_caller]
    pub fn loss(&self, model: &Mmdit, latents: &Tensor, text: TextInput) -> Result<Loss> {
        let words = model.text_head().weight.shape()[0];
        self.asked(words, &model.device())?.loss(model, latents, text)
    }

    /// The weighted cross-entropy under the scores W x + b of the tokens x; a constant 0 where no
    /// token is masked.
    ///
    /// Shapes: `tokens` \[B, L, C\], `weight` \[V, C\], `bias` \[V\] → one number.
    /// Errors: shapes that do not fit; a token that is not one of V.
    #[track_caller]
    pub fn token_loss(&self, tokens: &Var, weight: &Var, bias: &Var) -> Result<Var> {
        let asked = self.asked(weight.shape()[0], &tokens.device())?;
        Ok(asked.parts(tokens, weight, bias)?.0)
    }
}

/// What the network is asked about texts: which tokens it is to tell, and what is right.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which of the B·L tokens; none if it is all of them.
    rows: Option<Rows>,
    targets: Targets,
    /// Which text each of these tokens is of.
    samples: Vec<usize>,
    /// Diffusion time of each text.
    times: Vec<f64>,
}

impl Asked {
    /// The same with other tensors of the same shapes in the place of its own.
    ///
    /// Errors: those of `f`.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let rows = self.rows.as_ref().map(|rows| rows.map(f)).transpose()?;
        Ok(Self { rows, targets: self.targets.map(f)?, ..self.clone() })
    }

    /// The weighted cross-entropy, and the part of each token in it.
    ///
    /// Shapes and errors: as [`Corrupted::loss`].
    #[track_caller]
    pub fn loss(&self, model: &Mmdit, latents: &Tensor, text: TextInput) -> Result<Loss> {
        let latents = Var::constant(latents.clone());
        let clean = vec![0.0; self.times.len()];
        let tokens = model.text_tokens(Some(&latents), text, &clean)?;
        let head = model.text_head();
        let (mean, parts) = self.parts(&tokens, &head.weight, &head.bias)?;
        Ok(self.loss_of(mean, parts))
    }

    /// A loss that was found, with the texts it is of.
    pub(super) fn loss_of(&self, mean: Var, parts: Tensor) -> Loss {
        Loss { mean, parts, samples: self.samples.clone(), levels: self.times.clone() }
    }

    /// The cross-entropy under the scores W x + b of tokens \[B, L, C\], and the part of each.
    #[track_caller]
    fn parts(&self, tokens: &Var, weight: &Var, bias: &Var) -> Result<(Var, Tensor)> {
        let [batch, length, width] = tokens.dims()?;
        if self.samples.is_empty() {
            let nothing = Var::constant(Tensor::scalar(0.0, tokens.dtype()));
            return Ok((nothing.to_device(&tokens.device())?, Tensor::zeros([0], DType::F64)));
        }
        let tokens = tokens.reshape([batch * length, width])?;
        let tokens = match &self.rows {
            Some(rows) => tokens.rows(rows)?,
            None => tokens,
        };
        tokens.linear_cross_entropy(weight, bias, &self.targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 9;

    fn corrupted(recipe: Recipe, counted: Option<&[bool]>) -> Corrupted {
        // The first text has a prompt of two tokens, the second none.
        let learned = [false, false, true, true, true, true, true, true];
        let texts = Texts { ids: &[1, 2, 3, 4, 5, 6, 7, 8], learned: &learned, counted, length: 4 };
        let uniforms = vec![0.1, 0.1, 0.1, 0.7, 0.2, 0.9, 0.2, 0.249_9];
        let draws = TextDraws { times: vec![0.5, 0.25], uniforms };
        Corrupted::new(&texts, &draws, MASK, recipe).unwrap()
    }

    #[test]
    fn only_learnt_tokens_are_masked() {
        let corrupted = corrupted(Recipe::Paper, None);
        assert_eq!(corrupted.ids, [1, 2, 9, 4, 9, 6, 9, 9]);
        assert_eq!(
            (&corrupted.rows[..], &corrupted.targets[..]),
            (&[2, 4, 6, 7][..], &[3, 5, 7, 8][..])
        );
    }

    /// 1/t over: the texts times the text's learnt tokens; all tokens; all that count.
    #[test]
    fn recipes_divide_by_different_numbers() {
        let weights = |recipe, counted| corrupted(recipe, counted).weights;
        assert_eq!(weights(Recipe::Paper, None), [0.5, 0.5, 0.5, 0.5]);
        // The release masks with 0.999 t, so the last token, at 0.2499, stays.
        assert_eq!(weights(Recipe::Release, None), [0.25, 0.5, 0.5]);
        let counted = [true, true, true, true, true, true, false, false];
        assert_eq!(weights(Recipe::Release, Some(&counted)), [2.0 / 6.0, 4.0 / 6.0]);
        assert_eq!(weights(Recipe::Paper, Some(&counted)), [0.5, 1.0]);
    }

    #[test]
    fn lengths_must_fit() {
        let texts = Texts { ids: &[1, 2], learned: &[true], counted: None, length: 2 };
        let draws = TextDraws { times: vec![0.5], uniforms: vec![0.1, 0.1] };
        assert!(Corrupted::new(&texts, &draws, MASK, Recipe::Paper).is_err());
    }
}
