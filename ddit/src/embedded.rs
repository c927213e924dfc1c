//! The model inside this program: trained on the shapes world by this program itself.
//!
//! `models/shapes/` is an ordinary pipeline folder; `PROVENANCE.md` in it tells the commands, the
//! seed and the scores. Its files are compiled in, so that every command works from any directory.

use tensor::Result;

use crate::pipeline::Pipeline;

/// A file of the folder: its path within it, and its contents.
macro_rules! file {
    ($path:literal) => {
        ($path, include_bytes!(concat!("../models/shapes/", $path)) as &[u8])
    };
}

/// The folder: paths within it, and contents. A `static`, so that the program has them once.
pub static FILES: [(&str, &[u8]); 10] = [
    file!("model_index.json"),
    file!("transformer/config.json"),
    file!("transformer/diffusion_pytorch_model.safetensors"),
    file!("vae/config.json"),
    file!("vae/diffusion_pytorch_model.safetensors"),
    file!("tokenizer/tokenizer.json"),
    file!("tokenizer/tokenizer_config.json"),
    file!("tokenizer/special_tokens_map.json"),
    file!("scheduler/scheduler_config.json"),
    file!("generation_config.json"),
];

/// Where the model comes from.
pub const PROVENANCE: &str = include_str!("../models/shapes/PROVENANCE.md");

/// The model, ready for use.
///
/// Errors: none, if the files are those of a model; a test makes sure.
pub fn pipeline() -> Result<Pipeline> {
    Pipeline::from_bytes(&FILES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_opens_and_fits_its_world() {
        let pipeline = pipeline().unwrap();
        assert_eq!(pipeline.side(), crate::shapes::SIDE);
        for word in crate::shapes::WORDS {
            assert!(pipeline.tokenizer().unknown_words(word).unwrap().is_empty(), "{word}");
        }
        assert!(pipeline.write_options().length >= crate::shapes::MAX_WORDS);
        let numbers = pipeline.folder().transformer.weights.iter().map(|(_, t)| t.numel());
        assert!(numbers.sum::<usize>() <= 12_000_000);
    }
}
