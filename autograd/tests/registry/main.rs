//! The registry: what every operation must be, by going through the list of them.

mod documentation;
mod savings;

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
    "linear_gate_residual",
    "mlp_gate_residual",
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
    assert!(ONCE.iter().all(|name| ops::find(name).is_some()));
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
