//! The networks behind both directions: a transformer, and the text encoder it may read by.

use std::cell::RefCell;

use autograd::Var;
use samplers::flow::{Pass, timestep};
use samplers::masked::Query;
use tensor::cuda::Repeat;
use tensor::{Device, Error, Result, Tensor};

use crate::mmdit::{Mmdit, TextInput};
use crate::t5::T5Encoder;
use crate::text::Tokens;

/// A transformer, and the text encoder it may read by.
#[derive(Debug)]
pub struct Model {
    /// The dual diffusion transformer.
    pub transformer: Mmdit,
    /// The encoder whose states it takes; none if it embeds token ids itself.
    pub text_encoder: Option<T5Encoder>,
}

/// Texts of one length, as the transformer takes them.
#[derive(Clone, Debug)]
pub enum Texts {
    /// Token ids, L to a text.
    Ids(Vec<u32>, usize),
    /// A text encoder's states \[B, L, E\].
    States(Var),
}

/// What pictures are drawn from: prompts, and what guidance leads away from.
pub struct Prompts {
    prompts: Texts,
    /// The null text for every prompt, then the prompts; none if there is no guidance.
    guided: Option<Texts>,
    /// What a GPU does under one pass and under two.
    repeats: RefCell<[Repeat; 2]>,
}

impl Texts {
    /// As the transformer is given them.
    pub fn input(&self) -> TextInput<'_> {
        match self {
            Self::Ids(ids, length) => TextInput::Ids(ids, *length),
            Self::States(states) => TextInput::States(states),
        }
    }

    /// The text encoder's states \[B, L, E\], if the model reads by these.
    pub fn states(&self) -> Option<Tensor> {
        match self {
            Self::Ids(..) => None,
            Self::States(states) => Some(states.value()),
        }
    }

    /// The number of texts, B.
    fn count(&self) -> usize {
        match self {
            Self::Ids(ids, length) => ids.len() / length,
            Self::States(states) => states.shape()[0],
        }
    }

    /// One text `count` times, and then others of the same length.
    fn repeat_before(&self, others: &Self) -> Result<Self> {
        let count = others.count();
        Ok(match (self, others) {
            (Self::Ids(one, length), Self::Ids(ids, _)) => {
                Self::Ids([one.repeat(count), ids.clone()].concat(), *length)
            }
            (Self::States(one), Self::States(states)) => {
                let [_, length, width] = one.dims()?;
                let repeated = one.broadcast_to([count, length, width])?;
                Self::States(Var::cat(&[&repeated, states], 0)?)
            }
            _ => unreachable!("one model reads all texts alike"),
        })
    }
}

impl Prompts {
    /// Prompts as the transformer takes them, and for guidance the one text it leads away from.
    ///
    /// Errors: texts of different lengths.
    pub fn new(prompts: Texts, null: Option<&Texts>) -> Result<Self> {
        let guided = null.map(|null| null.repeat_before(&prompts)).transpose()?;
        Ok(Self { prompts, guided, repeats: RefCell::default() })
    }

    /// Why a GPU does not repeat what it does under these prompts, if it does not: told once.
    pub fn refusal(&self) -> Option<Error> {
        self.repeats.borrow_mut().iter_mut().find_map(Repeat::refusal)
    }
}

impl Model {
    /// Texts of `length` tokens each, as the transformer takes them: the ids themselves, or the
    /// states that one run of the text encoder makes of them.
    ///
    /// Errors: those of [`T5Encoder::forward`].
    pub fn read(&self, ids: &[u32], length: usize) -> Result<Texts> {
        Ok(match &self.text_encoder {
            None => Texts::Ids(ids.to_vec(), length),
            Some(encoder) => Texts::States(encoder.forward(ids, length)?),
        })
    }

    /// Texts of `length` tokens each, as they are looked up, with what gradients are added by.
    ///
    /// Errors: those of [`Mmdit::tokens`] or of [`Embedding::tokens`](crate::t5::Embedding::tokens).
    pub fn tokens(&self, ids: &[u32], length: usize) -> Result<Tokens> {
        let tokens = match &self.text_encoder {
            None => self.transformer.tokens(ids, length),
            Some(encoder) => encoder.embedding().tokens(ids, length),
        };
        tokens?.grouped()
    }

    /// The text encoder's states \[B, L, E\] of [tokens](Self::tokens), if the model reads by these.
    ///
    /// Errors: those of [`T5Encoder::states`].
    pub fn states(&self, tokens: &Tokens) -> Result<Option<Var>> {
        self.text_encoder.as_ref().map(|encoder| encoder.states(tokens)).transpose()
    }

    /// The velocity at states of one noise level; under the null text and under the prompts where
    /// `pass` asks for both.
    ///
    /// A GPU [repeats](Repeat) for other states of the same shape what it did under these prompts the
    /// first time.
    ///
    /// Shapes: `state` \[B, C_in, height, width\], or twice as many → the same.
    pub fn velocity(
        &self,
        state: &Tensor,
        sigma: f32,
        pass: Pass,
        prompts: &Prompts,
    ) -> Result<Tensor> {
        let texts = match (pass, &prompts.guided) {
            (Pass::Conditional, _) => &prompts.prompts,
            (Pass::NullThenConditional, Some(guided)) => guided,
            (Pass::NullThenConditional, None) => unreachable!("guided prompts have a null text"),
        };
        let times = vec![timestep(sigma); state.shape()[0]];
        let features = self.transformer.time_features(&times)?.value();
        let inputs = [state, &features];
        let velocity = |x: &[Tensor]| {
            let [state, features] = [0, 1].map(|i| Var::constant(x[i].clone()));
            Ok(vec![self.transformer.velocity_at(&state, texts.input(), &features)?.value()])
        };
        let found = match self.transformer.device() {
            Device::Cpu => velocity(&inputs.map(Tensor::clone))?,
            Device::Cuda(gpu) => {
                let mut repeats = prompts.repeats.borrow_mut();
                repeats[usize::from(pass != Pass::Conditional)].run(&gpu, &inputs, velocity)?
            }
        };
        found[0].to_device(&Device::Cpu)
    }

    /// Scores of all words at the masks of the rows that a sampler asks about. The text encoder
    /// reads these rows anew: masks that have become words change the states of every token.
    ///
    /// Shapes: `latents` \[B, C_in, height, width\] of the batch, clean → \[M, V\].
    pub fn denoise(&self, query: &Query, latents: Option<&Tensor>) -> Result<Tensor> {
        let [rows, length] = query.ids.dims()?;
        let texts = self.read(&token_ids(&query.ids.to_vec::<i64>()?), length)?;
        let latents = match latents {
            Some(latents) => Some(Var::constant(latents.index_rows(query.items)?)),
            None => None,
        };
        let times = vec![0.0; rows];
        let tokens = self.transformer.text_tokens(latents.as_ref(), texts.input(), &times)?;
        let [_, _, width] = tokens.dims()?;
        let masked = tokens.reshape([rows * length, width])?.index_rows(query.masked)?;
        self.transformer.text_logits(&masked)?.value().to_device(&Device::Cpu)
    }
}

/// Tokens as the tokenizer counts them.
pub fn token_ids(tokens: &[i64]) -> Vec<u32> {
    let id = |&token: &i64| u32::try_from(token).expect("tokens come from the tokenizer");
    tokens.iter().map(id).collect()
}
