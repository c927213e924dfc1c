//! What is minimised, as pure functions of given random numbers.
//!
//! | file | what it holds |
//! |---|---|
//! | `image` | flow matching: latents at a noise level, the velocity's error |
//! | `text` | masked diffusion: corrupted texts, the cross-entropy of what is hidden |
//! | `joint` | the two together, over a batch and its parts |
//! | `step` | all that a step takes in, as tensors; the way down from there |
//! | `noise` | a loss apart by level of noise |
//! | `draws` | the random numbers of a step |
//! | `vae` | the autoencoder's own loss |
//!
//! Where the paper and its released code differ, [`Recipe`](crate::config::Recipe) decides.

mod draws;
mod image;
mod joint;
mod noise;
mod step;
mod text;
mod vae;

pub use draws::Draws;
pub use image::{ImageDraws, Noised, drop_captions, image_loss_form, noise_level};
pub use joint::{ImagePairs, Losses, Objective, TextPairs};
pub use noise::{ByNoise, Loss, QUARTERS};
pub use step::{ImagePass, Step, TextPass};
pub use text::{Asked, Corrupted, TextDraws, Texts};
pub use vae::{VaeLoss, VaeObjective};

#[cfg(test)]
mod tests;
