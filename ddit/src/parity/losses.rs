//! The two losses, from given draws.

use autograd::{Params, Var};
use samplers::flow::{ImageLoss, TRAINING_LEVELS, logit_normal_level, timestep, training_sigma};
use samplers::masked::{LogLinear, stratified_times, subs_log_probs};
use tensor::{DType, Device, Result, Tensor};

use super::Trial;
use super::networks::load_transformer;
use crate::config::Recipe;
use crate::mmdit::TextInput;
use crate::objective::{Corrupted, ImageDraws, Noised, TextDraws, Texts, noise_level};
use crate::t5::{T5Config, T5Encoder};

/// Times of texts with all that follows from them, and noise levels of pictures.
pub fn times(trial: &mut Trial) -> Result<()> {
    trial.expect("num_train_timesteps", TRAINING_LEVELS)?;
    trial.expect("shift", 1)?;
    let (floor, eps): (f64, f64) = (trial.config("sampling_eps")?, trial.config("noise_eps")?);
    let uniforms = trial.get("in.u")?.to_f64_vec();
    let times = stratified_times(&uniforms, floor);
    let plain: Vec<f64> = uniforms.iter().flat_map(|&u| stratified_times(&[u], floor)).collect();
    trial.compare_numbers("out.t", &times)?;
    trial.compare_numbers("out.t_plain", &plain)?;
    let noise = LogLinear::new(eps)?;
    let mut compare = |name: &str, of: &dyn Fn(f64) -> f64| {
        trial.compare_numbers(name, &times.iter().map(|&t| of(t)).collect::<Vec<f64>>())
    };
    compare("out.sigma", &|t| noise.total_noise(t))?;
    compare("out.dsigma", &|t| noise.rate(t))?;
    compare("out.weight", &|t| noise.loss_weight(t))?;
    compare("out.move", &|t| noise.mask_probability(t))?;

    let levels = trial.floats("in.z")?.into_iter().map(logit_normal_level);
    let (levels, sigmas): (Vec<i64>, Vec<f32>) =
        levels.map(|level| (level as i64, training_sigma(level))).unzip();
    trial.compare_numbers("out.index", &levels)?;
    trial.compare_numbers("out.sigma_img", &sigmas)?;
    let timesteps: Vec<f32> = sigmas.into_iter().map(timestep).collect();
    trial.compare_numbers("out.t_img", &timesteps)
}

/// The text loss from given scores: corruption, SUBS rules, the loss of every token and of all,
/// and its gradient by the scores.
pub fn text_from_logits(trial: &mut Trial) -> Result<()> {
    trial.expect("noise_eps", 1e-3)?;
    trial.expect("neg_infinity", -1e6)?;
    let logits = trial.get("in.logits")?;
    let [batch, length, vocabulary] = logits.dims()?;
    let mask: u32 = trial.config("mask_id")?;
    let uniforms = trial.get("in.u_t")?.to_f64_vec();
    let draws = TextDraws {
        times: stratified_times(&uniforms, trial.config("sampling_eps")?),
        uniforms: trial.get("in.u_mask")?.to_f64_vec(),
    };
    let (ids, learned) = (trial.ids("in.x0")?, trial.marks("in.label_mask")?);
    let counted = match trial.find_config("ignore_padding")? {
        Some(true) => Some(trial.marks("in.attention_mask")?),
        _ => None,
    };
    if ids.iter().any(|&id| id as usize >= vocabulary) {
        let message = format!("there are ids beyond the {vocabulary} of in.logits");
        return Err(trial.malformed("tensors.in.x0", message));
    }
    let texts = Texts { ids: &ids, learned: &learned, counted: counted.as_deref(), length };
    let corrupted = Corrupted::new(&texts, &draws, mask, Recipe::Release)?;
    let noisy: Vec<i64> = corrupted.ids.iter().map(|&id| i64::from(id)).collect();
    let noise = LogLinear::RELEASE;
    let moves: Vec<f64> = draws.times.iter().map(|&t| noise.mask_probability(t)).collect();
    trial.compare_numbers("out.t", &draws.times)?;
    trial.compare_numbers("out.move", &moves)?;
    trial.compare_numbers("out.xt", &noisy)?;
    let noisy = Tensor::from_vec(noisy, [batch, length])?;
    let log_probs = subs_log_probs(&logits, &noisy, i64::from(mask))?;
    trial.compare("out.log_probs", &log_probs)?;
    trial.compare_numbers("out.token_loss", &token_losses(&log_probs, &ids, &draws.times)?)?;

    // Tokens that are unit vectors have the logits themselves as their scores under a head that
    // holds the logits as its columns.
    let tokens = batch * length;
    let unit = |i: usize| if i / tokens == i % tokens { 1.0 } else { 0.0 };
    let unit: Vec<f32> = (0..tokens * tokens).map(unit).collect();
    let unit = Tensor::from_vec(unit, [batch, length, tokens])?;
    let columns = logits.reshape([tokens, vocabulary])?.transpose(0, 1)?.contiguous();
    let bias = Tensor::zeros([vocabulary], DType::F32);
    let [unit, bias] = [trial.moved(&unit)?, trial.moved(&bias)?].map(Var::constant);
    let head = Var::parameter(trial.moved(&columns)?);
    let loss = corrupted.token_loss(&unit, &head, &bias)?;
    trial.compare("out.loss", &loss.value())?;
    let gradient = match loss.is_tracked() {
        true => loss.backward()?.get(&head),
        false => None,
    };
    let gradient = gradient.unwrap_or_else(|| Tensor::zeros([vocabulary, tokens], DType::F32));
    let gradient = gradient.transpose(0, 1)?.contiguous().reshape(logits.shape())?;
    trial.compare("grad.in.logits", &gradient)
}

/// The text loss through text encoder and transformer: corruption, the loss of every token and of
/// all, and its gradients, that of the mask's embedding among them.
pub fn text(trial: &mut Trial) -> Result<()> {
    trial.expect("noise_eps", 1e-3)?;
    let (model, params) = load_transformer(trial)?;
    let (config, encoder_params) = trial.network::<T5Config>(1)?;
    // Of the encoder one row learns alone.
    let frozen = Params::from_tensors(encoder_params.tensors(), |_| false)?;
    let mut encoder = T5Encoder::new(config, &frozen)?;
    let mask: u32 = trial.config("mask_id")?;
    let row = encoder.train_row(mask)?;
    let [batch, length] = trial.get("in.x0")?.dims()?;
    let (ids, learned) = (trial.ids("in.x0")?, trial.marks("in.label_mask")?);
    let draws = TextDraws {
        times: stratified_times(&trial.get("in.u_t")?.to_f64_vec(), trial.config("sampling_eps")?),
        uniforms: trial.get("in.u_mask")?.to_f64_vec(),
    };
    let texts = Texts { ids: &ids, learned: &learned, counted: None, length };
    let corrupted = Corrupted::new(&texts, &draws, mask, Recipe::Release)?;
    let noisy: Vec<i64> = corrupted.ids.iter().map(|&id| i64::from(id)).collect();
    trial.compare_numbers("mid.t", &draws.times)?;
    trial.compare_numbers("mid.xt", &noisy)?;

    let states = encoder.forward(&corrupted.ids, length)?;
    let latents = Var::constant(trial.there("in.latents")?);
    let text = TextInput::States(&states);
    let tokens = model.text_tokens(Some(&latents), text, &vec![0.0; batch])?;
    let logits = model.text_logits(&tokens)?.value().to_device(&Device::Cpu)?;
    let noisy = Tensor::from_vec(noisy, [batch, length])?;
    let log_probs = subs_log_probs(&logits, &noisy, i64::from(mask))?;
    trial.compare_numbers("out.token_loss", &token_losses(&log_probs, &ids, &draws.times)?)?;
    let loss = corrupted.token_loss(&tokens, &model.text_head().weight, &model.text_head().bias)?;
    trial.compare("out.loss", &loss.value())?;
    let named = params.named().map(|(name, var)| (name.to_owned(), var.clone()));
    let all = Params::from_vars(named.chain([("t5_mask_embedding".to_owned(), row)]))?;
    trial.compare_gradients(&all, &loss.backward()?)
}

/// −w(t) log p of every token.
///
/// Shapes: `log_probs` \[B, L, V\], B·L ids, B times → B·L.
fn token_losses(log_probs: &Tensor, ids: &[u32], times: &[f64]) -> Result<Vec<f64>> {
    let [_, length, vocabulary] = log_probs.dims()?;
    let log_probs = log_probs.to_f64_vec();
    let loss = |(i, &id): (usize, &u32)| {
        let weight = LogLinear::RELEASE.loss_weight(times[i / length]);
        -weight * log_probs[i * vocabulary + id as usize]
    };
    Ok(ids.iter().enumerate().map(loss).collect())
}

/// The image loss in both forms, what it is made of, and the gradients of the release's.
pub fn image(trial: &mut Trial) -> Result<()> {
    trial.expect("num_train_timesteps", TRAINING_LEVELS)?;
    trial.expect("shift", 1)?;
    let (model, params) = load_transformer(trial)?;
    let dropout: f64 = trial.config("caption_dropout")?;
    let uniforms = trial.get("in.u_drop")?.to_f64_vec();
    let sigma = trial.floats("in.z")?.into_iter().map(|z| noise_level(Recipe::Release, z));
    let draws = ImageDraws {
        sigma: sigma.collect(),
        noise: trial.get("in.noise")?,
        drop: uniforms.into_iter().map(|u| u < dropout).collect(),
    };
    let (captions, null) = (trial.get("in.context")?, trial.get("in.null_context")?);
    let row =
        |(i, &drop): (usize, &bool)| if drop { null.select(0, 0) } else { captions.select(0, i) };
    let rows = draws.drop.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
    let context = Tensor::stack(&rows.iter().collect::<Vec<_>>(), 0)?;
    let context = Var::constant(trial.moved(&context)?);
    trial.compare("mid.context_used", &context.value())?;

    let noised = Noised::new(&trial.get("in.latents")?, &draws)?;
    trial.compare_numbers("mid.sigma", &noised.sigma)?;
    trial.compare_numbers("mid.t", &noised.times())?;
    trial.compare("mid.xt", &noised.state.value())?;
    let velocity = noised.velocity(&model, TextInput::States(&context))?;
    trial.compare("out.v", &velocity.value())?;
    let loss = |form| noised.velocity_loss(&velocity, form);
    trial.compare("out.loss_paper", &loss(ImageLoss::Velocity)?.value())?;
    let loss = loss(ImageLoss::CleanEstimate)?;
    trial.compare("out.loss", &loss.value())?;
    trial.compare_gradients(&params, &loss.backward()?)
}
