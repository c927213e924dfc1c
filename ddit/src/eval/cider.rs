//! CIDEr-D: how much of what several people said of a picture a caption says too.
//!
//! A text becomes four vectors: its n-grams for n = 1..4, each weighted by how often it occurs and
//! by ln(images / images whose references have it). Two texts are compared by the cosine of their
//! vectors, in which a candidate gains nothing by repeating itself (the minimum), times
//! exp(−(difference of lengths)²/72); the length is the number of bigrams, as in the public code.
//!
//! Source: Vedantam et al. 2015, §4.2.

use std::collections::{BTreeMap, BTreeSet};

use tensor::{Error, Result};

/// The longest n-grams.
const LONGEST: usize = 4;

/// Twice the variance of the penalty on lengths.
const PENALTY: f64 = 72.0;

/// An n-gram.
type Gram<'a> = &'a [&'a str];

/// The score of each candidate, 0 to 10, against the references of its picture. Words are what
/// stands between white space: tokenise before. Papers print the mean times 100.
///
/// Errors: not as many candidates as pictures; a picture without references.
pub fn cider_d<S: AsRef<str>>(candidates: &[S], references: &[Vec<S>]) -> Result<Vec<f64>> {
    if candidates.len() != references.len() || references.iter().any(Vec::is_empty) {
        let message = format!(
            "{} candidates for {} pictures, each of which needs a reference",
            candidates.len(),
            references.len()
        );
        return Err(Error::value("cider_d", message));
    }
    let candidates: Vec<Vec<&str>> = candidates.iter().map(words).collect();
    let references: Vec<Vec<Vec<&str>>> =
        references.iter().map(|texts| texts.iter().map(words).collect()).collect();
    let mut pictures: BTreeMap<Gram, usize> = BTreeMap::new();
    for texts in &references {
        let distinct: BTreeSet<Gram> = texts.iter().flat_map(|text| grams(text)).collect();
        distinct.into_iter().for_each(|gram| *pictures.entry(gram).or_default() += 1);
    }
    let weight = |gram: Gram| {
        let with = pictures.get(gram).copied().unwrap_or(0).max(1);
        (references.len() as f64).ln() - (with as f64).ln()
    };
    let score = |(candidate, texts): (&Vec<&str>, &Vec<Vec<&str>>)| {
        let candidate = Vectors::new(candidate, weight);
        let total: f64 = texts.iter().map(|t| candidate.likeness(&Vectors::new(t, weight))).sum();
        10.0 * total / LONGEST as f64 / texts.len() as f64
    };
    Ok(candidates.iter().zip(&references).map(score).collect())
}

fn words<S: AsRef<str>>(text: &S) -> Vec<&str> {
    text.as_ref().split_whitespace().collect()
}

/// All n-grams of a text, once for every time they occur.
fn grams<'a>(text: &'a [&'a str]) -> impl Iterator<Item = Gram<'a>> {
    (1..=LONGEST).flat_map(|n| text.windows(n))
}

/// A text as four weighted vectors.
struct Vectors<'a> {
    by_length: [BTreeMap<Gram<'a>, f64>; LONGEST],
    bigrams: f64,
}

impl<'a> Vectors<'a> {
    fn new(text: &'a [&'a str], weight: impl Fn(Gram) -> f64) -> Self {
        let mut by_length: [BTreeMap<Gram, f64>; LONGEST] = Default::default();
        for gram in grams(text) {
            *by_length[gram.len() - 1].entry(gram).or_default() += weight(gram);
        }
        Self { by_length, bigrams: text.len().saturating_sub(1) as f64 }
    }

    /// The sum over n of the clipped cosines, with the penalty on the difference of lengths.
    fn likeness(&self, reference: &Self) -> f64 {
        let norm = |v: &BTreeMap<Gram, f64>| v.values().map(|x| x * x).sum::<f64>().sqrt();
        let cosine = |(own, other): (&BTreeMap<Gram, f64>, &BTreeMap<Gram, f64>)| {
            let shared = own.iter().filter_map(|(gram, x)| Some((x, other.get(gram)?)));
            let product: f64 = shared.map(|(x, y)| x.min(*y) * y).sum();
            let norms = norm(own) * norm(other);
            if norms == 0.0 { product } else { product / norms }
        };
        let cosines: f64 = self.by_length.iter().zip(&reference.by_length).map(cosine).sum();
        cosines * (-(self.bigrams - reference.bigrams).powi(2) / PENALTY).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references() -> Vec<Vec<&'static str>> {
        vec![vec!["a b c d e"], vec!["f g h i j", "f g"]]
    }

    #[test]
    fn the_reference_itself_scores_10() {
        let scores = cider_d(&["a b c d e", "x y"], &references()).unwrap();
        assert!((scores[0] - 10.0).abs() < 1e-12);
        assert_eq!(scores[1], 0.0);
    }

    #[test]
    fn length_and_repetition_are_held_against_a_candidate() {
        let score = |text| cider_d(&[text, ""], &references()).unwrap()[0];
        // One 1-gram of five, and four bigrams less.
        let want = 10.0 / 4.0 / 5_f64.sqrt() * (-16.0 / 72.0_f64).exp();
        assert!((score("a") - want).abs() < 1e-12);
        // Repeating it leaves the product and doubles the norm: the cosine is halved, no more.
        let twice = 10.0 / 4.0 * (1.0 / (2.0 * 5_f64.sqrt())) * (-9.0 / 72.0_f64).exp();
        assert!((score("a a") - twice).abs() < 1e-12);
    }

    #[test]
    fn what_every_picture_has_counts_for_nothing() {
        let scores = cider_d(&["a", "a"], &[vec!["a"], vec!["a"]]).unwrap();
        assert_eq!(scores, [0.0, 0.0]);
        assert!(cider_d(&["a"], &[vec![]]).is_err() && cider_d(&["a"; 2], &[vec!["a"]]).is_err());
    }
}
