//! `--profile` and `--trace-file`: where a command's time went.

use std::path::PathBuf;

use anyhow::Result;
use ddit::bench::peak::Ceilings;
use ddit::bench::profile::{table, trace};
use tensor::io::{atomic_write_with, check_writable};

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
/// A command that fails writes no trace: what an earlier one wrote stays.
///
/// The machine's ceilings are measured afterwards, which takes a second.
pub fn run<R>(
    args: &Args,
    by_environment: bool,
    output: &Output,
    command: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let print = args.profile || by_environment;
    let file = args.trace_file.as_ref();
    if !print && file.is_none() {
        return command();
    }
    if let Some(file) = file {
        // Better known before hours of work than after.
        check_writable(file)?;
    }
    let (result, profile) = autograd::profile(file.is_some(), command);
    if print {
        output.note(table(&profile, Ceilings::measure()));
    }
    let done = result?;
    if let Some(file) = file {
        atomic_write_with(file, |file| Ok(serde_json::to_writer(file, &trace(&profile))?))?;
    }
    Ok(done)
}
