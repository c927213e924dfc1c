//! `--profile` and `--trace-file`: where a command's time went.

use std::fs::File;
use std::io::{self, BufWriter, Write};
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
    let write = |path: &PathBuf| format!("cannot write {}", path.display());
    // A file that cannot be made is better known before hours of work than after.
    let create =
        |path| Ok::<_, anyhow::Error>((path, File::create(path).with_context(|| write(path))?));
    let file = args.trace_file.as_ref().map(create).transpose()?;
    let (result, profile) = autograd::profile(file.is_some(), command);
    if let Some((path, file)) = file {
        let mut file = BufWriter::new(file);
        let written = serde_json::to_writer(&mut file, &trace(&profile));
        let written = written.map_err(io::Error::from).and_then(|()| file.flush());
        written.with_context(|| write(path))?;
    }
    if print {
        output.note(table(&profile, Ceilings::measure()));
    }
    result
}
