//! The rules, each with what it lets pass and what not.

use serde_json::{Value, json};
use tensor::DType;

use super::compare::Tolerance;
use super::*;

fn judge(rule: Value, got: &[f64], want: &[f64]) -> Deviation {
    Tolerance::parse(&rule, DType::F32).unwrap().judge(got, want)
}

#[test]
fn tolerances_are_absolute_and_relative() {
    let rule = json!({ "atol": 0.5, "rtol": 0.25, "shape": [2], "noise": 1.0 });
    // At 4, ½ + ¼·4 = 1½ is allowed; at 0, ½.
    let passes = judge(rule.clone(), &[5.5, 0.25], &[4.0, 0.0]);
    assert_eq!((passes.error, passes.tolerance, passes.ok()), (1.5, 1.5, true));
    // The larger difference is the lesser fault.
    let fails = judge(rule, &[5.0, 0.75], &[4.0, 0.0]);
    assert_eq!((fails.error, fails.tolerance, fails.ok()), (0.75, 0.5, false));
    assert!(judge(json!({ "atol": 0.0 }), &[1.0, -0.0], &[1.0, 0.0]).ok());
}

#[test]
fn what_is_no_number_is_never_near() {
    let rule = || json!({ "atol": 1e300, "rtol": 1.0 });
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    for (got, want) in [(nan, 1.0), (1.0, nan), (nan, nan), (infinity, 1.0), (1.0, infinity)] {
        assert!(!judge(rule(), &[got, 1.0], &[want, 1.0]).ok(), "{got} {want}");
    }
    assert!(judge(rule(), &[infinity], &[infinity]).ok());
}

#[test]
fn whole_numbers_are_equal_or_within_a_difference() {
    let whole = |rule: Value, got: &[f64]| {
        Tolerance::parse(&rule, DType::I64).unwrap().judge(got, &[3.0, 4.0])
    };
    assert!(whole(json!({}), &[3.0, 4.0]).ok());
    assert!(!whole(json!({}), &[3.0, 5.0]).ok());
    assert!(whole(json!({ "max_difference": 1 }), &[2.0, 5.0]).ok());
    assert!(!whole(json!({ "max_difference": 1 }), &[1.0, 4.0]).ok());
}

#[test]
fn outliers_are_few_and_have_a_limit_of_their_own() {
    let rule = json!({ "atol": 0.1, "rtol": 0.0, "allowed_outliers": 0.29, "outlier_atol": 1.0 });
    let judge = |outliers: usize, size: f64| {
        let got: Vec<f64> = (0..100).map(|i| if i < outliers { size } else { 0.05 }).collect();
        let worst = judge(rule.clone(), &got, &[0.0; 100]);
        (worst.error, worst.tolerance)
    };
    assert_eq!(judge(29, 0.9), (0.05, 0.1), "as many as are allowed");
    assert_eq!(judge(30, 0.9), (0.9, 0.1), "one too many");
    assert_eq!(judge(1, 1.5), (1.5, 1.0), "too far away");
}

#[test]
fn rules_that_make_no_sense_are_errors() {
    for rule in [
        json!({}),
        json!({ "atol": "small" }),
        json!({ "atol": -1.0 }),
        json!({ "atol": null }),
        json!({ "atol": 1.0, "max_difference": 1 }),
        json!({ "atol": 1.0, "allowed_outliers": 0.1 }),
        json!({ "atol": 1.0, "outlier_atol": 0.1 }),
        json!({ "atol": 1.0, "allowed_outliers": 1.0, "outlier_atol": 2.0 }),
    ] {
        assert!(Tolerance::parse(&rule, DType::F32).is_err(), "{rule}");
    }
}

#[test]
fn a_summary_counts_what_was_compared_and_what_cannot_be() {
    let comparison = |error: f64| Comparison {
        tensor: "out.x".into(),
        worst: Deviation { error, tolerance: 1.0 },
    };
    let mut summary = Summary::default();
    let report = |comparisons, unsupported: &[&str]| Report {
        comparisons,
        unsupported: unsupported.iter().map(|name| (*name).to_owned()).collect(),
        not_compared: Vec::new(),
    };
    summary.add(&report(vec![comparison(0.5), comparison(0.1)], &[]));
    assert_eq!(summary.to_string(), "all of 2 tensors of 1 cases are within tolerance");
    summary.add(&report(vec![comparison(2.0)], &["out.y of kind"]));
    summary.add(&report(vec![], &["t5"]));
    let extra = Report { not_compared: vec!["aux.z of kind".into()], ..report(vec![], &["t5"]) };
    summary.add(&extra);
    let told = "1 of 3 tensors of 2 cases are OVER TOLERANCE; not compared: aux.z of kind (1); \
                not supported: out.y of kind (1), t5 (2)";
    assert_eq!(summary.to_string(), told);
}

/// The list of kinds is what support follows from: no name twice.
#[test]
fn kinds_are_named_once() {
    let names = KINDS.map(|(name, _)| name);
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name}");
    }
}
