//! The command line: how each command is called, and what becomes of its result.
//!
//! | file | command |
//! |---|---|
//! | [`demo`] | everything the model can do, judged, on one page |
//! | [`train`] | a model from scratch, or further |
//! | [`generate`] | pictures of prompts |
//! | [`caption`], [`ask`], [`fill`] | texts about pictures |
//! | [`rank`] | which of several texts is likeliest beside a picture |
//! | [`eval`] | scores on a suite |
//! | [`init_from_sd3`] | a model that begins as SD3 |
//! | [`reconstruct`] | what an autoencoder leaves of a picture |
//! | [`inspect`] | what is in a model's files |
//! | [`parity`] | results of the official model beside ours |
//! | [`gradcheck`] | every operation's gradient against differences |
//! | [`bench`] | speed |
//! | [`gpu_report`] | a GPU beside the CPU and beside predicted bounds |
//! | [`profile`] | where any command's time went |
//! | [`output`], [`model`], [`parse`], [`reading`], [`unmasking`] | what commands share |
//!
//! Results go to standard output: as text to be read or, with `--json`, as one object a line.
//! Everything else (progress, notes, errors) goes to standard error. The exit code is 0 when the
//! command did what it was asked, 1 when it did and a check failed, 2 when usage, input or
//! environment kept it from doing it, 3 when nothing failed but some of it is not supported.
//!
//! This is the only part of the program that reads the environment, and it does so once.

mod ask;
mod bench;
mod caption;
mod demo;
mod eval;
mod fill;
mod generate;
mod gpu_report;
mod gradcheck;
mod init_from_sd3;
mod inspect;
mod model;
mod output;
mod parity;
mod parse;
mod profile;
mod rank;
mod reading;
mod reconstruct;
mod train;
mod unmasking;

use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use autograd::autocast;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use kernels::{lane, par};

use output::Output;

/// Draws pictures from sentences, and tells what pictures show, with one model: a dual diffusion
/// transformer.
///
/// `ddit demo` shows what it can do. Without --model, commands use the small model inside this
/// program, whose world is one to four coloured shapes.
#[derive(Debug, Parser)]
#[command(name = "ddit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// Threads to compute with; results do not depend on it [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = parse::threads)]
    threads: Option<usize>,
    /// Multiply in bf16 on a GPU's tensor cores, with sums in float32: several times as fast, results
    /// to two or three digits. On the CPU it changes nothing
    #[arg(long, global = true)]
    bf16: bool,
    #[command(flatten)]
    profile: profile::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Train(train::Args),
    Generate(generate::Args),
    Caption(caption::Args),
    Ask(ask::Args),
    Fill(fill::Args),
    Rank(rank::Args),
    Eval(eval::Args),
    InitFromSd3(init_from_sd3::Args),
    Reconstruct(reconstruct::Args),
    Inspect(inspect::Args),
    Parity(parity::Args),
    Gradcheck(gradcheck::Args),
    Bench(bench::Args),
    GpuReport(gpu_report::Args),
}

/// What a command that did what it was asked came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing to complain of.
    Done,
    /// A check failed.
    CheckFailed,
    /// Nothing that was checked failed, but some of what was asked for cannot be checked.
    Incomplete,
}

/// The program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    // On a usage error this prints clap's message and exits with 2.
    let cli = read_arguments(std::env::args_os().collect()).unwrap_or_else(|error| error.exit());
    match execute(&cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Ok(Outcome::Incomplete) => ExitCode::from(3),
        // Whoever read our output has seen enough, as in `ddit inspect model | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error gone as well there is nobody left to tell.
            let _ = write!(io::stderr(), "{}", report(&error));
            ExitCode::from(2)
        }
    }
}

/// The command line as clap reads it, but that -3 is a number where one is asked for, and that an
/// argument which is not UTF-8 is named.
fn read_arguments(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = with_negative_numbers(Cli::command());
    let matches =
        command.try_get_matches_from_mut(&arguments).map_err(|error| match error.kind() {
            ErrorKind::InvalidUtf8 => {
                let wrong = arguments.iter().filter(|argument| argument.to_str().is_none());
                let wrong: Vec<String> = wrong.map(|argument| format!("{argument:?}")).collect();
                command.error(error.kind(), format!("not UTF-8: {}", wrong.join(", ")))
            }
            _ => error,
        })?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let allow = |argument: clap::Arg| match argument.get_action().takes_values() {
        true => argument.allow_negative_numbers(true),
        false => argument,
    };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
}

fn execute(cli: &Cli) -> Result<Outcome> {
    choose_instruction_set()?;
    let threads = match cli.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    // Threads are started once, for every kernel below.
    par::with_threads(threads, || {
        let output = Output::new(cli.json);
        let run = || cli.command.run(&output);
        let run = || if cli.bf16 { autocast(run) } else { run() };
        profile::run(&cli.profile, is_profiled()?, &output, run)
    })
}

impl Command {
    fn run(&self, output: &Output) -> Result<Outcome> {
        match self {
            Self::Demo(args) => demo::run(args, output),
            Self::Train(args) => train::run(args, output),
            Self::Generate(args) => generate::run(args, output),
            Self::Caption(args) => caption::run(args, output),
            Self::Ask(args) => ask::run(args, output),
            Self::Fill(args) => fill::run(args, output),
            Self::Rank(args) => rank::run(args, output),
            Self::Eval(args) => eval::run(args, output),
            Self::InitFromSd3(args) => init_from_sd3::run(args, output),
            Self::Reconstruct(args) => reconstruct::run(args, output),
            Self::Inspect(args) => inspect::run(args, output),
            Self::Parity(args) => {
                let shared = std::env::var_os("DDIT_SHARED").map(PathBuf::from);
                parity::run(args, shared.as_deref(), output)
            }
            Self::Gradcheck(args) => gradcheck::run(args, output),
            Self::Bench(args) => bench::run(args, output),
            Self::GpuReport(args) => gpu_report::run(args, output),
        }
    }
}

/// Whether `DDIT_PROFILE` asks for a profile.
fn is_profiled() -> Result<bool> {
    match std::env::var("DDIT_PROFILE").as_deref() {
        Ok("1") => Ok(true),
        Err(std::env::VarError::NotPresent) | Ok("0" | "") => Ok(false),
        _ => Err(anyhow!("DDIT_PROFILE is 1 or 0")),
    }
}

/// Takes the instruction set that `DDIT_ISA` names; without it kernels take the best there is.
fn choose_instruction_set() -> Result<()> {
    match std::env::var("DDIT_ISA") {
        Err(std::env::VarError::NotPresent) => Ok(()),
        Ok(name) => {
            let chosen = name.parse().and_then(lane::set_isa);
            chosen.map_err(|message| anyhow!(message)).context("DDIT_ISA cannot be obeyed")
        }
        Err(error) => Err(error).context("DDIT_ISA cannot be read"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.into_iter().any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, one below the other; a cause that has been quoted already is not
/// said twice.
fn report(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            let cause = cause.replace('\n', "\n    ");
            text.push_str(&format!("  because {cause}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        read_arguments(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn the_command_line_is_consistent_and_documented() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            for argument in command.get_arguments() {
                let (command, argument) = (command.get_name(), argument);
                assert!(
                    argument.get_help().is_some(),
                    "{command} {} has no help",
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn global_options_go_anywhere() {
        for line in ["ddit --json --threads 3 gradcheck", "ddit gradcheck --threads 3 --json"] {
            let cli = parse(line).unwrap();
            assert!(cli.json && cli.threads == Some(3), "{line}");
        }
        for line in ["ddit", "ddit draw", "ddit gradcheck --threads 0", "ddit gradcheck --thread 1"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("ddit --help").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn negative_numbers_are_values_and_not_options() {
        for line in [
            "ddit generate a --steps -3",
            "ddit generate a --cfg -1",
            "ddit caption x.png --seed -1",
            "ddit bench gemm --millis -7",
            "ddit gradcheck --threads -2",
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains("number"), "{error}");
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2));
        }
        assert!(parse("ddit ask x.png -3").is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn arguments_that_are_not_utf_8_are_named() {
        use std::os::unix::ffi::OsStringExt;
        let wrong = OsString::from_vec(b"caf\xe9".to_vec());
        let arguments = ["ddit", "generate"].map(OsString::from).into_iter().chain([wrong]);
        let error = read_arguments(arguments.collect()).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::InvalidUtf8, 2));
        assert!(error.to_string().contains(r#"not UTF-8: "caf\xE9""#), "{error}");
    }

    #[test]
    fn errors_are_one_block_without_repetition() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let error = anyhow!(missing).context("entity not found: x.png").context("two\nlines");
        assert_eq!(report(&error), "error: two\nlines\n  because entity not found: x.png\n");
    }

    #[test]
    fn a_closed_pipe_is_no_error_of_ours() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow!(closed).context("printing")));
        assert!(!is_broken_pipe(&anyhow!("other")));
    }
}
