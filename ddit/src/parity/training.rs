//! Some steps of training, from given draws: the trainer's own, of its objective and its learner.

use autograd::{Grads, Params};
use samplers::masked::{MIN_TIME, stratified_times};
use tensor::{Result, Tensor};

use super::Trial;
use crate::config::{Recipe, TransformerConfig};
use crate::mmdit::Mmdit;
use crate::objective::{
    Corrupted, ImageDraws, ImagePairs, Losses, Objective, Step, TextDraws, TextPairs, Texts,
    noise_level,
};
use crate::pipeline::Model;
use crate::t5::{T5Config, T5Encoder};
use crate::train::learner::Learner;
use crate::train::schedule::{Decay, OptimizerConfig};
use crate::train::trainable::MASK_EMBEDDING;

/// Losses, gradient norms and learning rates of every step; the gradient of the first, before
/// clipping; parameters and their averages after the last, and the mask's embedding if it learns.
pub fn steps(trial: &mut Trial) -> Result<()> {
    let (mut learner, model) = learner(trial)?;
    let optimizer = optimizer(trial)?;
    let objective = Objective {
        recipe: Recipe::Release,
        text_weight: trial.config("text_weight")?,
        caption_dropout: trial.config("caption_dropout")?,
        noise_shift: 1.0,
        null: trial.ids("in.null_ids")?,
        mask: trial.config("mask_id")?,
    };
    let steps: u64 = trial.config("steps")?;
    let mut series = Series::default();
    for k in 0..steps {
        let (grads, losses) = gradients(trial, &format!("step{k}"), &objective, &model)?;
        if k == 0 {
            trial.compare_gradients(learner.params(), &grads)?;
        }
        let rate = optimizer.rate(k, steps);
        let clipped = learner.update(&grads, rate)?;
        series.push(&[
            ("out.loss", losses.total),
            ("out.image_loss", losses.image),
            ("out.text_loss", losses.text),
            ("out.grad_norm", clipped.norm),
            ("out.lr", rate),
        ]);
    }
    for (name, values) in &series.0 {
        trial.compare_numbers(name, values)?;
    }
    compare_named(trial, "out.param.", &learner.weights())?;
    compare_named(trial, "out.ema.", &learner.average())?;
    if let Ok(row) = learner.params().get(MASK_EMBEDDING) {
        trial.compare("out.mask_row", &row.value())?;
    }
    Ok(())
}

/// Numbers of every step, by name.
#[derive(Default)]
struct Series(Vec<(&'static str, Vec<f64>)>);

impl Series {
    fn push(&mut self, numbers: &[(&'static str, f64)]) {
        for &(name, number) in numbers {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(number),
                None => self.0.push((name, vec![number])),
            }
        }
    }
}

fn optimizer(trial: &Trial) -> Result<OptimizerConfig> {
    Ok(OptimizerConfig {
        learning_rate: trial.config("lr")?,
        warmup: trial.config("warmup_steps")?,
        decay: Decay::Constant,
        betas: trial.config("betas")?,
        epsilon: trial.config("adam_eps")?,
        weight_decay: trial.config("weight_decay")?,
        clip: trial.config("grad_clip")?,
        ema: trial.config("ema_decay")?,
        ema_warmup: false,
    })
}

/// The two networks, and what of them learns: the transformer, and the mask's embedding where the
/// case says so.
fn learner(trial: &Trial) -> Result<(Learner, Model)> {
    let (geometry, transformer) = trial.network::<TransformerConfig>(0)?;
    let (encoder, stored) = trial.network::<T5Config>(1)?;
    let frozen = Params::from_tensors(stored.tensors(), |_| false)?;
    let mut encoder = T5Encoder::new(encoder, &frozen)?;
    let mut weights = transformer.tensors();
    let row = trial.config::<bool>("train_mask_embedding")?;
    let mask: u32 = trial.config("mask_id")?;
    if row {
        weights.push((MASK_EMBEDDING.to_owned(), encoder.embedding().row(mask)?));
    }
    let learns = |name: &str| {
        name == MASK_EMBEDDING || transformer.get(name).is_ok_and(|var| var.is_parameter())
    };
    let learner = Learner::new(weights, learns, &optimizer(trial)?, trial.device())?;
    if row {
        encoder.set_row(mask, learner.params().get(MASK_EMBEDDING)?)?;
    }
    let transformer = Mmdit::new(geometry, learner.params())?;
    Ok((learner, Model { transformer, text_encoder: Some(encoder) }))
}

/// The gradient and the losses of the step whose draws begin with `in.{step}.`.
fn gradients(
    trial: &mut Trial,
    step: &str,
    objective: &Objective,
    model: &Model,
) -> Result<(Grads, Losses)> {
    let given = |name: &str| format!("in.{step}.{name}");
    let [image_latents, text_latents] =
        [trial.get("in.latents_image")?, trial.get("in.latents_text")?];
    let captions = trial.ids("in.caption_ids")?;
    let dropped = trial.get(&given("u_drop"))?.to_f64_vec().into_iter();
    let levels = trial.floats(&given("z"))?.into_iter();
    let image_draws = ImageDraws {
        sigma: levels.map(|z| noise_level(objective.recipe, z)).collect(),
        noise: trial.get(&given("noise"))?,
        drop: dropped.map(|u| u < objective.caption_dropout).collect(),
    };

    let (ids, learned) = (trial.ids(&given("x0"))?, trial.marks(&given("label_mask"))?);
    let floor = trial.find_config("sampling_eps")?.unwrap_or(MIN_TIME);
    let text_draws = TextDraws {
        times: stratified_times(&trial.get(&given("u_t"))?.to_f64_vec(), floor),
        uniforms: trial.get(&given("u_mask"))?.to_f64_vec(),
    };
    let length = objective.null.len();
    let texts = Texts { ids: &ids, learned: &learned, counted: None, length };
    let corrupted = Corrupted::new(&texts, &text_draws, objective.mask, objective.recipe)?;
    let noisy: Vec<i64> = corrupted.ids.iter().map(|&id| i64::from(id)).collect();
    trial.compare_numbers(&format!("mid.{step}.xt"), &noisy)?;

    let images = ImagePairs { latents: &image_latents, ids: &captions };
    let texts = TextPairs { latents: &text_latents, texts };
    let image = objective.image_pass(model, &images, &image_draws)?;
    let step = Step(vec![(image, objective.text_pass(model, &texts, &text_draws)?)]);
    let (grads, found) = objective.descend(model, &step)?;
    Ok((grads, step.losses(objective, &found)?))
}

/// Compares what is expected of single tensors, under `prefix` and their names.
///
/// Errors: one of them is unknown, or has another shape.
fn compare_named(trial: &mut Trial, prefix: &str, found: &[(String, Tensor)]) -> Result<()> {
    for (key, name) in trial.names(prefix) {
        match found.iter().find(|(found, _)| *found == name) {
            Some((_, tensor)) => trial.compare(&key, tensor)?,
            None => return Err(trial.malformed(&format!("tensors.{key}"), "is no parameter")),
        }
    }
    Ok(())
}
