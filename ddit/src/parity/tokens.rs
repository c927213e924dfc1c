//! Texts as token ids, from JSON documents in place of tensors.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use tensor::Result;

use super::Trial;
use crate::text::{Row, Tokenizer};

/// What a document calls the tokenizer that all sets share.
const PUBLIC: &str = "public T5 vocabulary";

#[derive(Deserialize)]
struct Tokenized {
    tokenizer: String,
    length: usize,
    mask_id: u32,
    cases: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded_clean: String,
    /// The same decoded in other ways.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Packed {
    max_length: usize,
    pad_id: u32,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    question_ids: Vec<u32>,
    answer_ids: Vec<u32>,
    reverse: bool,
    input_ids: Vec<u32>,
    label_mask: Vec<u32>,
}

/// Texts to ids and back; the number of tokens, and which of them is the mask. Ids become text as
/// the pipeline makes it of them, and in no other way that a document may have besides.
pub fn tokenizer(trial: &mut Trial) -> Result<()> {
    let document: Tokenized = trial.document()?;
    let folder = match document.tokenizer.as_str() {
        PUBLIC => trial.set().shared().join("data/t5"),
        name => trial.set().folder(name).join("tokenizer"),
    };
    let tokenizer = Tokenizer::open(folder)?;
    trial.compare_flag("length", tokenizer.len() == document.length);
    trial.compare_flag("mask_id", tokenizer.mask() == document.mask_id);
    for (i, Text { text, ids, decoded_clean, .. }) in document.cases.iter().enumerate() {
        trial.compare_flag(&format!("cases[{i}].ids"), tokenizer.encode(text)? == *ids);
        let decoded = tokenizer.decode(ids)? == *decoded_clean;
        trial.compare_flag(&format!("cases[{i}].decoded_clean"), decoded);
    }
    let others = document.cases.iter().flat_map(|text| text.others.keys());
    others.collect::<BTreeSet<_>>().into_iter().for_each(|name| trial.pass_over(name));
    Ok(())
}

/// Questions and answers in rows of one length, in both orders.
pub fn rows(trial: &mut Trial) -> Result<()> {
    let Packed { max_length, pad_id, examples } = trial.document()?;
    for (i, example) in examples.iter().enumerate() {
        let pack = match example.reverse {
            true => Row::pack_reverse,
            false => Row::pack,
        };
        let cut = |ids: &[u32]| ids[..ids.len().min(max_length)].to_vec();
        let (question, answer) = (cut(&example.question_ids), cut(&example.answer_ids));
        let row = pack(&question, &answer, max_length, pad_id);
        trial.compare_flag(&format!("examples[{i}].input_ids"), row.ids == example.input_ids);
        let learn: Vec<u32> = row.learn.iter().map(|&learn| learn.into()).collect();
        trial.compare_flag(&format!("examples[{i}].label_mask"), learn == example.label_mask);
    }
    Ok(())
}
