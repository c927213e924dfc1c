//! Word-level tokenizers, for models trained from scratch on a small language.
//!
//! Four special tokens come first, then one token a word. White space separates words and
//! punctuation stands for itself, so `Q: what?` is the four words `Q`, `:`, `what`, `?`. The
//! result is an ordinary `tokenizer.json` that the Python library reads as well.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tensor::{Error, Result};

use super::{END, MASK, Tokenizer};

/// The special tokens, ids 0 to 3.
pub const SPECIAL: [&str; 4] = ["<pad>", END, "<unk>", MASK];

/// Punctuation that is written without a space before it, beyond what the clean-up of decoding
/// takes care of.
const CLINGS: [&str; 4] = [":", ";", ")", END];

impl Tokenizer {
    /// A tokenizer of the given words, whose ids are their positions after the special tokens.
    /// It pads with `</s>`, as training does.
    ///
    /// Errors: a word twice, or one that is no single word.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut seen = HashSet::new();
        let vocabulary: Vec<&str> = SPECIAL.into_iter().chain(words).collect();
        for &word in &vocabulary {
            if !seen.insert(word) {
                return Err(Error::value("tokenizer", format!("the word {word:?} occurs twice")));
            }
            if !SPECIAL.contains(&word) && split(word) != [word] {
                return Err(Error::value("tokenizer", format!("{word:?} is no single word")));
            }
        }
        let tokenizer = tokenizer_json(&vocabulary);
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": END,
            "eos_token": END,
            "unk_token": SPECIAL[2],
            "additional_special_tokens": [MASK],
            "clean_up_tokenization_spaces": true,
            "model_max_length": 512,
        });
        let special = json!({
            "pad_token": END,
            "eos_token": END,
            "unk_token": SPECIAL[2],
            "additional_special_tokens": [MASK],
        });
        let file = |name, value: &Value| (name, format!("{value:#}\n").into_bytes());
        Self::from_files(vec![
            file("tokenizer.json", &tokenizer),
            file("tokenizer_config.json", &config),
            file("special_tokens_map.json", &special),
        ])
    }

    /// A tokenizer of the words of `texts`: the `limit` most frequent ones, most frequent first,
    /// equally frequent ones in alphabetical order.
    ///
    /// Errors: as [`of_words`](Self::of_words).
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>, limit: usize) -> Result<Self> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in texts.into_iter().flat_map(split) {
            *counts.entry(word).or_default() += 1;
        }
        let mut words: Vec<(&str, usize)> = counts.into_iter().collect();
        // Stable: the map's alphabetical order stays among equals.
        words.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        Self::of_words(words.into_iter().take(limit).map(|(word, _)| word))
    }
}

/// The words of a text: runs of letters, digits and `_`, and runs of anything else but white
/// space. The same as the tokenizer's `Whitespace` pre-tokenizer, for the texts people write.
fn split(text: &str) -> Vec<&str> {
    let class = |c: char| if c.is_whitespace() { 0 } else { 1 + u8::from(is_word(c)) };
    let mut words = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let before = text[start..].chars().next().filter(|_| start < at).map(class);
        if before.is_some_and(|before| before != class(c)) {
            words.extend((before != Some(0)).then(|| &text[start..at]));
            start = at;
        }
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The contents of `tokenizer.json`.
fn tokenizer_json(vocabulary: &[&str]) -> Value {
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, &word)| (word.to_owned(), json!(id))).collect();
    let added = |(id, &word): (usize, &&str)| {
        json!({
            "id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let ending = json!([
        { "Sequence": { "id": "A", "type_id": 0 } },
        { "SpecialToken": { "id": END, "type_id": 0 } },
    ]);
    // "WordPiece" puts a space before every word but the first; no word starts with its prefix.
    let space = json!({ "type": "WordPiece", "prefix": " ", "cleanup": false });
    let cling = |mark: &str| {
        let pattern = json!({ "String": format!(" {mark}") });
        json!({ "type": "Replace", "pattern": pattern, "content": mark })
    };
    let decoders: Vec<Value> = [space].into_iter().chain(CLINGS.map(cling)).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": ending,
            "pair": ending,
            "special_tokens": { END: { "id": END, "ids": [1], "tokens": [END] } },
        },
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": SPECIAL[2] },
    })
}
