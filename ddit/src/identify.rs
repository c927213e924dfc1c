//! Which models a file's tensors are, told by names and shapes, and whether they are whole.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tensor::io::safetensors::SafeTensors;
use tensor::{Error, Result};

use crate::config::{TransformerConfig, VaeConfig};
use crate::folder::Geometry;
use crate::sd3::geometry::{self, Tensors};
use crate::sd3::names::{self, Network};
use crate::sd3::{Sd3, start};
use crate::t5::T5Config;
use crate::weights::Inventory;

/// A kind of model that this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// D-DiT's transformer.
    DualTransformer,
    /// SD3's transformer.
    Sd3Transformer,
    /// SD3's autoencoder.
    Autoencoder,
    /// A tiny autoencoder, or half of one.
    TinyAutoencoder,
    /// A T5 v1.1 encoder.
    TextEncoder,
    /// A CLIP text encoder, which this program does not run.
    Clip,
    /// A training run's optimiser.
    Optimizer,
    /// None of these.
    Unknown,
}

/// A model among the tensors of a file.
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its geometry: its `config.json`, or what shapes tell; null where neither does.
    pub config: Value,
    /// How many tensors are its own.
    pub tensors: usize,
    /// What keeps these from being the model, whole and with nothing besides; none if nothing
    /// does, or if nothing is known of such models.
    pub misfit: Option<Error>,
}

/// Names that one kind has and no other that comes after it.
const MARKS: [(&str, Kind); 8] = [
    ("text_proj_out.weight", Kind::DualTransformer),
    ("transformer_blocks.0.attn.add_q_proj.weight", Kind::Sd3Transformer),
    ("decoder.conv_norm_out.weight", Kind::Autoencoder),
    ("encoder.layers.0.weight", Kind::TinyAutoencoder),
    ("3.conv.0.weight", Kind::TinyAutoencoder),
    ("encoder.block.0.layer.0.SelfAttention.q.weight", Kind::TextEncoder),
    ("text_model.encoder.layers.0.self_attn.q_proj.weight", Kind::Clip),
    ("log.window", Kind::Optimizer),
];

impl Kind {
    /// The kind of a model that has tensors of these names.
    pub fn of(names: impl Fn(&str) -> bool) -> Self {
        MARKS.iter().find(|(mark, _)| names(mark)).map_or(Self::Unknown, |(_, kind)| *kind)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::DualTransformer => "dual diffusion transformer",
            Self::Sd3Transformer => "SD3 transformer",
            Self::Autoencoder => "autoencoder",
            Self::TinyAutoencoder => "tiny autoencoder, or half of one",
            Self::TextEncoder => "T5 encoder",
            Self::Clip => "CLIP text encoder",
            Self::Optimizer => "state of an optimiser, from a checkpoint of training",
            Self::Unknown => "no model that this program knows",
        }
    }

    /// Which of SD3's networks it is like.
    fn network(self) -> Option<Network> {
        match self {
            Self::DualTransformer | Self::Sd3Transformer => Some(Network::Transformer),
            Self::Autoencoder => Some(Network::Vae),
            Self::TextEncoder => Some(Network::TextEncoder),
            Self::TinyAutoencoder | Self::Clip | Self::Optimizer | Self::Unknown => None,
        }
    }

    fn inventory(self, config: &Value) -> Result<Inventory> {
        fn parse<C: DeserializeOwned>(config: &Value) -> Result<C> {
            serde_json::from_value(config.clone())
                .map_err(|error| Error::value("config", error.to_string()))
        }
        match self {
            Self::DualTransformer => parse::<TransformerConfig>(config)?.inventory(),
            Self::Sd3Transformer => {
                let mut config = config.clone();
                // SD3 writes no text.
                config["vocab_size"] = 1.into();
                let config: TransformerConfig = parse(&config)?;
                config.check()?;
                Ok(start::inventory(&config))
            }
            Self::Autoencoder => {
                let mut config = config.clone();
                // Groups have no tensors of their own, and shapes do not tell them.
                config["norm_num_groups"] = 1.into();
                parse::<VaeConfig>(&config)?.inventory()
            }
            Self::TextEncoder => parse::<T5Config>(config)?.inventory(),
            Self::TinyAutoencoder | Self::Clip | Self::Optimizer | Self::Unknown => {
                Ok(Inventory::default())
            }
        }
    }
}

/// The models that a file holds: one or, in a single file of SD3's, several. `config` is the
/// `config.json` beside it, or null.
///
/// Tensors of types or ranks that this program has not, and names in a single file of SD3's that
/// SD3 has not, make a misfit of all that the file holds.
pub fn identify(file: &SafeTensors, config: &Value) -> Vec<Found> {
    let is_single_file = file.names().any(|name| {
        names::network(name).is_some_and(|(network, _)| network == Network::Transformer)
    });
    let (kind, found) = match is_single_file {
        true => (Kind::Sd3Transformer, Sd3::from_single_file(file).map(parts)),
        false => {
            let kind = Kind::of(|name| file.contains(name));
            let tensor = |name: &str| Ok((name.to_owned(), file.get(name)?));
            let tensors = file.names().map(tensor).collect::<Result<Tensors>>();
            (kind, tensors.map(|tensors| vec![Found::of(kind, tensors, config)]))
        }
    };
    found.unwrap_or_else(|error| {
        let (config, tensors) = (config.clone(), file.names().len());
        vec![Found { kind, config, tensors, misfit: Some(error) }]
    })
}

/// The models in a single file of SD3's.
fn parts(sd3: Sd3) -> Vec<Found> {
    let mut found = Vec::new();
    for (network, kind) in [
        (Network::Transformer, Kind::Sd3Transformer),
        (Network::Vae, Kind::Autoencoder),
        (Network::TextEncoder, Kind::TextEncoder),
    ] {
        if let Some(tensors) = sd3.tensors(network) {
            found.push(Found::of(kind, tensors.clone(), &Value::Null));
        }
    }
    let clip = sd3.ignored().iter().filter(|name| name.starts_with("text_encoders.clip_")).count();
    for (kind, tensors) in [(Kind::Clip, clip), (Kind::Unknown, sd3.ignored().len() - clip)] {
        if tensors > 0 {
            found.push(Found { kind, config: Value::Null, tensors, misfit: None });
        }
    }
    found
}

impl Found {
    /// A model of this kind, and whether the tensors are its own.
    fn of(kind: Kind, tensors: Tensors, config: &Value) -> Self {
        let count = tensors.len();
        let Some(network) = kind.network() else {
            return Self { kind, config: config.clone(), tensors: count, misfit: None };
        };
        let told = match config {
            Value::Object(_) => Ok(config.clone()),
            _ => geometry::config(network, &tensors),
        };
        let (config, misfit) = match told {
            Err(error) => (Value::Null, Some(error)),
            Ok(config) => {
                let fits = kind.inventory(&config).and_then(|list| list.take(tensors));
                (config, fits.err())
            }
        };
        Self { kind, config, tensors: count, misfit }
    }
}
