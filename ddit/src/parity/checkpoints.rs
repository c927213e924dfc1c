//! Names of tensors: SD3's, those they become, and the full-size models'.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tensor::io::safetensors::SafeTensors;
use tensor::{Result, Tensor};

use super::Trial;
use crate::config::{TransformerConfig, VaeConfig};
use crate::folder::Geometry;
use crate::sd3::names::{Counts, Cut, Network, network, translate};
use crate::sd3::start::{self, Origin};
use crate::sd3::{Sd3, geometry};
use crate::t5::T5Config;
use crate::weights::{Inventory, Weight, is_same};

/// What the second of the case's files calls its networks.
const PREFIXES: [(Network, &str); 2] =
    [(Network::Transformer, "transformer."), (Network::Vae, "vae.")];

#[derive(Deserialize)]
struct Configs {
    transformer: TransformerConfig,
    vae: VaeConfig,
    t5: Value,
}

/// A single file by the official library's names, the D-DiT that begins as its transformer, and
/// what of it is new or dropped. All of it bit by bit.
pub fn single_file(trial: &mut Trial) -> Result<()> {
    let (entry, key, original) = trial.weights(0)?;
    let configs: Configs = serde_json::from_value(entry.get("config").cloned().unwrap_or_default())
        .map_err(|error| trial.set().malformed(format!("{key}.config"), error.to_string()))?;
    let [(_, _, library), (_, _, fresh), (_, _, expected)] =
        [trial.weights(1)?, trial.weights(2)?, trial.weights(3)?];
    let sd3 = Sd3::from_single_file(&original)?;
    for (network, prefix) in PREFIXES {
        let mut ours = sd3.tensors(network).cloned().unwrap_or_default();
        for name in library.names() {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            let same = match ours.remove(rest) {
                Some(tensor) => is_same(&tensor, &library.get(name)?)?,
                None => false,
            };
            trial.compare_flag(name, same);
        }
        trial.compare_flag(&format!("{prefix}*"), ours.is_empty());
    }
    let tensors = |network| sd3.tensors(network).cloned().unwrap_or_default();
    let vae = configs.vae.inventory()?.take(tensors(Network::Vae)).is_ok();
    trial.compare_flag("vae", vae);
    let t5 =
        text_encoder(trial, configs.t5)?.inventory()?.take(tensors(Network::TextEncoder)).is_ok();
    trial.compare_flag("t5", t5);
    start(trial, tensors(Network::Transformer), &configs.transformer, &fresh, &expected)
}

fn start(
    trial: &mut Trial,
    sd3: BTreeMap<String, Tensor>,
    config: &TransformerConfig,
    fresh: &SafeTensors,
    expected: &SafeTensors,
) -> Result<()> {
    let made = start::initialise(sd3, config, |weight: &Weight| fresh.get(&weight.name))?;
    for (name, tensor) in &made.weights {
        trial.compare_flag(name, is_same(tensor, &expected.get(name)?)?);
    }
    trial.compare_flag("tensors", made.weights.len() == expected.names().len());
    let of = |is: fn(&Origin) -> bool| {
        let named = made.weights.iter().zip(&made.origins);
        let names = named.filter(|(_, origin)| is(origin)).map(|((name, _), _)| name.clone());
        sorted(names.collect())
    };
    for (key, ours) in [
        ("fresh_tensors", of(|origin| matches!(origin, Origin::Fresh))),
        ("partly_fresh", of(|origin| matches!(origin, Origin::Partly(_)))),
        ("dropped", sorted(made.dropped)),
    ] {
        let told: Vec<String> = trial.said(key)?;
        trial.compare_flag(key, ours == sorted(told));
    }
    Ok(())
}

/// Names and shapes of a network.
type Shapes = BTreeMap<String, Vec<usize>>;

#[derive(Deserialize)]
struct RealShapes {
    config: BTreeMap<String, Value>,
    parameters: BTreeMap<String, usize>,
    d_dit: Shapes,
    sd3_diffusers: Shapes,
    vae: Shapes,
    t5: Shapes,
    original_single_file: Shapes,
}

/// The tensors of the full-size models, and how many numbers are trained.
pub fn shapes(trial: &mut Trial) -> Result<()> {
    let told: RealShapes = trial.document()?;
    let config = |name: &str| told.config.get(name).cloned().unwrap_or_default();
    let transformer: TransformerConfig = parse(trial, "d_dit", config("d_dit"))?;
    let vae: VaeConfig = parse(trial, "vae", config("vae"))?;
    let t5 = text_encoder(trial, config("t5"))?;
    for (key, count, inventory, expected) in [
        ("d_dit", "d_dit", transformer.inventory()?, &told.d_dit),
        ("sd3_diffusers", "sd3_transformer", start::inventory(&transformer), &told.sd3_diffusers),
        ("vae", "vae", vae.inventory()?, &told.vae),
        ("t5", "t5_encoder", t5.inventory()?, &told.t5),
    ] {
        trial.compare_flag(key, shapes_of(&inventory) == *expected);
        let trained = inventory.iter().filter(|w| !w.buffer).map(|w| w.shape.numel());
        let same = told.parameters.get(count) == Some(&trained.sum());
        trial.compare_flag(&format!("parameters.{count}"), same);
    }
    for (key, prefix) in [("vae_encoder", "encoder."), ("vae_decoder", "decoder.")] {
        let Some(&count) = told.parameters.get(key) else { continue };
        let part = vae.inventory()?;
        let part = part.iter().filter(|w| w.name.starts_with(prefix)).map(|w| w.shape.numel());
        trial.compare_flag(&format!("parameters.{key}"), count == part.sum::<usize>());
    }
    let translated = translate_all(&told.original_single_file);
    for (key, wanted, expected) in [
        ("original_single_file: transformer", Network::Transformer, &told.sd3_diffusers),
        ("original_single_file: vae", Network::Vae, &told.vae),
    ] {
        trial.compare_flag(key, translated.get(&wanted) == Some(expected));
    }
    Ok(())
}

/// The networks of a single file by the library's names, as far as names and shapes go.
fn translate_all(single: &Shapes) -> BTreeMap<Network, Shapes> {
    let names =
        |wanted| single.keys().filter_map(|name| network(name)).filter(move |(n, _)| *n == wanted);
    let counts = Counts {
        blocks: geometry::count(names(Network::Transformer).map(|n| n.1), "joint_blocks."),
        levels: geometry::count(names(Network::Vae).map(|n| n.1), "encoder.down."),
    };
    let mut translated = BTreeMap::<Network, Shapes>::new();
    for (name, shape) in single {
        let Some((network, name)) = network(name) else { continue };
        for (new, cut) in translate(network, name, counts).unwrap_or_default() {
            let mut shape = shape.clone();
            match cut {
                Cut::Third(_) => shape[0] /= 3,
                Cut::Squeezed => shape.truncate(2),
                Cut::Whole | Cut::Swapped => {}
            }
            translated.entry(network).or_default().insert(new, shape);
        }
    }
    translated
}

fn shapes_of(inventory: &Inventory) -> Shapes {
    inventory.iter().map(|weight| (weight.name.clone(), weight.shape.to_vec())).collect()
}

fn parse<C: Geometry>(trial: &Trial, key: &str, config: Value) -> Result<C> {
    serde_json::from_value(config)
        .map_err(|error| trial.malformed(&format!("config.{key}"), error.to_string()))
}

/// The geometry of an encoder, which may leave out what all encoders of version 1.1 have.
fn text_encoder(trial: &Trial, mut config: Value) -> Result<T5Config> {
    if let Value::Object(keys) = &mut config {
        keys.entry("feed_forward_proj").or_insert_with(|| "gated-gelu".into());
    }
    parse(trial, "t5", config)
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}
