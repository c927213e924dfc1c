//! Gets the algorithm wrong in every way of `docs/mutations.md`, one at a time, in a copy of what is
//! committed, and sees the tests fail that the page names.
//!
//! ```sh
//! cargo run --release -p tests --example mutations [WORDS OF A TITLE, OR A FILE]
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use tests::mutations::{Mutation, Test, mutations};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/mutations.md")).expect("the page is there");
    let words = env::args().skip(1).collect::<Vec<_>>().join(" ");
    let mut chosen = mutations(&page);
    chosen.retain(|mutation| [&mutation.title, &mutation.file].iter().any(|s| s.contains(&words)));
    if chosen.is_empty() {
        eprintln!("no mutation of docs/mutations.md is titled {words:?}, or of such a file");
        return ExitCode::FAILURE;
    }

    // Beside the build of this program, so that a second run builds little.
    let program = env::current_exe().expect("this program is a file");
    let folder = program.ancestors().nth(3).expect("it is built in a folder").join("mutations");
    let copy = Copy::of(&root, folder);
    let all: BTreeSet<&Test> = chosen.iter().flat_map(|mutation| &mutation.tests).collect();
    let failed = copy.failures(&all);
    assert!(failed.is_empty(), "without any mutation: {failed:?}");

    let mut unseen = 0;
    for mutation in &chosen {
        let missed = copy.missed(mutation);
        let seen = if missed.is_empty() { "caught" } else { "MISSED" };
        println!("{seen}  {}  ({})", mutation.title, mutation.file);
        missed.iter().for_each(|test| println!("        by {}", test.name));
        unseen += missed.len();
    }
    println!("{} mutations, {unseen} tests that did not see theirs", chosen.len());
    if unseen == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A copy of the repository that is broken and mended again.
struct Copy {
    source: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn of(root: &Path, folder: PathBuf) -> Self {
        let (source, target) = (folder.join("source"), folder.join("target"));
        let _ = fs::remove_dir_all(&source);
        let mut clone = Command::new("git");
        let clone = clone.args(["clone", "--quiet", "--shared"]).arg(root).arg(&source);
        assert!(clone.status().expect("git is there").success(), "the repository is copied");
        Self { source, target }
    }

    /// The tests of a mutation that pass all the same.
    fn missed<'a>(&self, mutation: &'a Mutation) -> Vec<&'a Test> {
        let path = self.source.join(&mutation.file);
        let right = fs::read_to_string(&path).expect("the file is there");
        let wrong = mutation.mutated(&self.source).unwrap_or_else(|error| panic!("{error}"));
        fs::write(&path, wrong).expect("the copy can be written");
        let failed = self.failures(&mutation.tests.iter().collect());
        fs::write(&path, right).expect("the copy can be written");
        mutation.tests.iter().filter(|test| !failed.contains(test)).collect()
    }

    /// Which of the tests fail.
    fn failures<'a>(&self, tests: &BTreeSet<&'a Test>) -> Vec<&'a Test> {
        let packages: BTreeSet<&str> = tests.iter().map(|test| &test.package[..]).collect();
        let mut failed = Vec::new();
        for package in packages {
            let of_package: Vec<&&Test> = tests.iter().filter(|t| t.package == package).collect();
            let mut cargo = Command::new("cargo");
            cargo.current_dir(&self.source).env("CARGO_TARGET_DIR", &self.target);
            // The tests named are small: what takes time is to build the crates that change.
            cargo.env("CARGO_INCREMENTAL", "1");
            for package in ["kernels", "tensor", "autograd", "samplers", "ddit"] {
                let quick = format!("profile.release.package.{package}.opt-level=0");
                cargo.args(["--config", &quick]);
            }
            cargo.args(["test", "--release", "--lib", "-p", package, "--", "--exact"]);
            cargo.args(of_package.iter().map(|test| &test.name));
            let output = cargo.output().expect("cargo is there");
            let (told, log) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let count = format!("running {} test", of_package.len());
            assert!(told.contains(&count), "not all tests ran:\n{log}{told}");
            let fails = |test: &&&&Test| {
                let says = |end| told.contains(&format!("test {}{end}", test.name));
                says(" ... FAILED") || says(" - should panic ... FAILED")
            };
            failed.extend(of_package.iter().filter(fails).map(|test| **test));
        }
        failed
    }
}
