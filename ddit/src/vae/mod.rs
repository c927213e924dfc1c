//! The autoencoder between pictures and the latents that the transformer works on.
//!
//! Each level is a few residual blocks; between levels the sides halve on the way down and double
//! on the way up. The latents of a picture are a normal distribution, of which mean and variance
//! are known. Source: Rombach et al. 2022, §3.1 and appendix G; Esser et al. 2024, §5.1 (sixteen
//! channels).

mod decoder;
mod encoder;
mod resnet;
mod tiles;

use autograd::{Params, Var};
use tensor::{Device, Result, Tensor};

use crate::config::VaeConfig;
use crate::weights::Inventory;

use decoder::Decoder;
use encoder::Encoder;
pub use tiles::Tiling;

/// The tensors of an autoencoder of this geometry.
pub fn inventory(config: &VaeConfig) -> Inventory {
    let mut list = Inventory::default();
    Encoder::list(&mut list, config);
    Decoder::list(&mut list, config);
    list
}

/// The autoencoder.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// The autoencoder of this geometry on these parameters, which are those of [`inventory`].
    ///
    /// Errors: the geometry is impossible; a parameter is missing.
    pub fn new(config: VaeConfig, params: &Params) -> Result<Self> {
        config.check()?;
        Ok(Self {
            encoder: Encoder::new(&config, &params.scope("encoder"))?,
            decoder: Decoder::new(&config, &params.scope("decoder"))?,
            config,
        })
    }

    /// The geometry.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The distribution of the latents of pictures with values in \[-1, 1\].
    ///
    /// Shapes: \[B, 3, height, width\] → \[B, C_z, height/f, width/f\], f two to the number of
    /// levels but one; what remains of an odd side is left out on the way down.
    #[track_caller]
    pub fn encode(&self, pictures: &Var) -> Result<Posterior> {
        self.observe_encode(pictures, &mut |_| {})
    }

    /// As [`encode`](Self::encode); `observer` sees what each of the encoder's levels gives, from
    /// the picture's resolution down, and after them the middle.
    #[track_caller]
    pub fn observe_encode(
        &self,
        pictures: &Var,
        observer: &mut dyn FnMut(&Var),
    ) -> Result<Posterior> {
        let moments = self.encoder.forward(pictures, observer)?.chunk(1, 2)?;
        Ok(Posterior { mean: moments[0].clone(), logvar: moments[1].clamp(-30.0, 20.0)? })
    }

    /// Pictures from latents on the autoencoder's own scale; values in \[-1, 1\] but for error.
    ///
    /// Shapes: \[B, C_z, height, width\] → \[B, 3, height·f, width·f\].
    #[track_caller]
    pub fn decode(&self, latents: &Var) -> Result<Var> {
        self.decoder.forward(latents)
    }

    /// As [`decode`](Self::decode), tile by tile: for pictures whose decoding at once does not fit
    /// in memory. Near to that, not equal; see [`Tiling::decode`]. The picture is put together in
    /// this machine's memory.
    pub fn decode_tiled(&self, latents: &Tensor, tiling: Tiling) -> Result<Tensor> {
        tiling.decode(latents, |latents| self.decode(latents)?.to_device(&Device::Cpu))
    }

    /// Latents as the transformer wants them: (z − shift) · scale.
    #[track_caller]
    pub fn to_model(&self, latents: &Var) -> Result<Var> {
        let shift = self.config.shift_factor.unwrap_or(0.0);
        latents.add_scalar(-shift)?.mul_scalar(self.config.scaling_factor)
    }

    /// The reverse of [`to_model`](Self::to_model): x / scale + shift.
    #[track_caller]
    pub fn from_model(&self, latents: &Var) -> Result<Var> {
        let shift = self.config.shift_factor.unwrap_or(0.0);
        latents.mul_scalar(1.0 / self.config.scaling_factor)?.add_scalar(shift)
    }
}

/// The latents of pictures, as a normal distribution with independent elements.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Mean \[B, C_z, height, width\].
    pub mean: Var,
    /// Logarithm of the variance \[B, C_z, height, width\], between −30 and 20.
    pub logvar: Var,
}

impl Posterior {
    /// A sample: mean + exp(logvar/2) · noise, `noise` standard normal of the mean's shape.
    ///
    /// A gradient flows through it to both. Source: Kingma & Welling 2014, §2.4.
    #[track_caller]
    pub fn sample(&self, noise: &Tensor) -> Result<Var> {
        let deviation = self.logvar.mul_scalar(0.5)?.exp()?;
        let noise = noise.to_device(&self.mean.device())?;
        self.mean.add(&deviation.mul(&Var::constant(noise))?)
    }

    /// The most likely latents: the mean.
    pub fn mode(&self) -> &Var {
        &self.mean
    }

    /// Kullback-Leibler divergence from the standard normal, averaged over all elements:
    /// ½ (μ² + σ² − 1 − ln σ²). Source: Kingma & Welling 2014, appendix B.
    #[track_caller]
    pub fn kl(&self) -> Result<Var> {
        let excess = self.mean.square()?.add(&self.logvar.exp()?)?.sub(&self.logvar)?;
        excess.mean_all()?.add_scalar(-1.0)?.mul_scalar(0.5)
    }
}

#[cfg(test)]
mod tests;
