//! How near is near enough: every rule that a manifest gives, in one place.
//!
//! | the manifest says | and every element |
//! |---|---|
//! | `atol`, `rtol` | has \|got − want\| ≤ atol + rtol·\|want\| |
//! | `max_difference` | has \|got − want\| ≤ max_difference |
//! | `allowed_outliers`, `outlier_atol` besides | of all but that share does so, and the others have \|got − want\| ≤ outlier_atol |
//! | nothing, of integers or booleans | is equal |
//!
//! Outliers exist because AdamW turns a gradient near zero into a step of full size whose sign is
//! a matter of rounding.

use serde::Deserialize;
use tensor::{DType, Error, Result};

/// The rule of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    absolute: f64,
    relative: f64,
    /// The share of elements, below 1, to which only `outlier` applies.
    outliers: f64,
    outlier: f64,
}

/// A difference, and the most it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// |got − want|; infinite if one of them is no number.
    pub error: f64,
    /// What is allowed.
    pub tolerance: f64,
}

/// An expected result beside ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The manifest's name of the result.
    pub tensor: String,
    /// The deviation of the element that is worst by the rule.
    pub worst: Deviation,
}

impl Comparison {
    /// Whether the result is within tolerance.
    pub fn ok(&self) -> bool {
        self.worst.ok()
    }
}

impl Deviation {
    /// Whether the difference is allowed.
    pub fn ok(&self) -> bool {
        self.error <= self.tolerance
    }

    /// The error in units of what is allowed: above 1 it is too large.
    fn share(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.tolerance }
    }
}

/// The rules as the manifest writes them.
#[derive(Deserialize)]
struct Rules {
    atol: Option<f64>,
    rtol: Option<f64>,
    max_difference: Option<f64>,
    allowed_outliers: Option<f64>,
    outlier_atol: Option<f64>,
}

impl Tolerance {
    /// The rule in a manifest's description of a tensor of this type.
    ///
    /// Errors: no rule for floats; rules that contradict each other; tolerances below 0 or
    /// infinite; a share of outliers without its tolerance, or not within 0 ≤ share < 1.
    pub fn parse(description: &serde_json::Value, dtype: DType) -> Result<Self> {
        let fail = |message: String| Err(Error::value("tolerance", message));
        let rules = match Rules::deserialize(description) {
            Ok(rules) => rules,
            Err(error) => return fail(error.to_string()),
        };
        let Rules { atol, rtol, max_difference, allowed_outliers, outlier_atol } = rules;
        if dtype.is_float() && (atol, rtol, max_difference) == (None, None, None) {
            return fail("no atol, rtol or max_difference".into());
        }
        if max_difference.is_some() && (atol.is_some() || rtol.is_some()) {
            return fail("max_difference beside atol or rtol".into());
        }
        let given = [atol, rtol, max_difference, outlier_atol].into_iter().flatten();
        if let Some(wrong) = given.into_iter().find(|t| !(0.0..f64::INFINITY).contains(t)) {
            return fail(format!("{wrong} allows nothing, or everything"));
        }
        let (outliers, outlier) = match (allowed_outliers, outlier_atol) {
            (None, None) => (0.0, 0.0),
            (Some(share), Some(atol)) if (0.0..1.0).contains(&share) => (share, atol),
            (share, atol) => {
                return fail(format!("allowed_outliers {share:?} with outlier_atol {atol:?}"));
            }
        };
        let absolute = max_difference.or(atol).unwrap_or(0.0);
        Ok(Self { absolute, relative: rtol.unwrap_or(0.0), outliers, outlier })
    }

    /// The deviation of the worst element, outliers as far as they are allowed set aside; or that
    /// of an outlier, if one is too far away even for that.
    ///
    /// # Panics
    /// If there are not as many elements of one as of the other.
    pub fn judge(&self, got: &[f64], want: &[f64]) -> Deviation {
        assert_eq!(got.len(), want.len(), "shapes are compared before elements");
        let deviation = |(&got, &want): (&f64, &f64)| {
            let error = if got == want { 0.0 } else { (got - want).abs() };
            let error = if error.is_nan() { f64::INFINITY } else { error };
            // An infinite result is no licence for an infinite error.
            let size = if want.is_finite() { want.abs() } else { 0.0 };
            Deviation { error, tolerance: self.absolute + self.relative * size }
        };
        let mut all: Vec<Deviation> = got.iter().zip(want).map(deviation).collect();
        if all.is_empty() {
            return Deviation { error: 0.0, tolerance: self.absolute };
        }
        // A share of 0.29 allows 29 of 100, whatever the last bit of the product.
        let spare = (self.outliers * all.len() as f64 + 1e-9) as usize;
        let (outliers, worst, _) = all.select_nth_unstable_by(spare, |a, b| {
            b.share().total_cmp(&a.share()).then(b.error.total_cmp(&a.error))
        });
        let outliers = outliers.iter().map(|outlier| Deviation {
            tolerance: outlier.tolerance.max(self.outlier),
            ..*outlier
        });
        outliers
            .filter(|outlier| !outlier.ok())
            .max_by(|a, b| a.error.total_cmp(&b.error))
            .unwrap_or(*worst)
    }
}
