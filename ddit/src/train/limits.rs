//! Which settings a run may have: what they mean, what sizes there may be, which networks can be.

use tensor::{Error, Result};

use super::config::{RunConfig, Source, Task};
use super::setup::{check_latents, vae_geometry};
use crate::pipeline::TextSampler;
use crate::shapes::MAX_WORDS;

/// How weights, rates and the like have to be.
const FROM_ZERO: &str = "must be a number from zero up";
/// How parts of a whole have to be.
const SHARE: &str = "is a share, 0 to 1";

/// A setting, whether it is as it has to be, and how that is.
type Rule = (&'static str, bool, &'static str);

/// Refuses settings that no run can have: those without a meaning, sizes beyond all reason, networks
/// that cannot be as far as the settings alone tell, and lengths and scales that nothing can be
/// sampled with.
///
/// Errors: the first such setting, by its key.
pub fn check(config: &RunConfig) -> Result<()> {
    for rules in [rules_of_data, rules_of_learning, rules_of_running, sizes] {
        first_broken(&rules(config))?;
    }
    check_geometries(config)
}

fn first_broken(rules: &[Rule]) -> Result<()> {
    match rules.iter().find(|(_, holds, _)| !holds) {
        Some((key, _, message)) => Err(Error::value("config", *message).key(*key)),
        None => Ok(()),
    }
}

/// Whether a number is one that rates, weights and the like may be.
fn from_zero(x: f64) -> bool {
    x >= 0.0 && x.is_finite()
}

fn is_share(x: f64) -> bool {
    (0.0..=1.0).contains(&x)
}

fn positive(x: f64) -> bool {
    x > 0.0 && x.is_finite()
}

/// What is learnt from, and how much of it at a time.
fn rules_of_data(RunConfig { data, batch, .. }: &RunConfig) -> Vec<Rule> {
    let parts = batch.micro_batches;
    let divides = |n: usize| parts > 0 && n.is_multiple_of(parts);
    vec![
        ("batch.images", batch.images > 0, "must be at least 1"),
        ("batch.texts", batch.texts > 0, "must be at least 1"),
        ("batch.micro_batches", divides(batch.images), "must divide batch.images"),
        ("batch.micro_batches", divides(batch.texts), "must divide batch.texts"),
        ("data.scenes", data.scenes > 0, "must be at least 1"),
        (
            "data.kinds",
            data.kinds.iter().all(|w| from_zero(*w)) && data.kinds.iter().sum::<f64>() > 0.0,
            "are four weights from zero up, not all of them zero",
        ),
        ("data.sorted", is_share(data.sorted), SHARE),
        ("data.questions", is_share(data.questions), SHARE),
        (
            "data.questions",
            data.questions == 0.0 || data.source == Source::Shapes,
            "needs data.source = \"shapes\", which knows the answers",
        ),
        (
            "data.manifest",
            data.source == Source::Shapes || !data.manifest.is_empty(),
            "is needed with data.source = \"folder\": --set data.manifest=FILE.jsonl",
        ),
        (
            "data.size",
            data.source == Source::Folder || data.size == crate::shapes::SIDE,
            "must be 64 in the shapes world",
        ),
    ]
}

/// What is minimised, and how.
fn rules_of_learning(config: &RunConfig) -> Vec<Rule> {
    let RunConfig { optimizer, objective, autoencoder, .. } = config;
    // Of a gradient of zero, 0/(√0 + ε) is no number without ε.
    let epsilon = f64::from(optimizer.epsilon as f32);
    vec![
        ("objective.caption_dropout", is_share(objective.caption_dropout), SHARE),
        ("objective.noise_shift", positive(objective.noise_shift), "must be a positive number"),
        ("objective.text_weight", from_zero(objective.text_weight), FROM_ZERO),
        ("optimizer.learning_rate", from_zero(optimizer.learning_rate), FROM_ZERO),
        ("optimizer.weight_decay", from_zero(optimizer.weight_decay), FROM_ZERO),
        ("optimizer.epsilon", positive(epsilon), "must be positive, in float32 too"),
        (
            "optimizer.betas",
            optimizer.betas.iter().all(|b| (0.0..1.0).contains(b)),
            "must be at least 0 and below 1",
        ),
        ("optimizer.clip", optimizer.clip > 0.0, "must be positive"),
        ("optimizer.ema", is_share(optimizer.ema), SHARE),
        ("autoencoder.absolute_weight", from_zero(autoencoder.absolute_weight), FROM_ZERO),
        ("autoencoder.squared_weight", from_zero(autoencoder.squared_weight), FROM_ZERO),
        ("autoencoder.divergence_weight", from_zero(autoencoder.divergence_weight), FROM_ZERO),
    ]
}

/// How long, from what, and what is sampled with.
fn rules_of_running(config: &RunConfig) -> Vec<Rule> {
    let RunConfig { autoencoder, run, .. } = config;
    let sampler = &config.generation.sampler;
    vec![
        ("run.steps", run.steps > 0, "must be at least 1"),
        ("run.keep", run.keep > 0, "must be at least 1"),
        ("run.log_every", run.log_every > 0, "must be at least 1"),
        ("run.max_minutes", run.max_minutes >= 0.0, "must not be negative"),
        (
            "autoencoder.source",
            autoencoder.source != "init" || !config.init.is_empty(),
            "is \"init\", but nothing is set to start from: --set init=RUN",
        ),
        (
            "generation.sampler",
            sampler.is_empty() || sampler.parse::<TextSampler>().is_ok(),
            "is exact, ddpm-cache or confidence, or empty for the recipe's own",
        ),
    ]
}

fn sizes(config: &RunConfig) -> Vec<Rule> {
    let RunConfig { data, batch, model, generation, .. } = config;
    let is_fresh = config.task == Task::Dual && config.init.is_empty();
    vec![
        ("data.scenes", data.scenes <= 10_000_000, "must be at most 10000000: all are in memory"),
        ("data.size", (1..=4096).contains(&data.size), "must be 1 to 4096"),
        ("data.atlas_cell", data.atlas_cell > 0, "must be at least 1"),
        // Pictures and, after them, texts are the rows of a step, whose random numbers are named by
        // 20 bits: see `data::stream`.
        ("batch.images", batch.images < 1 << 20, "must be below 1048576"),
        (
            "batch.texts",
            batch.images.saturating_add(batch.texts) < 1 << 20,
            "must be below 1048576 together with batch.images",
        ),
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
    ]
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
