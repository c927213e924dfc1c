//! From settings to geometries, and from paths to the models they lead to.

use std::path::{Path, PathBuf};

use serde_json::json;
use tensor::{Error, Result};

use super::config::{AutoencoderConfig, ModelConfig, RunConfig};
use crate::config::{OtherKeys, TransformerConfig, VaeConfig};
use crate::folder::{Component, Folder};
use crate::text::words::SPECIAL;

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

/// Refuses a transformer's run whose latents do not suit its transformer, before any of them is
/// computed. The transformer is `start`, or a fresh one; latents are of `vae`, or pixels.
///
/// Errors: pictures that do not divide into latents, or latents that do not divide into patches;
/// more patches than the transformer has places for; an impossible geometry.
pub fn check_latents(
    config: &RunConfig,
    start: Option<&TransformerConfig>,
    vae: Option<&VaeConfig>,
) -> Result<()> {
    let fail = |key: &str, message: String| Err(Error::value("config", message).key(key));
    let size = config.data.size;
    let (channels, factor) = vae.map_or((3, 1), |vae| (vae.latent_channels, vae.spatial_factor()));
    let side = vae.map_or(Ok(size), |vae| latent_side(size, vae))?;
    // The data's words are not counted yet; there is one at least.
    let fresh = || transformer_geometry(&config.model, [channels, side, side], SPECIAL.len() + 1);
    let geometry = start.cloned().unwrap_or_else(fresh);
    geometry.check().map_err(|error| error.key("model"))?;
    let (patch, most) = (geometry.patch_size, geometry.pos_embed_max_size);
    if !side.is_multiple_of(patch) {
        let message =
            format!("patches of {patch} x {patch} do not fill latents of {side} x {side}");
        return fail("model.patch", message);
    }
    if side / patch > most {
        let (patches, pixels) = (side / patch, most * patch * factor);
        let message = format!("{patches} patches a side; the model has places for {most}");
        return fail("data.size", format!("{message}, which is {pixels} pixels"));
    }
    Ok(())
}

/// The side of the latents that an autoencoder makes of pictures of `size` pixels.
///
/// Errors: the pictures do not divide into latents.
pub fn latent_side(size: usize, vae: &VaeConfig) -> Result<usize> {
    let factor = vae.spatial_factor();
    match size.is_multiple_of(factor) {
        true => Ok(size / factor),
        false => {
            let message = format!("{size} pixels do not divide by the autoencoder's {factor}");
            Err(Error::value("config", message).key("data.size"))
        }
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
    let message = match path.exists() {
        true => format!("neither {what}"),
        false => "it does not exist".to_owned(),
    };
    Error::file("open", path, message)
}
