//! The joint block: two streams of tokens that meet in one attention.
//!
//! With a = SiLU(time embedding), and for each of the branches x (image) and y (text)
//!
//! ```text
//! shift₁, scale₁, gate₁, shift₂, scale₂, gate₂ = W_mod a + b_mod        six vectors per sample
//! x̂ = LN(x)·(1 + scale₁) + shift₁            q, k, v = W_q x̂, W_k x̂, W_v x̂
//! o_x, o_y = softmax([q_x; q_y] [k_x; k_y]ᵀ / √D) [v_x; v_y]     every token sees every token
//! x = x + gate₁·W_o o_x
//! x = x + gate₂·W_down GELU(W_up (LN(x)·(1 + scale₂) + shift₂))
//! ```
//!
//! Source: Esser et al. 2024 (SD3), fig. 2b, and Li et al. 2025 (D-DiT), §3.2, in which the text
//! branch of the last block is complete too, as its tokens are wanted.

use autograd::ops::attention::{Segment, attention};
use autograd::{Params, Var};
use tensor::Result;

use crate::layers::{EPS, Linear};

/// A joint block.
#[derive(Debug)]
pub struct JointBlock {
    image: Branch,
    text: Branch,
    heads: usize,
    /// Whether a parameter is among its weights.
    learns: bool,
}

/// Everything of a block that belongs to one of its two streams.
#[derive(Debug)]
struct Branch {
    modulation: Linear,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

/// What a branch brings to the attention, and keeps for afterwards.
struct Projected {
    /// \[B, C\] each: shift, scale and gate of the attention, then of the feed-forward.
    modulation: Vec<Var>,
    /// Absent where nobody waits for this branch's tokens.
    query: Option<Var>,
    key: Var,
    value: Var,
}

/// The names of a branch's parts, in the order of [`Branch`]'s fields.
pub(super) const IMAGE_NAMES: [&str; 7] = [
    "norm1.linear",
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
];

/// See [`IMAGE_NAMES`].
pub(super) const TEXT_NAMES: [&str; 7] = [
    "norm1_context.linear",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff_context.net.0.proj",
    "ff_context.net.2",
];

impl JointBlock {
    /// The block of `heads` heads whose parameters stand at `params`.
    pub fn new(params: &Params, heads: usize) -> Result<Self> {
        Ok(Self {
            image: Branch::new(params, IMAGE_NAMES)?,
            text: Branch::new(params, TEXT_NAMES)?,
            heads,
            learns: params.trained().next().is_some(),
        })
    }

    /// Whether anything of the block's own is to get a gradient.
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// The two streams after the block; `condition` is SiLU of the time embedding.
    ///
    /// Shapes: `image` \[B, N, C\], `text` \[B, L, C\], `condition` \[B, C\] → as the streams.
    #[track_caller]
    pub fn both(&self, image: &Var, text: &Var, condition: &Var) -> Result<[Var; 2]> {
        let from_image = self.image.project(image, condition, true)?;
        let from_text = self.text.project(text, condition, true)?;
        let [to_image, to_text] = self.attend(&from_image, &from_text)?;
        let image = self.image.finish(image, &to_image, &from_image)?;
        Ok([image, self.text.finish(text, &to_text, &from_text)?])
    }

    /// The image's stream alone after the block: of the text there are keys and values, which the
    /// image attends to, and the rest of its branch is left out.
    ///
    /// Shapes: as [`both`](Self::both).
    #[track_caller]
    pub fn image(&self, image: &Var, text: &Var, condition: &Var) -> Result<Var> {
        let from_image = self.image.project(image, condition, true)?;
        let from_text = self.text.project(text, condition, false)?;
        let [attended] = self.attend(&from_image, &from_text)?;
        self.image.finish(image, &attended, &from_image)
    }

    /// The text's stream alone after the block, as [`image`](Self::image) is the image's.
    ///
    /// Shapes: as [`both`](Self::both).
    #[track_caller]
    pub fn text(&self, image: &Var, text: &Var, condition: &Var) -> Result<Var> {
        let from_image = self.image.project(image, condition, false)?;
        let from_text = self.text.project(text, condition, true)?;
        let [attended] = self.attend(&from_image, &from_text)?;
        self.text.finish(text, &attended, &from_text)
    }

    /// What each branch with queries finds in both.
    #[track_caller]
    fn attend<const N: usize>(&self, image: &Projected, text: &Projected) -> Result<[Var; N]> {
        let [_, _, width] = image.key.dims()?;
        let scale = ((width / self.heads) as f64).sqrt().recip();
        let attended = attention(&[image.segment(), text.segment()], self.heads, scale, None)?;
        Ok(attended.try_into().expect("attention answers every segment with queries"))
    }
}

impl Branch {
    fn new(params: &Params, names: [&str; 7]) -> Result<Self> {
        let linear = |i: usize| Linear::new(&params.scope(names[i]));
        Ok(Self {
            modulation: linear(0)?,
            query: linear(1)?,
            key: linear(2)?,
            value: linear(3)?,
            out: linear(4)?,
            up: linear(5)?,
            down: linear(6)?,
        })
    }

    /// Tokens \[B, S, C\] → queries, if these are asked for, keys and values \[B, S, C\].
    fn project(&self, tokens: &Var, condition: &Var, queries: bool) -> Result<Projected> {
        let modulation = self.modulation.forward(condition)?.chunk(1, 6)?;
        let x = tokens.ada_layer_norm(&modulation[0], &modulation[1], EPS)?;
        let [q, k, v] = [&self.query, &self.key, &self.value].map(Linear::parameters);
        let (query, key, value) = if queries {
            let [query, key, value] = x.linears([q, k, v])?;
            (Some(query), key, value)
        } else {
            let [key, value] = x.linears([k, v])?;
            (None, key, value)
        };
        Ok(Projected { modulation, query, key, value })
    }

    /// What follows the attention: `tokens` and `attended` \[B, S, C\] → \[B, S, C\].
    fn finish(&self, tokens: &Var, attended: &Var, from: &Projected) -> Result<Var> {
        let [_, _, gate, shift, scale, ff_gate] = &from.modulation[..] else {
            unreachable!("modulation was cut into six")
        };
        let (out, up, down) = (&self.out, &self.up, &self.down);
        let tokens = attended.linear_gate_residual(&out.weight, &out.bias, gate, tokens)?;
        let x = tokens.ada_layer_norm(shift, scale, EPS)?;
        let (up, down) = ([&up.weight, &up.bias], [&down.weight, &down.bias]);
        x.mlp_gate_residual(up, down, ff_gate, &tokens)
    }
}

impl Projected {
    fn segment(&self) -> Segment<'_> {
        Segment { q: self.query.as_ref(), k: &self.key, v: &self.value, key_len: None }
    }
}

#[cfg(test)]
mod tests {
    use autograd::SavedReport;
    use tensor::DType;
    use tensor::rng::Rng;

    use super::*;

    /// Its input, queries, keys, values, what attention answered, both branches before their gates,
    /// and four before GELU.
    #[test]
    fn a_block_keeps_eleven_widths_of_each_token() {
        const C: usize = 64;
        let normal = |shape: &[usize]| Rng::new(1).normal(shape, DType::F32).unwrap();
        let layers = [[6, 1], [1, 1], [1, 1], [1, 1], [1, 1], [4, 1], [1, 4]];
        let named =
            [IMAGE_NAMES, TEXT_NAMES].into_iter().flat_map(|names| names.into_iter().zip(layers));
        let tensors = named.flat_map(|(name, [outputs, inputs])| {
            let weight = (format!("{name}.weight"), normal(&[outputs * C, inputs * C]));
            [weight, (format!("{name}.bias"), normal(&[outputs * C]))]
        });
        let block = JointBlock::new(&Params::from_tensors(tensors, |_| true).unwrap(), 2).unwrap();
        let made = |shape: &[usize]| Var::parameter(normal(shape)).mul_scalar(0.1).unwrap();
        let (image, text) = (made(&[2, 40, C]), made(&[2, 24, C]));
        let [image, text] = block.both(&image, &text, &made(&[2, C])).unwrap();
        let loss = image.sum_all().unwrap().add(&text.sum_all().unwrap()).unwrap();
        let report = SavedReport::of(&loss);
        // Besides: statistics of rows, and modulations, 12 widths of each sample.
        let widths = report.bytes() as f64 / (2 * (40 + 24) * C * size_of::<f32>()) as f64;
        assert!((11.0..11.5).contains(&widths), "{widths}\n{report}");
        assert!(loss.backward().unwrap().get(&block.image.up.weight).is_some());
    }
}
