//! The transformer's tensors: their names, shapes and beginnings.

use crate::config::TransformerConfig;
use crate::weights::{Inventory, Start};

use super::block::{IMAGE_NAMES, TEXT_NAMES};
use super::embed::{TIME_FEATURES, position_table};

/// Number of tokens that stand for an absent image.
pub const NULL_IMAGE_TOKENS: usize = 8;

/// The tensors of a model of this geometry.
///
/// How they begin: the maps that modulate start at 0, so every block starts as the identity
/// (adaLN-Zero, Peebles & Xie 2023, §3.2), and the image head too, so the first velocity is 0.
/// Ids and their places start with variance ½ each: the variance of the table that places image
/// tokens, so that neither branch has to grow before it can tell its tokens apart.
pub fn inventory(config: &TransformerConfig) -> Inventory {
    let (width, patch) = (config.width(), config.patch_size);
    let mut list = Inventory::default();
    let deviation = 1.0 / (width as f64).sqrt();
    list.tensor("null_image_embd", [1, NULL_IMAGE_TOKENS, width], Start::Normal { deviation });

    let (side, base) = (config.pos_embed_max_size, config.sample_size / patch);
    let table = Start::Formula(Box::new(move || position_table(width, side, base)));
    list.buffer("pos_embed.pos_embed", [1, side * side, width], table);
    list.conv("pos_embed.proj", config.in_channels, width, patch);

    list.linear("time_text_embed.timestep_embedder.linear_1", TIME_FEATURES, width);
    list.linear("time_text_embed.timestep_embedder.linear_2", width, width);

    if config.text_embedding {
        let half = || Start::Normal { deviation: 0.5_f64.sqrt() };
        let places = config.max_text_length.unwrap_or(0);
        list.tensor("token_embedding.weight", [config.vocab_size, width], half());
        list.tensor("text_pos_embed", [1, places, width], half());
    } else {
        list.linear("context_embedder", config.joint_attention_dim, width);
    }

    for i in 0..config.num_layers {
        for names in [IMAGE_NAMES, TEXT_NAMES] {
            let name = |part: usize| format!("transformer_blocks.{i}.{}", names[part]);
            list.silent_linear(&name(0), width, 6 * width);
            (1..5).for_each(|part| list.linear(&name(part), width, width));
            list.linear(&name(5), width, 4 * width);
            list.linear(&name(6), 4 * width, width);
        }
    }

    list.silent_linear("image_norm_out.linear", width, 2 * width);
    list.silent_linear("image_proj_out", width, patch * patch * config.out_channels);
    list.linear("text_proj_out", width, config.vocab_size);
    list
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tiny;

    /// The geometry of SD3-medium and what is known of the published model.
    #[test]
    fn full_size_model_has_the_published_tensors() {
        let config: TransformerConfig = serde_json::from_value(json!({
            "vocab_size": 32100, "sample_size": 128, "patch_size": 2, "in_channels": 16,
            "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
            "num_attention_heads": 24, "joint_attention_dim": 4096,
            "caption_projection_dim": 1536, "pos_embed_max_size": 192,
        }))
        .unwrap();
        config.check().unwrap();
        let list = inventory(&config);
        assert_eq!(list.iter().len(), 688);
        let trained = list.iter().filter(|w| !w.buffer).map(|w| w.shape.numel());
        assert_eq!(trained.sum::<usize>(), 2_102_856_100);
        let block = list.iter().filter(|w| w.name.starts_with("transformer_blocks.7."));
        assert_eq!(block.map(|w| w.shape.numel()).sum::<usize>(), 84_980_736);
    }

    #[test]
    fn a_model_without_text_encoder_embeds_ids() {
        let config = tiny::transformer(json!({ "vocab_size": 46, "max_text_length": 16 }));
        let list = inventory(&config);
        let find = |name: &str| list.iter().find(|w| w.name == name).map(|w| w.shape);
        assert_eq!(find("token_embedding.weight").unwrap(), [46, 8]);
        assert_eq!(find("text_pos_embed").unwrap(), [1, 16, 8]);
        assert!(find("context_embedder.weight").is_none());
    }
}
