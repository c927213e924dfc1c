//! Which model a command uses, and how it is told to write texts.

use std::path::PathBuf;

use anyhow::Result;
use ddit::embedded;
use ddit::pipeline::{Pipeline, TextSampler, WriteOptions};
use ddit::train::setup::open_model;

use super::output::Output;
use super::parse;

/// Which model.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Folder of the model, or of the training run that made it [default: the shapes model inside
    /// this program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
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
    /// Seed of the first text; text i has this plus i
    #[arg(long, value_name = "S", default_value_t = 0)]
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
        Ok(match &self.model {
            Some(path) => Pipeline::new(open_model(path)?)?,
            None => embedded::pipeline()?,
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
                 the end is cut off: \"{text}\""
            ));
        }
    }
    Ok(())
}

/// The seed of item `index` of a command that began with `seed`.
pub fn item_seed(seed: u64, index: usize) -> u64 {
    seed.wrapping_add(index as u64)
}
