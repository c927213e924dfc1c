//! What the shapes of tensors say of a network's geometry, and what SD3 has beyond that.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tensor::{Error, Result, Shape, Tensor};

use super::names::Network;

/// A network's tensors by the official library's names.
pub type Tensors = BTreeMap<String, Tensor>;

/// What `config.json` of a network says whose tensors have these shapes.
///
/// Shapes leave open, and SD3's authors settle: a transformer has as many heads as blocks, and its
/// pictures a third of the position table's side; autoencoders normalise in 32 groups, and latents
/// are scaled by 1.5305 after a shift of 0.0609; T5 sees 128 tokens far. A network of other
/// settings needs its own `config.json`.
///
/// Errors: tensors that tell the geometry are missing, or have other axes.
pub fn config(network: Network, tensors: &Tensors) -> Result<Value> {
    match network {
        Network::Transformer => transformer(tensors),
        Network::Vae => autoencoder(tensors),
        Network::TextEncoder => text_encoder(tensors),
    }
}

fn transformer(tensors: &Tensors) -> Result<Value> {
    let [width, channels, patch, _] = lengths(tensors, "pos_embed.proj.weight")?;
    let [_, places, _] = lengths(tensors, "pos_embed.pos_embed")?;
    // D-DiT's image head has a name of its own, and its texts are not pooled.
    let is_dual = tensors.contains_key("text_proj_out.weight");
    let head = if is_dual { "image_proj_out.weight" } else { "proj_out.weight" };
    let [outputs, _] = lengths(tensors, head)?;
    let blocks = count(names(tensors), "transformer_blocks.");
    let side = places.isqrt();
    if blocks == 0 || !width.is_multiple_of(blocks) {
        let message = format!("{blocks} blocks, and as many heads, for a width of {width}");
        return Err(Error::value("sd3", message).note("other geometries need their config.json"));
    }
    let mut config = json!({
        "_class_name": "SD3Transformer2DModel",
        "sample_size": (side * patch / 3).max(patch),
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": outputs / (patch * patch).max(1),
        "num_layers": blocks,
        "attention_head_dim": width / blocks,
        "num_attention_heads": blocks,
        "joint_attention_dim": 0,
        "caption_projection_dim": width,
        "pos_embed_max_size": side,
    });
    if let Ok([_, pooled]) = lengths(tensors, "time_text_embed.text_embedder.linear_1.weight") {
        config["pooled_projection_dim"] = pooled.into();
    }
    if let Ok([words, _]) = lengths(tensors, "text_proj_out.weight") {
        config["vocab_size"] = words.into();
    }
    if let Ok([_, most, _]) = lengths(tensors, "text_pos_embed") {
        config["text_embedding"] = true.into();
        config["max_text_length"] = most.into();
    } else {
        let [_, states] = lengths(tensors, "context_embedder.weight")?;
        config["joint_attention_dim"] = states.into();
    }
    Ok(config)
}

fn autoencoder(tensors: &Tensors) -> Result<Value> {
    let levels = count(names(tensors), "encoder.down_blocks.");
    let width = |i: usize| -> Result<usize> {
        let name = format!("encoder.down_blocks.{i}.resnets.0.conv1.weight");
        let [width, ..] = lengths::<4>(tensors, &name)?;
        Ok(width)
    };
    let [_, inputs, ..] = lengths::<4>(tensors, "encoder.conv_in.weight")?;
    let [outputs, ..] = lengths::<4>(tensors, "decoder.conv_out.weight")?;
    let [_, latents, ..] = lengths::<4>(tensors, "decoder.conv_in.weight")?;
    let attends = tensors.contains_key("encoder.mid_block.attentions.0.to_q.weight");
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": (0..levels).map(width).collect::<Result<Vec<_>>>()?,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "in_channels": inputs,
        "out_channels": outputs,
        "latent_channels": latents,
        "layers_per_block": count(names(tensors), "encoder.down_blocks.0.resnets."),
        "mid_block_add_attention": attends,
        "norm_num_groups": 32,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": false,
        "use_post_quant_conv": false,
        "sample_size": 1024,
    }))
}

fn text_encoder(tensors: &Tensors) -> Result<Value> {
    let attention = "encoder.block.0.layer.0.SelfAttention";
    let embedding = match tensors.contains_key("shared.weight") {
        true => "shared.weight",
        false => "encoder.embed_tokens.weight",
    };
    let [words, width] = lengths(tensors, embedding)?;
    let [buckets, heads] =
        lengths(tensors, &format!("{attention}.relative_attention_bias.weight"))?;
    let [queries, _] = lengths(tensors, &format!("{attention}.q.weight"))?;
    let [inner, _] = lengths(tensors, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
    Ok(json!({
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": words,
        "d_model": width,
        "d_kv": queries / heads.max(1),
        "d_ff": inner,
        "num_layers": count(names(tensors), "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": true,
        "tie_word_embeddings": false,
    }))
}

fn names(tensors: &Tensors) -> impl Iterator<Item = &str> {
    tensors.keys().map(String::as_str)
}

/// The lengths of a tensor's axes.
fn lengths<const N: usize>(tensors: &Tensors, name: &str) -> Result<[usize; N]> {
    let Some(tensor) = tensors.get(name) else {
        let message = "a tensor that tells the geometry is missing";
        return Err(Error::value("sd3", message).key(name));
    };
    let shape: &Shape = tensor.shape();
    <[usize; N]>::try_from(&shape[..]).map_err(|_| {
        let message = format!("{N} axes are needed, the tensor has {}", shape.len());
        Error::value("sd3", message).operand("tensor", tensor).key(name)
    })
}

/// How many modules are numbered after `prefix`: one more than the largest number.
pub fn count<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> usize {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse().ok();
    names.filter_map(number).max().map_or(0, |most: usize| most.saturating_add(1))
}
