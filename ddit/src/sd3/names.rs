//! The names of SD3's single file, and what becomes of each tensor in the official library's.
//!
//! The file has three networks, told apart by what names begin with. Source: the converters of
//! the diffusers library, whose names the published D-DiT weights have too.

/// A network of SD3's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// The transformer.
    Transformer,
    /// The autoencoder.
    Vae,
    /// The T5 encoder.
    TextEncoder,
}

/// What is done to a tensor on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Whole,
    /// One of three equal parts along the first axis: of queries, keys and values.
    Third(usize),
    /// The halves along the first axis change places: (shift, scale) becomes (scale, shift).
    Swapped,
    /// The last two axes, of length 1, go: a 1 x 1 convolution becomes a linear map.
    Squeezed,
}

/// Counts that names are translated by.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Joint blocks of the transformer.
    pub blocks: usize,
    /// Levels of the autoencoder.
    pub levels: usize,
}

/// What the names of each network begin with in the single file.
const PREFIXES: [(Network, &str); 3] = [
    (Network::Transformer, "model.diffusion_model."),
    (Network::Vae, "first_stage_model."),
    (Network::TextEncoder, "text_encoders.t5xxl.transformer."),
];

/// Modules of the transformer outside of its blocks.
const TRANSFORMER: [(&str, &str); 7] = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "context_embedder"),
    ("final_layer.linear", "proj_out"),
];

/// Modules of a block that become one module each.
const BLOCK: [(&str, &str); 8] = [
    ("x_block.adaLN_modulation.1", "norm1.linear"),
    ("x_block.attn.proj", "attn.to_out.0"),
    ("x_block.mlp.fc1", "ff.net.0.proj"),
    ("x_block.mlp.fc2", "ff.net.2"),
    ("context_block.adaLN_modulation.1", "norm1_context.linear"),
    ("context_block.attn.proj", "attn.to_add_out"),
    ("context_block.mlp.fc1", "ff_context.net.0.proj"),
    ("context_block.mlp.fc2", "ff_context.net.2"),
];

/// Modules of a block that hold three.
const QKV: [(&str, [&str; 3]); 2] = [
    ("x_block.attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("context_block.attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
];

/// Modules of the attention in the middle of the autoencoder; all but the norm are 1 x 1
/// convolutions.
const ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// The network that a tensor of the single file belongs to, and its name there; none if it is
/// another's, such as a CLIP encoder's.
pub fn network(name: &str) -> Option<(Network, &str)> {
    PREFIXES.iter().find_map(|(network, prefix)| Some((*network, name.strip_prefix(prefix)?)))
}

/// The names that a tensor of a network, named as in the single file, has in the official
/// library, and what of it goes there; none if there is no such tensor.
pub fn translate(network: Network, name: &str, counts: Counts) -> Option<Vec<(String, Cut)>> {
    match network {
        Network::TextEncoder => Some(vec![(name.to_owned(), Cut::Whole)]),
        Network::Vae => Some(vec![autoencoder(name, counts.levels)?]),
        Network::Transformer => transformer(name, counts.blocks),
    }
}

fn transformer(name: &str, blocks: usize) -> Option<Vec<(String, Cut)>> {
    if name == "pos_embed" {
        return Some(vec![("pos_embed.pos_embed".to_owned(), Cut::Whole)]);
    }
    let (module, leaf) = name.rsplit_once('.')?;
    if module == "final_layer.adaLN_modulation.1" {
        return Some(vec![(format!("norm_out.linear.{leaf}"), Cut::Swapped)]);
    }
    let Some(rest) = module.strip_prefix("joint_blocks.") else {
        let (_, new) = TRANSFORMER.iter().find(|(old, _)| *old == module)?;
        return Some(vec![(format!("{new}.{leaf}"), Cut::Whole)]);
    };
    let (index, part) = rest.split_once('.')?;
    let index: usize = index.parse().ok()?;
    let named = |new: &str| format!("transformer_blocks.{index}.{new}.{leaf}");
    if let Some((_, three)) = QKV.iter().find(|(old, _)| *old == part) {
        let third = |(i, new): (usize, &&str)| (named(new), Cut::Third(i));
        return Some(three.iter().enumerate().map(third).collect());
    }
    let (old, new) = BLOCK.iter().find(|(old, _)| *old == part)?;
    // The last block only normalises the text it passes to attention, with two vectors for six.
    let is_last_norm = index + 1 == blocks && *old == "context_block.adaLN_modulation.1";
    Some(vec![(named(new), if is_last_norm { Cut::Swapped } else { Cut::Whole })])
}

fn autoencoder(name: &str, levels: usize) -> Option<(String, Cut)> {
    let (side, rest) = name.split_once('.')?;
    if !["encoder", "decoder"].contains(&side) {
        return None;
    }
    let whole = |rest: String| Some((format!("{side}.{rest}"), Cut::Whole));
    let resnet = |rest: &str| rest.replace("nin_shortcut", "conv_shortcut");
    if let Some(rest) = rest.strip_prefix("mid.") {
        let (module, rest) = rest.split_once('.')?;
        return match module {
            "block_1" => whole(format!("mid_block.resnets.0.{}", resnet(rest))),
            "block_2" => whole(format!("mid_block.resnets.1.{}", resnet(rest))),
            "attn_1" => {
                let (module, leaf) = rest.split_once('.')?;
                let (old, new) = ATTENTION.iter().find(|(old, _)| *old == module)?;
                let name = format!("{side}.mid_block.attentions.0.{new}.{leaf}");
                let is_conv = *old != "norm" && leaf == "weight";
                Some((name, if is_conv { Cut::Squeezed } else { Cut::Whole }))
            }
            _ => None,
        };
    }
    let (way, blocks) = match side {
        "encoder" => ("down.", "down_blocks"),
        _ => ("up.", "up_blocks"),
    };
    let Some(rest) = rest.strip_prefix(way) else {
        return whole(rest.replace("norm_out", "conv_norm_out"));
    };
    let (level, rest) = rest.split_once('.')?;
    let level: usize = level.parse().ok()?;
    // The single file counts levels from the picture's on, the library in the order they run.
    let level = if side == "decoder" { levels.checked_sub(level + 1)? } else { level };
    let new = match rest.split_once('.')? {
        ("block", rest) => format!("resnets.{}", resnet(rest)),
        ("downsample", rest) => format!("downsamplers.0.{rest}"),
        ("upsample", rest) => format!("upsamplers.0.{rest}"),
        _ => return None,
    };
    whole(format!("{blocks}.{level}.{new}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(old: &str, new: &[(&str, Cut)]) {
        let (network, name) = network(old).unwrap();
        let counts = Counts { blocks: 3, levels: 4 };
        let found = translate(network, name, counts).unwrap_or_default();
        let found: Vec<_> = found.iter().map(|(name, cut)| (name.as_str(), *cut)).collect();
        assert_eq!(found, new, "{old}");
    }

    #[test]
    fn names_are_translated() {
        let block = "model.diffusion_model.joint_blocks.";
        becomes(
            &format!("{block}1.context_block.attn.qkv.bias"),
            &[
                ("transformer_blocks.1.attn.add_q_proj.bias", Cut::Third(0)),
                ("transformer_blocks.1.attn.add_k_proj.bias", Cut::Third(1)),
                ("transformer_blocks.1.attn.add_v_proj.bias", Cut::Third(2)),
            ],
        );
        let norm = "context_block.adaLN_modulation.1.weight";
        for (i, cut) in [(1, Cut::Whole), (2, Cut::Swapped)] {
            let new = format!("transformer_blocks.{i}.norm1_context.linear.weight");
            becomes(&format!("{block}{i}.{norm}"), &[(&new, cut)]);
        }
        let final_norm = "model.diffusion_model.final_layer.adaLN_modulation.1.bias";
        becomes(final_norm, &[("norm_out.linear.bias", Cut::Swapped)]);
        for (old, new, cut) in [
            ("decoder.up.3.upsample.conv.bias", "up_blocks.0.upsamplers.0.conv.bias", Cut::Whole),
            (
                "decoder.up.0.block.2.nin_shortcut.weight",
                "up_blocks.3.resnets.2.conv_shortcut.weight",
                Cut::Whole,
            ),
            (
                "decoder.mid.attn_1.proj_out.weight",
                "mid_block.attentions.0.to_out.0.weight",
                Cut::Squeezed,
            ),
            (
                "decoder.mid.attn_1.norm.weight",
                "mid_block.attentions.0.group_norm.weight",
                Cut::Whole,
            ),
            ("decoder.norm_out.bias", "conv_norm_out.bias", Cut::Whole),
        ] {
            becomes(&format!("first_stage_model.{old}"), &[(&format!("decoder.{new}"), cut)]);
        }
    }

    #[test]
    fn what_is_no_name_of_sd3_has_no_other() {
        assert!(
            network("text_encoders.clip_l.transformer.text_model.final_layer_norm.bias").is_none()
        );
        let counts = Counts { blocks: 1, levels: 1 };
        for name in ["joint_blocks.0.x_block.attn.ln_q.weight", "joint_blocks.x.y.z", "w", "a.b"] {
            assert!(translate(Network::Transformer, name, counts).is_none(), "{name}");
        }
        for name in ["decoder.up.1.block.0.conv1.bias", "quant_conv.bias", "encoder.mid.x.y"] {
            assert!(translate(Network::Vae, name, counts).is_none(), "{name}");
        }
    }
}
