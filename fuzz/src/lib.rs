//! Fuzz targets: input from outside in, an error or a value out, never a panic.
//!
//! Each target is a plain function of bytes. `cargo test` runs it over its corpus and over every
//! prefix and many small corruptions of each file there; cargo-fuzz (see `README.md`) searches for
//! more.

use std::path::PathBuf;
use std::sync::OnceLock;

use ddit::config::{GenerationConfig, SchedulerConfig, TransformerConfig, VaeConfig};
use ddit::data::decode::decode_picture;
use ddit::data::resize::{fit, fit_square};
use ddit::folder::Geometry;
use ddit::parity::FixtureSet;
use ddit::shapes::Caption;
use ddit::t5::T5Config;
use ddit::text::Tokenizer;
use ddit::train::RunConfig;
use ddit::train::config::Alpha;
use tempfile::TempDir;
use tensor::io::npy;
use tensor::io::safetensors::{self, SafeTensors};
use tensor::{DType, Tensor};

/// A file of tensors. One that opens may hold elements of a type we do not know.
pub fn safetensors(data: &[u8]) {
    if let Ok(file) = SafeTensors::from_bytes(data) {
        for name in file.names() {
            let _ = file.get(name).map(|tensor| tensor.to_string());
        }
    }
}

/// An index of shards `a` and `b`, which hold a tensor of their own name each.
pub fn index(data: &[u8]) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        for name in ["a", "b"] {
            save(folder.path().join(format!("{name}.safetensors")), &[(name, &[2])]);
        }
        folder
    });
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, data).expect("room for temporary files");
    if let Ok(shards) = SafeTensors::open(&path) {
        for name in shards.names() {
            shards.get(name).expect("a tensor that is where the index says").to_string();
        }
    }
}

/// A configuration of any of a pipeline's parts. Of a network whose geometry can be, the tensors
/// can be listed.
pub fn config(data: &[u8]) {
    fn list<C: Geometry>(data: &[u8]) {
        if let Ok(config) = serde_json::from_slice::<C>(data) {
            let _ = config.inventory().map(|list| list.iter().map(|w| w.shape.numel()).max());
        }
    }
    list::<TransformerConfig>(data);
    list::<VaeConfig>(data);
    list::<T5Config>(data);
    if let Ok(config) = serde_json::from_slice::<SchedulerConfig>(data) {
        let _ = config.check();
    }
    let _ = serde_json::from_slice::<GenerationConfig>(data);
}

/// A manifest of fixtures beside `case.safetensors`, in which there are tensors of the names that
/// the corpus uses. Cases run as far as they can.
pub fn manifest(data: &[u8]) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        save(folder.path().join("case.safetensors"), &CASE);
        folder
    });
    let path = folder.path().join("manifest.json");
    std::fs::write(&path, data).expect("room for temporary files");
    let Ok(set) = FixtureSet::open(&path) else { return };
    for case in set.with_shared(folder.path()).cases().unwrap_or_default() {
        let _ = case.run();
    }
}

/// The tensors that cases of [`manifest`] have, and their shapes.
const CASE: [(&str, &[usize]); 22] = [
    ("in.t", &[3]),
    ("out.emb8", &[3, 8]),
    ("out.table", &[1, 4, 4]),
    ("out.crop_1x2", &[1, 2, 4]),
    ("in.row_col", &[2, 2]),
    ("out.rows", &[2, 4]),
    ("in.rel", &[5]),
    ("in.table", &[8, 2]),
    ("out.bucket", &[5]),
    ("out.bias_3", &[1, 2, 3, 3]),
    ("out.sigmas_3_4", &[5]),
    ("in.u", &[4]),
    ("in.z", &[4]),
    ("in.logits", &[1, 3, 5]),
    ("in.u_t", &[1]),
    ("in.u_mask", &[1, 3]),
    ("in.x0", &[1, 3]),
    ("in.label_mask", &[1, 3]),
    ("out.loss", &[]),
    ("in.grads", &[2, 3]),
    ("in.param", &[3]),
    ("in.clip_a", &[2]),
];

/// Writes a file of tensors of these names and shapes.
fn save(path: PathBuf, tensors: &[(&str, &[usize])]) {
    let tensors: Vec<(&str, Tensor)> =
        tensors.iter().map(|&(name, shape)| (name, Tensor::ones(shape, DType::F32))).collect();
    let named = tensors.iter().map(|(name, tensor)| (*name, tensor));
    safetensors::save(path, named, &Default::default()).expect("room for temporary files");
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
    fn index() {
        run("index", super::index);
    }

    #[test]
    fn config() {
        run("config", super::config);
    }

    #[test]
    fn manifest() {
        run("manifest", super::manifest);
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
