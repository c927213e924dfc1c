//! `ddit bench scaling`: time and memory along one axis.

use anyhow::Result;
use ddit::bench::peak::{fma_gflops, forget_resident, resident_mb};
use ddit::bench::scaling::{AXES, Axis};
use ddit::bench::step::Bench;
use ddit::bench::workload::Mode;
use kernels::par;
use serde_json::json;
use tensor::{Device, pool};

use super::{one_of, rounded};
use crate::cli::output::Output;
use crate::cli::parse;

/// What grows, and what is timed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What grows
    #[arg(value_name = "AXIS", value_parser = one_of(AXES, |axis| axis.name))]
    axis: Axis,
    /// A training step or a forward pass
    #[arg(long, value_name = "MODE", value_parser = one_of([Mode::Train, Mode::Forward], |mode| mode.name()),
        default_value = "train")]
    mode: Mode,
    /// Runs of each model that are timed, after two that are not
    #[arg(long, value_name = "N", value_parser = parse::positive, default_value_t = 3)]
    iters: usize,
}

impl Args {
    /// Prints a line for each model.
    pub fn run(&self, output: &Output) -> Result<()> {
        let peak = fma_gflops();
        for workload in self.axis.workloads() {
            // What earlier models left is not this one's.
            pool::trim();
            pool::reset_peak();
            let is_own = forget_resident();
            let mut bench = Bench::new(workload, self.mode, &Device::Cpu)?;
            let times = bench.time(self.iters)?;
            let gflops = bench.executed() / times.median() / 1e9;
            output.line(json!({
                "axis": self.axis.name, "mode": self.mode.name(),
                "sequence": workload.tokens() + workload.text, "width": workload.width,
                "batch": workload.batch, "threads": par::threads(),
                "median_s": rounded(times.median()), "min_s": rounded(times.min()),
                "gflops_done": rounded(gflops), "share_of_peak": rounded(gflops / peak),
                "peak_tensors_mb": pool::stats().peak >> 20,
                "peak_rss_mb": resident_mb().filter(|_| is_own),
            }))?;
        }
        Ok(())
    }
}
