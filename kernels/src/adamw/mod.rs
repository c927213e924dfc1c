//! AdamW with an exponential moving average of the parameters, in one pass over memory.
//!
//! With g the gradient times the clip factor and k the number of this update, counted from 1:
//!
//! ```text
//! p ← p·(1 − lr·λ)                              decoupled weight decay
//! m ← m + (1 − β₁)·(g − m)
//! v ← β₂·v + (1 − β₂)·g²
//! p ← p − lr/(1 − β₁ᵏ) · m / (√v/√(1 − β₂ᵏ) + ε)
//! e ← d·e + (1 − d)·p
//! ```
//!
//! ε stands outside the root of the bias-corrected v; operations come in the order PyTorch does
//! them, so that float32 results agree to rounding. The pass reads five arrays and writes four:
//! the speed is the memory's.
//!
//! Source: Loshchilov & Hutter 2019, algorithm 2; Kingma & Ba 2015, algorithm 1.

mod cpu;
pub mod ptx;

pub use cpu::{ema, update};

use crate::num::Num;

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Keeps the quotient finite.
    pub eps: f64,
    /// λ, relative to the learning rate.
    pub weight_decay: f64,
    /// What the gradient is multiplied with first: 1, or less where its norm is clipped.
    pub clip: f64,
    /// Which update of these parameters this is, counted from 1.
    pub number: u64,
    /// d, the decay of the average.
    pub ema_decay: f64,
}

impl Update {
    /// The scalars of [`Constants`], in its order.
    fn scalars(&self) -> [f64; 9] {
        let [b1, b2] = self.betas;
        let k = self.number as f64;
        [
            1.0 - self.lr * self.weight_decay,
            1.0 - b1,
            b2,
            1.0 - b2,
            -self.lr / (1.0 - b1.powf(k)),
            (1.0 - b2.powf(k)).sqrt(),
            self.eps,
            self.ema_decay,
            1.0 - self.ema_decay,
        ]
    }
}

/// The scalars of an update, rounded once from float64: an update of one element over any [`Num`].
struct Constants<V> {
    shrink: V,
    rest1: V,
    beta2: V,
    rest2: V,
    step: V,
    root: V,
    eps: V,
    decay: V,
    rest_decay: V,
}

impl<V: Num> Constants<V> {
    /// Of [`Update::scalars`].
    #[inline(always)]
    fn new([shrink, rest1, beta2, rest2, step, root, eps, decay, rest_decay]: [V; 9]) -> Self {
        Constants { shrink, rest1, beta2, rest2, step, root, eps, decay, rest_decay }
    }

    /// New p, m and v from g (clipped), p, m and v.
    #[inline(always)]
    fn step(&self, [g, p, m, v]: [V; 4]) -> [V; 3] {
        let m = m + self.rest1 * (g - m);
        let v = v * self.beta2 + self.rest2 * g * g;
        let quotient = v.sqrt() / self.root + self.eps;
        [p * self.shrink + self.step * m / quotient, m, v]
    }

    /// The new average.
    #[inline(always)]
    fn average(&self, e: V, p: V) -> V {
        e * self.decay + p * self.rest_decay
    }
}

/// One parameter array's state during an update: parameters, moments, and the average if one is
/// kept. All have one length.
#[derive(Debug)]
pub struct State<'a, T> {
    /// p, the parameters.
    pub p: &'a mut [T],
    /// m, the mean of gradients.
    pub m: &'a mut [T],
    /// v, the mean of squared gradients.
    pub v: &'a mut [T],
    /// e, the mean of parameters.
    pub ema: Option<&'a mut [T]>,
}

/// Plain float64 loops: what [`update()`] is checked against.
pub fn reference(u: &Update, g: &[f64], state: State<'_, f64>) {
    let [b1, b2] = u.betas;
    let k = u.number as f64;
    for i in 0..g.len() {
        let g = g[i] * u.clip;
        state.m[i] = b1 * state.m[i] + (1.0 - b1) * g;
        state.v[i] = b2 * state.v[i] + (1.0 - b2) * g * g;
        let m_hat = state.m[i] / (1.0 - b1.powf(k));
        let v_hat = state.v[i] / (1.0 - b2.powf(k));
        let decayed = state.p[i] - u.lr * u.weight_decay * state.p[i];
        state.p[i] = decayed - u.lr * m_hat / (v_hat.sqrt() + u.eps);
    }
    if let Some(e) = state.ema {
        for (e, p) in e.iter_mut().zip(state.p) {
            *e = u.ema_decay * *e + (1.0 - u.ema_decay) * *p;
        }
    }
}
