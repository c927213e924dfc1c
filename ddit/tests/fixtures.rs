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

#[test]
fn official_results_are_reproduced() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
    let manifest = PathBuf::from(&shared).join("reference/fixtures/manifest.json");
    if !manifest.exists() {
        let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
        assert!(!required, "no fixtures at {}", manifest.display());
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED official_results_are_reproduced: no {}",
            manifest.display()
        );
        return;
    }
    let set = FixtureSet::open(manifest).unwrap().with_shared(shared);
    let cases = set.cases().unwrap();
    let run = |case: &Case| case.run().unwrap_or_else(|error| panic!("{}: {error}", case.id()));
    let reports: Vec<Report> = cases.iter().map(run).collect();
    let (mut summary, mut over) = (Summary::default(), Vec::new());
    for (case, report) in cases.iter().zip(&reports) {
        summary.add(report);
        let wrong = report.comparisons.iter().filter(|comparison| !comparison.ok());
        over.extend(wrong.map(|comparison| (case.id(), comparison)));
    }
    assert!(over.is_empty(), "{over:#?}");
    assert!(summary.unsupported.is_empty(), "{:?}", summary.unsupported);
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
