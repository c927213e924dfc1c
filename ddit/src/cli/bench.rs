//! `ddit bench`: speed.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use autograd::ops;
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddit::bench::clock::Times;
use ddit::bench::ops::time_op;
use ddit::bench::peak::{copy_gbs, fma_gflops, resident_mb};
use ddit::bench::products::{ATTENTIONS, PRODUCTS, product};
use ddit::bench::step::Bench;
use ddit::bench::workload::{Mode, WORKLOADS, Workload};
use kernels::par;
use serde_json::{Value, json};

use super::output::Output;
use super::{Outcome, parse};

/// Measure speed, beside the machine's own ceilings
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A training step: both losses, backward, clipping and AdamW; prints a line of JSON
    Step(ModelArgs),
    /// A forward pass with velocity and all words' scores; prints a line of JSON
    Forward(ModelArgs),
    /// Every operation of the engine, forward and backward
    Ops(KernelArgs),
    /// Matrix products, with the right operand packed by the product or before it
    Gemm(KernelArgs),
    /// Attention, forward and backward
    Attention(KernelArgs),
}

#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Which model
    #[arg(long, value_name = "CASE", value_parser = workload(), default_value = "nano")]
    case: Workload,
    /// Runs that are timed, after two that are not
    #[arg(long, value_name = "N", value_parser = parse::positive, default_value_t = 5)]
    iters: usize,
    /// Another program to compare with: a shell command that prints a line of JSON with median_s
    #[arg(long, value_name = "COMMAND")]
    vs: Option<String>,
    /// How often the two programs run in turn
    #[arg(long, value_name = "N", value_parser = parse::positive, default_value_t = 3,
        requires = "vs")]
    rounds: usize,
}

#[derive(Debug, clap::Args)]
struct KernelArgs {
    /// Milliseconds to spend on each row
    #[arg(long, value_name = "N", value_parser = parse::positive, default_value_t = 300)]
    millis: usize,
}

fn workload() -> impl TypedValueParser<Value = Workload> {
    let by_name = |name: String| WORKLOADS.into_iter().find(|workload| workload.name == name);
    PossibleValuesParser::new(WORKLOADS.map(|workload| workload.name))
        .try_map(move |name| by_name(name).ok_or("no such case"))
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    match &args.what {
        What::Step(args) => args.run(Mode::Train, output),
        What::Forward(args) => args.run(Mode::Forward, output),
        What::Ops(args) => args.ops(output),
        What::Gemm(args) => args.gemm(output),
        What::Attention(args) => args.attention(output),
    }?;
    Ok(Outcome::Done)
}

impl ModelArgs {
    fn run(&self, mode: Mode, output: &Output) -> Result<()> {
        let peak_before = fma_gflops();
        let mut bench = Bench::new(self.case, mode)?;
        let (mut ours, mut theirs) = (vec![bench.time(self.iters)?], Vec::new());
        if let Some(command) = &self.vs {
            theirs.push(other_median(command)?);
            for _ in 1..self.rounds {
                ours.push(bench.time(self.iters)?);
                theirs.push(other_median(command)?);
            }
        }
        // On a machine shared with others, either moment may be a bad one.
        let peak = peak_before.max(fma_gflops());
        let medians: Vec<f64> = ours.iter().map(Times::median).collect();
        let median = Times::new(medians.clone()).median();
        let min = ours.iter().map(Times::min).fold(f64::INFINITY, f64::min);
        let done = bench.executed() / median / 1e9;
        let mut line = json!({
            "case": self.case.name,
            "mode": mode.name(),
            "threads": par::threads(),
            "median_s": rounded(median),
            "min_s": rounded(min),
            "gflops": rounded(self.case.counted(mode) / median / 1e9),
            "gflops_done": rounded(done),
            "peak_gflops": rounded(peak),
            "share_of_peak": rounded(done / peak),
            "peak_rss_mb": resident_mb(),
        });
        if let Some(command) = &self.vs {
            // Each pair by itself: the machine's mood changes from one to the next.
            let ratios: Vec<f64> = theirs.iter().zip(&medians).map(|(t, o)| t / o).collect();
            let ratio = Times::new(ratios.clone()).median();
            line["vs"] = json!(command);
            line["vs_median_s"] = json!(rounded(Times::new(theirs).median()));
            line["ratios"] = ratios.into_iter().map(rounded).collect();
            line["ratio"] = json!(rounded(ratio));
            output.note(format_args!("{ratio:.2} times as fast as: {command}"));
        }
        // This result is made for programs; there is no other form of it.
        output.line(&line)
    }
}

/// The `median_s` of the last line of JSON that a command prints.
fn other_median(command: &str) -> Result<f64> {
    let ran = Command::new("sh").arg("-c").arg(command).stderr(Stdio::inherit()).output();
    let ran = ran.with_context(|| format!("cannot run: {command}"))?;
    if !ran.status.success() {
        bail!("{command}\n  ended with {}", ran.status);
    }
    let text = String::from_utf8_lossy(&ran.stdout);
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    match lines.into_iter().find_map(|line| line["median_s"].as_f64()) {
        Some(seconds) if seconds > 0.0 => Ok(seconds),
        _ => bail!("{command}\n  printed no line of JSON with a positive median_s:\n{text}"),
    }
}

impl KernelArgs {
    fn budget(&self) -> Duration {
        Duration::from_millis(self.millis as u64)
    }

    fn ops(&self, output: &Output) -> Result<()> {
        let (peak, copy) = (fma_gflops(), copy_gbs());
        ceilings(peak, copy, output)?;
        output.text(format_args!(
            "{:<22} {:<32} {:>9} {:>8} {:>7} {:>6} {:>9}",
            "operation", "case", "forward", "GFLOP/s", "GB/s", "share", "backward"
        ))?;
        for op in ops::all() {
            let row = time_op(op, self.budget())?;
            let backward = row.backward.as_ref().map(Times::min);
            let object = || {
                json!({
                    "op": row.name, "case": row.case, "threads": par::threads(),
                    "median_s": rounded(row.forward.median()), "min_s": rounded(row.forward.min()),
                    "gflops": rounded(row.gflops()), "gbs": rounded(row.gbs()),
                    "share_of_peak": rounded(row.share(peak, copy)),
                    "backward_min_s": backward.map(rounded),
                })
            };
            let text = format!(
                "{:<22} {:<32} {:>9} {:>8.1} {:>7.1} {:>5.0}% {:>9}",
                row.name,
                row.case,
                time(row.forward.min()),
                row.gflops(),
                row.gbs(),
                100.0 * row.share(peak, copy),
                backward.map_or("none".to_owned(), time)
            );
            output.result(object, text)?;
        }
        Ok(())
    }

    fn gemm(&self, output: &Output) -> Result<()> {
        let peak = fma_gflops();
        ceilings(peak, copy_gbs(), output)?;
        output.text(format_args!(
            "{:>5} {:>5} {:>5}  {:<6} {:>9} {:>8} {:>6}",
            "m", "n", "k", "packed", "time", "GFLOP/s", "share"
        ))?;
        for [m, n, k] in PRODUCTS {
            for packed in [false, true] {
                let times = product([m, n, k], packed, self.budget());
                let gflops = (2 * m * n * k) as f64 / times.min() / 1e9;
                let object = || {
                    json!({
                        "m": m, "n": n, "k": k, "packed": packed, "threads": par::threads(),
                        "median_s": rounded(times.median()), "min_s": rounded(times.min()),
                        "gflops": rounded(gflops), "share_of_peak": rounded(gflops / peak),
                    })
                };
                let text = format!(
                    "{m:>5} {n:>5} {k:>5}  {:<6} {:>9} {gflops:>8.1} {:>5.0}%",
                    if packed { "before" } else { "here" },
                    time(times.min()),
                    100.0 * gflops / peak
                );
                output.result(object, text)?;
            }
        }
        Ok(())
    }

    fn attention(&self, output: &Output) -> Result<()> {
        let peak = fma_gflops();
        ceilings(peak, copy_gbs(), output)?;
        output.text(format_args!(
            "{:<7} {:>5} {:>5} {:>5} {:>6} {:>5}  {:<8} {:>9} {:>8} {:>6}",
            "case", "batch", "heads", "width", "tokens", "text", "pass", "time", "GFLOP/s", "share"
        ))?;
        for case in ATTENTIONS {
            let passes = [("forward", case.flops()), ("backward", 2.5 * case.flops())];
            for ((pass, flops), times) in passes.into_iter().zip(case.time(self.budget())) {
                let gflops = flops / times.min() / 1e9;
                let object = || {
                    json!({
                        "case": case.name, "batch": case.batch, "heads": case.heads,
                        "width": case.width, "image": case.image, "text": case.text, "pass": pass,
                        "threads": par::threads(), "median_s": rounded(times.median()),
                        "min_s": rounded(times.min()), "gflops": rounded(gflops),
                        "share_of_peak": rounded(gflops / peak),
                    })
                };
                let text = format!(
                    "{:<7} {:>5} {:>5} {:>5} {:>6} {:>5}  {pass:<8} {:>9} {gflops:>8.1} {:>5.0}%",
                    case.name,
                    case.batch,
                    case.heads,
                    case.width,
                    case.image,
                    case.text,
                    time(times.min()),
                    100.0 * gflops / peak
                );
                output.result(object, text)?;
            }
        }
        Ok(())
    }
}

/// What shares are shares of.
fn ceilings(peak: f64, copy: f64, output: &Output) -> Result<()> {
    let threads = par::threads();
    output.text(format_args!(
        "{threads} threads: {peak:.0} GFLOP/s of multiply-adds, {copy:.1} GB/s copied from memory; \
         times are the shortest\n"
    ))
}

/// Seconds for people: `1.23 ms`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}

/// Six significant digits: more is noise.
fn rounded(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([2.5e-6, 0.0123, 1.5].map(time), ["2.5 us", "12.30 ms", "1.500 s"]);
        assert_eq!((rounded(1.0 / 3.0), rounded(123_456_789.0)), (0.333333, 123_457_000.0));
    }

    #[test]
    fn the_other_programs_last_line_counts() {
        let print = |text: &str| format!("printf '{text}'");
        let line = r#"{"median_s": 0.25, "gflops": 3}"#;
        assert_eq!(other_median(&print(&format!("starting\\n{line}\\n"))).unwrap(), 0.25);
        for (command, told) in [
            (print("nothing"), "median_s"),
            (print(r#"{"median_s": 0}"#), "positive"),
            ("exit 3".to_owned(), "ended with"),
        ] {
            let error = other_median(&command).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
