//! What several tests of a GPU train and ask: a D-DiT of two blocks, and a run.

use std::fs;
use std::path::Path;

use ddit::config::TransformerConfig;
use ddit::train::{RunConfig, Trainer};
use serde_json::json;
use tensor::Device;

/// A transformer of two blocks that reads ids of eleven words.
pub fn config() -> TransformerConfig {
    serde_json::from_value(json!({
        "vocab_size": 11, "sample_size": 6, "patch_size": 2, "in_channels": 3, "out_channels": 3,
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 0, "caption_projection_dim": 16, "pos_embed_max_size": 5,
        "text_embedding": true, "max_text_length": 8,
    }))
    .unwrap()
}

/// A run of a transformer of one block on pixels.
pub fn open(out: &Path, device: &Device) -> Trainer {
    let settings = [
        "autoencoder.source=none",
        "model.blocks=1",
        "model.width=16",
        "model.heads=2",
        "model.patch=32",
        "data.scenes=8",
        "batch.images=2",
        "batch.texts=2",
        "run.log_every=1",
        "run.steps=4",
    ];
    let config = RunConfig::load("tiny", &settings.map(str::to_owned)).unwrap();
    fs::create_dir_all(out).unwrap();
    Trainer::open(config, out, device, &mut |_, _| Ok(())).unwrap()
}
