//! A small model written here, field by field; the published one is in `text/tests.rs`.

use super::super::{Tokenizer, charsmap};
use super::*;

/// A field of bytes.
fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let length = [0x80 | (length & 0x7F) as u8, (length >> 7) as u8];
    [&[number << 3 | 2][..], &length, value].concat()
}

/// A field of an integer below 128; numbers from 16 on take two bytes.
fn integer(number: u16, value: u8) -> Vec<u8> {
    match number {
        0..16 => vec![(number << 3) as u8, value],
        _ => vec![0x80 | ((number << 3) & 0x7F) as u8, (number >> 4) as u8, value],
    }
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
    bytes(1, &[bytes(1, text.as_bytes()), score, integer(3, kind)].concat())
}

/// Pieces enough for cats, and the rule that `A` is `a`.
fn model() -> Vec<u8> {
    let special = [piece("<pad>", 0.0, 3), piece("</s>", 0.0, 3), piece("<unk>", 0.0, 2)];
    let words = [("▁", -4.0), ("a", -3.0), ("▁a", -1.0), ("c", -5.0), ("t", -5.0), ("▁ca", -2.0)];
    let words = words.map(|(text, score)| piece(text, score, 1));
    let normalizer = bytes(3, &bytes(2, &charsmap::lower_case_a()));
    [special.concat(), words.concat(), normalizer].concat()
}

fn tokenizer(model: Vec<u8>, config: &str) -> Result<Tokenizer> {
    let config = ("tokenizer_config.json", config.as_bytes().to_vec());
    Tokenizer::from_files(vec![("spiece.model", model), config])
}

#[test]
fn pieces_are_found_by_their_scores() {
    let tokenizer = tokenizer(model(), r#"{"extra_ids": 2}"#).unwrap();
    assert_eq!((tokenizer.len(), tokenizer.mask(), tokenizer.pad()), (11, 10, 0));
    for (text, ids) in [
        ("a cat", &[5, 8, 7, 1][..]),
        // The rule of the map, the prefix, spaces that vanish.
        ("A  cAt ", &[5, 8, 7, 1]),
        // ▁a after a sentinel; letters unknown to the model are one token.
        ("<extra_id_0>a<extra_id_1>dog", &[10, 5, 9, 3, 2, 1]),
        ("  ", &[1]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    assert_eq!(tokenizer.decode(&[5, 8, 7, 10, 1]).unwrap(), "a cat<extra_id_0></s>");
    assert_eq!(tokenizer.files()[0].0, "spiece.model");
}

#[test]
fn settings_of_the_file_are_followed() {
    let settings = bytes(3, &[integer(3, 0), integer(4, 0)].concat());
    let json = to_tokenizer_json(&[model(), settings].concat(), 0).unwrap();
    assert_eq!(json["pre_tokenizer"]["prepend_scheme"], "never");
    assert_eq!(json["normalizer"]["normalizers"].as_array().unwrap().len(), 1);
    let own = piece(MASK, -9.0, 1);
    let json = to_tokenizer_json(&[model(), own].concat(), 100).unwrap();
    assert_eq!(json["model"]["vocab"].as_array().unwrap().len(), 10, "it has its own sentinels");
}

#[test]
fn models_of_another_kind_are_refused() {
    for (extra, told) in [
        (piece("a", 0.0, 1), "\"a\" is there twice"),
        (piece("", 0.0, 1), "piece 9"),
        (piece("x", f32::NAN, 1), "no number"),
        (piece("x", 0.0, 4), "kind 4"),
        (bytes(2, &integer(3, 2)), "not unigram"),
        (bytes(2, &integer(24, 1)), "spaces end words"),
        (bytes(2, &integer(35, 1)), "are bytes"),
        (bytes(3, &integer(5, 0)), "not escaped"),
        (bytes(3, &bytes(2, b"damaged map")), "charsmap"),
        (bytes(1, &bytes(1, &[0xFF])), "UTF-8"),
    ] {
        let error = tokenizer([model(), extra].concat(), "{}").err().unwrap().to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
    for (model, told) in
        [(piece("</s>", 0.0, 3), "unknown characters"), (piece("<unk>", 0.0, 2), "no piece </s>")]
    {
        let error = tokenizer(model, "{}").err().unwrap().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!(tokenizer(model(), r#"{"extra_ids": 99999999}"#).is_err());
}

/// No cut makes a smaller model of a model without an error, but one between two fields.
#[test]
fn cut_files_are_errors_or_whole_fields() {
    let model = model();
    let whole: Vec<usize> = {
        let mut rest = Message::new(&model);
        let mut ends = vec![0];
        while rest.next().is_some() {
            ends.push(model.len() - rest.bytes().len());
        }
        ends
    };
    for length in 0..model.len() {
        let parsed = Model::parse(&model[..length]);
        assert_eq!(parsed.is_ok(), whole.contains(&length), "{length}");
    }
}
