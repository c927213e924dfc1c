//! `spiece.model`, in which SentencePiece keeps a vocabulary and how it prepares a text.
//!
//! The file is one protocol buffer. It becomes the `tokenizer.json` of the same tokenizer: pieces
//! and their scores are a unigram model, the preparation is a normaliser, and what T5 adds to its
//! file, the sentinels `<extra_id_99>` to `<extra_id_0>`, is added.
//! Source: Kudo & Richardson 2018; `sentencepiece_model.proto`; Raffel et al. 2020, §3.1.4.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tensor::{Error, ErrorKind, Result};

use super::protobuf::{Message, Value as Field};
use super::{END, MASK};

/// What stands for a space in a piece.
const SPACE: char = '▁';

/// More sentinels than this are a mistake.
const MOST_SENTINELS: u64 = 1 << 16;

/// What the file says, as far as it matters here.
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    /// Compiled rules that replace characters; empty for none.
    charsmap: &'a [u8],
    /// Whether a text gets a space in front.
    prefix: bool,
    /// Whether spaces at the ends and next to each other vanish.
    squeeze: bool,
}

struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Normal,
    Unknown,
    Control,
}

/// The `tokenizer.json` of the tokenizer in a `spiece.model`, with so many sentinels after the
/// pieces, unless the pieces have them already.
///
/// Errors: the file is cut off or damaged; it holds a tokenizer of another kind.
pub(super) fn to_tokenizer_json(bytes: &[u8], sentinels: u64) -> Result<Value> {
    if sentinels > MOST_SENTINELS {
        return Err(fail(format!("extra_ids is {sentinels}")));
    }
    let model = Model::parse(bytes)?;
    let mut vocabulary: Vec<Value> =
        model.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
    let special = |piece: &(usize, &Piece)| piece.1.kind != Kind::Normal;
    let mut added: Vec<Value> = (model.pieces.iter().enumerate())
        .filter(special)
        .map(|(id, piece)| added_token(id, piece.text))
        .collect();
    if model.pieces.iter().all(|piece| piece.text != MASK) {
        for i in (0..sentinels).rev() {
            let text = format!("<extra_id_{i}>");
            added.push(added_token(vocabulary.len(), &text));
            vocabulary.push(json!([text, 0.0]));
        }
    }
    let find = |is: &dyn Fn(&Piece) -> bool| model.pieces.iter().position(is);
    let Some(unknown) = find(&|piece| piece.kind == Kind::Unknown) else {
        return Err(fail("no piece is for unknown characters"));
    };
    let Some(end) = find(&|piece| piece.text == END) else {
        return Err(fail(format!("there is no piece {END}")));
    };
    let space = json!({
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": if model.prefix { "always" } else { "never" },
        "split": true,
    });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let ending = json!({ "SpecialToken": { "id": END, "type_id": 0 } });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": model.normalizer(),
        "pre_tokenizer": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), ending],
            "pair": [sequence("A"), ending, sequence("B"), ending],
            "special_tokens": { END: { "id": END, "ids": [end], "tokens": [END] } },
        },
        "decoder": space,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": vocabulary,
            "byte_fallback": false,
        },
    }))
}

impl<'a> Model<'a> {
    /// Errors: as [`to_tokenizer_json`].
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut model = Self { pieces: Vec::new(), charsmap: &[], prefix: true, squeeze: true };
        for field in Message::new(bytes) {
            match field? {
                (1, Field::Message(piece)) => {
                    let number = model.pieces.len();
                    model
                        .pieces
                        .push(Piece::parse(piece).map_err(|e| e.key(format!("piece {number}")))?);
                }
                (2, Field::Message(trainer)) => check_trainer(trainer)?,
                (3, Field::Message(normalizer)) => model.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        let mut texts: Vec<&str> = model.pieces.iter().map(|piece| piece.text).collect();
        texts.sort_unstable();
        if let Some(twice) = texts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(fail(format!("the piece {:?} is there twice", twice[0])));
        }
        Ok(model)
    }

    /// `NormalizerSpec`.
    fn read_normalizer(&mut self, message: Message<'a>) -> Result<()> {
        for field in message {
            match field? {
                (2, Field::Message(map)) => self.charsmap = map.bytes(),
                (3, Field::Integer(on)) => self.prefix = on != 0,
                (4, Field::Integer(on)) => self.squeeze = on != 0,
                (5, Field::Integer(0)) => return Err(message.error("spaces are not escaped")),
                _ => {}
            }
        }
        Ok(())
    }

    /// The steps from a text as written to one of pieces.
    fn normalizer(&self) -> Value {
        let mut steps = Vec::new();
        if !self.charsmap.is_empty() {
            let map = STANDARD.encode(self.charsmap);
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": map }));
        }
        if self.squeeze {
            steps.push(json!({ "type": "Strip", "strip_left": false, "strip_right": true }));
            let spaces = json!({ "Regex": " {2,}" });
            steps.push(json!({ "type": "Replace", "pattern": spaces, "content": SPACE }));
        }
        json!({ "type": "Sequence", "normalizers": steps })
    }
}

impl<'a> Piece<'a> {
    /// `SentencePiece`. The model finds the best row of pieces by their scores, which have to be
    /// numbers, and moves on by a piece's letters, of which there has to be one.
    fn parse(message: Message<'a>) -> Result<Self> {
        let mut piece = Self { text: "", score: 0.0, kind: Kind::Normal };
        for field in message {
            match field? {
                (1, Field::Message(text)) => piece.text = text.text()?,
                (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Integer(1)) => piece.kind = Kind::Normal,
                (3, Field::Integer(2)) => piece.kind = Kind::Unknown,
                (3, Field::Integer(3)) => piece.kind = Kind::Control,
                (3, Field::Integer(kind)) => {
                    return Err(message.error(format!("pieces of kind {kind} are not T5's")));
                }
                _ => {}
            }
        }
        if piece.text.is_empty() {
            return Err(message.error("a piece without letters"));
        }
        if !piece.score.is_finite() {
            return Err(message.error(format!("the score of {:?} is no number", piece.text)));
        }
        Ok(piece)
    }
}

/// `TrainerSpec`: that the model is a unigram one, without bytes for unknown characters and with
/// spaces in front of words.
fn check_trainer(message: Message) -> Result<()> {
    for field in message {
        match field? {
            (3, Field::Integer(kind)) if kind != 1 => {
                return Err(message.error(format!("model type {kind} is not unigram")));
            }
            (24, Field::Integer(1)) => return Err(message.error("spaces end words")),
            (35, Field::Integer(1)) => return Err(message.error("unknown characters are bytes")),
            _ => {}
        }
    }
    Ok(())
}

fn added_token(id: usize, text: &str) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    })
}

fn fail(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::File, "spiece.model", message)
}

#[cfg(test)]
mod tests;
