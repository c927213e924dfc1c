//! `ddit bench`: speed.

mod scaling;
mod versus;

use std::time::Duration;

use anyhow::Result;
use autograd::ops;
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddit::bench::clock::{self, Times};
use ddit::bench::ops::time_op;
use ddit::bench::parts::{T5Case, T5S, VAES, VaeCase, read_weights};
use ddit::bench::peak::Ceilings;
use ddit::bench::products::{ATTENTIONS, PRODUCTS, product};
use ddit::bench::step::Bench;
use ddit::bench::workload::{Mode, WORKLOADS, Workload};
use kernels::{count, par};
use serde_json::json;
use tensor::Device;

use super::output::Output;
use super::{Outcome, model, parse};
use versus::{Measured, PairArgs};

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
    /// Time and memory along one axis: the length of the sequence, the width, the batch; prints
    /// lines of JSON
    Scaling(scaling::Args),
    /// A text encoder on one text; prints a line of JSON
    T5(T5Args),
    /// An autoencoder that decodes one picture; prints a line of JSON
    Vae(VaeArgs),
    /// A model opened and every weight read once; prints a line of JSON
    Load(LoadArgs),
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
    #[arg(long, value_name = "CASE", value_parser = one_of(WORKLOADS, |case| case.name),
        default_value = "nano")]
    case: Workload,
    /// Where it runs: cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    #[command(flatten)]
    pairs: PairArgs,
}

#[derive(Debug, clap::Args)]
struct T5Args {
    /// Which encoder: one block of T5-XXL, all of T5-small, or a tiny one
    #[arg(long, value_name = "CASE", value_parser = one_of(T5S, |case| case.name),
        default_value = "xxl-layer")]
    case: T5Case,
    #[command(flatten)]
    pairs: PairArgs,
}

#[derive(Debug, clap::Args)]
struct VaeArgs {
    /// Which autoencoder: SD3's, of a 512 x 512 picture, or a tiny one
    #[arg(long, value_name = "CASE", value_parser = one_of(VAES, |case| case.name),
        default_value = "sd3")]
    case: VaeCase,
    #[command(flatten)]
    pairs: PairArgs,
}

#[derive(Debug, clap::Args)]
struct LoadArgs {
    #[command(flatten)]
    model: model::ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
}

#[derive(Debug, clap::Args)]
struct KernelArgs {
    /// Milliseconds to spend on each row
    #[arg(long, value_name = "N", value_parser = parse::positive, default_value_t = 300)]
    millis: usize,
}

/// Parses the name of one of several cases.
fn one_of<T: Copy + Send + Sync + 'static, const N: usize>(
    cases: [T; N],
    name: fn(&T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let by_name = move |wanted: String| cases.into_iter().find(|case| name(case) == wanted);
    PossibleValuesParser::new(cases.map(|case| name(&case)))
        .try_map(move |wanted| by_name(wanted).ok_or("no such case"))
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    match &args.what {
        What::Step(args) => args.run(Mode::Train, output),
        What::Forward(args) => args.run(Mode::Forward, output),
        What::Scaling(args) => args.run(output),
        What::T5(args) => args.run(output),
        What::Vae(args) => args.run(output),
        What::Load(args) => args.run(output),
        What::Ops(args) => args.ops(output),
        What::Gemm(args) => args.gemm(output),
        What::Attention(args) => args.attention(output),
    }?;
    Ok(Outcome::Done)
}

impl ModelArgs {
    fn run(&self, mode: Mode, output: &Output) -> Result<()> {
        let device: Device = self.device.parse()?;
        let mut bench = Bench::new(self.case, mode, &device)?;
        let done = bench.executed();
        let ours = || Ok(Measured { times: bench.time(self.pairs.iters())?, flops: done });
        let facts = json!({ "case": self.case.name, "mode": mode.name() });
        self.pairs.run_on(&device, facts, Some(self.case.counted(mode)), output, ours)
    }
}

/// Times a network, and counts the arithmetic of a run.
fn timed(iters: usize, run: &mut impl FnMut() -> tensor::Result<()>) -> Result<Measured> {
    let before = count::flops();
    run()?;
    let flops = (count::flops() - before) as f64;
    Ok(Measured { times: clock::time(iters, run)?, flops })
}

impl T5Args {
    fn run(&self, output: &Output) -> Result<()> {
        let mut run = self.case.prepare()?;
        let facts = json!({ "case": self.case.name, "mode": "t5" });
        let ours = || timed(self.pairs.iters(), &mut run);
        self.pairs.run(facts, Some(self.case.counted()), output, ours)
    }
}

impl VaeArgs {
    fn run(&self, output: &Output) -> Result<()> {
        let mut run = self.case.prepare()?;
        let facts = json!({ "case": self.case.name, "mode": "vae" });
        self.pairs.run(facts, None, output, || timed(self.pairs.iters(), &mut run))
    }
}

impl LoadArgs {
    fn run(&self, output: &Output) -> Result<()> {
        let bytes = read_weights(self.model.open()?.folder())?;
        let open = || self.model.open().and_then(|model| Ok(read_weights(model.folder())?));
        let facts = json!({ "case": self.model.name(), "mode": "load", "bytes": bytes });
        let ours = || {
            let times = clock::time(self.pairs.iters(), || open().map(drop))?;
            Ok(Measured { times, flops: 0.0 })
        };
        self.pairs.run(facts, None, output, ours)
    }
}

impl KernelArgs {
    fn budget(&self) -> Duration {
        Duration::from_millis(self.millis as u64)
    }

    fn ops(&self, output: &Output) -> Result<()> {
        let peak = ceilings(output)?;
        output.text(format_args!(
            "{:<22} {:<32} {:>9} {:>8} {:>7} {:>6} {:>9}",
            "operation", "case", "forward", "GFLOP/s", "GB/s", "share", "backward"
        ))?;
        for op in ops::all() {
            let row = time_op(op, self.budget())?;
            let share = peak.share(row.flops, row.bytes, row.forward.min());
            let backward = row.backward.as_ref().map(Times::min);
            let object = || {
                json!({
                    "op": row.name, "case": row.case, "threads": par::threads(),
                    "median_s": rounded(row.forward.median()), "min_s": rounded(row.forward.min()),
                    "gflops": rounded(row.gflops()), "gbs": rounded(row.gbs()),
                    "share_of_peak": rounded(share),
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
                100.0 * share,
                backward.map_or("none".to_owned(), time)
            );
            output.result(object, text)?;
        }
        Ok(())
    }

    fn gemm(&self, output: &Output) -> Result<()> {
        let peak = ceilings(output)?.gflops;
        output.text(format_args!(
            "{:>5} {:>5} {:>5}  {:<6} {:>9} {:>8} {:>6}",
            "m", "n", "k", "packed", "time", "GFLOP/s", "share"
        ))?;
        for [m, n, k] in PRODUCTS {
            for packed in [false, true] {
                let times = product([m, n, k], packed, self.budget())?;
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
        let peak = ceilings(output)?.gflops;
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
fn ceilings(output: &Output) -> Result<Ceilings> {
    let (threads, ceilings) = (par::threads(), Ceilings::measure());
    let Ceilings { gflops, gbs } = ceilings;
    output.text(format_args!(
        "{threads} threads: {gflops:.0} GFLOP/s of multiply-adds, {gbs:.1} GB/s copied from memory; \
         times are the shortest\n"
    ))?;
    Ok(ceilings)
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
}
