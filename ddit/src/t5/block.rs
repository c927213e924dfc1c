//! One block of the encoder: attention, then a gated feed-forward.
//!
//! With rms(x) = w·x/√(mean x² + ε), and the same bias in every block,
//!
//! ```text
//! h = rms₀(x)        x = x + W_o softmax(W_q h · (W_k h)ᵀ + bias) W_v h        scores not scaled
//! h = rms₁(x)        x = x + W_down (GELU(W_gate h) · W_up h)
//! ```
//!
//! Source: Raffel et al. 2020, §2.1; Shazeer 2020 (GEGLU), eq. (6); Zhang & Sennrich 2019.

use autograd::ops::attention::{Segment, attention};
use autograd::{Params, Var};
use tensor::Result;

use crate::weights::{Inventory, Start};

use super::T5Config;

/// A block. Linear maps have no bias, and norms no shift.
#[derive(Debug)]
pub struct Block {
    attention_norm: Var,
    query: Var,
    key: Var,
    value: Var,
    out: Var,
    feed_forward_norm: Var,
    gate: Var,
    up: Var,
    down: Var,
    heads: usize,
    eps: f64,
}

impl Block {
    /// Adds the tensors of the block called `name`.
    pub(super) fn list(list: &mut Inventory, name: &str, config: &T5Config) {
        let (width, hidden) = (config.d_model, config.d_ff);
        let (head, heads) = (config.d_kv, config.num_heads * config.d_kv);
        let mut matrix = |part: &str, [outputs, inputs]: [usize; 2], variance: usize| {
            let start = Start::Normal { deviation: (variance as f64).sqrt().recip() };
            list.tensor(format!("{name}.{part}.weight"), [outputs, inputs], start);
        };
        // As scores are not divided by √D, queries begin that much smaller.
        matrix("layer.0.SelfAttention.q", [heads, width], width * head);
        matrix("layer.0.SelfAttention.k", [heads, width], width);
        matrix("layer.0.SelfAttention.v", [heads, width], width);
        matrix("layer.0.SelfAttention.o", [width, heads], heads);
        matrix("layer.1.DenseReluDense.wi_0", [hidden, width], width);
        matrix("layer.1.DenseReluDense.wi_1", [hidden, width], width);
        matrix("layer.1.DenseReluDense.wo", [width, hidden], hidden);
        for layer in 0..2 {
            list.tensor(format!("{name}.layer.{layer}.layer_norm.weight"), [width], Start::Ones);
        }
    }

    /// The block whose parameters stand at `params`.
    pub(super) fn new(config: &T5Config, params: &Params) -> Result<Self> {
        let weight = |name| params.scope(name).get("weight");
        Ok(Self {
            attention_norm: weight("layer.0.layer_norm")?,
            query: weight("layer.0.SelfAttention.q")?,
            key: weight("layer.0.SelfAttention.k")?,
            value: weight("layer.0.SelfAttention.v")?,
            out: weight("layer.0.SelfAttention.o")?,
            feed_forward_norm: weight("layer.1.layer_norm")?,
            gate: weight("layer.1.DenseReluDense.wi_0")?,
            up: weight("layer.1.DenseReluDense.wi_1")?,
            down: weight("layer.1.DenseReluDense.wo")?,
            heads: config.num_heads,
            eps: config.layer_norm_epsilon,
        })
    }

    /// The stream of tokens after the block.
    ///
    /// Shapes: `x` \[B, L, C\], `bias` \[H, L, L\] → \[B, L, C\].
    #[track_caller]
    pub fn forward(&self, x: &Var, bias: &Var) -> Result<Var> {
        let h = x.rms_norm(&self.attention_norm, self.eps)?;
        let [query, key, value] =
            h.linears([&self.query, &self.key, &self.value].map(|weight| (weight, None)))?;
        let segment = Segment::new(&query, &key, &value);
        let [attended] = &attention(&[segment], self.heads, 1.0, Some(bias))?[..] else {
            unreachable!("one segment of queries gives one of results")
        };
        let x = x.add(&attended.linear(&self.out, None)?)?;
        let h = x.rms_norm(&self.feed_forward_norm, self.eps)?;
        let [gate, up] = h.linears([(&self.gate, None), (&self.up, None)])?;
        let hidden = gate.gelu_tanh()?.mul(&up)?;
        x.add(&hidden.linear(&self.down, None)?)
    }
}
