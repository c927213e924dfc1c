//! Tiny autoencoders: small convolutional networks that were taught what a large autoencoder does,
//! and do it nearly as well in a hundredth of the time.
//!
//! Encoder and decoder are two chains of modules, numbered as they come. The geometry is told by
//! the tensors themselves. Source: Ollin Boer Bohan, <https://github.com/madebyollin/taesd>.

mod chain;
mod config;
mod files;

use std::path::Path;

use autograd::{Params, Var};
use tensor::{DType, Result};

use crate::weights::Inventory;

use chain::Chain;
pub use config::TaesdConfig;

/// The tensors of a tiny autoencoder of this geometry: those of `encoder.` and `decoder.`, each
/// with its authors' names.
pub fn inventory(config: &TaesdConfig) -> Inventory {
    let mut list = Inventory::default();
    chain::list(&mut list, "encoder", &config.encoder());
    chain::list(&mut list, "decoder", &config.decoder());
    list
}

/// A tiny autoencoder.
#[derive(Debug)]
pub struct Taesd {
    config: TaesdConfig,
    encoder: Chain,
    decoder: Chain,
}

impl Taesd {
    /// The autoencoder of this geometry on these parameters, which are those of [`inventory`].
    ///
    /// Errors: a parameter is missing.
    pub fn new(config: TaesdConfig, params: &Params) -> Result<Self> {
        Ok(Self {
            encoder: Chain::new(&config.encoder(), &params.scope("encoder"))?,
            decoder: Chain::new(&config.decoder(), &params.scope("decoder"))?,
            config,
        })
    }

    /// Reads an autoencoder from its authors' two files (any of them, or a folder with both:
    /// `*encoder.safetensors`, `*decoder.safetensors`), or from one file, or folder, with the names
    /// of diffusers' `AutoencoderTiny`. Weights are widened to f32.
    ///
    /// Errors: files missing, damaged, or of another model; tensors missing, surplus or of another
    /// shape, all of them at once.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let found = files::read(path)?;
        let open = || {
            let config = TaesdConfig::detect(&found)?;
            let weights = inventory(&config).take(found.clone())?;
            let wide = weights.into_iter().map(|(name, w)| (name, w.to_dtype(DType::F32)));
            Self::new(config, &Params::from_tensors(wide, |_| false)?)
        };
        open().map_err(|error| error.path(path))
    }

    /// The geometry.
    pub fn config(&self) -> &TaesdConfig {
        &self.config
    }

    /// The latents of pictures with values in \[-1, 1\]: near those of the autoencoder that was
    /// imitated, scaled to a deviation of about one.
    ///
    /// Shapes: \[B, 3, height, width\] → \[B, C_z, height/f, width/f\], rounded up.
    #[track_caller]
    pub fn encode(&self, pictures: &Var) -> Result<Var> {
        // The networks know pictures as values in [0, 1].
        self.encoder.forward(&pictures.add_scalar(1.0)?.mul_scalar(0.5)?)
    }

    /// Pictures from latents; values in \[-1, 1\] but for error.
    ///
    /// Shapes: \[B, C_z, height, width\] → \[B, 3, height·f, width·f\].
    #[track_caller]
    pub fn decode(&self, latents: &Var) -> Result<Var> {
        self.decoder.forward(latents)?.mul_scalar(2.0)?.add_scalar(-1.0)
    }
}

#[cfg(test)]
mod tests;
