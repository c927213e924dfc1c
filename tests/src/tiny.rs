//! A D-DiT of two blocks and eight channels in `f64`: every set of masks can be tried, and a
//! difference in the last digits seen.

use autograd::{Params, Var};
use ddit::config::{Recipe, TransformerConfig};
use ddit::mmdit::{self, Mmdit, TextInput};
use ddit::objective::Objective;
use ddit::pipeline::Model;
use samplers::masked::Query;
use serde_json::json;
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

/// Tokens of the vocabulary.
pub const VOCAB: usize = 7;
/// The mask, in its midst.
pub const MASK: u32 = 3;
/// The most tokens of a text.
pub const MOST_TOKENS: usize = 6;
/// Channels, height and width of latents: two by two patches.
pub const LATENTS: [usize; 3] = [2, 4, 4];

/// The geometry.
pub fn config() -> TransformerConfig {
    let [channels, side, _] = LATENTS;
    serde_json::from_value(json!({
        "vocab_size": VOCAB, "sample_size": side, "patch_size": 2, "in_channels": channels,
        "out_channels": channels, "num_layers": 2, "attention_head_dim": 4,
        "num_attention_heads": 2, "joint_attention_dim": 0, "caption_projection_dim": 8,
        "pos_embed_max_size": 4, "text_embedding": true, "max_text_length": MOST_TOKENS,
    }))
    .expect("these are the keys of a transformer's configuration")
}

/// Weights, none of which is 0 for being new: gates that are shut would hide what is behind them.
/// Trained ones are parameters, the table of places is a constant; `change` has the last word.
///
/// Errors: none of the caller's making.
pub fn params(change: impl Fn(&str, Tensor) -> Tensor) -> Result<Params> {
    let inventory = mmdit::inventory(&config());
    let fresh = inventory.fresh(1, DType::F64)?.into_iter().zip(inventory.iter());
    let var = |(i, ((name, fresh), weight)): (u64, ((String, Tensor), &ddit::weights::Weight))| {
        if weight.buffer {
            let table = Var::constant(change(&name, fresh));
            return Ok((name, table));
        }
        let noise = Rng::new(5).stream(i).normal(fresh.shape(), DType::F64)?.to_f64_vec();
        let values = noise.into_iter().zip(fresh.to_f64_vec());
        let values: Vec<f64> = values.map(|(noise, fresh)| fresh + 0.3 * noise).collect();
        let value = change(&name, Tensor::from_vec(values, fresh.shape())?);
        Ok((name, Var::parameter(value)))
    };
    Params::from_vars((0..).zip(fresh).map(var).collect::<Result<Vec<_>>>()?)
}

/// The model on [`params`] as they are, and these.
///
/// Errors: none of the caller's making.
pub fn model() -> Result<(Model, Params)> {
    let params = params(|_, value| value)?;
    Ok((on(&params)?, params))
}

/// The model on parameters of its names.
///
/// Errors: a parameter is missing.
pub fn on(params: &Params) -> Result<Model> {
    Ok(Model { transformer: Mmdit::new(config(), params)?, text_encoder: None })
}

/// Standard normal latents of `batch` pictures \[batch, C, height, width\].
///
/// Errors: none.
pub fn latents(seed: u64, batch: usize) -> Result<Tensor> {
    let [channels, height, width] = LATENTS;
    Rng::new(seed).normal([batch, channels, height, width], DType::F64)
}

/// The joint objective for texts of `length` tokens; the null text is all token 1.
pub fn objective(recipe: Recipe, text_weight: f64, length: usize) -> Objective {
    Objective {
        recipe,
        text_weight,
        caption_dropout: 0.5,
        noise_shift: 1.0,
        null: vec![1; length],
        mask: MASK,
    }
}

/// What a sampler or a likelihood asks of the model, about texts beside one picture
/// \[1, C, height, width\]: logits at the masks \[M, V\].
///
/// Errors: those of the network.
pub fn denoise(model: &Model, picture: &Tensor, query: &Query) -> Result<Tensor> {
    let [rows, length] = query.ids.dims()?;
    let ids: Vec<u32> = query.ids.to_vec::<i64>()?.into_iter().map(|id| id as u32).collect();
    let latents = Var::constant(picture.index_rows(&vec![0; rows])?);
    let text = TextInput::Ids(&ids, length);
    let tokens = model.transformer.text_tokens(Some(&latents), text, &vec![0.0; rows])?;
    let [_, _, width] = tokens.dims()?;
    let masked = tokens.value().reshape([rows * length, width])?.index_rows(query.masked)?;
    Ok(model.transformer.text_logits(&Var::constant(masked))?.value())
}
