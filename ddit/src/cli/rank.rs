//! `ddit rank`: texts by how likely the model finds them beside a picture.

use std::path::PathBuf;

use anyhow::Result;
use ddit::pipeline::{Latents, WriteOptions};
use serde_json::json;

use super::model::{ModelArgs, warn_of_texts};
use super::output::Output;
use super::reading::Pictures;
use super::{Outcome, parse};

/// Rank texts by how likely the model finds them beside a picture: ln p(text | picture), in nats,
/// of revealing the text and its end from left to right
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The picture that the texts are about: PNG, JPEG or WebP
    #[arg(value_name = "FILE")]
    picture: PathBuf,
    /// The texts
    #[arg(value_name = "TEXT", required = true, value_parser = parse::words)]
    texts: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Side in pixels that the picture is fitted to [default: the model's]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive)]
    resolution: Option<usize>,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let pipeline = args.model.open()?;
    let options = WriteOptions {
        // The mean of the latents, so that only the picture decides.
        latents: Latents::Mode,
        side: args.resolution,
        ..pipeline.write_options()
    };
    let texts = args.texts.iter().map(String::as_str);
    warn_of_texts(&pipeline, texts, options.length, output)?;
    let path = args.picture.as_path();
    let pictures = Pictures::read(&pipeline, [path], args.resolution)?;

    let progress = output.progress("ranking");
    let mut step = |done, all| progress.set(done, all);
    let likelihoods = pipeline.likelihood(pictures.get(path), &args.texts, &options, &mut step)?;
    drop(progress);

    let mut ranked: Vec<(f64, &str)> =
        likelihoods.into_iter().zip(args.texts.iter().map(String::as_str)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (likelihood, text) in ranked {
        let record = || json!({ "text": text, "likelihood": likelihood });
        output.result(record, format!("{likelihood:>9.3}  {text}"))?;
    }
    Ok(Outcome::Done)
}
