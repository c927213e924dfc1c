//! The autoencoder's loss: pictures must come back, and latents must stay near a standard normal.

use autograd::Var;
use tensor::{Result, Tensor};

use crate::vae::AutoencoderKl;

/// The weights of the loss's three parts, each of them a mean over elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VaeObjective {
    /// Weight of |x̂ − x|, which keeps edges sharp.
    pub absolute: f64,
    /// Weight of (x̂ − x)², which keeps colours right.
    pub squared: f64,
    /// Weight of the divergence of the latents from a standard normal. Small: latents are to be
    /// bounded, not to lose what they know. Source: Rombach et al. 2022, appendix G.
    pub divergence: f64,
}

impl Default for VaeObjective {
    fn default() -> Self {
        Self { absolute: 1.0, squared: 10.0, divergence: 5e-3 }
    }
}

/// The loss and its parts before weighting.
#[derive(Clone, Debug)]
pub struct VaeLoss {
    /// The weighted sum, to be descended.
    pub total: Var,
    /// Mean absolute error of a channel of a pixel.
    pub absolute: f64,
    /// Mean squared error of a channel of a pixel.
    pub squared: f64,
    /// Mean divergence of a latent.
    pub divergence: f64,
}

impl VaeObjective {
    /// The loss of pictures with values in \[-1, 1\], whose latents are sampled with `noise`.
    ///
    /// Shapes: `pictures` \[B, 3, height, width\], `noise` \[B, C_z, height', width'\].
    /// Errors: those of the autoencoder; sides that do not divide by its factor.
    #[track_caller]
    pub fn loss(&self, vae: &AutoencoderKl, pictures: &Tensor, noise: &Tensor) -> Result<VaeLoss> {
        let pictures = Var::constant(pictures.clone());
        let posterior = vae.encode(&pictures)?;
        let decoded = vae.decode(&posterior.sample(noise)?)?;
        let error = decoded.sub(&pictures.to_device(&decoded.device())?)?;
        let parts = [error.abs()?.mean_all()?, error.square()?.mean_all()?, posterior.kl()?];
        let weights = [self.absolute, self.squared, self.divergence];
        let mut total = parts[0].mul_scalar(weights[0])?;
        for (part, weight) in parts.iter().zip(weights).skip(1) {
            total = total.add(&part.mul_scalar(weight)?)?;
        }
        let [absolute, squared, divergence] = &parts;
        Ok(VaeLoss {
            total,
            absolute: absolute.item()?,
            squared: squared.item()?,
            divergence: divergence.item()?,
        })
    }
}
