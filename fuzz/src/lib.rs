//! Fuzz targets: input from outside in, an error or a value out, never a panic.
//!
//! Each target is a plain function of bytes. `cargo test` runs it over its corpus and over every
//! prefix and many small corruptions of each file there; `cargo fuzz run NAME` (from this folder,
//! with cargo-fuzz installed) searches for more.

use ddit::data::decode::decode_picture;
use ddit::data::resize::{fit, fit_square};
use ddit::shapes::Caption;
use ddit::text::Tokenizer;
use ddit::train::RunConfig;
use ddit::train::config::Alpha;
use tensor::io::npy;
use tensor::io::safetensors::SafeTensors;

/// A file of tensors. One that opens may hold elements of a type we do not know.
pub fn safetensors(data: &[u8]) {
    if let Ok(file) = SafeTensors::from_bytes(data) {
        for name in file.names() {
            let _ = file.get(name).map(|tensor| tensor.to_string());
        }
    }
}

/// An array file.
pub fn npy(data: &[u8]) {
    if let Ok(tensor) = npy::from_bytes(data) {
        let _ = tensor.to_string();
    }
}

/// A caption: one that parses is written back as a caption of the same meaning.
pub fn caption(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(caption) = text.parse::<Caption>() {
        assert_eq!(caption.to_string().parse(), Ok(caption));
    }
}

/// A text for the word-level tokenizer: it encodes, and what it encodes to decodes.
pub fn tokenizer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let tokenizer = Tokenizer::of_words(ddit::shapes::WORDS).expect("the world's words fit");
    let ids = tokenizer.encode(text).expect("any text is tokens, unknown ones at worst");
    tokenizer.decode(&ids).expect("tokens are text");
}

/// A SentencePiece model: with one that opens, any text encodes, and what it encodes to decodes.
pub fn spiece(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_files(vec![("spiece.model", data.to_vec())]) else {
        return;
    };
    for text in ["A  cat. A catA ", "<extra_id_0>½ﬁe\u{301}\u{200d}▁\0日本\u{10ffff}"] {
        let ids = tokenizer.encode(text).expect("any text is tokens, unknown ones at worst");
        tokenizer.decode(&ids).expect("tokens are text");
        tokenizer.unknown_words(text).expect("a text is words");
    }
}

/// A picture file: one that opens can be made ready for the model.
pub fn picture(data: &[u8]) {
    if let Ok(picture) = decode_picture(data, Alpha::White) {
        assert_eq!(fit(&picture, 8).rgb().len(), 3 * 8 * 8);
        assert_eq!(fit_square(&picture, 5).len(), 3 * 5 * 5);
    }
}

/// Settings of a training run.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = RunConfig::load("tiny", &text.lines().map(str::to_owned).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Runs a target over its corpus, over prefixes and over files with a byte changed.
    fn run(name: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<_> = corpus.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", corpus.display());
        for file in files {
            let data = std::fs::read(file).unwrap();
            target(&data);
            let step = data.len().div_ceil(200).max(1);
            for at in (0..data.len()).step_by(step) {
                target(&data[..at]);
                for byte in [0, b'9', b'"', 0xff] {
                    let mut changed = data.clone();
                    changed[at] = byte;
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn safetensors() {
        run("safetensors", super::safetensors);
    }

    #[test]
    fn npy() {
        run("npy", super::npy);
    }

    #[test]
    fn caption() {
        run("caption", super::caption);
    }

    #[test]
    fn tokenizer() {
        run("tokenizer", super::tokenizer);
    }

    #[test]
    fn spiece() {
        run("spiece", super::spiece);
    }

    #[test]
    fn picture() {
        run("picture", super::picture);
    }

    #[test]
    fn settings() {
        run("settings", super::settings);
    }
}
