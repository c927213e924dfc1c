//! Noise levels, and pictures drawn along them.

use std::ops::ControlFlow;

use autograd::{Var, no_grad};
use samplers::flow::{
    Guidance, Pass, Schedule, Solver, TRAINING_LEVELS, shifted_training_sigma, timestep,
};
use tensor::{Result, Tensor};

use super::Trial;
use super::networks::load_transformer;
use crate::mmdit::{Input, TextInput, Want};

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
        let schedule = Schedule::shifted(steps, shift)?;
        trial.compare_numbers(&name, schedule.sigmas())?;
        trial.compare_numbers(&name.replace("sigmas", "timesteps"), &schedule.timesteps())?;
    }
    Ok(())
}

/// Latents drawn from given noise with guidance, after every step and at the end.
pub fn pictures(trial: &mut Trial) -> Result<()> {
    let (model, _) = load_transformer(trial)?;
    let schedule = Schedule::shifted(trial.config("steps")?, trial.config("shift")?)?;
    trial.compare_numbers("mid.sigmas", schedule.sigmas())?;
    trial.compare_numbers("mid.timesteps", &schedule.timesteps())?;
    let guidance = Guidance::new(trial.config("guidance_scale")?);
    let (prompts, null) = (trial.get("in.context")?, trial.get("in.null_context")?);
    let both = Tensor::cat(&[&null, &prompts], 0)?;
    let start = trial.get("in.latents")?;
    let [batch, ..] = start.dims::<4>()?;
    let velocity = |state: &Tensor, sigma: f32, pass: Pass| {
        let (context, count) = match pass {
            Pass::Conditional => (&prompts, batch),
            Pass::NullThenConditional => (&both, 2 * batch),
        };
        let output = model.forward(&Input {
            latents: Some(&Var::constant(state.clone())),
            text: TextInput::States(&Var::constant(context.clone())),
            times: &vec![timestep(sigma); count],
            want: Want::Image,
        })?;
        match output.velocity {
            Some(velocity) => Ok(velocity.value()),
            None => unreachable!("latents were given and their velocity was wanted"),
        }
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
