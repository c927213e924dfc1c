//! Tests against hand-made examples, and against the public T5 vocabulary where it is at hand.

use std::io::Write as _;
use std::path::PathBuf;

use super::*;
use crate::shapes::WORDS;
use tensor::rng::Rng;

fn shapes() -> Tokenizer {
    Tokenizer::of_words(WORDS).unwrap()
}

#[test]
fn every_text_of_the_shapes_world_survives() {
    let tokenizer = shapes();
    assert_eq!((tokenizer.len(), tokenizer.mask(), tokenizer.end()), (4 + WORDS.len(), 3, 1));
    assert_eq!(tokenizer.pad(), tokenizer.end(), "training pads with </s>");
    for text in [
        "a small red circle left of a large blue square",
        "Q: what is left of the circle? A: square",
        "three triangles",
    ] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(!ids.contains(&2), "{text}: unknown words");
        assert_eq!(ids.last(), Some(&1));
        assert_eq!(tokenizer.decode(&ids).unwrap(), format!("{text}</s>"));
        assert_eq!(tokenizer.decode_clean(&[&ids[..], &[1, 1]].concat()).unwrap(), text);
        assert_eq!(tokenizer.decode_until_end(&[&ids[..], &[9, 1]].concat()).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("").unwrap(), [1]);
    assert_eq!(tokenizer.encode("  \n").unwrap(), [1]);
    assert_eq!(tokenizer.encode_open(" a <extra_id_0>  red").unwrap(), [4, 3, 13]);
}

#[test]
fn rows_have_their_length_and_end() {
    let tokenizer = shapes();
    let row = tokenizer.caption_row("a red circle", 6, 0).unwrap();
    assert_eq!(row, Row { ids: vec![4, 13, 19, 1, 0, 0], learn: vec![true; 6] });
    let cut = tokenizer.caption_row("a small red circle", 3, 0).unwrap();
    assert_eq!(cut.ids, [4, 11, 1], "n - 1 pieces and the end");

    let row = tokenizer.answer_row("is there a circle?", "yes", 12, 1).unwrap();
    assert_eq!(tokenizer.decode(&row.ids[..9]).unwrap(), "Q: is there a circle? A:");
    assert_eq!(tokenizer.decode(&row.ids[9..]).unwrap(), "yes</s></s>");
    assert_eq!(row.learn, [vec![false; 9], vec![true; 3]].concat());
    let cut = tokenizer.answer_row("is there a circle?", "yes", 7, 1).unwrap();
    assert_eq!(cut.learn, [vec![false; 6], vec![true]].concat(), "a place is left for the answer");
    assert_eq!(tokenizer.decode(&cut.ids[6..]).unwrap(), "yes");

    let row = tokenizer.reverse_row("is there a circle?", "yes", 12, 0).unwrap();
    assert_eq!(tokenizer.decode(&row.ids[..4]).unwrap(), "yes <pad> <pad> <pad>");
    assert_eq!(tokenizer.decode(&row.ids[4..]).unwrap(), "Q: is there a circle?</s>");
    assert_eq!(row.learn, [vec![true; 4], vec![false; 8]].concat());
    let cut = Row::pack_reverse(&[5, 6, 1], &[7, 8, 9, 1], 5, 0);
    assert_eq!(cut, Row { ids: vec![7, 8, 9, 5, 6], learn: vec![true, true, true, false, false] });
}

#[test]
fn unknown_words_are_found_with_what_was_meant() {
    let found = shapes().unknown_words("a cirlce and a blue elephant, a cirlce").unwrap();
    let expected = [("cirlce", Some("circle")), ("elephant", None), (",", None)];
    let expected = expected.map(|(word, nearest)| UnknownWord {
        word: word.to_owned(),
        nearest: nearest.map(str::to_owned),
    });
    assert_eq!(found, expected);
}

#[test]
fn words_are_gathered_from_texts_as_the_tokenizer_splits_them() {
    let texts = ["the cat's hat, and the \"dog\"!", "A cat; it's Müller_2 (here)."];
    let tokenizer = Tokenizer::of_texts(texts, 100).unwrap();
    for text in texts {
        assert!(tokenizer.unknown_words(text).unwrap().is_empty(), "{text}");
    }
    assert_eq!(tokenizer.encode("the cat").unwrap(), [7, 5, 1], "' cat s the are there twice");
    let small = Tokenizer::of_texts(texts, 3).unwrap();
    assert_eq!(small.len(), 7);
    let again = small.decode(&tokenizer.encode("it's").unwrap()[1..2]).unwrap();
    assert_eq!(again, "'");
}

#[test]
fn what_is_saved_opens_again() {
    let (tokenizer, folder) = (shapes(), tempfile::tempdir().unwrap());
    for (name, bytes) in tokenizer.files() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let opened = Tokenizer::open(folder.path()).unwrap();
    let text = "Q: how many squares are there? A: two";
    assert_eq!(opened.encode(text).unwrap(), tokenizer.encode(text).unwrap());
    assert_eq!(opened.pad(), tokenizer.pad());
}

/// A folder that is written pads as the tokenizer did, whether or not it had a file to say so.
#[test]
fn another_padding_is_saved() {
    for files in [4, 1] {
        let files = shapes().files().iter().take(files).cloned().collect();
        let padded = Tokenizer::from_files(files).unwrap().with_pad("<unk>").unwrap();
        let again = Tokenizer::from_files(padded.files().to_vec()).unwrap();
        assert_eq!((padded.pad(), again.pad()), (2, 2));
        assert_eq!(again.encode("a red circle").unwrap(), shapes().encode("a red circle").unwrap());
    }
}

#[test]
fn mistakes_are_errors() {
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(empty.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("spiece.model"), "{error}");
    assert!(shapes().with_pad("<mask>").is_err());
    assert_eq!(shapes().with_pad("<pad>").unwrap().pad(), 0);
    assert!(Tokenizer::of_words(["a", "a"]).is_err());
    assert!(Tokenizer::of_words(["two words"]).is_err());
    let broken = vec![("tokenizer.json", b"{".to_vec())];
    assert!(Tokenizer::from_files(broken).is_err());
}

/// A folder beside the repository, which `DDIT_SHARED` names.
fn shared(path: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
    let path = Path::new(&shared).join(path);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "there is no {}", path.display());
    let _ = writeln!(std::io::stderr(), "SKIPPED: there is no {}", path.display());
    None
}

/// T5's own tokenizer from its two files, which are not in the repository.
fn t5() -> Option<[Tokenizer; 2]> {
    let folder = shared("data/t5")?;
    Some(["tokenizer.json", "spiece.model"].map(|name| {
        let bytes = fs::read(folder.join(name)).unwrap();
        Tokenizer::from_files(vec![(name, bytes)]).unwrap()
    }))
}

#[test]
fn examples_encode_and_decode_exactly() {
    let Some(tokenizers) = t5() else { return };
    let file = fs::read(shared("data/t5/examples.json").unwrap()).unwrap();
    let examples = parse(&file).unwrap();
    let ids_of = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    for tokenizer in &tokenizers {
        assert_eq!(tokenizer.len() as u64, examples["vocab_size"]);
        for (token, id) in examples["special"].as_object().unwrap() {
            assert_eq!(u64::from(tokenizer.inner.token_to_id(token).unwrap()), *id, "{token}");
        }
        for example in examples["examples"].as_array().unwrap() {
            let text = example["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(ids, ids_of(&example["ids"]), "{text:?}");
            // SentencePiece's own answer, where the text has no sentinel.
            if !example["spm_ids"].is_null() {
                assert_eq!(ids, ids_of(&example["spm_ids"]), "{text:?}");
            }
            // The examples were decoded without the clean-up.
            let decoded = tokenizer.inner.decode(&ids, false).unwrap();
            assert_eq!(decoded, example["decoded_keep_special"].as_str().unwrap());
            let mut clean = decoded;
            CLEAN_UP.iter().for_each(|(from, to)| clean = clean.replace(from, to));
            assert_eq!(tokenizer.decode(&ids).unwrap(), clean);
        }
    }
}

/// What is made of `spiece.model` says the same as `tokenizer.json`, word for word; and the two
/// agree on texts that nobody would write.
#[test]
fn the_two_files_are_one_tokenizer() {
    let Some([from_json, from_model]) = t5() else { return };
    let json = parse(&from_json.files()[0].1).unwrap();
    let made = spiece::to_tokenizer_json(&from_model.files()[0].1, SENTINELS).unwrap();
    // Through text: scores are the numbers that a reader makes of their digits.
    let made = parse(made.to_string().as_bytes()).unwrap();
    for (part, value) in json.as_object().unwrap() {
        assert!(made[part] == *value, "{part} differs");
    }
    for number in 0..4000 {
        let text = odd_text(&mut Rng::new(5).stream(number));
        let ids = from_json.encode(&text).unwrap();
        assert_eq!(ids, from_model.encode(&text).unwrap(), "{text:?}");
        assert_eq!(from_json.decode(&ids).unwrap(), from_model.decode(&ids).unwrap(), "{text:?}");
        // Looking for the nearest of all words takes its time.
        if number < 20 {
            from_json.unknown_words(&text).unwrap();
        }
    }
}

/// Words, spaces of every kind, signs that combine, sentinels, and any character at all.
fn odd_text(rng: &mut Rng) -> String {
    const PARTS: [&str; 24] = [
        " ",
        "  ",
        "\t",
        "\n",
        "\u{a0}",
        "\u{3000}",
        "\u{200b}",
        "▁",
        "cat",
        "The",
        "Größe",
        "ﬁn",
        "①",
        "½",
        "e\u{301}",
        "\u{301}",
        "don't",
        "<extra_id_0>",
        "<extra_id_7>",
        "</s>",
        "<pad>",
        "日本語",
        "👩\u{200d}👩\u{200d}👧",
        "\u{0}",
    ];
    let mut text = String::new();
    for _ in 0..rng.below(12) {
        match rng.below(4) {
            0 => text.extend(char::from_u32(rng.below(0x11_0000) as u32)),
            1 => text.push((b' ' + rng.below(95) as u8) as char),
            _ => text.push_str(PARTS[rng.below(PARTS.len())]),
        }
    }
    text
}
