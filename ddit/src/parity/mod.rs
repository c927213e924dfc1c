//! Parity: our results beside stored ones of the official model, tensor by tensor.
//!
//! A set of fixtures is a manifest and the safetensors files it names. A case of the set has a
//! kind, which says what is to be computed; inputs (`in.`); and expected results, each with its
//! tolerance (`out.`, gradients `grad.`, values on the way `mid.`, extras `aux.`). Widths, levels,
//! patches, steps are all read from the set, so any set of the same format runs.
//!
//! | file | what it holds |
//! |---|---|
//! | `manifest` | the set, its cases, and the JSON they are written in |
//! | `trial` | a case being run: what is given, what has been compared |
//! | `compare` | how near is near enough: every rule, in one place |
//! | `features`, `networks`, `losses`, `training`, `sampling`, `optimizer`, `metrics` | the kinds |
//! | `tokens`, `pictures`, `pipelines`, `checkpoints` | kinds about texts, pictures and files |
//!
//! A kind is a function from a [`Trial`] to comparisons, and one line in [`KINDS`]. What is not in
//! the list is reported as not supported, and so is an expected result that the function of its
//! kind does not compute. Values on the way and extras that it does not compute are told as not
//! compared.

mod checkpoints;
mod compare;
mod features;
mod losses;
mod manifest;
mod metrics;
mod networks;
mod optimizer;
mod pictures;
mod pipelines;
mod sampling;
mod tokens;
mod training;
mod trial;

use std::collections::BTreeMap;
use std::fmt;

use tensor::Result;

pub use compare::{Comparison, Deviation};
pub use manifest::{Case, FixtureSet};

use trial::Trial;

/// A kind's name, and the function that compares a case of it.
type Kind = (&'static str, fn(&mut Trial) -> Result<()>);

/// The kinds there are.
const KINDS: [Kind; 26] = [
    ("timestep_features", features::timestep_features),
    ("pos_embed", features::position_table),
    ("pos_embed_rows", features::position_rows),
    ("t5_buckets", features::relative_positions),
    ("t5", networks::text_encoder),
    ("ddit_forward", networks::transformer),
    ("vae_encode", networks::encoder),
    ("vae_decode", networks::decoder),
    ("time_sampling", losses::times),
    ("text_loss_logits", losses::text_from_logits),
    ("text_loss", losses::text),
    ("image_loss", losses::image),
    ("train_steps", training::steps),
    ("optimizer", optimizer::adamw),
    ("flow_schedule", sampling::schedule),
    ("t2i_sample", sampling::pictures),
    ("text_sample", sampling::texts),
    ("vqa_infill", sampling::texts),
    ("tokenizer", tokens::tokenizer),
    ("sft_packing", tokens::rows),
    ("image_preprocess", pictures::preparation),
    ("single_file", checkpoints::single_file),
    ("real_shapes", checkpoints::shapes),
    ("pipeline_t2i", pipelines::pictures),
    ("pipeline_i2t", pipelines::texts),
    ("metrics", metrics::scores),
];

/// What became of a case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Expected results beside ours, in the order in which they were computed.
    pub comparisons: Vec<Comparison>,
    /// What of the case is not supported: its kind, or some of its results.
    pub unsupported: Vec<String>,
    /// Values on the way and extras that are stored, but not computed here.
    pub not_compared: Vec<String>,
}

/// What became of several cases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Cases of which something was compared.
    pub cases: usize,
    /// Comparisons.
    pub tensors: usize,
    /// How many of them are over tolerance.
    pub over: usize,
    /// What is not supported, and how often it occurred.
    pub unsupported: BTreeMap<String, usize>,
    /// What else is stored and was not compared, and how often it occurred.
    pub not_compared: BTreeMap<String, usize>,
}

impl Summary {
    /// Takes in another case.
    pub fn add(&mut self, report: &Report) {
        self.cases += usize::from(!report.comparisons.is_empty());
        self.tensors += report.comparisons.len();
        self.over += report.comparisons.iter().filter(|c| !c.ok()).count();
        for (count, names) in [
            (&mut self.unsupported, &report.unsupported),
            (&mut self.not_compared, &report.not_compared),
        ] {
            names.iter().for_each(|name| *count.entry(name.clone()).or_default() += 1);
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, tensors, over, unsupported, not_compared } = self;
        match over {
            0 => write!(f, "all of {tensors} tensors of {cases} cases are within tolerance")?,
            _ => write!(f, "{over} of {tensors} tensors of {cases} cases are OVER TOLERANCE")?,
        }
        for (told, names) in [("not compared", not_compared), ("not supported", unsupported)] {
            let names: Vec<String> =
                names.iter().map(|(name, count)| format!("{name} ({count})")).collect();
            if !names.is_empty() {
                write!(f, "; {told}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
