//! Runs that are timed, alone or in turn with another program.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ddit::bench::clock::Times;
use ddit::bench::peak::{fma_gflops, resident_mb};
use kernels::par;
use serde_json::{Value, json};
use tensor::Device;

use super::rounded;
use crate::cli::output::Output;
use crate::cli::parse;

/// How often something runs, and what it is compared with.
#[derive(Debug, clap::Args)]
pub struct PairArgs {
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

/// What our side of a comparison gave.
pub struct Measured {
    /// How long the runs took.
    pub times: Times,
    /// Arithmetic that one of them executed.
    pub flops: f64,
}

impl PairArgs {
    /// Runs to be timed.
    pub fn iters(&self) -> usize {
        self.iters
    }

    /// Runs `ours`, in turn with the other program if there is one, and prints a line: `facts`,
    /// what was measured, and the ratios of the medians of each turn, the largest and the least of
    /// which are their spread.
    ///
    /// `counted` is the arithmetic as others count it, if they do.
    pub fn run(
        &self,
        facts: Value,
        counted: Option<f64>,
        output: &Output,
        ours: impl FnMut() -> Result<Measured>,
    ) -> Result<()> {
        self.run_on(&Device::Cpu, facts, counted, output, ours)
    }

    /// The same of what runs on a device. Of a GPU the line has its name and the most memory that
    /// tensors held, and no peak: `gpu-report` has those of the cards it knows.
    pub fn run_on(
        &self,
        device: &Device,
        facts: Value,
        counted: Option<f64>,
        output: &Output,
        mut ours: impl FnMut() -> Result<Measured>,
    ) -> Result<()> {
        let peak_before = (*device == Device::Cpu).then(fma_gflops);
        let (mut measured, mut theirs) = (Vec::new(), Vec::new());
        let rounds = if self.vs.is_some() { self.rounds } else { 1 };
        for _ in 0..rounds {
            measured.push(ours()?);
            theirs.extend(self.vs.as_deref().map(other_median).transpose()?);
        }
        // On a machine shared with others, either moment may be a bad one.
        let peak = peak_before.map(|before| before.max(fma_gflops()));
        let medians: Vec<f64> = measured.iter().map(|m| m.times.median()).collect();
        let median = Times::new(medians.clone()).median();
        let min = measured.iter().map(|m| m.times.min()).fold(f64::INFINITY, f64::min);
        let rate = |flops: f64| flops / median / 1e9;
        let done = rate(measured[0].flops);
        let mut line = facts;
        match device {
            Device::Cpu => line["threads"] = json!(par::threads()),
            Device::Cuda(gpu) => line["card"] = json!(gpu.card().name),
        }
        line["median_s"] = json!(rounded(median));
        line["min_s"] = json!(rounded(min));
        if let Some(bytes) = line["bytes"].as_f64() {
            line["gbs"] = json!(rounded(rate(bytes)));
        } else {
            line["gflops"] = json!(rounded(counted.map_or(done, rate)));
            line["gflops_done"] = json!(rounded(done));
            if let Some(peak) = peak {
                line["peak_gflops"] = json!(rounded(peak));
                line["share_of_peak"] = json!(rounded(done / peak));
            }
        }
        match device {
            Device::Cpu => line["peak_rss_mb"] = json!(resident_mb()),
            Device::Cuda(gpu) => line["peak_gpu_mb"] = json!(gpu.peak_bytes() >> 20),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
