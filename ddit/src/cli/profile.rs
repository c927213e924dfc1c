//! `--profile` and `--trace-file`: where a command's time went.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ddit::bench::peak::Ceilings;
use ddit::bench::profile::{table, trace};

use super::output::Output;

/// What to measure besides what was asked for.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Print on standard error where the time went, by operation and shapes; DDIT_PROFILE=1 too
    #[arg(long, global = true)]
    profile: bool,
    /// Write every operation with its time to a file for chrome://tracing or ui.perfetto.dev
    #[arg(long, global = true, value_name = "FILE")]
    trace_file: Option<PathBuf>,
}

/// Runs a command, and tells where its time went if that was asked for, here or by the environment.
///
/// The machine's ceilings are measured afterwards, which takes a second.
pub fn run<R>(
    args: &Args,
    by_environment: bool,
    output: &Output,
    command: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let print = args.profile || by_environment;
    if !print && args.trace_file.is_none() {
        return command();
    }
    // A file that cannot be made is better known before hours of work than after.
    let file = args
        .trace_file
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())));
    let file = file.transpose()?;
    let (result, profile) = autograd::profile(file.is_some(), command);
    if let Some(file) = file {
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, &trace(&profile))?;
        file.flush()?;
    }
    if print {
        output.note(table(&profile, Ceilings::measure()));
    }
    result
}
