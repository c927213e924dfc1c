//! A model ready for use: from prompts to pictures, and from pictures to texts.
//!
//! | file | what it does |
//! |---|---|
//! | `generate` | [pictures of prompts](Pipeline::generate), by flow matching with guidance |
//! | `write` | [captions](Pipeline::caption), [answers](Pipeline::ask), by unmasking |
//! | `likelihood` | [how likely a text is](Pipeline::likelihood) beside a picture |
//! | `judge` | [which of its own pictures](Pipeline::judge) a model keeps |
//! | `template` | [texts with holes](Pipeline::fill) |
//! | `model` | the networks behind both, with or without a text encoder |
//!
//! Every item of a batch has a seed of its own, S + i for item i, and comes out the same bit for
//! bit in any company: its noise is drawn from its seed alone, and the network works on each
//! sample of a batch in the same order whatever the others are.

mod generate;
mod judge;
mod likelihood;
mod model;
mod template;
mod write;

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;

use autograd::Var;
use tensor::rng::Rng;
use tensor::{DType, Device, Error, Result, Tensor};

use crate::config::Recipe;
use crate::data::{pictures_to_tensor, resize};
use crate::folder::Folder;
use crate::mmdit::Mmdit;
use crate::shapes::Picture;
use crate::t5::T5Encoder;
use crate::text::Tokenizer;
use crate::vae::{AutoencoderKl, Tiling};

pub use model::{Model, Prompts, Texts, token_ids};

pub use generate::{FlowTrace, GenerateOptions, Generated};
pub use judge::Judgement;
pub use template::{Piece, parse_template};
pub use write::{TextTrace, WriteOptions, Written};

/// Items worked on at a time, unless options say otherwise: it bounds memory, not results.
pub const BATCH: usize = 16;

/// Pixels that are decoded at a time, but at least one picture: one of 512² takes about a gigabyte.
const DECODED: usize = 512 * 512;

/// What an item's seed is used for; each use has a stream of its own.
#[derive(Clone, Copy)]
enum Use {
    Noise,
    Latents,
    Tokens,
    Candidates,
}

/// A model ready for use.
pub struct Pipeline {
    folder: Folder,
    model: Model,
    vae: Option<AutoencoderKl>,
    /// The last null text and what the model reads of it: mostly there is but one.
    null: Mutex<Option<(Vec<u32>, Texts)>>,
    /// Why a GPU could not record a velocity.
    refusal: Mutex<Option<Error>>,
}

/// Called as sampling goes along, with the number of steps done and of steps in all. An error of
/// its ends the sampling, which returns it.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// How masks become words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSampler {
    /// First whether, then which: the law of the reverse process.
    Exact,
    /// The released code's race in single precision.
    DdpmCache,
    /// The words the model is surest of come first.
    Confidence,
}

/// Which latents of a picture the model sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latents {
    /// A sample of the autoencoder's posterior.
    #[default]
    Sample,
    /// Its mean.
    Mode,
}

impl TextSampler {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 3] =
        [("exact", Self::Exact), ("ddpm-cache", Self::DdpmCache), ("confidence", Self::Confidence)];

    /// The sampler a recipe uses.
    pub fn of(recipe: Recipe) -> Self {
        match recipe {
            Recipe::Paper => Self::Exact,
            Recipe::Release => Self::DdpmCache,
        }
    }
}

impl FromStr for TextSampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, sampler)) => Ok(*sampler),
            None => {
                let known = Self::ALL.map(|(name, _)| name).join(", ");
                Err(Error::value("sampler", format!("`{name}` is none of {known}")))
            }
        }
    }
}

impl fmt::Display for TextSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, sampler)| sampler == self).map_or("", |(n, _)| n);
        f.write_str(name)
    }
}

impl Pipeline {
    /// The model in a folder.
    ///
    /// Errors: those of [`Folder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(Folder::open(path)?)
    }

    /// The model in a folder whose files are in memory: paths within the folder, and contents.
    ///
    /// Errors: those of [`Folder::from_bytes`].
    pub fn from_bytes(files: &[(&str, &[u8])]) -> Result<Self> {
        Self::new(Folder::from_bytes(files)?)
    }

    /// The model of a folder's contents.
    ///
    /// Errors: a geometry that cannot be; a sampler nobody knows.
    pub fn new(folder: Folder) -> Result<Self> {
        Self::build(folder, false, &Device::Cpu)
    }

    /// The model of a folder's contents, whose networks compute on a device.
    ///
    /// Errors: as [`new`](Self::new); the device's memory does not suffice.
    pub fn on(folder: Folder, device: &Device) -> Result<Self> {
        Self::build(folder, false, device)
    }

    /// The model of a folder's contents, whose weights are read anew for every pass, block by
    /// block: it takes the memory of one block and of what is worked on, and not of the model. The
    /// same results, to the last bit. Every pass reads the blocks' files, from the operating
    /// system's cache as long as they fit there.
    ///
    /// Errors: as [`new`](Self::new).
    pub fn streaming(folder: Folder) -> Result<Self> {
        Self::build(folder, true, &Device::Cpu)
    }

    fn build(folder: Folder, streaming: bool, device: &Device) -> Result<Self> {
        if let Some(name) = &folder.generation.sampler {
            name.parse::<TextSampler>()?;
        }
        let params = folder.transformer.constants()?.to_device(device)?;
        let mut transformer = Mmdit::new(folder.transformer.config.clone(), &params)?;
        if streaming {
            transformer = transformer.streaming(&params);
        }
        let text_encoder = match &folder.text_encoder {
            Some(t5) => {
                let params = t5.constants()?.to_device(device)?;
                let encoder = T5Encoder::new(t5.config.clone(), &params)?;
                Some(if streaming { encoder.streaming(&params) } else { encoder })
            }
            None => None,
        };
        let vae = match &folder.vae {
            Some(vae) => {
                let params = vae.constants()?.to_device(device)?;
                Some(AutoencoderKl::new(vae.config.clone(), &params)?)
            }
            None => None,
        };
        let model = Model { transformer, text_encoder };
        let (null, refusal) = Default::default();
        Ok(Self { folder, model, vae, null, refusal })
    }

    /// Configurations, weights and tokenizer.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The dual diffusion transformer.
    pub fn transformer(&self) -> &Mmdit {
        &self.model.transformer
    }

    /// The text encoder, if the transformer reads texts by its states.
    pub fn text_encoder(&self) -> Option<&T5Encoder> {
        self.model.text_encoder.as_ref()
    }

    /// The networks of both directions.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The autoencoder, if the model works on latents.
    pub fn vae(&self) -> Option<&AutoencoderKl> {
        self.vae.as_ref()
    }

    /// Text to ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.folder.tokenizer
    }

    /// Pixels per latent along each axis.
    pub fn spatial_factor(&self) -> usize {
        self.vae.as_ref().map_or(1, |vae| vae.config().spatial_factor())
    }

    /// Side in pixels of the pictures the model was made for.
    pub fn side(&self) -> usize {
        self.transformer().config().sample_size * self.spatial_factor()
    }

    /// That pictures fitted to `side` pixels have places in the model.
    ///
    /// Errors: they have not.
    pub fn check_resolution(&self, side: usize) -> Result<()> {
        let sees = match [self.patch_side(), self.longest_side()] {
            [least, _] if side < least => format!("at least {least}"),
            [_, most] if side > most => format!("at most {most}"),
            _ => return Ok(()),
        };
        Err(Error::value("resolution", format!("{side} pixels a side; the model sees {sees}")))
    }

    /// The side of a patch in pixels.
    fn patch_side(&self) -> usize {
        self.spatial_factor() * self.transformer().config().patch_size
    }

    /// The longest side in pixels for which the model has places.
    fn longest_side(&self) -> usize {
        self.patch_side() * self.transformer().config().pos_embed_max_size
    }

    /// The most tokens of a text, where the model has a limit.
    fn longest_text(&self) -> usize {
        self.transformer().config().max_text_length.unwrap_or(usize::MAX)
    }

    /// Pictures from what the transformer works on, as numbers around ±1; as they are or by tiles.
    ///
    /// Large pictures are decoded a few at a time, so that many need no more memory than
    /// [`DECODED`] pixels do.
    ///
    /// Shapes: \[B, C_in, height, width\] → \[B, 3, height, width\] in pixels.
    pub(crate) fn decode(&self, latents: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let Some(vae) = &self.vae else {
            return Ok(latents.clone());
        };
        let [batch, _, height, width] = latents.dims()?;
        let pixels = height * width * self.spatial_factor().pow(2);
        let together = (DECODED / pixels.max(1)).max(1);
        let decoded = (0..batch).step_by(together).map(|first| {
            let latents = latents.narrow(0, first, together.min(batch - first))?;
            let latents = vae.from_model(&latents.into())?;
            match tiling {
                Some(tiling) => vae.decode_tiled(&latents.value(), tiling),
                None => vae.decode(&latents)?.value().to_device(&Device::Cpu),
            }
        });
        let decoded = decoded.collect::<Result<Vec<_>>>()?;
        Tensor::cat(&decoded.iter().collect::<Vec<_>>(), 0)
    }

    /// What the transformer works on from pictures as numbers in ±1. `noise` draws, in a given
    /// shape, what the posterior is sampled with; with none the latents are its mean.
    ///
    /// Shapes: \[B, 3, height, width\] → \[B, C_in, height, width\] in latents.
    pub(crate) fn encode(
        &self,
        pictures: Tensor,
        noise: impl FnOnce([usize; 4]) -> Result<Option<Tensor>>,
    ) -> Result<Tensor> {
        let Some(vae) = &self.vae else {
            return Ok(pictures);
        };
        let posterior = vae.encode(&Var::constant(pictures))?;
        let latents = match noise(posterior.mean.dims()?)? {
            None => posterior.mode().clone(),
            Some(noise) => posterior.sample(&noise)?,
        };
        vae.to_model(&latents)?.value().to_device(&Device::Cpu)
    }

    /// What the transformer works on from pictures of any size, fitted to `side` x `side` pixels.
    /// `seeds` has one seed a picture.
    ///
    /// Shapes: → \[B, C_in, height, width\].
    fn look_at(
        &self,
        pictures: &[&Picture],
        side: usize,
        seeds: &[u64],
        latents: Latents,
    ) -> Result<Tensor> {
        self.check_resolution(side)?;
        let fit = |picture: &&Picture| match (picture.width(), picture.height()) {
            (0, _) | (_, 0) => Err(Error::value("encode", "a picture has no pixels")),
            (width, height) if [width, height] == [side; 2] => Ok((*picture).clone()),
            _ => Ok(resize::fit(picture, side)),
        };
        let pictures = pictures.iter().map(fit).collect::<Result<Vec<_>>>()?;
        self.encode(pictures_to_tensor(&pictures)?, |[_, channels, height, width]| match latents {
            Latents::Mode => Ok(None),
            Latents::Sample => {
                let noise = seeds.iter().map(|&seed| {
                    rng(seed, Use::Latents).normal([channels, height, width], DType::F32)
                });
                let noise = noise.collect::<Result<Vec<_>>>()?;
                Tensor::stack(&noise.iter().collect::<Vec<_>>(), 0).map(Some)
            }
        })
    }
}

/// What a sampler is told by whoever watches it.
fn go_on(watched: &Result<()>) -> ControlFlow<()> {
    match watched {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// The generator of one use of an item's seed.
fn rng(seed: u64, purpose: Use) -> Rng {
    Rng::new(seed).stream(purpose as u64)
}

#[cfg(test)]
mod tests;
