//! `ddit init-from-sd3`: a model that begins as SD3.

use std::path::PathBuf;

use anyhow::{Result, bail};
use ddit::sd3::{Fate, Sd3};
use ddit::text::Tokenizer;
use serde_json::json;

use super::output::Output;
use super::{Outcome, parse};

/// Make the folder of a model that begins as SD3, and tell what became of each tensor
#[derive(Debug, clap::Args)]
pub struct Args {
    /// SD3's single file (.safetensors), or its folder in the layout of the diffusers library
    #[arg(value_name = "SD3")]
    sd3: PathBuf,
    /// Where the model goes
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Folder of T5's tokenizer: tokenizer.json or spiece.model [default: SD3's, or the base's]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// A model's folder to take from what SD3's files lack: the text encoder, the tokenizer, the
    /// autoencoder, and settings that shapes do not tell
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Seed of what is new
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse::seed)]
    seed: u64,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    if args.out.exists() {
        bail!("{} exists\n  name a folder that does not", args.out.display());
    }
    let mut sd3 = Sd3::open(&args.sd3)?;
    if let Some(folder) = &args.tokenizer {
        sd3 = sd3.with_tokenizer(Tokenizer::open(folder)?);
    }
    if let Some(base) = &args.base {
        sd3 = sd3.or(Sd3::open(base)?);
    }
    let (folder, account) = sd3.into_folder(args.seed)?;
    folder.save(&args.out)?;

    let mut counts = [("carried", 0), ("partly", 0), ("fresh", 0), ("dropped", 0)];
    for (name, fate) in &account {
        let (kind, from) = match fate {
            Fate::Carried(from) => (0, Some(from)),
            Fate::Partly(from) => (1, Some(from)),
            Fate::Fresh => (2, None),
            Fate::Dropped => (3, None),
        };
        counts[kind].1 += 1;
        let what = counts[kind].0;
        let arrow = from.map_or(String::new(), |from| format!("  <- {from}"));
        let object = || json!({ "tensor": name, "what": what, "from": from });
        output.result(object, format_args!("{what:<8} {name}{arrow}"))?;
    }
    let [(_, carried), (_, partly), (_, fresh), (_, dropped)] = counts;
    output.note(format_args!(
        "{}: {carried} tensors carried over, {partly} in part, {fresh} fresh; {dropped} dropped",
        args.out.display()
    ));
    Ok(Outcome::Done)
}
