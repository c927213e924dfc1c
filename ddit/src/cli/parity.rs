//! `ddit parity`: our results beside stored ones of the official model.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ddit::parity::{Case, Comparison, FixtureSet, Report, Summary};
use serde_json::{Value, json};
use tensor::spelling::nearest;

use super::Outcome;
use super::output::Output;

/// Compare with stored results of the official model, tensor by tensor
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest of a set of fixtures; its files lie beside it
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Only the cases of this kind, or the one case of this id
    #[arg(long, value_name = "KIND|ID")]
    only: Option<String>,
    /// Where networks compute: cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
}

/// `shared` is the folder of files that all sets share.
pub fn run(args: &Args, shared: Option<&Path>, output: &Output) -> Result<Outcome> {
    let mut set = FixtureSet::open(&args.manifest)?.on(&args.device.parse()?);
    if let Some(shared) = shared {
        set = set.with_shared(shared);
    }
    let mut cases = set.cases()?;
    if let Some(only) = &args.only {
        choose(&mut cases, only)?;
    }
    let (mut summary, mut broken) = (Summary::default(), Vec::new());
    for case in &cases {
        match case.run() {
            Ok(report) => {
                print(case, &report, output)?;
                summary.add(&report);
            }
            Err(error) => broken.push(error.to_string()),
        }
    }
    let broken_note = match broken.len() {
        0 => String::new(),
        count => format!("; {count} cases could not be run"),
    };
    output.result(|| record(&summary, broken.len()), format_args!("{summary}{broken_note}"))?;
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(match (summary.over, summary.unsupported.is_empty()) {
        (0, true) => Outcome::Done,
        (0, false) => Outcome::Incomplete,
        _ => Outcome::CheckFailed,
    })
}

/// Keeps the cases that were asked for.
fn choose(cases: &mut Vec<Case>, only: &str) -> Result<()> {
    let named = |case: &Case| case.kind() == only || case.id() == only;
    if !cases.iter().any(named) {
        let names = cases.iter().flat_map(|case| [case.kind(), case.id()]);
        match nearest(only, names) {
            Some(near) => bail!("there is no case or kind \"{only}\"\n  did you mean {near}?"),
            None => bail!("there is no case or kind \"{only}\""),
        }
    }
    cases.retain(named);
    Ok(())
}

fn print(case: &Case, report: &Report, output: &Output) -> Result<()> {
    output.text(format_args!("{}  {}", case.id(), case.kind()))?;
    let lengths = report.comparisons.iter().map(|comparison| comparison.tensor.len());
    let width = lengths.max().unwrap_or(0).max(24);
    for Comparison { tensor, worst } in &report.comparisons {
        let ok = worst.ok();
        let object = || {
            json!({
                "case": case.id(), "kind": case.kind(), "tensor": tensor,
                "error": worst.error, "tolerance": worst.tolerance, "ok": ok,
            })
        };
        let verdict = if ok { "" } else { "  OVER" };
        let (error, tolerance) = (worst.error, worst.tolerance);
        let row = format!("  {tensor:<width$}  {error:>8.1e} of {tolerance:>8.1e}{verdict}");
        output.result(object, row)?;
    }
    for name in &report.unsupported {
        output.text(format_args!("  {name} is not supported"))?;
    }
    for name in &report.not_compared {
        output.text(format_args!("  {name} is not compared"))?;
    }
    Ok(())
}

fn record(summary: &Summary, broken: usize) -> Value {
    let Summary { cases, tensors, over, unsupported, not_compared } = summary;
    json!({
        "summary": summary.to_string(), "cases": cases, "tensors": tensors, "over": over,
        "broken": broken, "unsupported": unsupported, "not_compared": not_compared,
    })
}
