//! The networks of a run: from weights as they are found to weights that learn, and back.

use tensor::{DType, Device, Result};

use super::checkpoint::Named;
use super::config::RunConfig;
use super::learner::Learner;
use super::trainable::{EMBEDDINGS, MASK_EMBEDDING, select};
use crate::config::{TransformerConfig, VaeConfig};
use crate::folder::{Component, Geometry};
use crate::mmdit::Mmdit;
use crate::pipeline::Model;
use crate::t5::{T5Config, T5Encoder, with_row};

/// The networks' folders in a pipeline, which begin the full names of their weights.
pub const TRANSFORMER: &str = "transformer";
const TEXT_ENCODER: &str = "text_encoder";
/// See [`TRANSFORMER`].
pub const VAE: &str = "vae";

/// The weights of an autoencoder's run, on a device, to build it on.
///
/// Errors: patterns that match nothing.
pub fn autoencoder(
    found: Component<VaeConfig>,
    config: &RunConfig,
    device: &Device,
) -> Result<Learner> {
    let mut weights = Weights::default();
    weights.add(VAE, found)?;
    weights.learner(VAE, config, device)
}

/// The weights of a transformer's run, on a device, and the networks on them. Of the text encoder
/// the row of the token `mask` can learn alone.
///
/// Errors: patterns that match nothing; geometries that cannot be.
pub fn dual(
    transformer: Component<TransformerConfig>,
    text_encoder: Option<Component<T5Config>>,
    mask: u32,
    config: &RunConfig,
    device: &Device,
) -> Result<(Learner, Model)> {
    let mut weights = Weights::default();
    let geometry = weights.add(TRANSFORMER, transformer)?;
    let encoder = match text_encoder {
        Some(found) => Some(weights.add_encoder(found, mask)?),
        None => None,
    };
    let learner = weights.learner(TRANSFORMER, config, device)?;
    let (params, checkpointing) = (learner.params(), config.batch.checkpoint_blocks);
    let transformer = Mmdit::new(geometry, &params.scope(TRANSFORMER))?;
    let text_encoder = match encoder {
        Some(geometry) => {
            let mut encoder = T5Encoder::new(geometry, &params.scope(TEXT_ENCODER))?;
            if params.contains(MASK_EMBEDDING) {
                encoder.set_row(mask, params.get(MASK_EMBEDDING)?)?;
            }
            Some(encoder.with_checkpointing(checkpointing))
        }
        None => None,
    };
    let transformer = transformer.with_checkpointing(checkpointing);
    Ok((learner, Model { transformer, text_encoder }))
}

/// The text encoder of a model for inference, with the averaged row of the token `mask` in its
/// table where that row learns.
///
/// Errors: none of weights that [`dual`] made.
pub fn text_encoder(
    learner: &Learner,
    model: &Model,
    mask: u32,
    stored: DType,
) -> Result<Option<Component<T5Config>>> {
    let Some(encoder) = &model.text_encoder else { return Ok(None) };
    let mut weights = learner.network(TEXT_ENCODER, stored);
    weights.retain(|(name, _)| !is(MASK_EMBEDDING, name));
    let row = learner.average().into_iter().find(|(name, _)| name == MASK_EMBEDDING);
    let table = weights.iter_mut().find(|(name, _)| is(EMBEDDINGS, name));
    if let (Some((_, row)), Some((_, table))) = (row, table) {
        *table = with_row(table, mask, &row)?;
    }
    Ok(Some(Component { config: encoder.config().clone(), weights }))
}

/// Whether `name` is the text encoder's own name for what has this full name.
fn is(full: &str, name: &str) -> bool {
    full.strip_prefix(TEXT_ENCODER).and_then(|own| own.strip_prefix('.')) == Some(name)
}

/// Refuses patterns that select nothing of these networks, without a look at their weights.
///
/// Errors: patterns that match nothing; geometries that cannot be.
pub fn check_trainable(
    config: &RunConfig,
    transformer: &TransformerConfig,
    text_encoder: Option<&T5Config>,
) -> Result<()> {
    let mut names = learnable(TRANSFORMER, transformer)?;
    if let Some(encoder) = text_encoder {
        names.extend(learnable(TEXT_ENCODER, encoder)?);
        names.push(MASK_EMBEDDING.to_owned());
    }
    select(&config.trainable, TRANSFORMER, &names).map(drop)
}

/// The full names of a network's weights that can learn.
fn learnable<C: Geometry>(network: &str, geometry: &C) -> Result<Vec<String>> {
    let inventory = geometry.inventory()?;
    let weights = inventory.iter().filter(|weight| !weight.buffer);
    Ok(weights.map(|weight| format!("{network}.{}", weight.name)).collect())
}

/// Weights of several networks by their full names.
#[derive(Default)]
struct Weights {
    named: Named,
    /// Names of those that can learn.
    learnable: Vec<String>,
}

impl Weights {
    /// Adds a network; its geometry.
    fn add<C: Geometry>(&mut self, network: &str, found: Component<C>) -> Result<C> {
        self.learnable.extend(learnable(network, &found.config)?);
        let full = |(name, weight)| (format!("{network}.{name}"), weight);
        self.named.extend(found.weights.into_iter().map(full));
        Ok(found.config)
    }

    /// Adds a text encoder, and one row of its table as a weight of its own.
    fn add_encoder(&mut self, found: Component<T5Config>, mask: u32) -> Result<T5Config> {
        let geometry = self.add(TEXT_ENCODER, found)?;
        let table = self.named.iter().find(|(name, _)| name == EMBEDDINGS);
        if let Some((_, table)) = table {
            let row = table.select(0, mask as usize)?.contiguous();
            self.named.push((MASK_EMBEDDING.to_owned(), row));
            self.learnable.push(MASK_EMBEDDING.to_owned());
        }
        Ok(geometry)
    }

    /// These weights, of which those that the settings select learn; those of `own`, if they
    /// select none. A row that does not learn is no weight of its own.
    fn learner(mut self, own: &str, config: &RunConfig, device: &Device) -> Result<Learner> {
        let learns = select(&config.trainable, own, &self.learnable)?;
        self.named.retain(|(name, _)| name != MASK_EMBEDDING || learns.contains(name));
        Learner::new(self.named, |name| learns.contains(name), &config.optimizer, device)
    }
}
