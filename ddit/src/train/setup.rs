//! From settings to geometries, and from paths to the models they lead to.

use std::path::{Path, PathBuf};

use serde_json::json;
use tensor::{Error, Result};

use super::config::{AutoencoderConfig, ModelConfig};
use crate::config::{OtherKeys, TransformerConfig, VaeConfig};
use crate::folder::{Component, Folder};

/// Where a run puts its finished model.
pub const MODEL: &str = "model";

/// Where a transformer's run trains an autoencoder, if it has to.
pub const AUTOENCODER_RUN: &str = "vae-run";

/// The geometry of an autoencoder for pictures of `size` pixels; its latents are not measured yet.
pub fn vae_geometry(settings: &AutoencoderConfig, size: usize) -> VaeConfig {
    let levels = settings.widths.len();
    // What the official library asks for beyond what this program needs.
    let other = json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "sample_size": size,
        "use_quant_conv": false,
        "use_post_quant_conv": false,
    });
    VaeConfig {
        in_channels: 3,
        out_channels: 3,
        block_out_channels: settings.widths.clone(),
        layers_per_block: settings.blocks_per_level,
        latent_channels: settings.latent_channels,
        norm_num_groups: settings.norm_groups,
        mid_block_add_attention: settings.attention,
        scaling_factor: 1.0,
        shift_factor: Some(0.0),
        other: object(other),
    }
}

/// The geometry of a transformer on latents \[channels, height, width\], for `words` tokens.
pub fn transformer_geometry(
    settings: &ModelConfig,
    [channels, height, width]: [usize; 3],
    words: usize,
) -> TransformerConfig {
    let side = height.max(width);
    TransformerConfig {
        vocab_size: words,
        sample_size: side,
        patch_size: settings.patch,
        in_channels: channels,
        out_channels: channels,
        num_layers: settings.blocks,
        attention_head_dim: settings.width / settings.heads.max(1),
        num_attention_heads: settings.heads,
        joint_attention_dim: settings.width,
        caption_projection_dim: settings.width,
        pooled_projection_dim: 0,
        pos_embed_max_size: side / settings.patch.max(1),
        text_embedding: true,
        max_text_length: Some(settings.text_length),
        other: object(json!({ "_class_name": "SD3JointModelFlexible" })),
    }
}

fn object(value: serde_json::Value) -> OtherKeys {
    match value {
        serde_json::Value::Object(keys) => keys,
        _ => unreachable!("only called with objects"),
    }
}

/// The model in a folder, or the finished one in a run's folder.
///
/// Errors: neither; those of [`Folder::open`].
pub fn open_model(path: &Path) -> Result<Folder> {
    let within = [path.join(MODEL), path.to_owned()];
    match within.iter().find(|folder| folder.join("model_index.json").is_file()) {
        Some(folder) => Folder::open(folder),
        None => Err(nothing(path, "a finished run nor a model's folder")),
    }
}

/// The autoencoder of a finished run, of a model's folder, or in a folder of its own.
///
/// Errors: none of them; those of [`Component::open`].
pub fn open_vae(path: &Path) -> Result<Component<VaeConfig>> {
    match find_vae(path) {
        Some(folder) => Component::open(&folder),
        None => Err(nothing(path, "a finished run, a model's folder nor an autoencoder's")),
    }
}

/// The folder of an autoencoder at or below `path`.
pub fn find_vae(path: &Path) -> Option<PathBuf> {
    let candidates = [path.join(MODEL).join("vae"), path.join("vae"), path.to_owned()];
    let holds = |folder: &PathBuf| {
        let config = std::fs::read_to_string(folder.join("config.json"));
        config.is_ok_and(|config| config.contains("latent_channels"))
    };
    candidates.into_iter().find(holds)
}

fn nothing(path: &Path, what: &str) -> Error {
    Error::file("open", path, format!("neither {what}"))
}
