//! `docs/` and the examples stay true: links lead to the items they name, the code of the tour is
//! the code of its test, plots are what the library draws, every equation has its test, and mistakes
//! that the page of mutations describes can be made.

use std::fs;
use std::path::{Path, PathBuf};

use autograd::spec::{Case, OpReport};
use tensor::rng::Rng;
use tests::links::links;
use tests::mixture::{TWO_PEAKS, exact_end};
use tests::mutations::mutations;

#[path = "../../samplers/examples/own_flow.rs"]
mod own_flow;
#[path = "../../autograd/examples/own_op.rs"]
mod own_op;

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn links_lead_to_the_items_they_name() {
    let mut broken = Vec::new();
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/tour.md",
        "docs/equations.md",
        "docs/operations.md",
        "docs/mutations.md",
        "docs/speed.md",
    ] {
        let folder = root().join(page);
        let folder = folder.parent().expect("a file is in a folder");
        let found = links(&read(page));
        assert!(!found.is_empty() || page == "ARCHITECTURE.md", "{page} has no links");
        for link in found {
            if let Err(error) = link.follow(folder) {
                broken.push(format!("{page}: {error}"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Lines without indentation, so that a piece of code is the same at any depth.
fn flat(code: &str) -> String {
    code.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn code_of_the_tour_is_tested_code() {
    let (tour, source) = (read("docs/tour.md"), flat(&read("tests/tests/tour.rs")));
    let blocks: Vec<&str> = tour.split("```rust\n").skip(1).collect();
    let mut rest = &source[..];
    for block in &blocks {
        let code = flat(block.split("```").next().expect("a block ends"));
        let place = rest.find(&code).unwrap_or_else(|| panic!("not in tour.rs, in order:\n{code}"));
        rest = &rest[place + code.len()..];
    }
    assert!(blocks.len() > 5, "the tour shows the step");
}

/// Each mistake of the page can be made, and there is a test of that name where it says.
/// The example `mutations` makes them and runs the tests.
#[test]
fn mutations_can_be_made() {
    let mutations = mutations(&read("docs/mutations.md"));
    assert!(mutations.len() >= 20, "the page has lost mutations");
    for mutation in mutations {
        let wrong = mutation.mutated(&root()).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(wrong, read(&mutation.file), "{} changes nothing", mutation.title);
    }
}

/// The names of all tests `equation_N_…` of the workspace, with N.
fn equation_tests(folder: &Path, found: &mut Vec<(u32, String)>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            equation_tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("source is text");
            let names = source.lines().filter_map(|line| line.trim().strip_prefix("fn equation_"));
            found.extend(names.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).map(
                |rest| {
                    let name = rest.split(['(', '<']).next().expect("a split has a first part");
                    let number = name.split('_').next().expect("a split has a first part");
                    (number.parse().expect("a number"), format!("equation_{name}"))
                },
            ));
        }
    }
}

/// The section of each equation names its tests, all of them, its functions, and its plot.
#[test]
fn every_equation_has_function_test_and_plot() {
    let page = read("docs/equations.md");
    let mut tests = Vec::new();
    for folder in ["autograd", "ddit", "samplers", "tests"] {
        equation_tests(&root().join(folder), &mut tests);
    }
    let sections: Vec<&str> = page.split("\n## Equation ").skip(1).collect();
    assert_eq!(sections.len(), 10);
    for (number, section) in (1..).zip(sections) {
        assert!(section.starts_with(&format!("{number}:")), "equation {number} in its place");
        let links = links(section);
        let named = |name: &str| links.iter().any(|link| link.item() == Some(name));
        let own: Vec<&String> =
            tests.iter().filter(|(n, _)| *n == number).map(|(_, name)| name).collect();
        assert!(!own.is_empty(), "equation {number} has no test");
        for name in own {
            assert!(named(name), "equation {number} does not name {name}");
        }
        let functions = links.iter().filter_map(|link| link.item());
        assert!(functions.filter(|item| !item.starts_with("equation_")).count() > 0);
        let plot = format!("plots/equation-{number}.svg");
        assert!(links.iter().any(|link| link.target == plot), "equation {number} has no plot");
    }
}

#[test]
fn plots_are_what_the_library_draws() {
    for (name, svg) in tests::figures::all().unwrap() {
        let stored = read(&format!("docs/plots/{name}"));
        assert!(stored == svg, "{name} differs: cargo run --release -p tests --example docs");
    }
}

#[test]
fn the_table_of_operations_is_the_registry() {
    let stored = read("docs/operations.md");
    let redo = "cargo run --release -p tests --example docs";
    assert!(stored == tests::operations::page(), "docs/operations.md differs: {redo}");
}

#[test]
fn examples_are_short() {
    for example in ["samplers/examples/own_flow.rs", "autograd/examples/own_op.rs"] {
        let lines = read(example).lines().count();
        assert!(lines <= 80, "{example} has {lines} lines");
    }
}

#[test]
fn own_operation_has_the_right_gradient() {
    own_op::main().unwrap();
    let report = own_op::check().unwrap();
    assert!(report.passed() && report.inputs.len() == 2, "{report}");
}

/// All that the registry asks of ours: among it, the second derivative that the example says it has.
#[test]
fn own_operation_passes_what_ours_do() {
    const WIDTH: usize = 8;
    let turned = |x: &[Vec<f64>]| {
        let turn = |i: usize| {
            let (place, channel) = (i / WIDTH, i % WIDTH);
            let angle = place as f64 / 1e4_f64.powf((channel - channel % 2) as f64 / WIDTH as f64);
            let other = if channel % 2 == 0 { -x[0][i + 1] } else { x[0][i - 1] };
            x[0][i] * angle.cos() + other * angle.sin()
        };
        (0..x[0].len()).map(turn).collect()
    };
    let mut report = OpReport::new("rotary");
    let case = |dtype| {
        let x = Rng::new(1).normal([5, WIDTH], dtype)?;
        Ok(Case::new("", [x], |x| own_op::rotary(&x[0]), turned))
    };
    report.check(case).unwrap();
    assert!(report.passed() && report.second_f64.is_some(), "{report}");
}

#[test]
fn own_flow_arrives_where_it_should() {
    own_flow::main().unwrap();
    let paths = own_flow::paths(samplers::flow::Solver::Heun, 64).unwrap();
    let (noise, data) = (&paths[0], &paths[64]);
    for (&noise, &data) in noise.iter().zip(data) {
        let exact = exact_end(TWO_PEAKS, noise);
        assert!((data - exact).abs() < 0.01, "from {noise} to {data}, not {exact}");
    }
}
