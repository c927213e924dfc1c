//! Scores of texts, from a JSON document in place of tensors.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tensor::{DType, Error, Result};

use super::compare::Tolerance;
use super::{Deviation, Trial};
use crate::eval::agreement::{normalise, vqa_accuracy};
use crate::eval::cider::cider_d;

/// Sums of thirds, in whatever order: no tolerance is given for them.
const ACCURACY: f64 = 1e-12;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    vqa_normalise: Vec<Normalised>,
    #[serde(default)]
    vqa_accuracy: Vec<Answered>,
    #[serde(default)]
    cider_d: Vec<Captioned>,
    /// Scores that are not computed here.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
struct Normalised {
    text: String,
    expect: String,
}

#[derive(Deserialize)]
struct Answered {
    prediction: String,
    answers: Vec<String>,
    expect: f64,
}

#[derive(Deserialize)]
struct Captioned {
    candidates: Vec<String>,
    references: Vec<Vec<String>>,
    mean: f64,
    scores: Vec<f64>,
    tolerance: f64,
}

/// VQA accuracy with its normalisation of answers, and CIDEr-D; any other section is told as not
/// supported.
pub fn scores(trial: &mut Trial) -> Result<()> {
    let document: Document = trial.document()?;
    for (i, Normalised { text, expect }) in document.vqa_normalise.iter().enumerate() {
        trial.compare_flag(&format!("vqa_normalise[{i}]"), normalise(text) == *expect);
    }
    for (i, case) in document.vqa_accuracy.iter().enumerate() {
        let error = (vqa_accuracy(&case.prediction, &case.answers) - case.expect).abs();
        trial.record(&format!("vqa_accuracy[{i}]"), Deviation { error, tolerance: ACCURACY });
    }
    for (i, case) in document.cider_d.iter().enumerate() {
        let scores = cider_d(&case.candidates, &case.references)?;
        if scores.len() != case.scores.len() {
            let message = format!("{} scores of {} captions", case.scores.len(), scores.len());
            return Err(Error::value("parity", message).key(format!("cider_d[{i}].scores")));
        }
        let rule = Tolerance::parse(&json!({ "atol": case.tolerance }), DType::F64)
            .map_err(|error| error.key(format!("cider_d[{i}].tolerance")))?;
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        trial.record(&format!("cider_d[{i}].mean"), rule.judge(&[mean], &[case.mean]));
        for (j, (got, want)) in scores.iter().zip(&case.scores).enumerate() {
            trial.record(&format!("cider_d[{i}].scores[{j}]"), rule.judge(&[*got], &[*want]));
        }
    }
    document.others.keys().for_each(|name| trial.leave(name));
    Ok(())
}
