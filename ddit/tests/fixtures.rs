//! Stored results of the official model: all of it is supported, and within tolerance.
//!
//! The results are not part of the repository: they are looked for in `$DDIT_SHARED`, or in
//! `shared` beside the repository, and without them the test says so and passes, unless
//! `DDIT_REQUIRE_SHARED=1`. `ddit parity` prints the same comparisons.

use std::io::Write as _;
use std::path::PathBuf;

use ddit::parity::{FixtureSet, Summary};

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
    let (mut summary, mut over) = (Summary::default(), Vec::new());
    for case in set.cases().unwrap() {
        let report = case.run().unwrap();
        summary.add(&report);
        let wrong = report.comparisons.into_iter().filter(|comparison| !comparison.ok());
        over.extend(wrong.map(|comparison| (case.id(), comparison)));
    }
    assert!(over.is_empty(), "{over:#?}");
    assert!(summary.unsupported.is_empty(), "{:?}", summary.unsupported);
    // What PyTorch computes if every operation rounds to bf16 is nobody's arithmetic but its own,
    // and texts are decoded in one way.
    let mut not_compared = summary.not_compared.keys();
    let extra = |name: &String| name.starts_with("aux.bf16_") || name.starts_with("decoded");
    assert!(not_compared.all(extra), "{summary}");
}
