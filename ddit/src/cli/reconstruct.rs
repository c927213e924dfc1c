//! `ddit reconstruct`: what an autoencoder leaves of a picture.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ddit::autoencoder::{Autoencoder, psnr};
use ddit::data::decode::read_picture;
use ddit::train::config::Alpha;
use ddit::train::samples::write_png;
use ddit::vae::Tiling;
use serde_json::json;

use super::Outcome;
use super::output::Output;
use super::parse;

/// Show what an autoencoder leaves of a picture: encode it, decode it, and compare
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A PNG, JPEG or WebP file of any size
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Folder of the autoencoder, or of a model that has one, or a file of a tiny autoencoder
    /// (TAESD)
    #[arg(long, value_name = "DIR|FILE")]
    vae: PathBuf,
    /// The PNG file to write
    #[arg(short, long, value_name = "FILE", default_value = "reconstruction.png")]
    out: PathBuf,
    /// Decode by overlapping tiles of so many pixels a side: bounds memory; not quite the same
    /// picture
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    tile: Option<usize>,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    if args.out.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png")) {
        bail!("{}: pictures are written as PNG\n  name a file .png", args.out.display());
    }
    let picture = read_picture(&args.image, Alpha::White)?;
    let vae = Autoencoder::open(&args.vae)
        .with_context(|| format!("no autoencoder at {}", args.vae.display()))?;
    let tiling = args.tile.map(|pixels| Tiling::of_pixels(pixels, vae.spatial_factor()));
    let reconstruction = vae.reconstruct(&picture, tiling.transpose()?)?;
    write_png(&reconstruction, &args.out)?;
    let ratio = psnr(&picture, &reconstruction);
    let file = args.out.display().to_string();
    let record =
        || json!({ "image": args.image.display().to_string(), "file": file, "psnr": ratio });
    output.result(record, format_args!("{file}  PSNR {ratio:.2} dB"))?;
    Ok(Outcome::Done)
}
