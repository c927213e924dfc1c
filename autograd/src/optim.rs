//! The optimiser: clipping by the global norm, AdamW, and a moving average of the parameters.
//!
//! One [`AdamW::step`] is: the norm of all gradients together, the factor that clips it, and for
//! each parameter one pass over memory that does the rest ([`kernels::adamw`]).
//!
//! Source: Loshchilov & Hutter 2019, algorithm 2; Pascanu, Mikolov & Bengio 2013, algorithm 1.

use std::collections::BTreeMap;

use kernels::adamw::{self, State, Update};
use kernels::{Real, reduce};
use tensor::{DType, Element, Error, Result, Tensor};

use crate::{Grads, Params, Var};

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
    /// Sums are in float64 and in the order of the variables.
    ///
    /// Errors: a gradient that is neither f32 nor f64.
    pub fn of<'a>(
        grads: &Grads,
        vars: impl IntoIterator<Item = &'a Var>,
        limit: Option<f64>,
    ) -> Result<Self> {
        let mut squares = 0.0;
        for gradient in vars.into_iter().filter_map(|var| grads.get(var)) {
            let packed = gradient.contiguous();
            squares += match packed.dtype() {
                DType::F64 => reduce::sum_squares(packed.slice::<f64>()?),
                _ => reduce::sum_squares(packed.slice::<f32>()?),
            };
        }
        let norm = squares.sqrt();
        let factor = limit.filter(|&limit| norm > limit).map_or(1.0, |limit| limit / norm);
        Ok(Self { norm, factor })
    }
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
    /// Steps in which it had a gradient.
    updates: u64,
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
            let zeros = || Tensor::zeros(var.shape(), var.dtype());
            let ema = config.ema.map(|_| var.value());
            let (name, var) = (name.to_owned(), var.clone());
            slots.push(Slot { name, m: zeros(), v: zeros(), ema, updates: 0, var });
        }
        Ok(Self { config, slots, steps: 0 })
    }

    /// Moves every parameter that has a gradient, and the average of all. Parameters without one
    /// are left as they are: no decay either.
    ///
    /// If the norm is not finite nothing changes, and no step is counted: see
    /// [`Clipped::norm`].
    ///
    /// Errors: a gradient that is not like its parameter.
    pub fn step(&mut self, grads: &Grads, lr: f64) -> Result<Clipped> {
        let vars = self.slots.iter().map(|slot| &slot.var);
        let clipped = Clipped::of(grads, vars, self.config.clip)?;
        if !clipped.norm.is_finite() {
            return Ok(clipped);
        }
        self.steps += 1;
        let AdamWConfig { betas, eps, weight_decay, ema, .. } = self.config;
        let ema_decay = ema.map_or(1.0, |ema| ema.decay(self.steps));
        let clip = clipped.factor;
        for slot in &mut self.slots {
            let number = slot.updates + 1;
            let update = Update { lr, betas, eps, weight_decay, clip, number, ema_decay };
            let gradient = grads.get(&slot.var).map(Tensor::contiguous);
            match slot.var.dtype() {
                DType::F64 => slot.step::<f64>(&update, gradient.as_ref())?,
                _ => slot.step::<f32>(&update, gradient.as_ref())?,
            }
        }
        Ok(clipped)
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
    /// the counters. [`restore`](Self::restore) takes it back.
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
            parts.push((m, v, ema));
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
    fn step<T: Real + Element>(&mut self, u: &Update, gradient: Option<&Tensor>) -> Result<()> {
        let Self { var, m, v, ema, updates, .. } = self;
        let Some(g) = gradient else {
            if let Some(ema) = ema {
                adamw::ema(u.ema_decay, var.value().contiguous().slice::<T>()?, ema.slice_mut()?);
            }
            return Ok(());
        };
        if g.shape() != var.shape() || g.dtype() != var.dtype() {
            return Err(Error::shape("adamw", "the gradient is not like its parameter")
                .operand("parameter", &*var)
                .operand("gradient", g)
                .key(&*self.name));
        }
        *updates += 1;
        let ema = ema.as_mut().map(Tensor::slice_mut).transpose()?;
        var.update(|p| {
            let state = State { p: p.slice_mut::<T>()?, m: m.slice_mut()?, v: v.slice_mut()?, ema };
            adamw::update(u, g.slice()?, state);
            Ok(())
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::rng::Rng;

    fn store(dtype: DType) -> Params {
        let tensor = |i: u64| (format!("p{i}"), Rng::new(i).normal([5, 3], dtype).unwrap());
        Params::from_tensors((0..3).map(tensor), |_| true).unwrap()
    }

    /// Gradients of p0 and p1, not of p2.
    fn grads(params: &Params, step: u64) -> Grads {
        let weight = Var::constant(Rng::new(100 + step).normal([5, 3], DType::F64).unwrap());
        let [a, b] = [params.get("p0").unwrap(), params.get("p1").unwrap()];
        let loss = a.mul(&weight).unwrap().add(&b.square().unwrap()).unwrap();
        loss.sum_all().unwrap().backward().unwrap()
    }

    fn config() -> AdamWConfig {
        AdamWConfig { clip: Some(2.0), ema: Some(Ema::Constant(0.9)), ..AdamWConfig::default() }
    }

    #[test]
    fn follows_the_reference_and_leaves_others_alone() {
        let params = store(DType::F64);
        let values = |name: &str| params.get(name).unwrap().value().to_f64_vec();
        let (mut p, untouched) = (values("p1"), values("p2"));
        let (mut m, mut v, mut e) = (vec![0.0; 15], vec![0.0; 15], p.clone());
        let mut adamw = AdamW::new(&params, config()).unwrap();
        for number in 1..=4 {
            let grads = grads(&params, number);
            let g = grads.get(&params.get("p1").unwrap()).unwrap().to_f64_vec();
            let all =
                ["p0", "p1"].map(|n| grads.get(&params.get(n).unwrap()).unwrap().to_f64_vec());
            let norm = all.concat().iter().map(|g| g * g).sum::<f64>().sqrt();
            let clipped = adamw.step(&grads, 0.1).unwrap();
            assert!(
                (clipped.norm - norm).abs() < 1e-12 && (clipped.factor - 2.0 / norm).abs() < 1e-12
            );
            let update = Update {
                lr: 0.1,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.01,
                clip: clipped.factor,
                number,
                ema_decay: 0.9,
            };
            let state = State { p: &mut p, m: &mut m, v: &mut v, ema: Some(&mut e) };
            adamw::reference(&update, &g, state);
        }
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-13);
        assert!(near(&values("p1"), &p) && near(&adamw.average()[1].1.to_f64_vec(), &e));
        assert_eq!(values("p2"), untouched);
        assert!(near(&adamw.average()[2].1.to_f64_vec(), &untouched), "an average of one value");
    }

    #[test]
    fn goes_on_from_a_saved_state_to_the_last_bit() {
        let (params, mut steps) = (store(DType::F64), 0..);
        let mut adamw = AdamW::new(&params, config()).unwrap();
        let mut run = |adamw: &mut AdamW, params: &Params, n| {
            for step in steps.by_ref().take(n) {
                adamw.step(&grads(params, step), 0.01).unwrap();
            }
        };
        run(&mut adamw, &params, 3);
        let (state, weights) = (adamw.state(), params.tensors());
        run(&mut adamw, &params, 3);
        let copy = store(DType::F64);
        copy.set(weights).unwrap();
        let mut resumed = AdamW::new(&copy, config()).unwrap();
        resumed.restore(state.clone()).unwrap();
        for step in 3..6 {
            resumed.step(&grads(&copy, step), 0.01).unwrap();
        }
        let bits = |named: Vec<(String, Tensor)>| {
            named.iter().flat_map(|(_, t)| t.to_f64_vec()).map(f64::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(copy.tensors()), bits(params.tensors()));
        assert_eq!(bits(resumed.state()), bits(adamw.state()));
        assert_eq!(resumed.steps(), 6);
        let error = resumed.restore(state.into_iter().skip(2)).unwrap_err().to_string();
        assert!(error.contains("ema.p0") || error.contains("m.p0 is missing"), "{error}");
    }

    #[test]
    fn a_gradient_that_is_no_number_changes_nothing() {
        let params = store(DType::F32);
        let p = params.get("p0").unwrap();
        let loss = p.mul_scalar(f64::NAN).unwrap().sum_all().unwrap();
        let before = params.tensors();
        let mut adamw = AdamW::new(&params, config()).unwrap();
        assert!(adamw.step(&loss.backward().unwrap(), 0.1).unwrap().norm.is_nan());
        assert_eq!((adamw.steps(), p.value().to_f64_vec()), (0, before[0].1.to_f64_vec()));
    }

    #[test]
    fn averages_rise_and_halves_are_refused() {
        assert_eq!([0, 10, 1_000_000].map(|k| Ema::Rising(0.99).decay(k)), [0.1, 0.55, 0.99]);
        assert_eq!(Ema::Constant(0.5).decay(0), 0.5);
        let half = store(DType::BF16);
        assert!(AdamW::new(&half, config()).is_err());
    }
}
