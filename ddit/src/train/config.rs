//! The settings of a training run, as its `config.toml` holds them.
//!
//! Every key has a value in every run: presets and files name what differs from the defaults
//! below, and the run's folder gets the whole. How they are put together is in [`presets`].
//!
//! [`presets`]: super::presets

use serde::{Deserialize, Serialize};
use tensor::DType;

use super::schedule::OptimizerConfig;
use crate::config::Recipe;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// The autoencoder between pictures and latents.
    Vae,
    /// The dual diffusion transformer on the latents of a frozen autoencoder.
    Dual,
}

/// Everything a run depends on. Two runs with equal settings have equal weights, bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What is trained.
    pub task: Task,
    /// Determines the fresh weights, the order of the data and all noise.
    pub seed: u64,
    /// The run or the model folder whose weights to start from; empty for fresh weights.
    pub init: String,
    /// Patterns of the weights that learn, by their [full names](super::trainable); the others stay
    /// as they are, bit for bit. Empty for all of the network that the run is of.
    pub trainable: Vec<String>,
    /// What to learn from.
    pub data: DataConfig,
    /// What pictures are turned into; the model itself in a `vae` run.
    pub autoencoder: AutoencoderConfig,
    /// The transformer's geometry, where it starts from fresh weights.
    pub model: ModelConfig,
    /// What is minimised.
    pub objective: ObjectiveConfig,
    /// How many samples make a step.
    pub batch: BatchConfig,
    /// How the weights follow the gradient.
    pub optimizer: OptimizerConfig,
    /// How long, and what is written when.
    pub run: ScheduleConfig,
    /// Defaults for sampling from the finished model, and what sample sheets are drawn with.
    pub generation: SamplingConfig,
}

/// Where samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The procedural [shapes world](crate::shapes).
    Shapes,
    /// Pictures on disk, listed with their captions in a JSONL file.
    Folder,
}

/// What becomes of a picture's transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alpha {
    /// The picture is laid on white.
    White,
    /// The channel is dropped, as the official preprocessing does.
    Drop,
}

/// What to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where samples come from.
    pub source: Source,
    /// Scenes in the training set; each has one picture, and new captions every time.
    pub scenes: usize,
    /// How often scenes of one object, of two, to be counted and clearly placed occur, relative to
    /// each other. The world's own law is `[1, 1, 1, 1]`; what is learnt last may be shown more.
    pub kinds: [f64; 4],
    /// Share of captions that name a circle before a square and both before a triangle; the others
    /// name either object first, which is the world's own law. Whether the first is left of the
    /// second then follows from the picture alone, and not from an exclusive or of the picture and
    /// the order of words: a stepping stone.
    pub sorted: f64,
    /// Side of a picture in pixels. The shapes world's is 64.
    pub size: usize,
    /// Share of the text pass's rows that are questions; the others are captions.
    pub questions: f64,
    /// `folder`: the JSONL file, one picture a line. Paths in it are relative to it.
    pub manifest: String,
    /// `folder`: the key of a picture's path.
    pub file_key: String,
    /// `folder`: the keys of captions, each a string or a list of strings.
    pub caption_keys: Vec<String>,
    /// `folder`: only lines that have these values, as in `{ split = "train" }`.
    pub only: toml::Table,
    /// `folder`: one picture that holds all as cells, in rows; empty if each has its own file.
    pub atlas: String,
    /// `folder`: side of an atlas cell in pixels.
    pub atlas_cell: usize,
    /// `folder`: the key of a picture's number in the atlas.
    pub atlas_key: String,
    /// `folder`: what becomes of transparency.
    pub alpha: Alpha,
    /// `folder`: words in the vocabulary at most, the most frequent ones.
    pub vocabulary: usize,
}

/// The autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// For a `dual` run: `train` trains one first, by `preset`, into the run's own folder; `none`
    /// makes latents of pixels; `init` takes that of the model it starts from; anything else is
    /// the path of a run or a model folder.
    pub source: String,
    /// The preset or TOML file by whose batch, optimizer and run `source = "train"` trains one, on
    /// this run's data. Its geometry and loss are the keys below.
    pub preset: String,
    /// Channels of the levels, from the pictures' resolution to the latents'.
    pub widths: Vec<usize>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub blocks_per_level: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Whether the lowest level attends.
    pub attention: bool,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Weight of the mean absolute error of a pixel.
    pub absolute_weight: f64,
    /// Weight of the mean squared error of a pixel.
    pub squared_weight: f64,
    /// Weight of the divergence of the latents from a standard normal, per latent.
    pub divergence_weight: f64,
}

/// The transformer's geometry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Channels of a token, C.
    pub width: usize,
    /// Joint blocks.
    pub blocks: usize,
    /// Attention heads, H.
    pub heads: usize,
    /// Side of a patch in latents, P.
    pub patch: usize,
    /// Tokens of a text, L.
    pub text_length: usize,
}

/// What is minimised: `image + text_weight * text`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Which reading of the two losses.
    pub recipe: Recipe,
    /// Weight of the text loss.
    pub text_weight: f64,
    /// Share of captions replaced by the empty text in the image pass, for guidance.
    pub caption_dropout: f64,
    /// Training levels of noise are moved towards 1 by a shift above 1, where a picture's plan is
    /// settled; 1 is the paper's and the released density.
    pub noise_shift: f64,
}

/// How many samples make a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Pictures of the image pass, or of an autoencoder's step.
    pub images: usize,
    /// Texts of the text pass.
    pub texts: usize,
    /// Equal parts that a batch is worked off in, for less memory at a time.
    pub micro_batches: usize,
    /// Whether the insides of blocks are computed again on the way back, not kept: less memory for
    /// a third more time, and the same bits.
    pub checkpoint_blocks: bool,
}

/// How long, and what is written when. An interval of 0 means never.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Steps.
    pub steps: u64,
    /// Minutes after which to stop early; 0 for no limit. `--resume` goes on from there.
    pub max_minutes: f64,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Steps between checkpoints; the last step leaves one in any case.
    pub checkpoint_every: u64,
    /// Checkpoints to keep.
    pub keep: usize,
    /// Steps between sample sheets.
    pub sample_every: u64,
    /// Steps between scores on the validation set.
    pub validate_every: u64,
    /// How weights that have learnt are stored in the finished transformer; checkpoints are
    /// float32, and frozen weights stay as they are.
    pub weights: Precision,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Four bytes each, as trained.
    F32,
    /// Two bytes, 8 bits of precision, float32's range.
    Bf16,
    /// Two bytes, 11 bits of precision; weights are well within the range.
    F16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::BF16,
            Precision::F16 => Self::F16,
        }
    }
}

/// Defaults for sampling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// Steps from noise to a picture.
    pub steps: usize,
    /// Scale of classifier-free guidance.
    pub guidance: f64,
    /// Pictures drawn of each prompt; the likeliest is kept.
    pub candidates: usize,
    /// Shift of the noise levels towards noise.
    pub shift: f64,
    /// Steps from masks to a text.
    pub text_steps: usize,
    /// How masks become words: `exact`, `ddpm-cache` or `confidence`; empty for the recipe's own.
    pub sampler: String,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            task: Task::Dual,
            seed: 0,
            init: String::new(),
            trainable: Vec::new(),
            data: DataConfig::default(),
            autoencoder: AutoencoderConfig::default(),
            model: ModelConfig { width: 192, blocks: 6, heads: 6, patch: 2, text_length: 16 },
            objective: ObjectiveConfig {
                recipe: Recipe::Paper,
                text_weight: 0.2,
                caption_dropout: 0.1,
                noise_shift: 1.0,
            },
            batch: BatchConfig {
                images: 64,
                texts: 64,
                micro_batches: 1,
                checkpoint_blocks: false,
            },
            optimizer: OptimizerConfig::default(),
            run: ScheduleConfig::default(),
            generation: SamplingConfig::default(),
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: Source::Shapes,
            scenes: 20_000,
            kinds: [1.0; 4],
            sorted: 0.0,
            size: crate::shapes::SIDE,
            questions: 0.0,
            manifest: String::new(),
            file_key: "file".into(),
            caption_keys: vec!["caption".into()],
            only: toml::Table::new(),
            atlas: String::new(),
            atlas_cell: 64,
            atlas_key: "id".into(),
            alpha: Alpha::White,
            vocabulary: 8_000,
        }
    }
}

impl Default for AutoencoderConfig {
    fn default() -> Self {
        Self {
            source: "train".into(),
            preset: "shapes-vae".into(),
            widths: vec![16, 32, 64, 64],
            blocks_per_level: 1,
            norm_groups: 8,
            attention: true,
            latent_channels: 8,
            absolute_weight: 1.0,
            squared_weight: 10.0,
            divergence_weight: 5e-3,
        }
    }
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            steps: 28,
            guidance: 3.0,
            candidates: 1,
            shift: 1.0,
            text_steps: 16,
            sampler: String::new(),
        }
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            steps: 1_000,
            max_minutes: 0.0,
            log_every: 10,
            checkpoint_every: 200,
            keep: 2,
            sample_every: 500,
            validate_every: 500,
            weights: Precision::F32,
        }
    }
}

impl RunConfig {
    /// The whole as TOML, as it stands in the run's folder.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("tables of numbers and strings can be written")
    }
}
