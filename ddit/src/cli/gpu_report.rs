//! `ddit gpu-report`: a GPU beside the CPU and beside what the card could do at best.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use ddit::bench::gpu::{Effort, Report, page};
use serde_json::json;
use tensor::Device;

use super::output::Output;
use super::{Outcome, parse};

/// Compare a GPU with the CPU, operation by operation, and measure it: one page of Markdown to send
/// back. The kernels are proven on a virtual machine; such a page tells how they do on hardware
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which GPU: cuda (the first) or cuda:N
    #[arg(long, value_name = "NAME", default_value = "cuda")]
    device: String,
    /// Where to write the page [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Random instances of each operation, in each of two element types
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = parse::positive)]
    cases: usize,
    /// Milliseconds to spend on each row of times
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = parse::positive)]
    millis: usize,
    /// Time tiny sizes only: to try the report, not the card
    #[arg(long)]
    tiny: bool,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let Device::Cuda(gpu) = args.device.parse()? else {
        bail!("the report is about a GPU: --device cuda or cuda:N");
    };
    let budget = Duration::from_millis(args.millis as u64);
    let effort = Effort { cases: args.cases as u64, budget, tiny: args.tiny };
    let progress = output.progress("comparing operations");
    let report = Report::new(&gpu, effort, &mut |done, total| {
        let _ = progress.set(done, total);
        if done == total {
            progress.stage("measuring");
        }
    });
    drop(progress);
    let report = report?;
    let page = page::page(&report, &commit(), driver_version().as_deref());
    let object = || json!({ "card": gpu.card().name, "passed": report.passed(), "page": page });
    match &args.out {
        None => output.result(object, &page)?,
        Some(path) => {
            tensor::io::atomic_write(path, &page)?;
            output.result(object, format_args!("{} has the page", path.display()))?;
        }
    }
    Ok(if report.passed() { Outcome::Done } else { Outcome::CheckFailed })
}

/// What the program was built from, as far as its sources are still there.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let said = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "HEAD"]) {
        None => "commit unknown".to_owned(),
        Some(commit) => match git(&["status", "--porcelain", "--untracked-files=no"]).as_deref() {
            Some("") => format!("commit {commit}"),
            _ => format!("commit {commit}, changed"),
        },
    }
}

/// The version of NVIDIA's driver, where Linux tells it.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let line = text.lines().next()?;
    Some(line.strip_prefix("NVRM version:").unwrap_or(line).trim().to_owned())
}
