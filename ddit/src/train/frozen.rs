//! The autoencoder of a transformer's run, which does not learn, and the latents it makes, once.

use std::path::Path;

use autograd::{Params, Var};
use tensor::{DType, Device, Result, Tensor};

use super::config::RunConfig;
use super::trainer::Tell;
use super::watch::Event;
use crate::config::VaeConfig;
use crate::data::Dataset;
use crate::data::latents::{Latents, Posteriors};
use crate::folder::Component;
use crate::vae::AutoencoderKl;
use crate::weights::{FNV_START, fnv};

/// The latents of the data, from the run's folder if they were computed before; else the device
/// makes them.
pub(super) fn latents(
    config: &RunConfig,
    out: &Path,
    frozen: Option<&Component<VaeConfig>>,
    dataset: &Dataset,
    device: &Device,
    tell: Tell,
) -> Result<Latents> {
    let Some(component) = frozen else { return Ok(Latents::Pixels) };
    let vae = frozen_vae(component, &Device::Cpu)?;
    let path = out.join("latents.safetensors");
    let origin = origin(config, component, dataset)?;
    if let Some(posteriors) = Posteriors::open(&path, &origin)? {
        return Ok(Latents::Encoded { vae, posteriors });
    }
    let encoder = frozen_vae(component, device)?;
    let mut progress = |done, total| tell(Event::Encoded { done, total });
    let posteriors = Posteriors::compute(&encoder, dataset, dataset.len(), &mut progress)?;
    posteriors.save(&path, &origin)?;
    Ok(Latents::Encoded { vae, posteriors })
}

/// An autoencoder that does not learn, on a device.
pub(super) fn frozen_vae(
    component: &Component<VaeConfig>,
    device: &Device,
) -> Result<AutoencoderKl> {
    let constant = |(name, weight): &(String, Tensor)| {
        (name.clone(), Var::constant(weight.to_dtype(DType::F32)))
    };
    let params = Params::from_vars(component.weights.iter().map(constant))?;
    let params = params.to_device(device)?;
    AutoencoderKl::new(component.config.clone(), &params)
}

/// What latents are computed from: the autoencoder's weights, the data's settings and number.
fn origin(
    config: &RunConfig,
    component: &Component<VaeConfig>,
    dataset: &Dataset,
) -> Result<String> {
    let data = toml::to_string(&config.data).expect("settings can be written");
    let mut hash = fnv(FNV_START, data.as_bytes());
    for (_, weight) in &component.weights {
        hash = fnv(hash, weight.contiguous().bytes()?);
    }
    Ok(format!("{hash:016x} seed {} samples {}", config.seed, dataset.len()))
}
