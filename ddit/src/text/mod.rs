//! Text to token ids and back.
//!
//! A thin layer over the `tokenizers` crate, which reads the `tokenizer.json` of any checkpoint, or
//! what a `spiece.model` says put like that: it adds what the model relies on and these files do
//! not say. Every text ends in one `</s>`,
//! padding is the folder's own choice, the mask of the text diffusion is `<extra_id_0>`, and
//! decoding undoes the spaces that tokenisation put before punctuation.
//!
//! | file | what it knows |
//! |---|---|
//! | [`words`] | makes a word-level tokenizer for a model trained from scratch |
//! | `spiece`, `protobuf`, `charsmap` | SentencePiece's own file, which T5 comes with |
//! | [`sequence`] | fixed-length rows for training: captions, questions with their answers |
//! | `tokens` | ids as networks look them up |

mod charsmap;
mod protobuf;
pub mod sequence;
mod spiece;
mod tokens;
pub mod words;

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tensor::{Error, Result};

pub use sequence::Row;
pub use tokens::Tokens;

/// The token that stands for a token not known yet. To T5 it is an ordinary word of its own.
pub const MASK: &str = "<extra_id_0>";

/// The token that ends every text.
pub const END: &str = "</s>";

/// The files of a tokenizer folder that [`Tokenizer`] reads and keeps. One of the first two is
/// needed; of two the first is followed.
pub const FILES: [&str; 4] =
    ["tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"];

/// Number of sentinels that T5 adds to its pieces, where the folder does not say.
const SENTINELS: u64 = 100;

/// What the decoder's clean-up replaces, in this order.
const CLEAN_UP: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// A tokenizer and the ids of its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    files: Vec<(&'static str, Vec<u8>)>,
    vocabulary: HashMap<String, u32>,
    pad: u32,
    end: u32,
    mask: u32,
    unknown: Option<u32>,
    clean_up: bool,
}

/// A word of a prompt that the model has never seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The word as written.
    pub word: String,
    /// The most alike of the known words, if any is.
    pub nearest: Option<String>,
}

impl Tokenizer {
    /// The tokenizer of a folder that holds `tokenizer.json` or `spiece.model`, and beside it, if
    /// they are there, `tokenizer_config.json` and `special_tokens_map.json`, which name the
    /// padding token.
    ///
    /// Errors: neither of the first two; a file that does not parse; no `</s>` or `<extra_id_0>`.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut files = Vec::new();
        for name in FILES {
            let path = folder.join(name);
            match fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("open", &path, error)),
            }
        }
        Self::from_files(files).map_err(|error| error.path(folder))
    }

    /// The tokenizer of files in memory: names as in a folder, and contents.
    ///
    /// Errors: as [`open`](Self::open).
    pub fn from_files(files: Vec<(&'static str, Vec<u8>)>) -> Result<Self> {
        let [json, model, config, special] =
            FILES.map(|name| files.iter().find(|(n, _)| *n == name).map(|(_, bytes)| &bytes[..]));
        let [config, special] = [config, special].map(|bytes| parse(bytes.unwrap_or(b"{}")));
        let (config, special) = (config?, special?);
        let mut inner = match (json, model) {
            (Some(json), _) => read_json(json)?,
            (None, Some(model)) => {
                let sentinels = config["extra_ids"].as_u64().unwrap_or(SENTINELS);
                let json = spiece::to_tokenizer_json(model, sentinels)?;
                read_json(json.to_string().as_bytes())?
            }
            (None, None) => {
                let message = format!("there is neither {} nor {}", FILES[0], FILES[1]);
                return Err(Error::value("tokenizer", message));
            }
        };
        // A file may carry the settings of whoever saved it; lengths are ours to decide.
        inner.with_truncation(None).map_err(library)?;
        inner.with_padding(None);
        let token = |name: &str| token_id(&inner, name);
        let pad = named_token(&config, "pad_token").or_else(|| named_token(&special, "pad_token"));
        Ok(Self {
            pad: token(pad.unwrap_or("<pad>"))?,
            end: token(END)?,
            mask: token(MASK)?,
            unknown: inner.token_to_id("<unk>"),
            clean_up: config["clean_up_tokenization_spaces"].as_bool().unwrap_or(true),
            vocabulary: inner.get_vocab(false),
            inner,
            files,
        })
    }

    /// The same tokenizer with another padding token than its folder names: `</s>` for one whose
    /// folder says `<pad>`, as the published ones do, which training never shows to the model. Its
    /// files say so too.
    ///
    /// Errors: there is no such token.
    pub fn with_pad(mut self, token: &str) -> Result<Self> {
        let pad = token_id(&self.inner, token)?;
        if pad == self.pad {
            return Ok(self);
        }
        self.pad = pad;
        for name in &FILES[2..] {
            let place = self.files.iter().position(|(known, _)| known == name);
            let settings =
                place.map(|place| parse(&self.files.swap_remove(place).1)).transpose()?;
            let mut settings = match settings {
                Some(Value::Object(settings)) => settings,
                _ => serde_json::Map::new(),
            };
            settings.insert("pad_token".to_owned(), token.into());
            let text = format!("{:#}\n", Value::Object(settings));
            self.files.push((name, text.into_bytes()));
        }
        Ok(self)
    }

    /// The files to put into a model's `tokenizer` folder: names and contents, as they were read.
    pub fn files(&self) -> &[(&'static str, Vec<u8>)] {
        &self.files
    }

    /// Number of tokens, special ones included: the width of the text head.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token that fills a row up: the folder's choice, or that of
    /// [`with_pad`](Self::with_pad). Training fills up with `</s>`.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The token `</s>` that ends every text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The [`MASK`] token of the text diffusion.
    pub fn mask(&self) -> u32 {
        self.mask
    }

    /// The ids of `text`, then one `</s>`. White space at its ends vanishes; special tokens
    /// written in the text are single tokens.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_open(text)?;
        ids.push(self.end);
        Ok(ids)
    }

    /// The ids of `text` without the `</s>`: a prompt that the model goes on from.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn encode_open(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false).map_err(library)?.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens kept as text, spaces before punctuation removed.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut text = self.inner.decode(ids, false).map_err(library)?;
        if self.clean_up {
            for (from, to) in CLEAN_UP {
                // Most rules apply to no text; looking is cheaper than copying.
                if text.contains(from) {
                    text = text.replace(from, to);
                }
            }
        }
        Ok(text)
    }

    /// As [`decode`](Self::decode), every `</s>` deleted: what the published pipeline returns.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn decode_clean(&self, ids: &[u32]) -> Result<String> {
        Ok(self.decode(ids)?.replace(END, ""))
    }

    /// The text up to the first `</s>`, or all of it: an answer, or a caption.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn decode_until_end(&self, ids: &[u32]) -> Result<String> {
        let length = ids.iter().position(|&id| id == self.end).unwrap_or(ids.len());
        Ok(self.decode(&ids[..length])?.trim().to_owned())
    }

    /// The words of `text` that the vocabulary does not have, each once, with the known words
    /// nearest to them: a prompt made of them asks for something the model cannot know.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn unknown_words(&self, text: &str) -> Result<Vec<UnknownWord>> {
        let encoding = self.inner.encode(text, false).map_err(library)?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        let mut found: Vec<UnknownWord> = Vec::new();
        for (_, &(from, to)) in tokens.filter(|&(&id, _)| Some(id) == self.unknown) {
            // Where normalisation leaves letters out, the crate's places may lie between letters.
            let Some(word) = text.get(from..to).map(str::to_owned) else { continue };
            if found.iter().all(|unknown| unknown.word != word) {
                let nearest =
                    tensor::spelling::nearest(&word, self.vocabulary.keys().map(String::as_str));
                found.push(UnknownWord { word, nearest: nearest.map(str::to_owned) });
            }
        }
        Ok(found)
    }
}

/// The tokenizer in a `tokenizer.json`, of which the crate believes one part unseen.
fn read_json(json: &[u8]) -> Result<tokenizers::Tokenizer> {
    /// A normaliser, or a sequence of them.
    #[derive(Default, Deserialize)]
    struct Normalizer {
        precompiled_charsmap: Option<String>,
        #[serde(default)]
        normalizers: Vec<Normalizer>,
    }
    #[derive(Deserialize)]
    struct File {
        normalizer: Option<Normalizer>,
    }
    let file: File = serde_json::from_slice(json).map_err(not_json)?;
    let mut normalizers: Vec<Normalizer> = file.normalizer.into_iter().collect();
    while let Some(Normalizer { precompiled_charsmap, normalizers: parts }) = normalizers.pop() {
        normalizers.extend(parts);
        if let Some(map) = precompiled_charsmap {
            let map = STANDARD.decode(map);
            let map = map.map_err(|error| Error::value("charsmap", error.to_string()))?;
            charsmap::check(&map)?;
        }
    }
    tokenizers::Tokenizer::from_bytes(json).map_err(library)
}

fn token_id(inner: &tokenizers::Tokenizer, name: &str) -> Result<u32> {
    inner
        .token_to_id(name)
        .ok_or_else(|| Error::value("tokenizer", format!("the vocabulary has no token {name:?}")))
}

/// The token that `settings` names under `key`: a string, or an object with its `content`.
fn named_token<'a>(settings: &'a Value, key: &str) -> Option<&'a str> {
    let token = &settings[key];
    token.as_str().or_else(|| token["content"].as_str())
}

fn parse(json: &[u8]) -> Result<Value> {
    serde_json::from_slice(json).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Error {
    Error::value("tokenizer", format!("not JSON: {error}"))
}

fn library(error: tokenizers::Error) -> Error {
    Error::value("tokenizer", error.to_string())
}

#[cfg(test)]
mod tests;
