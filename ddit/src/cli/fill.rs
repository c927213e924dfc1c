//! `ddit fill`: texts with holes.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ddit::pipeline::{Piece, parse_template};
use serde_json::json;

use super::Outcome;
use super::caption::show;
use super::model::{ModelArgs, WriteArgs, warn_of_texts};
use super::output::Output;
use super::reading::Pictures;

/// Fill the holes of a text, looking at a picture or at none
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A text in which `_` is one missing token and `_{3}` are three of them
    #[arg(value_name = "TEMPLATE")]
    template: String,
    /// The picture that the text is about: PNG, JPEG or WebP
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let pieces = parse_template(&args.template)?;
    if !pieces.iter().any(|piece| matches!(piece, Piece::Holes(1..))) {
        bail!(
            "\"{}\" has no hole to fill\n  write _ for a missing token, _{{3}} for three of them",
            args.template
        );
    }
    let pipeline = args.model.open()?;
    let image = args.image.as_deref();
    let pictures = Pictures::read(&pipeline, image, args.write.resolution)?;
    let options = args.write.options(&pipeline);
    let texts = pieces.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(text.as_str()),
        Piece::Holes(_) => None,
    });
    warn_of_texts(&pipeline, texts, usize::MAX, output)?;

    let progress = output.progress("filling");
    let template = [(image.map(|path| pictures.get(path)), args.template.as_str())];
    let written = pipeline.fill(&template, &options, &mut |done, all| progress.set(done, all))?;
    if image.is_none() {
        let message = "without --image the model sees its tokens for an absent picture, which \
                       neither `train` nor the published training teaches";
        progress.aside(|| output.warn(message));
    }
    for written in &written {
        let record = json!({
            "file": image.map(Path::display).map(|path| path.to_string()),
            "template": args.template,
            "text": written.text,
            "seed": written.seed,
        });
        progress
            .aside(|| show(&pipeline, written, options.trace, record, &written.text, output))?;
    }
    Ok(Outcome::Done)
}
