//! The training of the autoencoder: what a step is made of, and what follows the last one.

use std::sync::Arc;

use autograd::{Grads, Params};
use tensor::Result;

use super::config::RunConfig;
use super::setup::latent_side;
use super::trainer::Seen;
use crate::config::VaeConfig;
use crate::data::latents::{Posteriors, Statistics};
use crate::data::{Dataset, Order, Purpose};
use crate::objective::{Draws, VaeObjective};
use crate::pipeline::Progress;
use crate::vae::AutoencoderKl;

/// Samples whose latents are measured.
const MEASURED: usize = 2048;

/// The autoencoder and what it learns from.
pub struct Autoencoder {
    vae: AutoencoderKl,
    objective: VaeObjective,
    dataset: Arc<Dataset>,
    order: Order,
    latent_shape: [usize; 3],
    config: RunConfig,
}

impl Autoencoder {
    /// The autoencoder of this geometry on these parameters.
    ///
    /// Errors: the geometry is impossible; pictures that do not divide into latents.
    pub fn new(
        config: &RunConfig,
        geometry: VaeConfig,
        params: &Params,
        dataset: Arc<Dataset>,
    ) -> Result<Self> {
        let side = latent_side(config.data.size, &geometry)?;
        let settings = &config.autoencoder;
        Ok(Self {
            objective: VaeObjective {
                absolute: settings.absolute_weight,
                squared: settings.squared_weight,
                divergence: settings.divergence_weight,
            },
            order: Order::new(config.seed, Purpose::ImageOrder, dataset.len()),
            latent_shape: [geometry.latent_channels, side, side],
            vae: AutoencoderKl::new(geometry, params)?,
            dataset,
            config: config.clone(),
        })
    }

    /// The gradient of the loss at step `step`: the mean over the parts of the batch.
    ///
    /// Errors: those of the objective.
    pub fn gradient(&mut self, step: u64) -> Result<(Grads, Seen)> {
        let (images, parts) = (self.config.batch.images, self.config.batch.micro_batches);
        let samples = self.order.batch(step, images);
        let draws = Draws::new(self.config.seed, step);
        let share = 1.0 / parts as f64;
        let mut grads = Grads::default();
        let mut losses = [0.0; 4];
        for part in 0..parts {
            let rows = part * images / parts..(part + 1) * images / parts;
            let pictures = self.dataset.pictures(&samples[rows.clone()])?;
            let noise = draws.posterior(rows, self.latent_shape)?;
            let loss = self.objective.loss(&self.vae, &pictures, &noise)?;
            let values = [loss.total.item()?, loss.absolute, loss.squared, loss.divergence];
            losses.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * value);
            loss.total.mul_scalar(share)?.backward_into(&mut grads)?;
        }
        let names = ["loss", "absolute_error", "squared_error", "divergence"];
        let seen = Seen {
            losses: names.into_iter().zip(losses).collect(),
            by_noise: Vec::new(),
            pairs: images as u64,
            text_tokens: 0,
        };
        Ok((grads, seen))
    }

    /// The geometry.
    pub fn geometry(&self) -> &VaeConfig {
        self.vae.config()
    }

    /// What the autoencoder learns from.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Mean and deviation of the latents that `vae`, this autoencoder with averaged weights, makes
    /// of the data; `progress` is told of how many.
    ///
    /// Errors: those of the autoencoder, and of `progress`.
    pub fn measure(&self, vae: &AutoencoderKl, progress: Progress) -> Result<Statistics> {
        let count = self.dataset.len().min(MEASURED);
        Posteriors::compute(vae, &self.dataset, count, progress)?.statistics()
    }
}
