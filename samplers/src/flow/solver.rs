//! Solvers for `dx/dσ = v(x, σ)`, from noise down to data.

use std::ops::ControlFlow;

use tensor::{Result, Tensor};

use super::interpolant::{estimate_clean, weighted_sum};
use super::schedule::Schedule;

/// How a step of the differential equation is taken.
///
/// | solver | velocities a step | error after N steps |
/// | --- | --- | --- |
/// | Euler | 1 | O(1/N) |
/// | Heun | 2 | O(1/N²) |
/// | midpoint | 2 | O(1/N²) |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Solver {
    /// `x ← x + h·v(x, σ)`, with `h = σ′ − σ`: the released sampler.
    #[default]
    Euler,
    /// The mean of the velocities at both ends of an Euler step. The step that ends at σ = 0 is a
    /// plain Euler step: no network was trained there, and one step's error O(1/N²) costs no order.
    Heun,
    /// The velocity in the middle of the step, reached by half an Euler step.
    Midpoint,
}

/// A step just taken, for traces, previews and progress.
#[derive(Clone, Copy)]
pub struct FlowStep<'a> {
    /// The number of the step, from 0.
    pub index: usize,
    /// The number of steps in all.
    pub steps: usize,
    /// The noise level it started from.
    pub sigma: f32,
    /// The noise level it arrived at.
    pub next_sigma: f32,
    /// The state it started from.
    pub start: &'a Tensor,
    /// The velocity there.
    pub velocity: &'a Tensor,
    /// The state it arrived at.
    pub state: &'a Tensor,
}

impl FlowStep<'_> {
    /// The data this step believed in, `x̂₀ = x_σ − σ·v(x_σ, σ)`.
    ///
    /// Errors: none that the step itself would not have met.
    pub fn clean_estimate(&self) -> Result<Tensor> {
        estimate_clean(self.start, self.velocity, self.sigma)
    }
}

impl Solver {
    /// How often a schedule of `steps` that ends at 0 asks for a velocity.
    pub fn evaluations(self, steps: usize) -> usize {
        match self {
            Self::Euler => steps,
            Self::Heun => (2 * steps).saturating_sub(1),
            Self::Midpoint => 2 * steps,
        }
    }

    /// Integrates from the first noise level of the schedule to the last.
    ///
    /// `velocity` gives v(x, σ) for a state and a noise level. `observe` is called after each step;
    /// when it answers [`ControlFlow::Break`], integration ends and the state is returned as it is.
    ///
    /// Shapes: `start` \[B, …\] → \[B, …\].
    /// Errors: those of `velocity`; its answer has not the shape and type of the state, or these
    /// are not F32 or F64.
    pub fn integrate(
        self,
        start: &Tensor,
        schedule: &Schedule,
        mut velocity: impl FnMut(&Tensor, f32) -> Result<Tensor>,
        mut observe: impl FnMut(&FlowStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let mut x = start.clone();
        for (index, pair) in schedule.sigmas().windows(2).enumerate() {
            let (sigma, next_sigma) = (pair[0], pair[1]);
            let at_start = velocity(&x, sigma)?;
            let state = self.step(&x, &at_start, sigma, next_sigma, &mut velocity)?;
            let step = FlowStep {
                index,
                steps: schedule.steps(),
                sigma,
                next_sigma,
                start: &x,
                velocity: &at_start,
                state: &state,
            };
            let verdict = observe(&step);
            x = state;
            if verdict.is_break() {
                break;
            }
        }
        Ok(x)
    }

    fn step(
        self,
        x: &Tensor,
        at_start: &Tensor,
        sigma: f32,
        next_sigma: f32,
        velocity: &mut impl FnMut(&Tensor, f32) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let arrive = |target: f32, velocity: &Tensor| {
            let length = f64::from(target) - f64::from(sigma);
            weighted_sum("integrate", x, velocity, &[[1.0, length]])
        };
        match self {
            Self::Heun if next_sigma > 0.0 => {
                let at_end = velocity(&arrive(next_sigma, at_start)?, next_sigma)?;
                let mean = weighted_sum("integrate", at_start, &at_end, &[[0.5, 0.5]])?;
                arrive(next_sigma, &mean)
            }
            Self::Midpoint => {
                let middle = 0.5 * (sigma + next_sigma);
                let in_middle = velocity(&arrive(middle, at_start)?, middle)?;
                arrive(next_sigma, &in_middle)
            }
            Self::Euler | Self::Heun => arrive(next_sigma, at_start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    const SOLVERS: [Solver; 3] = [Solver::Euler, Solver::Heun, Solver::Midpoint];

    /// v = 2: a straight line, which every solver follows exactly.
    #[test]
    fn straight_paths_are_exact_and_evaluations_counted() {
        let schedule = Schedule::from_sigmas(vec![1.0, 0.75, 0.5, 0.0]).unwrap();
        for solver in SOLVERS {
            let mut calls = 0;
            let velocity = |x: &Tensor, _: f32| {
                calls += 1;
                Ok(Tensor::full(x.shape(), 2.0, DType::F32))
            };
            let start = Tensor::zeros([2, 3], DType::F32);
            let next = |_: &FlowStep| ControlFlow::Continue(());
            let end = solver.integrate(&start, &schedule, velocity, next).unwrap();
            assert_eq!(end.to_f64_vec(), [-2.0; 6], "{solver:?}");
            assert_eq!(calls, solver.evaluations(3), "{solver:?}");
        }
    }

    #[test]
    fn observer_sees_every_step_and_can_stop() {
        let schedule = Schedule::from_sigmas(vec![1.0, 0.75, 0.5, 0.0]).unwrap();
        let start = Tensor::ones([1], DType::F64);
        let mut seen = Vec::new();
        let observe = |step: &FlowStep| {
            let estimate = step.clean_estimate().unwrap().item().unwrap();
            seen.push((step.index, step.sigma, step.state.item().unwrap(), estimate));
            if step.index == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let velocity = |_: &Tensor, _: f32| Ok(Tensor::ones([1], DType::F64));
        let stopped = Solver::Euler.integrate(&start, &schedule, velocity, observe).unwrap();
        assert_eq!(seen, [(0, 1.0, 0.75, 0.0), (1, 0.75, 0.5, 0.0)]);
        assert_eq!(stopped.item().unwrap(), 0.5);
    }

    #[test]
    fn a_velocity_of_another_shape_is_an_error() {
        let schedule = Schedule::shifted(2, 3.0).unwrap();
        let start = Tensor::zeros([2, 3], DType::F32);
        let velocity = |_: &Tensor, _: f32| Ok(Tensor::zeros([2, 4], DType::F32));
        let next = |_: &FlowStep| ControlFlow::Continue(());
        assert!(Solver::Euler.integrate(&start, &schedule, velocity, next).is_err());
    }
}
