//! What sizes a run may have, and which networks can be.

use tensor::{Error, Result};

use super::config::{RunConfig, Source, Task};
use super::setup::{check_latents, vae_geometry};
use crate::shapes::MAX_WORDS;

/// Refuses sizes beyond all reason, networks that cannot be as far as the settings alone tell, and
/// lengths and scales that nothing can be sampled with.
///
/// Errors: the first such setting, by its key.
pub fn check(config: &RunConfig) -> Result<()> {
    let RunConfig { data, batch, model, generation, .. } = config;
    let is_fresh = config.task == Task::Dual && config.init.is_empty();
    let positive = |x: f64| x.is_finite() && x > 0.0;
    let rules = [
        ("data.scenes", data.scenes <= 10_000_000, "must be at most 10000000: all are in memory"),
        ("data.size", (1..=4096).contains(&data.size), "must be 1 to 4096"),
        ("data.atlas_cell", data.atlas_cell > 0, "must be at least 1"),
        // A row's random numbers are named by 20 bits: see `data::stream`.
        ("batch.images", batch.images < 1 << 20, "must be below 1048576"),
        ("batch.texts", batch.texts < 1 << 20, "must be below 1048576"),
        ("model.width", !is_fresh || model.width <= 1 << 16, "must be at most 65536"),
        ("model.blocks", !is_fresh || model.blocks <= 1000, "must be at most 1000"),
        (
            "model.heads",
            !is_fresh || (model.heads > 0 && model.width.is_multiple_of(model.heads)),
            "must divide model.width",
        ),
        ("model.text_length", (2..=4096).contains(&model.text_length), "must be 2 to 4096"),
        (
            "model.text_length",
            !is_fresh || data.source == Source::Folder || model.text_length > MAX_WORDS,
            "must be at least 13, for the longest text of the shapes world and its end",
        ),
        ("generation.steps", generation.steps > 0, "must be at least 1"),
        ("generation.text_steps", generation.text_steps > 0, "must be at least 1"),
        (
            "generation.guidance",
            generation.guidance == 0.0 || positive(generation.guidance),
            "must not be negative",
        ),
        ("generation.candidates", generation.candidates > 0, "must be at least 1"),
        ("generation.shift", positive(generation.shift), "must be positive"),
    ];
    match rules.iter().find(|(_, holds, _)| !holds) {
        Some((key, _, message)) => Err(Error::value("config", *message).key(*key)),
        None => check_geometries(config),
    }
}

fn check_geometries(config: &RunConfig) -> Result<()> {
    let is_fresh = config.init.is_empty();
    let trained = vae_geometry(&config.autoencoder, config.data.size);
    let vae = match (config.task, config.autoencoder.source.as_str()) {
        (Task::Vae, _) if is_fresh => Some(trained),
        (Task::Dual, "train") => Some(trained),
        (Task::Dual, "none") => None,
        // That of a model, which is yet to be opened.
        _ => return Ok(()),
    };
    if let Some(vae) = &vae {
        vae.check().map_err(|error| error.key("autoencoder"))?;
    }
    match config.task {
        Task::Dual if is_fresh => check_latents(config, None, vae.as_ref()),
        _ => Ok(()),
    }
}
