//! Which model a command uses, and how it is told to write texts.

use std::path::PathBuf;

use anyhow::Result;
use ddit::config::Recipe;
use ddit::embedded;
use ddit::folder::Folder;
use ddit::pipeline::{Latents, Pipeline, TextSampler, WriteOptions};
use ddit::train::setup::open_model;
use tensor::Device;

use super::output::Output;
use super::parse;

/// Letters of a text that a warning shows.
const SHOWN: usize = 60;

/// Which model.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Folder of the model, or of the training run that made it [default: the shapes model inside
    /// this program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What to do where the paper and its released code differ: with `release` texts come from the
    /// sampler ddpm-cache, prompts keep their </s> and padding is the model's; with `paper` they
    /// come from the exact sampler, prompts have no </s> and padding is </s> [default: the model's;
    /// release for a published one]
    #[arg(long, value_name = "NAME", value_parser = parse::recipe())]
    recipe: Option<Recipe>,
    /// The token that texts are padded with [default: the one that the model's tokenizer names]
    #[arg(long, value_name = "TOKEN")]
    pad: Option<String>,
    /// Hold no more than one block of a network's weights in memory at a time: they are read from
    /// their files again for every pass. The same results, later if the files are not cached
    #[arg(long)]
    low_memory: bool,
    /// Where the networks compute: cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "NAME", default_value = "cpu", conflicts_with = "low_memory")]
    device: String,
}

/// How texts are written.
#[derive(Debug, clap::Args)]
pub struct WriteArgs {
    /// Steps from masks to text [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    steps: Option<usize>,
    /// How masks become words [default: the model's]
    #[arg(long, value_name = "NAME", value_parser = parse::text_sampler())]
    sampler: Option<TextSampler>,
    /// Tokens of a text, prompt and padding included [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::tokens)]
    length: Option<usize>,
    /// Which latents of a picture the model sees: a sample of the autoencoder's, as in training, or
    /// their mode, with which a text does not depend on that sample
    #[arg(long, value_name = "NAME", value_parser = parse::latents(), default_value = "sample")]
    latents: Latents,
    /// Side in pixels that pictures are fitted to [default: the model's]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive)]
    pub resolution: Option<usize>,
    /// Seed of the first text; text i has this plus i
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse::seed)]
    pub seed: u64,
    /// Show the text being unmasked, step by step
    #[arg(long)]
    pub trace: bool,
}

impl ModelArgs {
    /// The model, ready for use.
    ///
    /// Errors: there is none; it is damaged, or of a kind that this program does not run.
    pub fn open(&self) -> Result<Pipeline> {
        let device: Device = self.device.parse()?;
        let mut folder = match &self.model {
            Some(path) => open_model(path)?,
            None => Folder::from_bytes(&embedded::FILES)?,
        };
        if let Some(recipe) = self.recipe {
            folder = folder.with_recipe(recipe)?;
        }
        if let Some(token) = &self.pad {
            folder.tokenizer = folder.tokenizer.with_pad(token)?;
        }
        Ok(match self.low_memory {
            true => Pipeline::streaming(folder)?,
            false => Pipeline::on(folder, &device)?,
        })
    }

    /// Where the model comes from, in words.
    pub fn name(&self) -> String {
        match &self.model {
            Some(path) => path.display().to_string(),
            None => "the shapes model inside this program".to_owned(),
        }
    }
}

impl WriteArgs {
    /// The model's own way of writing, with what was asked for otherwise.
    pub fn options(&self, pipeline: &Pipeline) -> WriteOptions {
        let model = pipeline.write_options();
        WriteOptions {
            steps: self.steps.unwrap_or(model.steps),
            sampler: self.sampler.unwrap_or(model.sampler),
            length: self.length.unwrap_or(model.length),
            latents: self.latents,
            side: self.resolution,
            seed: self.seed,
            trace: self.trace,
            ..model
        }
    }
}

/// Warns of words that the model has never seen, and of texts of more than `length` tokens.
///
/// Errors: those of the tokenizer.
pub fn warn_of_texts<'a>(
    pipeline: &Pipeline,
    texts: impl IntoIterator<Item = &'a str>,
    length: usize,
    output: &Output,
) -> Result<()> {
    for text in texts {
        for unknown in pipeline.tokenizer().unknown_words(text)? {
            let word = unknown.word;
            match unknown.nearest {
                Some(nearest) => output.warn(format_args!(
                    "the model does not know the word \"{word}\"; \
                     the nearest it knows is \"{nearest}\""
                )),
                None => output.warn(format_args!(
                    "the model does not know the word \"{word}\", nor one like it"
                )),
            }
        }
        let tokens = pipeline.tokenizer().encode(text)?.len();
        if tokens > length {
            output.warn(format_args!(
                "{tokens} tokens are more than the {length} that the model reads; \
                 the end is cut off: \"{}\"",
                beginning(text)
            ));
        }
    }
    Ok(())
}

/// As much of a text as tells which it is.
fn beginning(text: &str) -> String {
    let mut letters = text.chars();
    let shown: String = letters.by_ref().take(SHOWN).collect();
    if letters.next().is_none() { shown } else { shown + "..." }
}

/// The seed of item `index` of a command that began with `seed`.
pub fn item_seed(seed: u64, index: usize) -> u64 {
    seed.wrapping_add(index as u64)
}
