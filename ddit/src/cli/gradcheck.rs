//! `ddit gradcheck`: every operation against difference quotients and its float64 reference.

use anyhow::{Result, bail};
use autograd::ops;
use autograd::spec::{OpReport, Spec, check_op};
use serde_json::json;
use tensor::spelling::nearest;

use super::output::Output;
use super::{Outcome, parse};

/// Check operations: gradients against difference quotients, results against float64
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The operation to check [default: all of them]
    #[arg(value_name = "OP")]
    op: Option<String>,
    /// Random cases of each operation
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = parse::positive)]
    cases: usize,
    /// Seed of the cases
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse::seed)]
    seed: u64,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let chosen: Vec<&dyn Spec> = match &args.op {
        None => ops::all().collect(),
        Some(name) => vec![find(name)?],
    };
    output.text(format_args!(
        "worst relative errors over {} cases     gradient                forward\n\
         operation                      f64       f32    second      f64       f32",
        args.cases
    ))?;
    let mut failed = 0;
    for op in &chosen {
        let report = check_op(*op, args.cases, args.seed)?;
        failed += usize::from(!report.passed());
        output.result(|| record(&report), row(&report))?;
    }
    output.text(match failed {
        0 => format!("\nall of {} operations pass", chosen.len()),
        _ => format!("\n{failed} of {} operations FAIL", chosen.len()),
    })?;
    Ok(if failed == 0 { Outcome::Done } else { Outcome::CheckFailed })
}

fn find(name: &str) -> Result<&'static dyn Spec> {
    if let Some(op) = ops::find(name) {
        return Ok(op);
    }
    let mut names: Vec<&str> = ops::all().map(Spec::name).collect();
    names.sort_unstable();
    match &meant(name, &names)[..] {
        [] => bail!("there is no operation \"{name}\"\n  there are {}", names.join(", ")),
        meant => bail!("there is no operation \"{name}\"\n  did you mean {}?", meant.join(" or ")),
    }
}

/// The names of which a part begins with `name`, as `softmax` and `log_softmax` have; if there are
/// none, the one spelt most like it.
fn meant<'a>(name: &str, names: &[&'a str]) -> Vec<&'a str> {
    let has_part = |known: &&&str| known.split('_').any(|part| part.starts_with(name));
    let longer: Vec<&str> = names.iter().filter(has_part).copied().collect();
    match longer.is_empty() {
        true => nearest(name, names.iter().copied()).into_iter().collect(),
        false => longer,
    }
}

fn record(report: &OpReport) -> serde_json::Value {
    json!({
        "op": report.name,
        "cases": report.cases,
        "gradient_f64": report.gradient_f64,
        "gradient_f32": report.gradient_f32,
        "second_f64": report.second_f64,
        "forward_f64": report.forward_f64,
        "forward_f32": report.forward_f32,
        "passed": report.passed(),
        "failures": report.failures,
    })
}

fn row(report: &OpReport) -> String {
    let second = report.second_f64.map_or("none".to_owned(), |error| format!("{error:.1e}"));
    let verdict = if report.passed() { "" } else { "  FAILS" };
    let mut row = format!(
        "{:<26} {:>8.1e}  {:>8.1e}  {second:>8}  {:>8.1e}  {:>8.1e}{verdict}",
        report.name,
        report.gradient_f64,
        report.gradient_f32,
        report.forward_f64,
        report.forward_f32
    );
    for failure in &report.failures {
        row += &format!("\n    {failure}");
    }
    row
}
