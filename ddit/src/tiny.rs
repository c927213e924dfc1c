//! Models so small that tests can run all of them, in double precision too.

use serde_json::{Value, json};
use tensor::rng::Rng;
use tensor::{DType, Tensor};

use crate::config::TransformerConfig;
use crate::weights::Inventory;

/// A transformer of two blocks and eight channels on two by two patches, which embeds token ids
/// itself; with these keys in place of its own.
pub fn transformer(changes: Value) -> TransformerConfig {
    let mut config = json!({
        "vocab_size": 7, "sample_size": 4, "patch_size": 2, "in_channels": 2, "out_channels": 2,
        "num_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2,
        "joint_attention_dim": 0, "caption_projection_dim": 8, "pos_embed_max_size": 4,
        "text_embedding": true, "max_text_length": 4,
    });
    for (key, value) in changes.as_object().expect("changes are keys with values") {
        config[key] = value.clone();
    }
    serde_json::from_value(config).expect("these are a transformer's keys")
}

/// Fresh weights with noise of this size, in float64: gates that are shut would hide what is behind
/// them.
pub fn lively(list: &Inventory, size: f64) -> Vec<(String, Tensor)> {
    let lively = |(i, (name, fresh)): (u64, (String, Tensor))| {
        let noise = Rng::new(5).stream(i).normal(fresh.shape(), DType::F64).unwrap();
        let values = noise.to_f64_vec().into_iter().zip(fresh.to_f64_vec());
        let values: Vec<f64> = values.map(|(noise, fresh)| fresh + size * noise).collect();
        (name, Tensor::from_vec(values, fresh.shape()).unwrap())
    };
    (0..).zip(list.fresh(1, DType::F64).unwrap()).map(lively).collect()
}
