//! `ddit caption`: what pictures show.

use std::path::PathBuf;

use anyhow::Result;
use ddit::pipeline::{Pipeline, Written};
use ddit::shapes::Picture;
use serde_json::{Value, json};

use super::Outcome;
use super::model::{ModelArgs, WriteArgs, item_seed};
use super::output::Output;
use super::reading::Pictures;
use super::unmasking;

/// Tell what pictures show
#[derive(Debug, clap::Args)]
pub struct Args {
    /// PNG, JPEG or WebP files of any size
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let pipeline = args.model.open()?;
    let paths = args.images.iter().map(PathBuf::as_path);
    let pictures = Pictures::read(&pipeline, paths, args.write.resolution)?;
    let mut options = args.write.options(&pipeline);
    let progress = output.progress("captioning");
    let batches = args.images.chunks(options.batch);
    let total = batches.len() * options.steps;
    for (number, batch) in batches.enumerate() {
        options.seed = item_seed(args.write.seed, number * options.batch);
        let mut step = |done, _| progress.set(number * options.steps + done, total);
        let seen: Vec<&Picture> = batch.iter().map(|path| pictures.get(path)).collect();
        let written = pipeline.caption(&seen, &options, &mut step)?;
        for (path, written) in batch.iter().zip(&written) {
            let file = path.display().to_string();
            let text = match args.images.len() {
                1 => written.text.clone(),
                _ => format!("{file}: {}", written.text),
            };
            let record = json!({ "file": file, "text": written.text, "seed": written.seed });
            progress.aside(|| show(&pipeline, written, options.trace, record, &text, output))?;
        }
    }
    Ok(Outcome::Done)
}

/// Prints a written text, with its steps if they were kept; one without words is pointed out.
pub fn show(
    pipeline: &Pipeline,
    written: &Written,
    trace: bool,
    mut record: Value,
    text: &str,
    output: &Output,
) -> Result<()> {
    if trace {
        record["trace"] = unmasking::json(pipeline.tokenizer(), written)?;
        output.text(unmasking::table(pipeline.tokenizer(), written)?)?;
    }
    if written.text.trim().is_empty() {
        let seed = written.seed;
        output
            .warn(format_args!("the model wrote no word with seed {seed}; another may have some"));
    }
    output.result(|| record, text)
}
