//! Stored results of the official model: all of it is supported and within tolerance, and on every
//! instruction set the same.
//!
//! The results are not part of the repository: they are looked for in `$DDIT_SHARED`, or in
//! `shared` beside the repository, and without them the test says so and passes, unless
//! `DDIT_REQUIRE_SHARED=1`. `ddit parity` prints the same comparisons.

use std::io::Write as _;
use std::path::PathBuf;

use ddit::parity::{Case, FixtureSet, Report, Summary};
use kernels::lane::on_every_isa;
#[cfg(target_os = "linux")]
use listed::assert_listed;
#[cfg(target_os = "linux")]
use tensor::Device;

#[cfg(target_os = "linux")]
mod listed;

/// Those that the virtual machine takes a moment for.
#[cfg(target_os = "linux")]
const QUICK: [&str; 11] = [
    "t5_a_2x9",
    "vae_eps_enc_1x8x12",
    "vae_eps_dec_1x4x3",
    "ddit_a_square",
    "text_loss_logits_part",
    "text_loss_0",
    "image_loss_single",
    "train_mask_row",
    "t2i_cfg_1step",
    "text_sample_1step",
    "optimizer",
];

/// The stored results, if they are there.
fn fixtures(test: &str) -> Option<FixtureSet> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
    let manifest = PathBuf::from(&shared).join("reference/fixtures/manifest.json");
    if manifest.exists() {
        return Some(FixtureSet::open(manifest).unwrap().with_shared(shared));
    }
    let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "no fixtures at {}", manifest.display());
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no {}", manifest.display());
    None
}

fn run(case: &Case) -> Report {
    case.run().unwrap_or_else(|error| panic!("{}: {error}", case.id()))
}

/// What became of these cases, and all of it; nothing may be over tolerance.
fn run_all(cases: &[Case]) -> (Vec<Report>, Summary) {
    let reports: Vec<Report> = cases.iter().map(run).collect();
    let (mut summary, mut over) = (Summary::default(), Vec::new());
    for (case, report) in cases.iter().zip(&reports) {
        summary.add(report);
        let wrong = report.comparisons.iter().filter(|comparison| !comparison.ok());
        over.extend(wrong.map(|comparison| (case.id(), comparison)));
    }
    assert!(over.is_empty(), "{over:#?}");
    assert!(summary.unsupported.is_empty(), "{:?}", summary.unsupported);
    (reports, summary)
}

#[test]
fn official_results_are_reproduced() {
    let Some(set) = fixtures("official_results_are_reproduced") else { return };
    let cases = set.cases().unwrap();
    let (reports, summary) = run_all(&cases);
    // What PyTorch computes if every operation rounds to bf16 is nobody's arithmetic but its own,
    // and texts are decoded in one way.
    let mut not_compared = summary.not_compared.keys();
    let extra = |name: &String| name.starts_with("aux.bf16_") || name.starts_with("decoded");
    assert!(not_compared.all(extra), "{summary}");
    on_every_isa("official results", |isa| {
        for (case, report) in cases.iter().zip(&reports) {
            assert_eq!(run(case), *report, "{} with {isa:?}", case.id());
        }
    });
}

/// The same tensors and tolerances, networks on a GPU: all cases on hardware.
#[cfg(target_os = "linux")]
#[test]
fn official_results_are_reproduced_on_a_gpu() {
    let Some(set) = fixtures("official_results_are_reproduced_on_a_gpu") else { return };
    let stand_in = cuda::unless_gpu();
    let set = set.on(&Device::cuda(0).unwrap());
    let mut cases = set.cases().unwrap();
    cases.retain(|case| stand_in.is_none() || QUICK.contains(&case.id()));
    assert!(cases.len() >= QUICK.len());
    run_all(&cases);
    assert_listed();
}
