//! Any autoencoder, to send pictures through: what it leaves of them bounds what a model on its
//! latents can draw.

use std::path::Path;

use autograd::{Params, Var, no_grad};
use serde_json::Value;
use tensor::{DType, Result, Tensor};

use crate::config::VaeConfig;
use crate::data::{pictures_from_tensor, pictures_to_tensor};
use crate::folder::Component;
use crate::shapes::Picture;
use crate::taesd::Taesd;
use crate::train::setup::MODEL;
use crate::vae::{AutoencoderKl, Tiling};

/// An autoencoder of one of the kinds there are.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a program has one of these")]
pub enum Autoencoder {
    /// The one of latent diffusion.
    Kl(AutoencoderKl),
    /// A tiny one.
    Tiny(Taesd),
}

impl Autoencoder {
    /// Reads the autoencoder of a pipeline or of a finished run, the folder of one, or the files of
    /// a tiny one ([`Taesd::open`]).
    ///
    /// Errors: files missing, damaged, or of another model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let within = [path.to_owned(), path.join("vae"), path.join(MODEL).join("vae")];
        let folder = within.iter().find(|folder| folder.join("config.json").is_file());
        let Some(folder) = folder.filter(|folder| !is_tiny(folder)) else {
            return Taesd::open(folder.map_or(path, |folder| folder)).map(Self::Tiny);
        };
        let component = Component::<VaeConfig>::open(folder)?;
        let wide = |(name, tensor): (String, Tensor)| (name, tensor.to_dtype(DType::F32));
        let weights = component.weights.into_iter().map(wide);
        let params = Params::from_tensors(weights, |_| false)?;
        Ok(Self::Kl(AutoencoderKl::new(component.config, &params)?))
    }

    /// Pixels per latent along each axis.
    pub fn spatial_factor(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().spatial_factor(),
            Self::Tiny(vae) => vae.config().spatial_factor(),
        }
    }

    /// The latents of pictures with values in \[-1, 1\], the most likely ones.
    ///
    /// Shapes: \[B, 3, height, width\] → \[B, C_z, height/f, width/f\].
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let pictures = Var::constant(pictures.clone());
        let latents = no_grad(|| match self {
            Self::Kl(vae) => Ok(vae.encode(&pictures)?.mode().clone()),
            Self::Tiny(vae) => vae.encode(&pictures),
        });
        Ok(latents?.value())
    }

    /// Pictures from latents, at once or by tiles.
    ///
    /// Shapes: \[B, C_z, height, width\] → \[B, 3, height·f, width·f\].
    pub fn decode(&self, latents: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let decode = |latents: &Var| match self {
            Self::Kl(vae) => vae.decode(latents),
            Self::Tiny(vae) => vae.decode(latents),
        };
        match tiling {
            Some(tiling) => tiling.decode(latents, decode),
            None => Ok(no_grad(|| decode(&Var::constant(latents.clone())))?.value()),
        }
    }

    /// A picture of any size after encoding and decoding. Sides that latents do not fill are filled
    /// by repeating the border, which is cut off again.
    ///
    /// Errors: a picture without pixels.
    pub fn reconstruct(&self, picture: &Picture, tiling: Option<Tiling>) -> Result<Picture> {
        let (width, height) = (picture.width(), picture.height());
        let whole = |side: usize| side.next_multiple_of(self.spatial_factor());
        let filled = resized(picture, whole(width), whole(height));
        let latents = self.encode(&pictures_to_tensor(&[filled])?)?;
        let decoded = pictures_from_tensor(&self.decode(&latents, tiling)?)?;
        Ok(resized(&decoded[0], width, height))
    }
}

/// Whether the configuration in a folder is that of a tiny autoencoder. One that cannot be read is
/// for whoever opens the folder to complain of.
fn is_tiny(folder: &Path) -> bool {
    let config = std::fs::read(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    config["_class_name"] == "AutoencoderTiny"
}

/// The picture cut to a size, or filled up to it by its last column and row.
fn resized(picture: &Picture, width: usize, height: usize) -> Picture {
    let mut resized = Picture::filled(width, height, [0; 3]);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let (from_x, from_y) = (x.min(picture.width() - 1), y.min(picture.height() - 1));
        resized.set_pixel(x, y, picture.pixel(from_x, from_y));
    }
    resized
}

/// Peak signal-to-noise ratio of two pictures of one size in decibels, 10·log₁₀(255²/MSE): 30 is
/// seen at a second look, 40 hardly, and pictures that are equal have infinitely many.
///
/// # Panics
/// If the pictures differ in size.
pub fn psnr(a: &Picture, b: &Picture) -> f64 {
    let sizes = [a, b].map(|picture| [picture.width(), picture.height()]);
    assert_eq!(sizes[0], sizes[1], "sizes of pictures to compare");
    let squares = a.rgb().iter().zip(b.rgb()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.rgb().len() as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decibels_are_what_they_should_be() {
        let [black, white, grey] =
            [[0; 3], [255; 3], [25, 26, 25]].map(|c| Picture::filled(3, 2, c));
        assert_eq!(psnr(&black, &white), 0.0);
        assert_eq!(psnr(&white, &white), f64::INFINITY);
        let mean = (2.0 * 25.0_f64.powi(2) + 26.0_f64.powi(2)) / 3.0;
        assert!((psnr(&black, &grey) - 10.0 * (65025.0 / mean).log10()).abs() < 1e-12);
    }

    #[test]
    fn pictures_are_filled_by_their_border_and_cut_again() {
        let mut picture = Picture::filled(3, 2, [1; 3]);
        picture.set_pixel(2, 1, [9; 3]);
        let filled = resized(&picture, 5, 4);
        assert_eq!(
            [filled.pixel(4, 3), filled.pixel(1, 3), filled.pixel(4, 0)],
            [[9; 3], [1; 3], [1; 3]]
        );
        assert_eq!(resized(&filled, 3, 2), picture);
    }
}
