//! The configuration files of a pipeline folder, as the official pipeline writes them.
//!
//! Keys we have no use for are kept and written back, so that a folder that passes through us
//! still opens elsewhere. Keys whose other values would change the arithmetic are checked.

mod limits;

use std::fmt;
use std::str::FromStr;

use samplers::flow::TRAINING_LEVELS;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tensor::{Error, Result};

use limits::MOST_PATCH;
pub(crate) use limits::{MOST_CHANNELS, MOST_LAYERS, MOST_WORDS, check_lengths};

use crate::mmdit::check_table;

/// What a configuration file holds beside the keys named here.
pub type OtherKeys = Map<String, Value>;

/// `transformer/config.json`: the geometry of the dual diffusion transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Rows of the text head, V.
    pub vocab_size: usize,
    /// Side of the latents the position table is scaled to.
    pub sample_size: usize,
    /// Side of a patch, P.
    pub patch_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the velocity.
    pub out_channels: usize,
    /// Number of joint blocks.
    pub num_layers: usize,
    /// Width of an attention head, D.
    pub attention_head_dim: usize,
    /// Number of attention heads, H.
    pub num_attention_heads: usize,
    /// Width of the text encoder's states; without one, of no meaning.
    pub joint_attention_dim: usize,
    /// Model width, C = H · D.
    pub caption_projection_dim: usize,
    /// Width of the pooled text embedding, which this model has not.
    #[serde(default)]
    pub pooled_projection_dim: usize,
    /// Side of the stored position table, in tokens.
    pub pos_embed_max_size: usize,
    /// Whether the text branch embeds token ids itself, in place of a text encoder's states.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub text_embedding: bool,
    /// Rows of the text position table of a model with `text_embedding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_text_length: Option<usize>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl TransformerConfig {
    /// Model width, C.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Refuses geometries that cannot be and variants that are not this model.
    ///
    /// Errors: a length that is 0 or absurd; a position table of more than 2 GiB; widths that
    /// contradict each other; `text_embedding` without `max_text_length`; normalised queries and
    /// keys, or dual attention layers.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::value("transformer config", message));
        check_lengths(&[
            ("vocab_size", self.vocab_size, MOST_WORDS),
            ("sample_size", self.sample_size, MOST_CHANNELS),
            ("patch_size", self.patch_size, MOST_PATCH),
            ("in_channels", self.in_channels, MOST_CHANNELS),
            ("out_channels", self.out_channels, MOST_CHANNELS),
            ("num_layers", self.num_layers, MOST_LAYERS),
            ("attention_head_dim", self.attention_head_dim, MOST_CHANNELS),
            ("num_attention_heads", self.num_attention_heads, MOST_CHANNELS),
            ("pos_embed_max_size", self.pos_embed_max_size, MOST_CHANNELS),
        ])
        .or_else(fail)?;
        let width = self.width();
        check_table(width, self.pos_embed_max_size)?;
        if self.caption_projection_dim != width {
            return fail(format!(
                "caption_projection_dim is {}, but {} heads of {} channels make {width}",
                self.caption_projection_dim, self.num_attention_heads, self.attention_head_dim
            ));
        }
        if !width.is_multiple_of(4) {
            return fail(format!("width {width} is no multiple of 4, as the position table needs"));
        }
        if self.patch_size > self.sample_size {
            let Self { patch_size, sample_size, .. } = self;
            return fail(format!("patch_size {patch_size} is over sample_size {sample_size}"));
        }
        match (self.text_embedding, self.max_text_length) {
            (true, None) => return fail("text_embedding needs max_text_length".into()),
            (true, Some(n)) => check_lengths(&[("max_text_length", n, MOST_CHANNELS)]),
            (false, _) => {
                check_lengths(&[("joint_attention_dim", self.joint_attention_dim, MOST_CHANNELS)])
            }
        }
        .or_else(fail)?;
        for key in ["qk_norm", "dual_attention_layers"] {
            if self.other.get(key).is_some_and(is_set) {
                return fail(format!("{key} = {} is another model's", self.other[key]));
            }
        }
        Ok(())
    }
}

/// `vae/config.json`: the geometry of the autoencoder between pictures and latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of a picture going in.
    pub in_channels: usize,
    /// Channels of a picture coming out.
    pub out_channels: usize,
    /// Channels of the levels, from the picture's resolution to the latents'.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Whether the lowest level attends.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// The transformer's latents are `(z - shift_factor) * scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`; absent and null mean 0.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl VaeConfig {
    /// Pixels per latent along each axis: one halving between neighbouring levels.
    pub fn spatial_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Refuses geometries that cannot be and autoencoders of another kind.
    ///
    /// Errors: no level; a length that is 0 or absurd; channels that do not divide into the groups;
    /// convolutions around the latents (`use_quant_conv`); an activation other than SiLU.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::value("vae config", message));
        check_lengths(&[
            ("in_channels", self.in_channels, MOST_CHANNELS),
            ("out_channels", self.out_channels, MOST_CHANNELS),
            ("layers_per_block", self.layers_per_block, MOST_LAYERS),
            ("latent_channels", self.latent_channels, MOST_CHANNELS),
            ("norm_num_groups", self.norm_num_groups, MOST_CHANNELS),
        ])
        .or_else(fail)?;
        if !(1..=16).contains(&self.block_out_channels.len()) {
            return fail(format!(
                "block_out_channels names {} levels",
                self.block_out_channels.len()
            ));
        }
        let groups = self.norm_num_groups;
        let fits = |c: usize| (1..=MOST_CHANNELS).contains(&c) && c.is_multiple_of(groups);
        if let Some(c) = self.block_out_channels.iter().find(|&&c| !fits(c)) {
            return fail(format!("{c} channels do not divide into {groups} groups"));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            return fail(format!("scaling_factor is {}", self.scaling_factor));
        }
        for key in ["use_quant_conv", "use_post_quant_conv"] {
            if self.other.get(key).is_some_and(is_set) {
                return fail(format!("{key} is set, which SD3's autoencoder has not"));
            }
        }
        match self.other.get("act_fn") {
            Some(name) if name != "silu" => fail(format!("act_fn is {name}, not silu")),
            _ => Ok(()),
        }
    }
}

/// `scheduler/scheduler_config.json`: the noise levels that sampling walks through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Levels of the training table.
    #[serde(default = "training_levels")]
    pub num_train_timesteps: usize,
    /// Shift of the levels towards noise; 1 leaves them alone.
    #[serde(default = "one")]
    pub shift: f64,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl SchedulerConfig {
    /// The usual 1000 levels and this shift.
    pub fn new(shift: f64) -> Self {
        let mut other = OtherKeys::new();
        other.insert("_class_name".into(), "FlowMatchEulerDiscreteScheduler".into());
        Self { num_train_timesteps: TRAINING_LEVELS, shift, other }
    }

    /// Refuses schedules of another kind.
    ///
    /// Errors: another number of levels; a shift that is not positive; `use_dynamic_shifting`.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::value("scheduler config", message));
        if self.num_train_timesteps != TRAINING_LEVELS {
            let levels = self.num_train_timesteps;
            return fail(format!("num_train_timesteps is {levels}, not {TRAINING_LEVELS}"));
        }
        if !(self.shift.is_finite() && self.shift > 0.0) {
            return fail(format!("shift {} is not positive", self.shift));
        }
        if self.other.get("use_dynamic_shifting").is_some_and(is_set) {
            return fail("use_dynamic_shifting is not this model's".into());
        }
        Ok(())
    }
}

/// Which of two readings of the method to follow where the paper and its released code differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// The paper's equations: plain velocity loss, exact text sampling, no `</s>` after a prompt.
    Paper,
    /// What the released code computes, so that results agree with the official pipeline's.
    #[default]
    Release,
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "paper" => Ok(Self::Paper),
            "release" => Ok(Self::Release),
            _ => Err(Error::value("recipe", format!("`{name}` is neither paper nor release"))),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Release => "release",
        })
    }
}

/// `generation_config.json`: what sampling does unless it is told otherwise.
///
/// A folder without the file, as published ones are, means the official pipeline's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Which reading of the method the weights were trained with.
    pub recipe: Recipe,
    /// Steps from noise to a picture.
    pub steps: usize,
    /// Scale of classifier-free guidance; none at or below 1.
    pub guidance: f64,
    /// Pictures drawn of each prompt; the one beside which the model finds the prompt likeliest is
    /// kept.
    pub candidates: usize,
    /// Tokens of a prompt, padding included; `max_sequence_length` in the official pipeline.
    pub prompt_length: usize,
    /// Tokens of a text to be written, prompt and padding included.
    pub text_length: usize,
    /// Steps from masks to a text.
    pub text_steps: usize,
    /// Name of the text sampler; absent, the recipe's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            recipe: Recipe::Release,
            steps: 28,
            guidance: 7.0,
            candidates: 1,
            prompt_length: 256,
            text_length: 128,
            text_steps: 64,
            sampler: None,
            other: OtherKeys::new(),
        }
    }
}

impl GenerationConfig {
    /// Refuses defaults that nothing can be sampled with.
    ///
    /// Errors: a number of steps or a length of 0; a guidance below 0 or infinite.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::value("generation config", message));
        let lengths = [
            ("steps", self.steps),
            ("candidates", self.candidates),
            ("prompt_length", self.prompt_length),
            ("text_length", self.text_length),
            ("text_steps", self.text_steps),
        ];
        if let Some((key, _)) = lengths.iter().find(|(_, length)| *length == 0) {
            return fail(format!("{key} is 0"));
        }
        if !(self.guidance.is_finite() && self.guidance >= 0.0) {
            return fail(format!("guidance is {}", self.guidance));
        }
        Ok(())
    }
}

/// Whether a key holds anything but a way of saying no.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

fn training_levels() -> usize {
    TRAINING_LEVELS
}

#[cfg(test)]
mod tests;
