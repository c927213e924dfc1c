//! The whole transformer against the equations, written down a second time with loops over `f64`.
//!
//! In double precision nothing hides: an ε of 1e-5, a GELU of the other form, a scale where a
//! shift belongs are all far above rounding.

use std::collections::BTreeMap;

use autograd::{Params, Var};
use serde_json::json;
use tensor::rng::Rng;
use tensor::{DType, Tensor};

use super::*;
use crate::config::TransformerConfig;
use crate::layers::EPS;
use crate::tiny;

const BATCH: usize = 2;
/// Text tokens.
const LENGTH: usize = 3;
/// Sides of the latents: the last column is no whole patch.
const HEIGHT: usize = 4;
const WIDTH: usize = 7;

fn config() -> TransformerConfig {
    tiny::transformer(json!({
        "vocab_size": 5, "sample_size": 6, "in_channels": 3, "joint_attention_dim": 6,
        "pos_embed_max_size": 5, "text_embedding": false, "max_text_length": null,
    }))
}

/// Weights of a size that lets every part speak.
fn weights() -> BTreeMap<String, Tensor> {
    weights_of(&config())
}

fn weights_of(config: &TransformerConfig) -> BTreeMap<String, Tensor> {
    let value = |(i, weight): (usize, &crate::weights::Weight)| {
        let noise = Rng::new(11).stream(i as u64).normal(weight.shape, DType::F64).unwrap();
        let values = noise.to_f64_vec().into_iter().map(|x| 0.3 * x).collect();
        (weight.name.clone(), Tensor::from_vec::<f64>(values, weight.shape).unwrap())
    };
    inventory(config).iter().enumerate().map(value).collect()
}

/// The equations of one sample. Tokens are rows.
struct Plain(BTreeMap<String, Tensor>);

type Rows = Vec<Vec<f64>>;

impl Plain {
    fn numbers(&self, name: &str) -> Vec<f64> {
        self.0[name].to_f64_vec()
    }

    /// W x + b of every row.
    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.numbers(&format!("{name}.weight"));
        let bias = self.numbers(&format!("{name}.bias"));
        let row = |x: &Vec<f64>| {
            let output =
                |(w, b): (&[f64], &f64)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            weight.chunks(x.len()).zip(&bias).map(output).collect()
        };
        x.iter().map(row).collect()
    }

    /// A row cut into equal parts of the model's width.
    fn modulation(&self, name: &str, condition: &[f64]) -> Rows {
        self.linear(name, &vec![condition.to_vec()])[0].chunks(8).map(<[f64]>::to_vec).collect()
    }

    fn time_embedding(&self, t: f64) -> Vec<f64> {
        let frequency = |i: usize| (-(10_000_f64.ln()) * i as f64 / 128.0).exp();
        let cosines = (0..128).map(|i| (t * frequency(i)).cos());
        let features = cosines.chain((0..128).map(|i| (t * frequency(i)).sin())).collect();
        let hidden = self.linear("time_text_embed.timestep_embedder.linear_1", &vec![features]);
        self.linear("time_text_embed.timestep_embedder.linear_2", &map(&hidden, silu)).remove(0)
    }

    /// Patches of `latents` \[3, HEIGHT, WIDTH\] with the middle of the table of places.
    fn image_tokens(&self, latents: &[f64]) -> Rows {
        let (weight, bias) =
            (self.numbers("pos_embed.proj.weight"), self.numbers("pos_embed.proj.bias"));
        let table = self.numbers("pos_embed.pos_embed");
        let mut tokens = Rows::new();
        for row in 0..2 {
            for column in 0..3 {
                // Of 5 rows the middle two begin at 1, of 5 columns the middle three too.
                let place = (1 + row) * 5 + 1 + column;
                let feature = |f: usize| {
                    let mut sum = bias[f] + table[place * 8 + f];
                    for (c, dy, dx) in cube([3, 2, 2]) {
                        let pixel = latents[(c * HEIGHT + row * 2 + dy) * WIDTH + column * 2 + dx];
                        sum += weight[((f * 3 + c) * 2 + dy) * 2 + dx] * pixel;
                    }
                    sum
                };
                tokens.push((0..8).map(feature).collect());
            }
        }
        tokens
    }

    fn block(&self, i: usize, [x, y]: [Rows; 2], condition: &[f64]) -> [Rows; 2] {
        let name = |part: &str| format!("transformer_blocks.{i}.{part}");
        let linear = |part: &str, x: &Rows| self.linear(&name(part), x);
        let of_x = self.modulation(&name("norm1.linear"), condition);
        let of_y = self.modulation(&name("norm1_context.linear"), condition);
        let (nx, ny) = (modulate(&x, &of_x[0], &of_x[1]), modulate(&y, &of_y[0], &of_y[1]));
        let both = |of_x: &str, of_y: &str| [linear(of_x, &nx), linear(of_y, &ny)].concat();
        let q = both("attn.to_q", "attn.add_q_proj");
        let k = both("attn.to_k", "attn.add_k_proj");
        let v = both("attn.to_v", "attn.add_v_proj");
        let attended = attend(&q, &k, &v);
        let (ox, oy) = attended.split_at(x.len());
        let x = gated(&x, &of_x[2], &linear("attn.to_out.0", &ox.to_vec()));
        let y = gated(&y, &of_y[2], &linear("attn.to_add_out", &oy.to_vec()));
        let feed = |x: &Rows, up: &str, down: &str| linear(down, &map(&linear(up, x), gelu));
        let fx = feed(&modulate(&x, &of_x[3], &of_x[4]), "ff.net.0.proj", "ff.net.2");
        let fy =
            feed(&modulate(&y, &of_y[3], &of_y[4]), "ff_context.net.0.proj", "ff_context.net.2");
        [gated(&x, &of_x[5], &fx), gated(&y, &of_y[5], &fy)]
    }

    /// Velocity \[2, 4, 6\], or without latents the image tokens; and logits \[LENGTH, 5\].
    fn forward(&self, latents: Option<&[f64]>, states: &[f64], t: f64) -> [Vec<f64>; 2] {
        let embedded = self.time_embedding(t);
        let condition: Vec<f64> = embedded.into_iter().map(silu).collect();
        let states: Rows = states.chunks(6).map(<[f64]>::to_vec).collect();
        let null = || self.numbers("null_image_embd").chunks(8).map(<[f64]>::to_vec).collect();
        let image = latents.map_or_else(null, |latents| self.image_tokens(latents));
        let mut streams = [image, self.linear("context_embedder", &states)];
        for i in 0..2 {
            streams = self.block(i, streams, &condition);
        }
        let [image, text] = streams;
        let logits = self.linear("text_proj_out", &text.iter().map(|x| norm(x)).collect());
        if latents.is_none() {
            return [image.concat(), logits.concat()];
        }
        let modulation = self.modulation("image_norm_out.linear", &condition);
        let (scale, shift) = (&modulation[0], &modulation[1]);
        let patches = self.linear("image_proj_out", &modulate(&image, shift, scale));
        let mut velocity = vec![0.0; 2 * 4 * 6];
        for (token, patch) in patches.iter().enumerate() {
            for (dy, dx, c) in cube([2, 2, 2]) {
                let (y, x) = (token / 3 * 2 + dy, token % 3 * 2 + dx);
                velocity[(c * 4 + y) * 6 + x] = patch[(dy * 2 + dx) * 2 + c];
            }
        }
        [velocity, logits.concat()]
    }
}

fn cube([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}

fn map(x: &Rows, f: impl Fn(f64) -> f64) -> Rows {
    x.iter().map(|x| x.iter().map(|&x| f(x)).collect()).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// (x − mean) / √(variance + 1e-6).
fn norm(x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    x.iter().map(|x| (x - mean) / (variance + 1e-6).sqrt()).collect()
}

fn modulate(x: &Rows, shift: &[f64], scale: &[f64]) -> Rows {
    let row = |x: &Vec<f64>| {
        norm(x).iter().zip(shift.iter().zip(scale)).map(|(x, (b, s))| x * (1.0 + s) + b).collect()
    };
    x.iter().map(row).collect()
}

fn gated(x: &Rows, gate: &[f64], change: &Rows) -> Rows {
    let row = |(x, change): (&Vec<f64>, &Vec<f64>)| {
        x.iter().zip(gate.iter().zip(change)).map(|(x, (g, c))| x + g * c).collect()
    };
    x.iter().zip(change).map(row).collect()
}

/// Two heads of four channels: softmax(q kᵀ / √4) v.
fn attend(q: &Rows, k: &Rows, v: &Rows) -> Rows {
    let mut out = vec![vec![0.0; 8]; q.len()];
    for head in [0..4, 4..8] {
        for (out, q) in out.iter_mut().zip(q) {
            let score = |k: &Vec<f64>| head.clone().map(|c| q[c] * k[c]).sum::<f64>() / 2.0;
            let weights: Vec<f64> = k.iter().map(|k| score(k).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (weight, v) in weights.iter().zip(v) {
                head.clone().for_each(|c| out[c] += weight / total * v[c]);
            }
        }
    }
    out
}

fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-11 * (1.0 + want.abs()), "{got} is not {want}");
    }
}

#[test]
fn computes_what_the_equations_say() {
    let weights = weights();
    let params = Params::from_tensors(weights.clone(), |_| false).unwrap();
    let (model, plain) = (Mmdit::new(config(), &params).unwrap(), Plain(weights));
    let draw = |i, shape: &[usize]| Rng::new(i).normal(shape, DType::F64).unwrap();
    let latents = draw(1, &[BATCH, 3, HEIGHT, WIDTH]);
    let states = draw(2, &[BATCH, LENGTH, 6]);
    let times = [3.5, 700.0];
    for given in [Some(&latents), None] {
        let latents = given.map(|latents| Var::constant(latents.clone()));
        let states_var = Var::constant(states.clone());
        let text = TextInput::States(&states_var);
        let [image, tokens] = model.both(latents.as_ref(), text, &times).unwrap();
        let (image, logits) = (image.value(), model.text_logits(&tokens).unwrap().value());
        for (i, &time) in times.iter().enumerate() {
            let sample = |x: &Tensor| x.select(0, i).unwrap().to_f64_vec();
            let latents = given.map(sample);
            let want = plain.forward(latents.as_deref(), &sample(&states), f64::from(time));
            near(&sample(&image), &want[0]);
            near(&sample(&logits), &want[1]);
        }
    }
}

/// Blocks before the first that learns record nothing, checkpointed or not; and checkpoints change
/// no bit of a gradient.
#[test]
fn frozen_blocks_before_the_first_that_learns_record_nothing() {
    let config = TransformerConfig { num_layers: 3, ..config() };
    let weights = weights_of(&config).into_iter().map(|(name, w)| (name, w.to_dtype(DType::F32)));
    let learns = |name: &str| name.starts_with("transformer_blocks.1.ff.");
    let params = Params::from_tensors(weights, learns).unwrap();
    let draw = |i, shape: &[usize]| Var::constant(Rng::new(i).normal(shape, DType::F32).unwrap());
    let (latents, states) = (draw(1, &[BATCH, 3, HEIGHT, WIDTH]), draw(2, &[BATCH, LENGTH, 6]));
    let run = |checkpointing| {
        let model = Mmdit::new(config.clone(), &params).unwrap().with_checkpointing(checkpointing);
        let (text, latents) = (TextInput::States(&states), Some(&latents));
        let mut tracked = Vec::new();
        let watch = &mut |_, image: &Var, _: &Var| tracked.push(image.is_tracked());
        let [velocity, _] = model.observe(latents, text, &[3.5, 700.0], watch).unwrap();
        let loss = velocity.square().unwrap().mean_all().unwrap();
        let grads = loss.backward().unwrap();
        let bits = |(_, var): (&str, &Var)| grads.get(var).unwrap().to_vec::<f32>().unwrap();
        (tracked, params.trained().map(bits).collect::<Vec<_>>())
    };
    let (tracked, plain) = run(false);
    assert_eq!(tracked, [false, false, true, true]);
    assert_eq!(run(true), (tracked, plain));
}

/// What nobody waits for is left out, and what is left is the same to the last bit.
#[test]
fn one_result_alone_is_the_same() {
    let weights = weights().into_iter().map(|(name, w)| (name, w.to_dtype(DType::F32)));
    let params = Params::from_tensors(weights, |_| false).unwrap();
    let model = Mmdit::new(config(), &params).unwrap();
    let draw = |i, shape: &[usize]| Var::constant(Rng::new(i).normal(shape, DType::F32).unwrap());
    let (latents, states) = (draw(1, &[BATCH, 3, HEIGHT, WIDTH]), draw(2, &[BATCH, LENGTH, 6]));
    let (text, times) = (TextInput::States(&states), [3.5, 700.0]);
    let bits = |var: Var| var.value().to_f64_vec();
    let [velocity, _] = model.both(Some(&latents), text, &times).unwrap();
    assert_eq!(bits(model.velocity(&latents, text, &times).unwrap()), bits(velocity));
    for latents in [Some(&latents), None] {
        let [_, tokens] = model.both(latents, text, &times).unwrap();
        assert_eq!(bits(model.text_tokens(latents, text, &times).unwrap()), bits(tokens));
    }
}

/// An observer sees both streams before the first block and after each.
#[test]
fn streams_are_seen_on_their_way() {
    let params = Params::from_tensors(weights(), |_| false).unwrap();
    let model = Mmdit::new(config(), &params).unwrap();
    let states = Var::constant(Rng::new(2).normal([BATCH, LENGTH, 6], DType::F64).unwrap());
    let text = TextInput::States(&states);
    let mut seen = Vec::new();
    let [null_image, tokens] = model
        .observe(None, text, &[3.5, 700.0], &mut |blocks, image, text| {
            seen.push((blocks, image.value().to_f64_vec(), text.clone()));
        })
        .unwrap();
    assert_eq!(seen.iter().map(|(blocks, ..)| *blocks).collect::<Vec<_>>(), [0, 1, 2]);
    let (_, image, text) = seen.remove(2);
    assert_eq!(image, null_image.value().to_f64_vec());
    let normed = text.layer_norm(EPS).unwrap().value().to_f64_vec();
    assert_eq!(normed, tokens.value().to_f64_vec());
}

/// A place of the table begins with the sines of its column; its row's come in the second half.
#[test]
fn columns_come_before_rows_in_the_table_of_places() {
    // Base and side agree, so places are whole numbers; of width 8 the frequencies are 1 and 0.01.
    let table = position_table(8, 3, 3).reshape([3, 3, 8]).unwrap();
    let entry = table.select(0, 2).unwrap().select(0, 1).unwrap().to_f64_vec();
    let axis = |place: f64| [place.sin(), (0.01 * place).sin(), place.cos(), (0.01 * place).cos()];
    let want = [axis(1.0), axis(2.0)].concat();
    for (got, want) in entry.iter().zip(want) {
        assert!((got - want).abs() < 1e-7, "{got} is not {want}");
    }
    // Twice the places for the same picture: half the step.
    let finer = position_table(8, 6, 3).reshape([6, 6, 8]).unwrap();
    let entry = finer.select(0, 4).unwrap().select(0, 2).unwrap().to_f64_vec();
    near(&entry, &table.select(0, 2).unwrap().select(0, 1).unwrap().to_f64_vec());
}
