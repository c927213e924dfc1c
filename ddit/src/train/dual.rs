//! The training of the dual diffusion transformer: what a step is made of.
//!
//! Every step has two batches of different samples: pictures to be drawn from their captions, and
//! texts to be written about their pictures. A text is a caption or, in instruction tuning, a
//! question with its answer. What is in step `k` follows from the seed and `k` alone.

use std::sync::Arc;

use autograd::Grads;
use autograd::optim::Clipped;
use tensor::cuda::Repeat;
use tensor::{Cuda, Error, Result};

use super::config::RunConfig;
use super::learner::Learner;
use super::trainer::Seen;
use crate::config::TransformerConfig;
use crate::data::{Dataset, Latents, Order, Purpose, stream};
use crate::objective::{Draws, ImagePairs, Losses, Objective, Step, TextPairs, Texts};
use crate::pipeline::Model;
use crate::shapes::MAX_WORDS;
use crate::text::{Row, Tokenizer};

/// The networks and what they learn from.
pub struct Dual {
    model: Model,
    objective: Objective,
    dataset: Arc<Dataset>,
    latents: Latents,
    latent_shape: [usize; 3],
    tokenizer: Tokenizer,
    orders: [Order; 2],
    config: RunConfig,
    length: usize,
    /// What a GPU does at every step.
    repeat: Repeat,
}

/// What a step takes in, and how much that is.
struct Given {
    step: Step,
    pairs: u64,
    text_tokens: u64,
}

impl Given {
    fn seen(&self, losses: Losses) -> Seen {
        Seen {
            losses: vec![
                ("loss", losses.total),
                ("image_loss", losses.image),
                ("text_loss", losses.text),
            ],
            by_noise: vec![("image", losses.image_by_noise), ("text", losses.text_by_noise)],
            pairs: self.pairs,
            text_tokens: self.text_tokens,
        }
    }
}

impl Dual {
    /// These networks, the texts of this tokenizer, and this data.
    ///
    /// Errors: those of the tokenizer; texts too short for those of the shapes world.
    pub fn new(
        config: &RunConfig,
        model: Model,
        tokenizer: Tokenizer,
        dataset: Arc<Dataset>,
        latents: Latents,
    ) -> Result<Self> {
        let most = model.transformer.config().max_text_length;
        let length = most.unwrap_or(config.model.text_length);
        if matches!(*dataset, Dataset::Shapes(_)) && length <= MAX_WORDS {
            let message = format!("the shapes world's texts need {}, not {length}", MAX_WORDS + 1);
            return Err(Error::value("train", message).key("model.text_length"));
        }
        // Training pads with </s>, whatever the tokenizer does.
        let null = tokenizer.caption_row("", length, tokenizer.end())?.ids;
        let objective = Objective {
            recipe: config.objective.recipe,
            text_weight: config.objective.text_weight,
            caption_dropout: config.objective.caption_dropout,
            noise_shift: config.objective.noise_shift,
            null,
            mask: tokenizer.mask(),
        };
        let order = |purpose| Order::new(config.seed, purpose, dataset.len());
        Ok(Self {
            model,
            objective,
            orders: [order(Purpose::ImageOrder), order(Purpose::TextOrder)],
            latent_shape: latents.shape(&dataset)?,
            dataset,
            latents,
            tokenizer,
            config: config.clone(),
            length,
            repeat: Repeat::default(),
        })
    }

    /// The gradient of the joint loss at step `step`.
    ///
    /// Errors: those of the objective.
    pub fn gradient(&mut self, step: u64) -> Result<(Grads, Seen)> {
        let given = self.given(step)?;
        let (grads, found) = self.objective.descend(&self.model, &given.step)?;
        Ok((grads, given.seen(given.step.losses(&self.objective, &found)?)))
    }

    /// Makes step `step` on the GPU that all of `learner` lies on. The first is recorded, and the
    /// others repeat it: one upload of what they take in, one call for the networks both ways, the
    /// norm and the update.
    ///
    /// Errors: those of the objective, and of [`Learner::update`].
    pub fn step_on(
        &mut self,
        gpu: &Cuda,
        learner: &mut Learner,
        step: u64,
        learning_rate: f64,
    ) -> Result<(Seen, Clipped)> {
        let given = self.given(step)?;
        let inputs = [given.step.tensors(), vec![learner.numbers(learning_rate)?]].concat();
        let Self { objective, model, repeat, .. } = self;
        let mut found = repeat.run(gpu, &inputs.iter().collect::<Vec<_>>(), |inputs| {
            let (numbers, inputs) = inputs.split_last().expect("the numbers are last");
            let (grads, mut found) = objective.descend(model, &given.step.with(inputs)?)?;
            found.push(learner.queue(&grads, numbers)?);
            Ok(found)
        })?;
        let norms = found.pop().expect("the norms are last");
        let seen = given.seen(given.step.losses(objective, &found)?);
        Ok((seen, learner.finish(&norms)?))
    }

    /// Why a GPU does not repeat a recorded step, if it does not: told once.
    pub fn refusal(&mut self) -> Option<Error> {
        self.repeat.refusal()
    }

    /// Whether a GPU repeats a recorded step from here on.
    pub fn is_recorded(&self) -> bool {
        self.repeat.is_recorded()
    }

    /// What step `step` takes in.
    fn given(&mut self, step: u64) -> Result<Given> {
        let (images, texts) = (self.config.batch.images, self.config.batch.texts);
        let [image_order, text_order] = &mut self.orders;
        let image_samples = image_order.batch(step, images);
        let text_samples = text_order.batch(step, texts);
        let draws = Draws::new(self.config.seed, step);
        let latents = |samples: &[usize], rows| {
            let noise = || draws.posterior(rows, self.latent_shape);
            self.latents.sample(&self.dataset, samples, noise)
        };
        let image_latents = latents(&image_samples, 0..images)?;
        let text_latents = latents(&text_samples, images..images + texts)?;

        let captions = self.rows(step, &image_samples, Self::caption_row)?;
        let written = self.rows(step, &text_samples, Self::text_row)?;
        let image_ids: Vec<u32> = captions.into_iter().flat_map(|row| row.ids).collect();
        let (ids, learned): (Vec<_>, Vec<_>) =
            written.into_iter().map(|row| (row.ids, row.learn)).unzip();
        let (ids, learned) = (ids.concat(), learned.concat());
        let texts = Texts { ids: &ids, learned: &learned, counted: None, length: self.length };

        let step = self.objective.step(
            &self.model,
            &ImagePairs { latents: &image_latents, ids: &image_ids },
            &TextPairs { latents: &text_latents, texts },
            &draws,
            self.config.batch.micro_batches,
        )?;
        let pairs = (image_samples.len() + text_samples.len()) as u64;
        Ok(Given { step, pairs, text_tokens: ids.len() as u64 })
    }

    /// A row for each sample, in the order of the batch.
    fn rows(
        &self,
        step: u64,
        samples: &[usize],
        row: impl Fn(&Self, u64, usize, usize) -> Result<Row>,
    ) -> Result<Vec<Row>> {
        samples.iter().enumerate().map(|(i, &sample)| row(self, step, i, sample)).collect()
    }

    /// The caption that picture `row` of the image pass is drawn from.
    fn caption_row(&self, step: u64, row: usize, sample: usize) -> Result<Row> {
        let mut rng = stream(self.config.seed, Purpose::ImageCaption, step, row);
        let caption = self.dataset.caption(sample, &mut rng);
        self.tokenizer.caption_row(&caption, self.length, self.tokenizer.end())
    }

    /// What is written about picture `row` of the text pass.
    fn text_row(&self, step: u64, row: usize, sample: usize) -> Result<Row> {
        let mut rng = stream(self.config.seed, Purpose::Text, step, row);
        let pad = self.tokenizer.end();
        if rng.next_uniform() < self.config.data.questions
            && let Some(asked) = self.dataset.question(sample, &mut rng)
        {
            return self.tokenizer.answer_row(&asked.question, &asked.answer, self.length, pad);
        }
        let caption = self.dataset.caption(sample, &mut rng);
        self.tokenizer.caption_row(&caption, self.length, pad)
    }

    /// How many captions of a folder are longer than a row, and how many there are.
    ///
    /// Errors: those of the tokenizer.
    pub fn cut_captions(&self) -> Result<(usize, usize)> {
        let (mut cut, mut all) = (0, 0);
        if let Dataset::Folder(folder) = &*self.dataset {
            for caption in folder.captions() {
                cut += usize::from(self.tokenizer.encode(caption)?.len() > self.length);
                all += 1;
            }
        }
        Ok((cut, all))
    }

    /// What the transformer learns from.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Text to ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The networks.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The transformer's geometry.
    pub fn geometry(&self) -> &TransformerConfig {
        self.model.transformer.config()
    }

    /// Tokens of a text.
    pub fn text_length(&self) -> usize {
        self.length
    }
}
