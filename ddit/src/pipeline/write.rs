//! Texts beside pictures: captions, answers, and holes filled in.

use std::ops::ControlFlow;

use autograd::no_grad;
use samplers::masked::{
    Canvas, Confidence, DdpmCache, Decoding, Pace, Query, Score, TextStep, TwoStage,
};
use tensor::rng::Rng;
use tensor::{Error, Result, Tensor};

use super::model::token_ids;
use super::{
    BATCH, Latents, Piece, Pipeline, Progress, TextSampler, Use, go_on, parse_template, rng,
};
use crate::config::Recipe;
use crate::shapes::Picture;
use crate::text::sequence::question_prompt;

/// How texts are written.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteOptions {
    /// Steps from masks to text.
    pub steps: usize,
    /// Tokens of a text, prompt and padding included.
    pub length: usize,
    /// Seed of the first text; text i has this plus i.
    pub seed: u64,
    /// How masks become words.
    pub sampler: TextSampler,
    /// How the model's distribution is sharpened; the `ddpm-cache` sampler takes it as it is.
    pub decoding: Decoding,
    /// Which latents of a picture the model sees.
    pub latents: Latents,
    /// Side in pixels that pictures are fitted to; none for the model's own.
    pub side: Option<usize>,
    /// Whether a question keeps its `</s>`, as the official pipeline has it. Training has none.
    pub keep_end: bool,
    /// Texts written at a time.
    pub batch: usize,
    /// Whether to keep the tokens after each step.
    pub trace: bool,
}

/// A text that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The text: a caption, an answer, or a filled template.
    pub text: String,
    /// All tokens, prompt and padding included.
    pub ids: Vec<u32>,
    /// How many of the first are a question that was given, with its `</s>` if it kept one.
    pub asked: usize,
    /// The seed that alone gives the same text again.
    pub seed: u64,
    /// The tokens after each step that revealed any, if that was asked for.
    pub trace: Vec<TextTrace>,
}

/// Tokens after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTrace {
    /// The number of the step, from 0.
    pub step: usize,
    /// All tokens; the mask where none is found yet.
    pub ids: Vec<u32>,
}

/// A text to be written.
struct Task<'a> {
    picture: Option<&'a Picture>,
    /// Given tokens and masks, as many as the text is long.
    tokens: Vec<u32>,
}

/// A text's tokens, and those after each step.
type Tokens = (Vec<u32>, Vec<TextTrace>);

impl Pipeline {
    /// What the folder says about writing texts.
    pub fn write_options(&self) -> WriteOptions {
        let generation = &self.folder.generation;
        let named = generation.sampler.as_ref().and_then(|name| name.parse().ok());
        WriteOptions {
            steps: generation.text_steps,
            length: generation.text_length.min(self.longest_text()),
            seed: 0,
            sampler: named.unwrap_or(TextSampler::of(generation.recipe)),
            decoding: Decoding::default(),
            latents: Latents::Sample,
            side: None,
            keep_end: generation.recipe == Recipe::Release,
            batch: BATCH,
            trace: false,
        }
    }

    /// A caption of each picture.
    ///
    /// Errors: no steps; a length of 0 or over the model's; those of tokenizer, networks and
    /// `progress`.
    pub fn caption(
        &self,
        pictures: &[&Picture],
        options: &WriteOptions,
        progress: Progress,
    ) -> Result<Vec<Written>> {
        let tokens = vec![self.folder.tokenizer.mask(); options.length];
        let tasks =
            pictures.iter().map(|picture| Task { picture: Some(picture), tokens: tokens.clone() });
        let texts = self.write(tasks.collect(), options, progress)?;
        let text = |ids: &[u32]| match self.folder.generation.recipe {
            Recipe::Paper => self.folder.tokenizer.decode_until_end(ids),
            Recipe::Release => self.folder.tokenizer.decode_clean(ids),
        };
        self.written(texts, options, |_| 0, text)
    }

    /// An answer to each question about its picture.
    ///
    /// The question is sent as `Q: {question} A: ` and nothing more. One that fills the whole
    /// length is cut, and then has no answer.
    ///
    /// Errors: as [`caption`](Self::caption).
    pub fn ask(
        &self,
        questions: &[(&Picture, &str)],
        options: &WriteOptions,
        progress: Progress,
    ) -> Result<Vec<Written>> {
        let tokenizer = &self.folder.tokenizer;
        let (mut tasks, mut asked) = (Vec::new(), Vec::new());
        for (picture, question) in questions {
            let prompt = question_prompt(question);
            let mut tokens = self.prompt_tokens(&prompt, options.keep_end)?;
            asked.push(tokens.len().min(options.length));
            tokens.resize(options.length, tokenizer.mask());
            tasks.push(Task { picture: Some(*picture), tokens });
        }
        let texts = self.write(tasks, options, progress)?;
        self.written(texts, options, |i| asked[i], |ids| tokenizer.decode_until_end(ids))
    }

    /// What a text goes on from: with its `</s>`, as the official pipeline has it, or without.
    pub(crate) fn prompt_tokens(&self, prompt: &str, keep_end: bool) -> Result<Vec<u32>> {
        match keep_end {
            true => self.folder.tokenizer.encode(prompt),
            false => self.folder.tokenizer.encode_open(prompt),
        }
    }

    /// Each template with its holes filled: `_` is one token, `_{n}` is n of them. What follows
    /// the template is given as the end of the text. Without a picture, the model's tokens for an
    /// absent image are seen, which only a model trained with them knows.
    ///
    /// Errors: as [`caption`](Self::caption); those of [`parse_template`]; a template longer than a
    /// text.
    pub fn fill(
        &self,
        templates: &[(Option<&Picture>, &str)],
        options: &WriteOptions,
        progress: Progress,
    ) -> Result<Vec<Written>> {
        let task = |&(picture, template): &(Option<_>, &str)| {
            Ok(Task { picture, tokens: self.template_row(template, options.length)? })
        };
        let tasks = templates.iter().map(task).collect::<Result<_>>()?;
        let texts = self.write(tasks, options, progress)?;
        self.written(texts, options, |_| 0, |ids| self.folder.tokenizer.decode_until_end(ids))
    }

    /// A template as a row: text, masks, `</s>`, padding.
    fn template_row(&self, template: &str, length: usize) -> Result<Vec<u32>> {
        let tokenizer = &self.folder.tokenizer;
        let mut tokens = Vec::new();
        for piece in parse_template(template)? {
            match piece {
                Piece::Text(text) => tokens.extend(tokenizer.encode_open(&text)?),
                Piece::Holes(count) => {
                    let room = (length + 1).saturating_sub(tokens.len());
                    tokens.extend(vec![tokenizer.mask(); count.min(room)]);
                }
            }
        }
        if tokens.len() > length {
            let message = format!("the template does not fit into {length} tokens");
            return Err(Error::value("fill", message));
        }
        if tokens.len() < length {
            tokens.push(tokenizer.end());
            tokens.resize(length, tokenizer.pad());
        }
        Ok(tokens)
    }

    /// Texts of these tokens, of which `asked` says how many are a question, and `text` what the
    /// others say.
    fn written(
        &self,
        texts: Vec<Tokens>,
        options: &WriteOptions,
        asked: impl Fn(usize) -> usize,
        text: impl Fn(&[u32]) -> Result<String>,
    ) -> Result<Vec<Written>> {
        let one = |(i, (ids, trace)): (usize, Tokens)| {
            let (asked, seed) = (asked(i), options.seed.wrapping_add(i as u64));
            Ok(Written { text: text(&ids[asked..])?, ids, asked, seed, trace })
        };
        texts.into_iter().enumerate().map(one).collect()
    }

    /// Fills the masks of every task, a batch at a time. Tasks with and without a picture are
    /// different passes of the network, so they go into different batches.
    fn write(
        &self,
        tasks: Vec<Task>,
        options: &WriteOptions,
        progress: Progress,
    ) -> Result<Vec<Tokens>> {
        if tasks.iter().any(|task| task.tokens.is_empty()) {
            return Err(Error::value("write", "a text has at least one token"));
        }
        let (seen, unseen): (Vec<_>, Vec<_>) =
            (0..tasks.len()).partition(|&i| tasks[i].picture.is_some());
        let batch = options.batch.max(1);
        let batches: Vec<&[usize]> = seen.chunks(batch).chain(unseen.chunks(batch)).collect();
        let total = batches.len() * options.steps;
        let mut texts: Vec<Tokens> = vec![Tokens::default(); tasks.len()];
        for (done, items) in batches.iter().enumerate() {
            let mut step = |index: usize| progress(done * options.steps + index, total);
            let found = self.write_batch(&tasks, items, options, &mut step)?;
            for (&item, tokens) in items.iter().zip(found) {
                texts[item] = tokens;
            }
            step(options.steps)?;
        }
        Ok(texts)
    }

    fn write_batch(
        &self,
        tasks: &[Task],
        items: &[usize],
        options: &WriteOptions,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Tokens>> {
        let seeds: Vec<u64> =
            items.iter().map(|&item| options.seed.wrapping_add(item as u64)).collect();
        let pictures: Vec<_> = items.iter().filter_map(|&item| tasks[item].picture).collect();
        let row = |&item: &usize| tasks[item].tokens.iter().map(|&id| i64::from(id)).collect();
        let rows: Vec<Vec<i64>> = items.iter().map(row).collect();
        let canvas = Canvas::new(&rows, i64::from(self.folder.tokenizer.mask()))?;
        let mut traces = vec![Vec::new(); items.len()];
        let mut watched = Ok(());
        let observe = |step: &TextStep| {
            let mut changed: Vec<usize> = step.revealed.iter().map(|&(row, _)| row).collect();
            changed.dedup();
            for row in changed.into_iter().filter(|_| options.trace) {
                let ids = token_ids(step.canvas.row(row));
                traces[row].push(TextTrace { step: step.index, ids });
            }
            watched = progress(step.index + 1);
            go_on(&watched)
        };
        let mut rngs: Vec<Rng> = seeds.iter().map(|&seed| rng(seed, Use::Tokens)).collect();
        let denoiser = self.denoiser(&pictures, &seeds, options)?;
        let canvas = sample(options, canvas, &mut rngs, denoiser, observe)?;
        watched?;
        let ids = (0..items.len()).map(|row| token_ids(canvas.row(row)));
        Ok(ids.zip(traces).collect())
    }

    /// The model as the denoiser that every sampler of [`samplers::masked`], and
    /// [`Likelihood`](samplers::masked::Likelihood), ask: it scores all words at the masks of
    /// texts beside these pictures, the items of a batch, which it looks at as `options` say.
    /// Without pictures it scores texts that have none. `seeds` has one seed a picture, to sample
    /// its latents by.
    ///
    /// Errors: those of the autoencoder; the denoiser's own are the network's.
    pub fn denoiser<'a>(
        &'a self,
        pictures: &[&Picture],
        seeds: &[u64],
        options: &WriteOptions,
    ) -> Result<impl Fn(&Query) -> Result<Tensor> + use<'a>> {
        let side = options.side.unwrap_or(self.side());
        let latents = match pictures.is_empty() {
            true => None,
            false => Some(no_grad(|| self.look_at(pictures, side, seeds, options.latents))?),
        };
        Ok(move |query: &Query| no_grad(|| self.model.denoise(query, latents.as_ref())))
    }
}

/// Runs the sampler that `options` name.
fn sample(
    options: &WriteOptions,
    canvas: Canvas,
    rngs: &mut [Rng],
    denoiser: impl FnMut(&Query) -> Result<Tensor>,
    observe: impl FnMut(&TextStep) -> ControlFlow<()>,
) -> Result<Canvas> {
    let (steps, decoding) = (options.steps, options.decoding);
    match options.sampler {
        TextSampler::Exact => TwoStage { steps, decoding }.sample(canvas, rngs, denoiser, observe),
        TextSampler::DdpmCache => DdpmCache::new(steps).sample(canvas, rngs, denoiser, observe),
        TextSampler::Confidence => {
            let (score, pace) = (Score::Probability, Pace::Even(steps));
            Confidence { score, pace, decoding }.sample(canvas, rngs, denoiser, observe)
        }
    }
}
