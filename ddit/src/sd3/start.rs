//! A D-DiT transformer that begins as SD3's.
//!
//! Everything that has a counterpart is carried over. New are the text head, the tokens of an
//! absent image and, in the last block, the text branch after attention: its output map, its
//! feed-forward, and four of the six vectors of its modulation. SD3's last block modulates its
//! text with (scale, shift) alone, and D-DiT's blocks have the shift first.
//! Source: the paper's §4; which tensor is which, our reading of it (the released script copies no
//! weights).

use std::collections::BTreeMap;

use tensor::{Result, Shape, Tensor};

use crate::config::TransformerConfig;
use crate::mmdit;
use crate::weights::{Inventory, Start, Weight};

/// Names of D-DiT that SD3 has under others.
const RENAMED: [(&str, &str); 2] =
    [("image_norm_out.", "norm_out."), ("image_proj_out.", "proj_out.")];

/// The map of SD3's pooled texts, which D-DiT has not.
const POOLED: &str = "time_text_embed.text_embedder.";

/// Where a tensor of a D-DiT comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// SD3's tensor of this name, unchanged.
    Carried(String),
    /// Its first rows are SD3's tensor of this name with its halves swapped; the others are new.
    Partly(String),
    /// It is new.
    Fresh,
}

/// The tensors of a transformer that begins as SD3's.
pub struct Initialised {
    /// The tensors by name, in the order of the inventory.
    pub weights: Vec<(String, Tensor)>,
    /// Where each of them comes from.
    pub origins: Vec<Origin>,
    /// SD3's tensors that D-DiT has no use for.
    pub dropped: Vec<String>,
}

/// The tensors of SD3's transformer, by the official library's names, of which a D-DiT of this
/// geometry can begin.
pub fn inventory(config: &TransformerConfig) -> Inventory {
    let mut list = Inventory::default();
    for weight in mmdit::inventory(config).iter() {
        let (shape, name) = match source(weight, config) {
            Origin::Fresh => continue,
            Origin::Carried(name) => (weight.shape, name),
            Origin::Partly(name) => (first_rows(&weight.shape), name),
        };
        match weight.buffer {
            true => list.buffer(name, shape, Start::Zeros),
            false => list.tensor(name, shape, Start::Zeros),
        }
    }
    let (pooled, width) = (config.pooled_projection_dim, config.width());
    list.linear(&format!("{POOLED}linear_1"), pooled, width);
    list.linear(&format!("{POOLED}linear_2"), width, width);
    list
}

/// A D-DiT of this geometry from SD3's tensors; `fresh` makes tensors of D-DiT's names and shapes
/// where SD3 has nothing to give.
///
/// Errors: tensors of SD3's missing, surplus or of another shape, all of them at once.
pub fn initialise(
    sd3: BTreeMap<String, Tensor>,
    config: &TransformerConfig,
    mut fresh: impl FnMut(&Weight) -> Result<Tensor>,
) -> Result<Initialised> {
    let mut given: BTreeMap<_, _> = inventory(config).take(sd3)?.into_iter().collect();
    let (mut weights, mut origins) = (Vec::new(), Vec::new());
    for weight in mmdit::inventory(config).iter() {
        let mut carried = |name: &str| given.remove(name).expect("the inventory lists it");
        let origin = source(weight, config);
        let tensor = match &origin {
            Origin::Carried(name) => carried(name),
            Origin::Fresh => fresh(weight)?,
            Origin::Partly(name) => {
                let first = swap_halves(&carried(name))?;
                let (old, all) = (first.shape()[0], weight.shape[0]);
                let rest = fresh(weight)?.narrow(0, old, all - old)?.to_dtype(first.dtype());
                Tensor::cat(&[&first, &rest], 0)?
            }
        };
        weights.push((weight.name.clone(), tensor));
        origins.push(origin);
    }
    Ok(Initialised { weights, origins, dropped: given.into_keys().collect() })
}

/// How new tensors begin: maps uniform by fan-in, biases too, and the tokens of an absent image
/// normal. Those of which a part is carried over begin like maps.
///
/// Errors: none that tensors of these shapes have.
pub fn fresh(weight: &Weight, config: &TransformerConfig, seed: u64) -> Result<Tensor> {
    let mut list = Inventory::default();
    let inputs = config.width() * if weight.name.contains("ff_context.net.2.") { 4 } else { 1 };
    let start = match weight.name.as_str() {
        "null_image_embd" => Start::Normal { deviation: 1.0 / (config.width() as f64).sqrt() },
        _ => Start::fan_in(inputs),
    };
    list.tensor(weight.name.clone(), weight.shape, start);
    let [(_, tensor)] =
        <[_; 1]>::try_from(list.fresh(seed, tensor::DType::F32)?).expect("one tensor was listed");
    Ok(tensor)
}

/// Where a tensor of D-DiT comes from.
fn source(weight: &Weight, config: &TransformerConfig) -> Origin {
    let name = weight.name.as_str();
    if name == "null_image_embd" || name.starts_with("text_proj_out.") {
        return Origin::Fresh;
    }
    let last = format!("transformer_blocks.{}.", config.num_layers - 1);
    if let Some(rest) = name.strip_prefix(&last) {
        if rest.starts_with("attn.to_add_out.") || rest.starts_with("ff_context.") {
            return Origin::Fresh;
        }
        if rest.starts_with("norm1_context.") {
            return Origin::Partly(name.to_owned());
        }
    }
    let renamed = RENAMED.iter().find_map(|(new, old)| Some((*old, name.strip_prefix(new)?)));
    Origin::Carried(renamed.map_or(name.to_owned(), |(old, rest)| format!("{old}{rest}")))
}

/// Two of six equal parts along the first axis.
fn first_rows(shape: &Shape) -> Shape {
    let mut lengths = shape.to_vec();
    lengths[0] /= 3;
    lengths.as_slice().into()
}

/// The same with the halves along the first axis in each other's places.
///
/// Errors: none that tensors with an even number of rows have.
pub fn swap_halves(tensor: &Tensor) -> Result<Tensor> {
    let half = tensor.shape()[0] / 2;
    Tensor::cat(&[&tensor.narrow(0, half, half)?, &tensor.narrow(0, 0, half)?], 0)
}
