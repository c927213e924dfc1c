//! What the model learns from: pictures, captions, questions.
//!
//! | file | what it knows |
//! |---|---|
//! | [`mod@stream`] | which random numbers belong to which choice of which step |
//! | [`order`] | which samples make which step |
//! | [`shapes`] | scenes of the shapes world |
//! | [`folder`] | pictures on disk with a JSONL file of captions |
//! | [`decode`] | PNG, JPEG and WebP files |
//! | [`resize`] | making a picture of any size fit, as Pillow does |
//! | [`latents`] | what a frozen autoencoder makes of every picture, computed once |
//!
//! Sample `i` of a data set is a pure function of its settings and seed, and so is everything
//! drawn about it at a given step. That is why a resumed run sees what an uninterrupted one sees.

pub mod decode;
pub mod folder;
pub mod latents;
pub mod order;
pub mod resize;
pub mod shapes;
pub mod stream;

use std::sync::Arc;

use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

use crate::pipeline::Progress;
use crate::shapes::{Draw, Picture};
use crate::text::Tokenizer;
use crate::train::config::{DataConfig, Source};

pub use folder::Folder;
pub use latents::Latents;
pub use order::Order;
pub use shapes::Shapes;
pub use stream::{Purpose, stream};

/// A data set.
pub enum Dataset {
    /// Scenes of the shapes world.
    Shapes(Shapes),
    /// Pictures on disk.
    Folder(Folder),
}

/// The data set that was read last, for whoever needs the same again: an autoencoder and the
/// transformer on it learn from one.
#[derive(Default)]
pub struct Shelf {
    last: Option<(DataConfig, u64, Arc<Dataset>)>,
}

impl Shelf {
    /// The data set of these settings, read if it is another than the last.
    ///
    /// Errors: those of [`Dataset::open`].
    pub fn open(
        &mut self,
        config: &DataConfig,
        seed: u64,
        progress: Progress,
    ) -> Result<Arc<Dataset>> {
        if let Some((last, of, dataset)) = &self.last
            && (last, *of) == (config, seed)
        {
            return Ok(dataset.clone());
        }
        let dataset = Arc::new(Dataset::open(config, seed, progress)?);
        self.last = Some((config.clone(), seed, dataset.clone()));
        Ok(dataset)
    }
}

/// A question about a sample, and the answer to learn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `is there a red circle?`
    pub question: String,
    /// `yes`
    pub answer: String,
}

impl Dataset {
    /// The data set of these settings. Where it is read, `progress` is told how far that is.
    ///
    /// Errors: those of [`Folder::open`].
    pub fn open(config: &DataConfig, seed: u64, progress: Progress) -> Result<Self> {
        Ok(match config.source {
            Source::Shapes => {
                Self::Shapes(Shapes::new(seed, config.scenes, config.kinds, config.sorted))
            }
            Source::Folder => Self::Folder(Folder::open(config, progress)?),
        })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Shapes(shapes) => shapes.len(),
            Self::Folder(folder) => folder.len(),
        }
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The picture of sample `i`.
    pub fn picture(&self, i: usize) -> Picture {
        match self {
            Self::Shapes(shapes) => shapes.scene(i).draw(),
            Self::Folder(folder) => folder.picture(i),
        }
    }

    /// One of the captions that are true of sample `i`.
    pub fn caption(&self, i: usize, rng: &mut Rng) -> String {
        match self {
            Self::Shapes(shapes) => shapes.caption(i, rng),
            Self::Folder(folder) => folder.caption(i, rng).to_owned(),
        }
    }

    /// A question about sample `i`; `None` where nobody knows answers.
    pub fn question(&self, i: usize, rng: &mut Rng) -> Option<Asked> {
        match self {
            Self::Shapes(shapes) => Some(shapes.question(i, rng)),
            Self::Folder(_) => None,
        }
    }

    /// A word-level tokenizer for everything the data set says, of at most `limit` words.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn tokenizer(&self, limit: usize) -> Result<Tokenizer> {
        match self {
            Self::Shapes(_) => Tokenizer::of_words(crate::shapes::WORDS),
            Self::Folder(folder) => Tokenizer::of_texts(folder.captions(), limit),
        }
    }

    /// The pictures of the samples `indices` in `[-1, 1]`. Shapes: → \[B, 3, side, side\].
    ///
    /// Errors: none that a data set can cause.
    pub fn pictures(&self, indices: &[usize]) -> Result<Tensor> {
        pictures_to_tensor(&indices.iter().map(|&i| self.picture(i)).collect::<Vec<_>>())
    }
}

/// Pictures of equal size in `[-1, 1]`. Shapes: → \[B, 3, height, width\].
///
/// Errors: there is none; sizes differ.
pub fn pictures_to_tensor(pictures: &[Picture]) -> Result<Tensor> {
    let planes = pictures
        .iter()
        .map(|picture| Tensor::from_vec(picture.to_chw(), [3, picture.height(), picture.width()]));
    let planes = planes.collect::<Result<Vec<_>>>()?;
    Tensor::stack(&planes.iter().collect::<Vec<_>>(), 0)
}

/// The pictures of a tensor \[B, 3, height, width\] in `[-1, 1]`, of any float type.
///
/// Errors: another shape; a value that is infinite or no number.
pub fn pictures_from_tensor(batch: &Tensor) -> Result<Vec<Picture>> {
    let [count, _, height, width] = batch.dims()?;
    let picture = |i| {
        let values = batch.select(0, i)?.to_dtype(DType::F32).to_vec::<f32>()?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let message = format!(
                "picture {} of {count} has a pixel of {value}: the model's weights are damaged, or \
                 its numbers overflow",
                i + 1
            );
            return Err(tensor::Error::value("picture", message));
        }
        Picture::from_chw(width, height, &values)
            .map_err(|error| tensor::Error::shape("picture", error.to_string()))
    };
    (0..count).map(picture).collect()
}

/// The random numbers of the engine are those the shapes world is drawn with.
impl Draw for Rng {
    fn uniform(&mut self) -> f64 {
        self.next_uniform()
    }

    fn below(&mut self, n: usize) -> usize {
        Rng::below(self, n)
    }
}
