//! The registry: what every operation must be, by going through the list of them.

use std::path::Path;

use autograd::ops;
use autograd::spec::{Case, Draw, Spec, check_op};
use tensor::{DType, Tensor};

/// Random instances over all operations together: `DDIT_CASES`, or ten thousand.
fn cases() -> usize {
    let cases = std::env::var("DDIT_CASES").unwrap_or("10000".into());
    cases.parse().expect("DDIT_CASES is the number of random instances")
}

/// Forward against reference in every float type, gradients and second derivatives against
/// difference quotients, equal bits in every layout.
#[test]
fn every_operation_is_what_it_says() {
    let each = cases().div_ceil(ops::all().count());
    let reports = ops::all().map(|op| check_op(op, each, 1).unwrap());
    let wrong = reports.filter(|report| !report.passed()).map(|report| report.to_string());
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Fused operations that answer constants; asking for the derivative of those is an error, as the
/// test above has seen. All others have a second derivative, and it is right.
const ONCE: [&str; 13] = [
    "cross_entropy",
    "linear_cross_entropy",
    "softmax",
    "log_softmax",
    "layer_norm",
    "ada_layer_norm",
    "rms_norm",
    "group_norm",
    "attention",
    "linear_gelu",
    "linear_gate_residual",
    "conv2d",
    "upsample_conv2d",
];

#[test]
fn second_derivatives_are_missing_where_they_are_said_to_be() {
    let has_none = |op: &&dyn Spec| check_op(*op, 2, 1).unwrap().second_f64.is_none();
    let once: Vec<_> = ops::all().filter(has_none).map(Spec::name).collect();
    assert_eq!(once, ONCE);
}

#[test]
fn names_are_unique_and_equations_are_there() {
    let mut names: Vec<_> = ops::all().map(Spec::name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(ops::all().all(|op| !op.equation().is_empty() && ops::find(op.name()).is_some()));
}

/// Each operation's instances, of which the checks above see the first ones.
fn instances(op: &dyn Spec) -> impl Iterator<Item = Case> {
    (1..=cases().min(100) as u64).map(|seed| op.case(&mut Draw::new(seed, DType::F64)).unwrap())
}

#[test]
fn every_operation_is_tried_strided_and_with_an_empty_axis() {
    for op in ops::all() {
        let has = |is: fn(&Tensor) -> bool| instances(op).any(|case| case.inputs.iter().any(is));
        assert!(has(|x| !x.is_contiguous()), "{} is never tried on strides", op.name());
        assert!(has(|x| x.numel() == 0), "{} is never tried on an empty axis", op.name());
    }
}

/// The documentation in front of a line of source.
fn doc_above(lines: &[&str], line: usize) -> String {
    let is_above = |line: &&&str| {
        let line = line.trim_start();
        line.starts_with("///") || line.starts_with("#[")
    };
    let above = lines[..line].iter().rev().take_while(is_above);
    let mut doc: Vec<_> = above.filter_map(|line| line.trim_start().strip_prefix("///")).collect();
    doc.reverse();
    doc.join("\n")
}

fn sources(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    files.map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// Name and documentation of each public function on variables in `src/ops`.
fn documented_functions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in sources("src/ops") {
        let lines: Vec<&str> = source.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let Some(rest) = line.trim_start().strip_prefix("pub fn ") else { continue };
            let end = lines[i..].iter().position(|line| line.ends_with('{')).unwrap();
            let signature = lines[i..=i + end].join(" ");
            let name = rest.split(['(', '<']).next().unwrap();
            if signature.contains("-> Result<") && !name.starts_with('$') {
                found.push((name.to_owned(), doc_above(&lines, i)));
            }
        }
    }
    found
}

/// Name and documentation of each formula of `kernels`.
fn documented_formulas() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in sources("../kernels/src/elementwise").iter().filter(|s| s.contains("impl Unary"))
    {
        let lines: Vec<&str> = source.lines().collect();
        let mut doc = String::new();
        for (i, line) in lines.iter().enumerate() {
            if line.starts_with("pub struct ") {
                doc = doc_above(&lines, i);
            }
            if let Some(name) = line.trim().strip_prefix("const NAME: &'static str = \"") {
                found.push((name.trim_end_matches("\";").to_owned(), doc.clone()));
            }
        }
    }
    found
}

/// Operations that are nobody's in particular, and so have no source.
const NOBODYS: [&str; 30] = [
    "neg",
    "mul_scalar",
    "add_scalar",
    "clamp",
    "exp",
    "ln",
    "sqrt",
    "square",
    "recip",
    "abs",
    "tanh",
    "sigmoid",
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "sum",
    "max",
    "reshape",
    "permute",
    "broadcast_to",
    "narrow",
    "cat",
    "to_dtype",
    "index_rows",
    "matmul",
    "linear",
    "conv2d",
];

#[test]
fn every_operation_is_documented() {
    let (functions, formulas) = (documented_functions(), documented_formulas());
    assert!(functions.len() > 30 && formulas.len() > 20, "the parser has lost its way");
    for (name, doc) in &functions {
        for part in ["shapes", "saves", "cost", "errors"] {
            assert!(
                doc.to_lowercase().contains(part),
                "{name} does not document its {part}:\n{doc}"
            );
        }
    }
    for op in ops::all() {
        let name = op.name();
        let mut docs = functions.iter().chain(&formulas).filter(|(known, _)| known == name);
        let (_, doc) = docs.next().unwrap_or_else(|| panic!("{name} is nowhere documented"));
        assert!(doc.contains(" = "), "{name} has no equation:\n{doc}");
        let has_source = doc.contains("Source: ");
        assert!(has_source != NOBODYS.contains(&name), "{name} has a source: {has_source}\n{doc}");
    }
    let exists = |name: &&str| ops::find(name).is_some();
    assert!(NOBODYS.iter().all(exists) && ONCE.iter().all(exists));
}
