//! The optimiser: clipping by the global norm, AdamW, and a moving average of the parameters.
//!
//! One [`AdamW::step`] is: the norm of all gradients together, the factor that clips it, and for
//! each parameter one pass over memory that does the rest ([`kernels::adamw`]).
//!
//! Source: Loshchilov & Hutter 2019, algorithm 2; Pascanu, Mikolov & Bengio 2013, algorithm 1.

use std::collections::BTreeMap;

use kernels::Real;
use kernels::adamw::{self, State, Update};
use tensor::{DType, Device, Element, Error, Result, Tensor};

use crate::profile::{Pass, Run, bytes_of, measured};
use crate::{Grads, Params, Var};

mod gpu;

/// How parameters follow their gradients. The learning rate comes with each step.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the means of gradients and of squared gradients.
    pub betas: [f64; 2],
    /// Added to the root of the latter.
    pub eps: f64,
    /// Share of a parameter that a learning rate of 1 takes away at each step.
    pub weight_decay: f64,
    /// The largest norm of all gradients together: a larger one is scaled down to it.
    pub clip: Option<f64>,
    /// Decay of the moving average of the parameters, if one is kept.
    pub ema: Option<Ema>,
}

/// PyTorch's defaults, without clipping and average.
impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, clip: None, ema: None }
    }
}

/// The decay of a moving average: e ← d·e + (1 − d)·p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ema {
    /// The same d at every step.
    Constant(f64),
    /// min(d, (1 + k)/(10 + k)) after k steps: an average over the last tenth of a young run.
    Rising(f64),
}

impl Ema {
    /// d after `k` steps.
    pub fn decay(self, k: u64) -> f64 {
        match self {
            Self::Constant(d) => d,
            Self::Rising(d) => d.min((1 + k) as f64 / (10 + k) as f64),
        }
    }
}

/// The norm of all gradients together, and the factor they were scaled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clipped {
    /// √(Σ g²), before clipping.
    pub norm: f64,
    /// 1, or less if they were clipped.
    pub factor: f64,
}

impl Clipped {
    /// The norm of `grads` of these variables, and the factor that limits it to `limit`:
    /// limit/norm, with nothing added.
    ///
    /// Sums are in float64 and in the order of the variables. On a GPU this waits for them.
    ///
    /// Errors: a gradient that is neither f32 nor f64.
    pub fn of<'a>(
        grads: &Grads,
        vars: impl IntoIterator<Item = &'a Var>,
        limit: Option<f64>,
    ) -> Result<Self> {
        let vars: Vec<&Var> = vars.into_iter().collect();
        let norm = match vars.first().and_then(|var| var.value().cuda().cloned()) {
            Some(gpu) => {
                let all = [whole(grads, vars), Vec::new()];
                gpu::read(&gpu::norms(&gpu, all, limit)?[0])?[0]
            }
            None => norm(grads, vars)?,
        };
        Ok(Self::limited(norm, limit))
    }

    fn limited(norm: f64, limit: Option<f64>) -> Self {
        let factor = limit.filter(|&limit| norm > limit).map_or(1.0, |limit| limit / norm);
        Self { norm, factor }
    }

    /// Of the norms of the gradients that are limited and of the others.
    fn both([norm, other]: [f64; 2], limit: Option<f64>) -> [Self; 2] {
        [Self::limited(norm, limit), Self::limited(other, None)]
    }
}

/// The norm of the gradients of these variables together, in this machine's memory.
fn norm<'a>(grads: &Grads, vars: impl IntoIterator<Item = &'a Var>) -> Result<f64> {
    let squares = vars.into_iter().filter_map(|var| grads.sum_squares(var));
    Ok(squares.sum::<Result<f64>>()?.sqrt())
}

/// The gradients of these variables.
fn whole<'a>(grads: &Grads, vars: impl IntoIterator<Item = &'a Var>) -> Vec<Tensor> {
    let gradients = vars.into_iter().filter_map(|var| grads.get(var));
    gradients.map(|gradient| gradient.contiguous()).collect()
}

/// AdamW over the trained parameters of a store.
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    /// Steps done.
    steps: u64,
}

/// One parameter and what is remembered of it.
struct Slot {
    name: String,
    var: Var,
    m: Tensor,
    v: Tensor,
    ema: Option<Tensor>,
    /// Whether its gradient is part of the norm that is limited, and scaled with the others.
    clipped: bool,
    /// Steps in which it had a gradient.
    updates: u64,
    /// Whether it has one in the step that is under way.
    moves: bool,
}

impl AdamW {
    /// An optimiser of the parameters in `params`; the average begins as a copy of them.
    ///
    /// Errors: a half-precision parameter, which small steps would not change.
    #[track_caller]
    pub fn new(params: &Params, config: AdamWConfig) -> Result<Self> {
        let mut slots = Vec::new();
        for (name, var) in params.trained() {
            if !matches!(var.dtype(), DType::F32 | DType::F64) {
                return Err(Error::dtype("adamw", "half precision is too coarse to train in")
                    .operand("parameter", var)
                    .key(name)
                    .note("train in f32, and convert when saving"));
            }
            let value = var.value();
            let zeros = || Tensor::zeros_on(value.cuda(), var.shape(), var.dtype());
            let ema = config.ema.map(|_| value.clone());
            let (name, var) = (name.to_owned(), var.clone());
            let (m, v) = (zeros(), zeros());
            slots.push(Slot { name, m, v, ema, clipped: true, updates: 0, moves: false, var });
        }
        Ok(Self { config, slots, steps: 0 })
    }

    /// The same optimiser, which leaves the gradients of the parameters that `is_exempt` names out
    /// of the norm and does not scale them.
    pub fn without_clipping(mut self, is_exempt: impl Fn(&str) -> bool) -> Self {
        self.slots.iter_mut().for_each(|slot| slot.clipped = !is_exempt(&slot.name));
        self
    }

    /// Moves every parameter that has a gradient, and the average of all. Parameters without one
    /// are left as they are: no decay either.
    ///
    /// If a norm is not finite nothing changes, and no step is counted: see [`Clipped::norm`]. A GPU
    /// finds that out by itself: norm, factor and update are [queued](Self::queue) at once, and only
    /// then does this wait for the norm.
    ///
    /// Errors: a gradient that is not like its parameter.
    pub fn step(&mut self, grads: &Grads, lr: f64) -> Result<Clipped> {
        let bytes = self.slots.iter().map(Slot::moved).sum();
        let about = |_: &_| Run { op: "adamw", pass: Pass::Other, shapes: Vec::new(), bytes };
        measured(|| self.update(grads, lr), about)
    }

    fn update(&mut self, grads: &Grads, lr: f64) -> Result<Clipped> {
        if let Some(gpu) = self.gpu() {
            let numbers = self.numbers(lr)?.to_device(&Device::Cuda(gpu.clone()))?;
            let norms = self.queue(grads, &numbers)?;
            return self.finish(&norms);
        }
        let [limited, others] = self.parameters().map(|vars| norm(grads, vars));
        let found = Clipped::both([limited?, others?], self.config.clip);
        if found.iter().all(|found| found.norm.is_finite()) {
            for i in 0..self.slots.len() {
                let clip = found[usize::from(!self.slots[i].clipped)].factor;
                let update = Update { clip, ..self.next_update(&self.slots[i], lr) };
                self.slots[i].step(&update, grads)?;
            }
        }
        Ok(self.count(found))
    }

    /// The parameters the norm of whose gradients is limited, and the others.
    fn parameters(&self) -> [impl Iterator<Item = &Var>; 2] {
        [true, false].map(|clipped| {
            let slots = self.slots.iter().filter(move |slot| slot.clipped == clipped);
            slots.map(|slot| &slot.var)
        })
    }

    /// The numbers of a parameter's update in the step that comes after those counted; its gradient
    /// is not clipped.
    fn next_update(&self, slot: &Slot, lr: f64) -> Update {
        let AdamWConfig { betas, eps, weight_decay, ema, .. } = self.config;
        let ema_decay = ema.map_or(1.0, |ema| ema.decay(self.steps + 1));
        let number = slot.updates + 1;
        Update { lr, betas, eps, weight_decay, clip: 1.0, number, ema_decay }
    }

    /// Counts a step, unless a norm is not finite; the norm to be told of.
    fn count(&mut self, found: [Clipped; 2]) -> Clipped {
        if let Some(wrong) = found.into_iter().find(|found| !found.norm.is_finite()) {
            return wrong;
        }
        self.steps += 1;
        self.slots.iter_mut().for_each(|slot| slot.updates += u64::from(slot.moves));
        found[0]
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moving average of the parameters, or the parameters where none is kept.
    pub fn average(&self) -> Vec<(String, Tensor)> {
        let average = |slot: &Slot| slot.ema.clone().unwrap_or_else(|| slot.var.value());
        self.slots.iter().map(|slot| (slot.name.clone(), average(slot))).collect()
    }

    /// Everything that is remembered besides the parameters, by name: `m.*`, `v.*`, `ema.*`, and
    /// the counters, on whichever device each lies. [`restore`](Self::restore) takes it back.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for Slot { name, m, v, ema, .. } in &self.slots {
            state.push((format!("m.{name}"), m.clone()));
            state.push((format!("v.{name}"), v.clone()));
            state.extend(ema.clone().map(|ema| (format!("ema.{name}"), ema)));
        }
        let counts = self.slots.iter().map(|slot| slot.updates);
        let counts: Vec<i64> = counts.chain([self.steps]).map(u64::cast_signed).collect();
        let shape = [counts.len()];
        let counts = Tensor::from_vec(counts, shape).expect("as many as there are");
        state.push((COUNTS.to_owned(), counts));
        state
    }

    /// Goes on from a [`state`](Self::state) of the same parameters. Other names are ignored.
    ///
    /// Errors, and changes nothing: a part is missing, or not like what it belongs to.
    #[track_caller]
    pub fn restore(&mut self, state: impl IntoIterator<Item = (String, Tensor)>) -> Result<()> {
        let mut state: BTreeMap<String, Tensor> = state.into_iter().collect();
        let mut wrong = Vec::new();
        let mut take = |name: String, like: &Tensor| match state.remove(&name) {
            Some(tensor) if tensor.shape() == like.shape() && tensor.dtype() == like.dtype() => {
                Some(tensor)
            }
            Some(tensor) => {
                let (shape, want) = (tensor.shape(), like.shape());
                wrong.push(format!(
                    "{name} is {shape} {}, not {want} {}",
                    tensor.dtype(),
                    like.dtype()
                ));
                None
            }
            None => {
                wrong.push(format!("{name} is missing"));
                None
            }
        };
        let counts = take(COUNTS.to_owned(), &Tensor::zeros([self.slots.len() + 1], DType::I64));
        let mut parts = Vec::new();
        for slot in &self.slots {
            let m = take(format!("m.{}", slot.name), &slot.m);
            let v = take(format!("v.{}", slot.name), &slot.v);
            let ema = slot.ema.as_ref().map(|ema| take(format!("ema.{}", slot.name), ema));
            let device = slot.m.device();
            let there = |part: Option<Tensor>| part.map(|x| x.to_device(&device)).transpose();
            parts.push((there(m)?, there(v)?, ema.map(there).transpose()?));
        }
        let Some(counts) = counts.filter(|_| wrong.is_empty()) else {
            let error = Error::value("adamw", "not a state of these parameters");
            return Err(error.wrong(wrong));
        };
        let counts = counts.to_vec::<i64>()?;
        for ((slot, (m, v, ema)), &updates) in self.slots.iter_mut().zip(parts).zip(&counts) {
            (slot.m, slot.v) = m.zip(v).expect("nothing is missing");
            slot.ema = ema.flatten();
            slot.updates = updates.cast_unsigned();
        }
        self.steps = counts[self.slots.len()].cast_unsigned();
        Ok(())
    }
}

/// The name of the counters in a state: updates of each parameter, then steps.
const COUNTS: &str = "adamw.counts";

impl Slot {
    /// Bytes that a step moves: everything that is remembered is read and written, the gradient
    /// read.
    fn moved(&self) -> usize {
        let value = bytes_of([&self.var.value()]);
        value + 2 * (value + bytes_of([&self.m, &self.v].into_iter().chain(&self.ema)))
    }

    /// The gradient, if there is one; from now on that is known.
    ///
    /// Errors: it is not like its parameter.
    fn gradient(&mut self, grads: &Grads) -> Result<Option<Tensor>> {
        let gradient = grads.get(&self.var).map(|gradient| gradient.contiguous());
        self.moves = gradient.is_some();
        match gradient {
            Some(g) if g.shape() != self.var.shape() || g.dtype() != self.var.dtype() => {
                Err(Error::shape("adamw", "the gradient is not like its parameter")
                    .operand("parameter", &self.var)
                    .operand("gradient", &g)
                    .key(&*self.name))
            }
            gradient => Ok(gradient),
        }
    }

    fn step(&mut self, u: &Update, grads: &Grads) -> Result<()> {
        let gradient = self.gradient(grads)?;
        match self.var.dtype() {
            DType::F64 => self.step_in::<f64>(u, gradient.as_ref()),
            _ => self.step_in::<f32>(u, gradient.as_ref()),
        }
    }

    /// Without a gradient the average alone moves.
    fn step_in<T: Real + Element>(&mut self, u: &Update, g: Option<&Tensor>) -> Result<()> {
        let Self { var, m, v, ema, .. } = self;
        let ema = ema.as_mut().map(Tensor::slice_mut).transpose()?;
        let Some(g) = g else {
            if let Some(ema) = ema {
                adamw::ema(u.ema_decay, var.value().contiguous().slice::<T>()?, ema);
            }
            return Ok(());
        };
        var.update(|p| {
            let state = State { p: p.slice_mut::<T>()?, m: m.slice_mut()?, v: v.slice_mut()?, ema };
            adamw::update(u, g.slice()?, state);
            Ok(())
        })?
    }
}

#[cfg(test)]
mod tests;
