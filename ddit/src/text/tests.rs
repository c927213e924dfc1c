//! Tests against hand-made examples, and against the public T5 vocabulary where it is at hand.

use super::*;
use crate::shapes::WORDS;

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
    assert_eq!((cut.ids.len(), cut.learn), (7, vec![false; 7]));
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

#[test]
fn mistakes_are_errors() {
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(empty.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    assert!(Tokenizer::of_words(["a", "a"]).is_err());
    assert!(Tokenizer::of_words(["two words"]).is_err());
    let broken = vec![("tokenizer.json", b"{".to_vec())];
    assert!(Tokenizer::from_files(broken).is_err());
}

/// The official pipeline's tokenizers and the examples beside the specification, which are not in
/// the repository: `DDIT_SHARED` names the folder that has them.
#[test]
fn official_tokenizers() {
    let Ok(shared) = std::env::var("DDIT_SHARED") else {
        eprintln!("skipped: DDIT_SHARED is not set");
        return;
    };
    let reference = Path::new(&shared).join("reference");
    for (file, pad) in [("tokenizer_t5.json", "<pad>"), ("tokenizer_small.json", END)] {
        let json = std::fs::read(reference.join("fixtures").join(file)).unwrap();
        let fixture = parse(&json).unwrap();
        let folder = reference.join(fixture["tokenizer"].as_str().unwrap());
        let tokenizer = Tokenizer::open(folder.join("tokenizer")).unwrap();
        assert_eq!(tokenizer.len() as u64, fixture["length"]);
        assert_eq!(u64::from(tokenizer.mask()), fixture["mask_id"]);
        assert_eq!(tokenizer.inner.id_to_token(tokenizer.pad()).unwrap(), pad);
        for case in fixture["cases"].as_array().unwrap() {
            let ids = tokenizer.encode(case["text"].as_str().unwrap()).unwrap();
            assert_eq!(serde_json::to_value(&ids).unwrap(), case["ids"]);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded_clean"]);
        }
    }
}

/// Rows of question and answer as the official packing makes them from ids.
#[test]
fn official_packing() {
    let Ok(shared) = std::env::var("DDIT_SHARED") else {
        eprintln!("skipped: DDIT_SHARED is not set");
        return;
    };
    let file = Path::new(&shared).join("reference/fixtures/sft_packing.json");
    let fixture = parse(&std::fs::read(file).unwrap()).unwrap();
    let ids = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    let length = fixture["max_length"].as_u64().unwrap() as usize;
    let pad = fixture["pad_id"].as_u64().unwrap() as u32;
    let examples = fixture["examples"].as_array().unwrap();
    for example in examples.iter().filter(|example| example["reverse"] == false) {
        let (question, answer) = (ids(&example["question_ids"]), ids(&example["answer_ids"]));
        let row = Row::pack(&question[..question.len() - 1], &answer, length, pad);
        assert_eq!(row.ids, ids(&example["input_ids"]));
        let learn: Vec<u32> = row.learn.iter().map(|&learn| learn.into()).collect();
        assert_eq!(learn, ids(&example["label_mask"]));
    }
}
