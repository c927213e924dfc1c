//! What a transformer's run begins with: a model that was there before, or fresh weights.

use std::path::Path;

use tensor::{DType, Error, Result};

use super::config::RunConfig;
use super::networks::check_trainable;
use super::setup::{check_latents, open_model, transformer_geometry, vae_geometry};
use crate::config::{TransformerConfig, VaeConfig};
use crate::data::Dataset;
use crate::folder::{Component, Folder};
use crate::mmdit;
use crate::t5::T5Config;
use crate::text::{END, Tokenizer};

/// What a transformer's run begins with.
pub struct Start {
    /// The transformer.
    pub transformer: Component<TransformerConfig>,
    /// The encoder by whose states it reads texts, if it does.
    pub text_encoder: Option<Component<T5Config>>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
}

/// The model that the settings name to start from, if they name one.
///
/// Errors: those of [`open_model`].
pub fn init(config: &RunConfig) -> Result<Option<Folder>> {
    match config.init.as_str() {
        "" => Ok(None),
        path => open_model(Path::new(path)).map(Some),
    }
}

/// Refuses a run that starts from a model which cannot learn from the latents of the autoencoder
/// that is yet to be trained: before, and not after that has taken its time.
///
/// Errors: no such model; those of [`check_latents`]; latents of other channels than the model's;
/// patterns that match nothing.
pub fn check(config: &RunConfig) -> Result<()> {
    let Some(model) = init(config)? else { return Ok(()) };
    let vae = vae_geometry(&config.autoencoder, config.data.size);
    check_latents(config, Some(&model.transformer.config), Some(&vae))?;
    let encoder = model.text_encoder.as_ref().map(|encoder| &encoder.config);
    check_trainable(config, &model.transformer.config, encoder)?;
    Start::from_model(model, latent_shape(config, Some(&vae))).map(drop)
}

impl Start {
    /// A model that was there before, for latents of a shape.
    ///
    /// Errors: latents of other channels than the model's; those of the tokenizer.
    pub fn from_model(model: Folder, shape: [usize; 3]) -> Result<Self> {
        let Folder { transformer, text_encoder, tokenizer, .. } = model;
        let channels = transformer.config.in_channels;
        if channels != shape[0] {
            let message =
                format!("the model takes latents of {channels} channels, these have {}", shape[0]);
            return Err(Error::value("train", message).key("autoencoder.source"));
        }
        // Training pads with </s>, and so does whoever uses the model then.
        Ok(Self { transformer, text_encoder, tokenizer: tokenizer.with_pad(END)? })
    }

    /// Fresh weights for latents of a shape, and a tokenizer of the data's words.
    ///
    /// Errors: an impossible geometry; those of the tokenizer.
    pub fn fresh(config: &RunConfig, dataset: &Dataset, shape: [usize; 3]) -> Result<Self> {
        let tokenizer = dataset.tokenizer(config.data.vocabulary)?;
        let geometry = transformer_geometry(&config.model, shape, tokenizer.len());
        geometry.check()?;
        let weights = mmdit::inventory(&geometry).fresh(config.seed, DType::F32)?;
        let transformer = Component { config: geometry, weights };
        Ok(Self { transformer, text_encoder: None, tokenizer })
    }
}

/// Channels, height and width of the data's latents, or of its pictures where there are none.
pub fn latent_shape(config: &RunConfig, vae: Option<&VaeConfig>) -> [usize; 3] {
    let size = config.data.size;
    let side = |vae: &VaeConfig| size / vae.spatial_factor();
    vae.map_or([3, size, size], |vae| [vae.latent_channels, side(vae), side(vae)])
}
