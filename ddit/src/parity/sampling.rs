//! Noise levels, pictures drawn along them, and texts unmasked.

use std::ops::ControlFlow;

use autograd::{Var, no_grad};
use samplers::flow::{
    Guidance, Pass, Schedule, Solver, TRAINING_LEVELS, shifted_training_sigma, timestep,
};
use samplers::masked::{Canvas, DdpmCache, Draw, Query, TextStep};
use tensor::{DType, Device, Error, Result, Tensor};

use super::Trial;
use super::networks::{load_text_encoder, load_transformer};
use crate::mmdit::TextInput;
use crate::pipeline::Model;

/// `out.train_sigmas_{shift}`, `out.sigmas_{shift}_{steps}`, and the times of both.
pub fn schedule(trial: &mut Trial) -> Result<()> {
    trial.expect("num_train_timesteps", TRAINING_LEVELS)?;
    for (name, shift) in trial.names("out.train_sigmas_") {
        let Ok(shift) = shift.parse() else { continue };
        let sigma = |level| shifted_training_sigma(level, shift);
        let sigmas: Vec<f32> = (0..TRAINING_LEVELS).map(sigma).collect();
        let times: Vec<f32> = sigmas.iter().copied().map(timestep).collect();
        trial.compare_numbers(&name, &sigmas)?;
        trial.compare_numbers(&name.replace("sigmas", "timesteps"), &times)?;
    }
    for (name, parameters) in trial.names("out.sigmas_") {
        let parameters = parameters.split_once('_').map(|(s, n)| (s.parse(), n.parse()));
        let Some((Ok(shift), Ok(steps))) = parameters else { continue };
        let stored = trial.get(&name)?.numel();
        if stored != usize::saturating_add(steps, 1) {
            let message = format!("{stored} numbers are not a schedule of {steps} steps");
            return Err(Error::value("parity", message).key(&name));
        }
        let schedule = Schedule::shifted(steps, shift)?;
        trial.compare_numbers(&name, schedule.sigmas())?;
        trial.compare_numbers(&name.replace("sigmas", "timesteps"), &schedule.timesteps())?;
    }
    Ok(())
}

/// Latents drawn from given noise with guidance, after every step and at the end.
pub fn pictures(trial: &mut Trial) -> Result<()> {
    let (model, _) = load_transformer(trial)?;
    let steps = trial.config("steps")?;
    if steps > TRAINING_LEVELS {
        let message = format!("{steps} steps are more than there are noise levels");
        return Err(trial.malformed("config.steps", message));
    }
    let schedule = Schedule::shifted(steps, trial.config("shift")?)?;
    trial.compare_numbers("mid.sigmas", schedule.sigmas())?;
    trial.compare_numbers("mid.timesteps", &schedule.timesteps())?;
    let guidance = Guidance::new(trial.config("guidance_scale")?);
    let (prompts, null) = (trial.get("in.context")?, trial.get("in.null_context")?);
    let both = trial.moved(&Tensor::cat(&[&null, &prompts], 0)?)?;
    let prompts = trial.moved(&prompts)?;
    let start = trial.get("in.latents")?;
    let [batch, ..] = start.dims::<4>()?;
    let velocity = |state: &Tensor, sigma: f32, pass: Pass| {
        let (context, count) = match pass {
            Pass::Conditional => (&prompts, batch),
            Pass::NullThenConditional => (&both, 2 * batch),
        };
        let [state, context] = [trial.moved(state)?, context.clone()].map(Var::constant);
        let times = vec![timestep(sigma); count];
        let velocity = model.velocity(&state, TextInput::States(&context), &times)?;
        velocity.value().to_device(&Device::Cpu)
    };
    let mut trajectory = Vec::new();
    let end = no_grad(|| {
        Solver::Euler.integrate(
            &start,
            &schedule,
            |state, sigma| guidance.velocity(state, sigma, velocity),
            |step| {
                trajectory.push(step.state.clone());
                ControlFlow::Continue(())
            },
        )
    })?;
    trial.compare("mid.trajectory", &Tensor::stack(&trajectory.iter().collect::<Vec<_>>(), 0)?)?;
    trial.compare("out.latents", &end)
}

/// Texts unmasked by the released sampler with given uniform numbers: all tokens after every step,
/// when the network had to run, and the end.
pub fn texts(trial: &mut Trial) -> Result<()> {
    let model = Model {
        transformer: load_transformer(trial)?.0,
        text_encoder: Some(load_text_encoder(trial, 1)?.0),
    };
    let mask: i64 = trial.config("mask_id")?;
    let start = trial.get("in.x_init")?.to_dtype(DType::I64);
    let [batch, length] = start.dims()?;
    if let Some(Some(prompt)) = trial.find_config::<Option<Vec<i64>>>("prompt_ids")? {
        let rows = begun(prompt, trial.config("keep_eos")?, mask, [batch, length]);
        trial.compare_numbers("in.x_init", &rows)?;
    }
    let (tokens, keep) = (start.to_vec::<i64>()?, trial.marks("in.keep")?);
    let rows: Vec<&[i64]> = tokens.chunks(length.max(1)).collect();
    let marks: Vec<&[bool]> = keep.chunks(length.max(1)).collect();
    let canvas = Canvas::keeping(&rows, &marks, mask)?;
    let steps = trial.config("steps")?;
    let sampler = DdpmCache { steps, eps: trial.config("eps")?, reuse: trial.config("cache")? };
    let vocabulary = model.transformer.config().vocab_size;
    let uniforms = trial.get("in.uniforms")?;
    if uniforms.shape()[..] != [steps, batch, length, vocabulary] {
        let message = format!("expected [{steps}, {batch}, {length}, {vocabulary}]");
        return Err(trial.malformed("tensors.in.uniforms", message));
    }
    let uniforms = uniforms.to_dtype(DType::F32).to_vec::<f32>()?;
    let latents = trial.get("in.latents")?;
    let ids = unmask(trial, &model, &latents, canvas, sampler, |i| uniforms[i])?;
    trial.compare("out.tokens", &ids)
}

/// The rows of a batch \[B, L\] that all begin with a prompt, its `</s>` kept or not, and go on
/// with masks.
fn begun(mut prompt: Vec<i64>, keep_end: bool, mask: i64, [batch, length]: [usize; 2]) -> Vec<i64> {
    if !keep_end {
        prompt.pop();
    }
    prompt.resize(length, mask);
    prompt.repeat(batch)
}

/// Runs the released sampler on number i of its stream of uniform numbers \[steps, B, L, V\], and
/// compares what happens on the way. The final tokens.
///
/// The official network runs in the first step, and again after every step that changed a token of
/// any row, even if no mask is left; ours is asked at most then.
///
/// Shapes: `latents` \[B, C_in, height, width\] → \[B, L\].
pub fn unmask(
    trial: &mut Trial,
    model: &Model,
    latents: &Tensor,
    canvas: Canvas,
    sampler: DdpmCache,
    uniform: impl Fn(usize) -> f32,
) -> Result<Tensor> {
    let (batch, length) = (canvas.batch(), canvas.length());
    let (mut states, mut called, mut changed) = (Vec::new(), Vec::new(), true);
    let uniforms = |Draw { step, row, position }: Draw, out: &mut [f32]| {
        let first = ((step * batch + row) * length + position) * out.len();
        out.iter_mut().enumerate().for_each(|(v, u)| *u = uniform(first + v));
    };
    let observe = |step: &TextStep| {
        states.push(step.canvas.to_tensor());
        called.push(i64::from(changed || !sampler.reuse || !step.asked.is_empty()));
        changed = !step.revealed.is_empty();
        ControlFlow::Continue(())
    };
    let denoise = |query: &Query| model.denoise(query, Some(latents));
    let end = no_grad(|| sampler.replay(canvas, uniforms, denoise, observe))?;
    trial.compare("mid.x", &Tensor::stack(&states.iter().collect::<Vec<_>>(), 0)?)?;
    trial.compare_numbers("mid.network_called", &called)?;
    Ok(end.to_tensor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_a_batch_begins_with_the_prompt() {
        assert_eq!(begun(vec![7, 8, 1], true, 9, [2, 4]), [7, 8, 1, 9, 7, 8, 1, 9]);
        assert_eq!(begun(vec![7, 8, 1], false, 9, [1, 4]), [7, 8, 9, 9]);
        assert_eq!(begun(vec![7, 8, 1], true, 9, [2, 1]), [7, 7]);
    }
}
