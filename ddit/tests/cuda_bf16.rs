//! A tiny D-DiT on a GPU with halves, beside the CPU in float32: weights stored in bf16, and
//! products on tensor cores. The GPU is the virtual machine behind the stand-in for the driver.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;

use autograd::optim::{AdamW, AdamWConfig};
use autograd::{Params, Var, autocast, no_grad};
use ddit::config::{Recipe, TransformerConfig};
use ddit::mmdit::{Mmdit, TextInput, inventory};
use ddit::objective::{Draws, ImagePairs, Objective, TextPairs, Texts};
use ddit::pipeline::Model;
use serde_json::json;
use tensor::rng::Rng;
use tensor::{DType, Device, Tensor};

mod listed;
use listed::assert_listed;

const BATCH: usize = 2;
const LENGTH: usize = 8;
const MASK: u32 = 15;
const IDS: [u32; BATCH * LENGTH] = [2, 7, 3, 12, 1, 0, 0, 0, 9, 8, 6, 4, 11, 13, 5, 1];

/// Heads of 32 and rows of multiples of 8: what tensor cores take.
fn config() -> TransformerConfig {
    serde_json::from_value(json!({
        "vocab_size": 16, "sample_size": 4, "patch_size": 2, "in_channels": 4, "out_channels": 4,
        "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
        "joint_attention_dim": 0, "caption_projection_dim": 64, "pos_embed_max_size": 4,
        "text_embedding": true, "max_text_length": 8,
    }))
    .unwrap()
}

/// Weights of no particular network, stored so, on a device; of the size that trained ones have.
fn params(dtype: DType, device: &Device) -> Params {
    let list = inventory(&config());
    let weights = list.iter().enumerate().map(|(i, weight)| {
        let fan_in = weight.shape.last().map_or(1, |&n| n) as f64;
        let scale = if weight.shape.len() > 1 { fan_in.sqrt().recip() } else { 0.1 };
        let noise = Rng::new(5).stream(i as u64).normal(weight.shape, DType::F64).unwrap();
        let values = noise.to_f64_vec().into_iter().map(|x| (scale * x) as f32).collect();
        let tensor = Tensor::from_vec::<f32>(values, weight.shape).unwrap().to_dtype(dtype);
        (weight.name.clone(), tensor.to_device(device).unwrap())
    });
    Params::from_tensors(weights, |name| name != "pos_embed.pos_embed").unwrap()
}

fn latents() -> Tensor {
    Rng::new(9).normal([BATCH, 4, 4, 6], DType::F32).unwrap()
}

/// The rate of the training step.
const RATE: f64 = 1e-3;

/// What names of weights after it begin with.
const WEIGHT: &str = "weight after a step: ";

/// What a model says of latents and text, and what a training step does.
fn results(dtype: DType, device: &Device) -> BTreeMap<String, Vec<f64>> {
    let params = params(dtype, device);
    let transformer = Mmdit::new(config(), &params).unwrap();
    let mut results = BTreeMap::new();
    no_grad(|| {
        let (text, latents) = (TextInput::Ids(&IDS, LENGTH), Var::constant(latents()));
        let velocity = transformer.velocity(&latents, text, &[300.0, 999.0]).unwrap();
        results.insert("velocity".to_owned(), velocity.value().to_f64_vec());
        let tokens = transformer.text_tokens(Some(&latents), text, &[0.0; BATCH]).unwrap();
        let scores = transformer.text_logits(&tokens).unwrap();
        results.insert("scores".to_owned(), scores.value().to_f64_vec());
    });

    let model = Model { transformer, text_encoder: None };
    let objective = Objective {
        recipe: Recipe::Paper,
        text_weight: 0.2,
        caption_dropout: 0.3,
        noise_shift: 1.0,
        null: vec![1; LENGTH],
        mask: MASK,
    };
    let (latents, learned) = (latents(), [true; BATCH * LENGTH]);
    let texts = Texts { ids: &IDS, learned: &learned, counted: None, length: LENGTH };
    let images = ImagePairs { latents: &latents, ids: &IDS };
    let texts = TextPairs { latents: &latents, texts };
    let (grads, losses) =
        objective.gradients(&model, &images, &texts, &Draws::new(3, 0), 1).unwrap();
    results.insert("losses".to_owned(), vec![losses.image, losses.text, losses.total]);
    for (name, var) in params.trained() {
        let gradient = grads.get(var).map(|gradient| gradient.to_f64_vec());
        results.insert(format!("gradient of {name}"), gradient.unwrap_or_default());
    }
    if dtype == DType::F32 {
        let mut optimizer = AdamW::new(&params, AdamWConfig::default()).unwrap();
        let norm = optimizer.step(&grads, RATE).unwrap().norm;
        results.insert("norm of all gradients".to_owned(), vec![norm]);
        let after = params.tensors().into_iter();
        results.extend(after.map(|(name, x)| (format!("{WEIGHT}{name}"), x.to_f64_vec())));
    }
    results
}

fn gpu() -> Device {
    cuda::unless_gpu();
    Device::cuda(0).expect("the stand-in has a GPU")
}

/// Latents after a few Euler steps from noise.
fn picture(model: &Mmdit) -> Vec<f64> {
    const STEPS: usize = 4;
    let mut state = latents();
    for step in 0..STEPS {
        let time = 1000.0 * (1.0 - step as f32 / STEPS as f32);
        let (text, latents) = (TextInput::Ids(&IDS, LENGTH), Var::constant(state.clone()));
        let velocity = model.velocity(&latents, text, &[time; BATCH]).unwrap();
        let velocity = Var::constant(velocity.value().to_device(&Device::Cpu).unwrap());
        let change = velocity.mul_scalar(-1.0 / STEPS as f64).unwrap();
        state = Var::constant(state).add(&change).unwrap().value();
    }
    state.to_f64_vec()
}

/// The likeliest word at each place in turn, and by how much its score is above the next one's, of
/// the largest score.
fn caption(model: &Mmdit) -> Vec<(usize, f64)> {
    let (latents, mut ids) = (Var::constant(latents()), [MASK; BATCH * LENGTH]);
    let mut words = Vec::new();
    for place in 0..LENGTH {
        let text = TextInput::Ids(&ids, LENGTH);
        let tokens = model.text_tokens(Some(&latents), text, &[0.0; BATCH]).unwrap();
        let scores = model.text_logits(&tokens).unwrap().value().to_f64_vec();
        let largest = scores.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for sample in 0..BATCH {
            let at = sample * LENGTH + place;
            let mut ranked: Vec<_> = scores[at * 16..][..15].iter().enumerate().collect();
            ranked.sort_by(|a, b| b.1.total_cmp(a.1));
            ids[at] = ranked[0].0 as u32;
            words.push((ranked[0].0, (ranked[0].1 - ranked[1].1) / largest));
        }
    }
    words
}

/// |got − want| / |want|, and the largest difference, of the largest element.
fn apart(got: &[f64], want: &[f64]) -> [f64; 2] {
    assert_eq!(got.len(), want.len());
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let most = |x: &mut dyn Iterator<Item = f64>| x.fold(0.0, |most: f64, x| most.max(x.abs()));
    let differences = || got.iter().zip(want).map(|(a, b)| a - b);
    let values = || want.iter().copied();
    [
        length(&mut differences()) / length(&mut values()).max(1e-12),
        most(&mut differences()) / most(&mut values()).max(1e-12),
    ]
}

fn check(here: &BTreeMap<String, Vec<f64>>, there: &BTreeMap<String, Vec<f64>>, limits: [f64; 2]) {
    assert_eq!(here.len(), there.len());
    let (weights, others): (Vec<_>, Vec<_>) =
        here.iter().partition(|(name, _)| name.starts_with(WEIGHT));
    check_weights(weights.into_iter().map(|(name, want)| (&there[name][..], &want[..])));
    for (name, want) in others {
        let found = apart(&there[name], want);
        let is_near = found.iter().zip(limits).all(|(found, limit)| *found <= limit);
        assert!(is_near, "{name}: {found:?}, limits {limits:?}");
    }
}

/// The manifest's rule of `allowed_outliers`: a gradient that is less than it may be off by can
/// have the other sign, which moves its weight by the whole rate the other way, and no further.
fn check_weights<'a>(pairs: impl Iterator<Item = (&'a [f64], &'a [f64])>) {
    let (mut all, mut outliers) = (0, 0);
    for (got, want) in pairs {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            let apart = (got - want).abs();
            assert!(apart <= 2.01 * RATE, "a weight is {apart} apart");
            all += 1;
            outliers += usize::from(apart > 0.01 * RATE);
        }
    }
    assert!(outliers * 50 <= all, "{outliers} weights of {all} are elsewhere");
}

/// Weights in bf16 alone change nothing: they are widened, and products are those of float32.
#[test]
fn weights_stored_in_bf16_are_computed_with_in_float32() {
    let (here, there) = (results(DType::BF16, &Device::Cpu), results(DType::BF16, &gpu()));
    check(&here, &there, [1e-5, 1e-5]);
    assert_listed();
}

/// Of float32 and of bf16 weights, a whole step and both directions' answers: SPEC's tolerance of
/// arithmetic in bf16, relative to the CPU's float32.
#[test]
fn a_step_on_tensor_cores_is_as_near_as_bf16_comes() {
    for dtype in [DType::F32, DType::BF16] {
        let there = autocast(|| results(dtype, &gpu()));
        check(&results(dtype, &Device::Cpu), &there, [0.02, 0.03]);
    }
    let Some(stand_in) = cuda::unless_gpu() else { return };
    let launched = stand_in.statistics();
    for kernel in [
        "gemm_tensor_cores_small_nt_bf16_f32_gate_residual",
        "gemm_tensor_cores_small_nt_bf16_f32_bias_gelu",
        "attention_d32_s2_f32",
        "attention_backward_queries_d32_s2_f32",
        "attention_backward_keys_d32_s2_f32",
    ] {
        assert!(launched.contains(&format!("{kernel}\t")), "{kernel} in\n{launched}");
    }
    assert_listed();
}

#[test]
fn a_picture_and_a_caption_on_tensor_cores_are_those_of_the_cpu() {
    let made = |device: &Device| {
        let model = Mmdit::new(config(), &params(DType::BF16, device)).unwrap();
        no_grad(|| (picture(&model), caption(&model)))
    };
    let (here, there) = (made(&Device::Cpu), autocast(|| made(&gpu())));
    let found = apart(&there.0, &here.0);
    assert!(found[0] <= 0.02 && found[1] <= 0.03, "latents: {found:?}");
    // Words are the same up to the first that was chosen by less than two scores may be off.
    let sure = here.1.iter().take_while(|(_, margin)| *margin > 2.0 * 0.03).count();
    assert!(sure >= 4, "{:?}", here.1);
    let words = |all: &[(usize, f64)]| all[..sure].iter().map(|word| word.0).collect::<Vec<_>>();
    assert_eq!(words(&there.1), words(&here.1));
    assert_listed();
}
