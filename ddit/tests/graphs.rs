//! What a GPU recorded once, velocities and steps of training, beside the same asked for kernel by
//! kernel. The GPU is the virtual machine behind the stand-in for the driver, with all its checks
//! on.
#![cfg(target_os = "linux")]

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use autograd::optim::{AdamW, AdamWConfig, Ema};
use autograd::{Params, Var, no_grad};
use ddit::config::{Recipe, TransformerConfig};
use ddit::mmdit::{Mmdit, TextInput, inventory};
use ddit::objective::{Draws, ImagePairs, Objective, TextPairs, Texts};
use ddit::pipeline::Model;
use ddit::t5::{self, T5Config, T5Encoder};
use ddit::train::Trainer;
use ddit::weights::Inventory;
use serde_json::json;
use tensor::cuda::Repeat;
use tensor::rng::Rng;
use tensor::{Cuda, DType, Device, Tensor};

mod listed;
mod tiny;
use listed::assert_listed;
use tiny::{config, open};

/// The stand-in's GPU, for one test at a time: while one records, others leave it alone.
fn gpu() -> (MutexGuard<'static, ()>, Cuda) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    cuda::unless_gpu();
    (turn, Cuda::open(0).expect("the stand-in has a GPU"))
}

#[test]
fn a_recorded_velocity_has_the_bits_of_one_that_is_not() {
    let (_turn, gpu) = gpu();
    let device = Device::Cuda(gpu.clone());
    let config = config();
    let weights = inventory(&config).fresh(3, DType::F32).unwrap().into_iter();
    let weights = weights.zip(0..).map(|((name, weight), i)| {
        // Weights that start as zeros would hide what depends on them.
        let noise = Rng::new(5).stream(i).normal(weight.shape(), DType::F32).unwrap();
        (name, Var::constant(noise).mul_scalar(0.2).unwrap())
    });
    let params = Params::from_vars(weights).unwrap().to_device(&device).unwrap();
    let model = Mmdit::new(config, &params).unwrap();
    let ids = [2, 7, 3, 1, 0, 5, 9, 8];
    let text = TextInput::Ids(&ids, 4);
    let latents = |seed| Rng::new(seed).normal([2, 3, 4, 6], DType::F32).unwrap();
    let features = |time| model.time_features(&[time; 2]).unwrap().value();
    let graph = no_grad(|| {
        gpu.record(&[&latents(0), &features(0.0)], |x| {
            let [latents, features] = [0, 1].map(|i| Var::constant(x[i].clone()));
            Ok(vec![model.velocity_at(&latents, text, &features)?.value()])
        })
    });
    let graph = graph.unwrap().1.unwrap();
    for (seed, time) in [(1, 999.0), (2, 300.5)] {
        let want = no_grad(|| model.velocity(&Var::constant(latents(seed)), text, &[time; 2]));
        let got = graph.run(&[&latents(seed), &features(time)]).unwrap();
        let bits = |x: &Tensor| x.to_f64_vec().into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&got[0]), bits(&want.unwrap().value()));
    }
}

const BATCH: usize = 2;
const LENGTH: usize = 4;
const MASK: u32 = 10;

/// A transformer that embeds ids, or reads by a text encoder of which only the mask's row learns.
fn networks(device: &Device, reads_states: bool) -> (Params, Model) {
    let config: TransformerConfig = serde_json::from_value(json!({
        "vocab_size": 11, "sample_size": 6, "patch_size": 2, "in_channels": 3, "out_channels": 3,
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": if reads_states { 6 } else { 0 }, "caption_projection_dim": 16,
        "pos_embed_max_size": 5, "text_embedding": !reads_states, "max_text_length": 8,
    }))
    .unwrap();
    let weights = |list: &Inventory, learn: bool| {
        let weights = list.iter().enumerate().map(|(i, weight)| {
            let noise = Rng::new(5).stream(i as u64).normal(weight.shape, DType::F32).unwrap();
            let values = noise.to_f64_vec().into_iter().map(|x| 0.2 * x as f32).collect();
            let tensor = Tensor::from_vec::<f32>(values, weight.shape).unwrap();
            (weight.name.clone(), tensor.to_device(device).unwrap())
        });
        let learns = |name: &str| learn && name != "pos_embed.pos_embed";
        Params::from_tensors(weights, learns).unwrap()
    };
    let mut params = weights(&inventory(&config), true);
    let transformer = Mmdit::new(config, &params).unwrap().with_checkpointing(true);
    let text_encoder = reads_states.then(|| {
        let config: T5Config = serde_json::from_value(json!({
            "vocab_size": 11, "d_model": 6, "d_kv": 4, "d_ff": 10, "num_layers": 2, "num_heads": 2,
            "relative_attention_num_buckets": 8, "relative_attention_max_distance": 4,
            "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
        }))
        .unwrap();
        let frozen = weights(&t5::inventory(&config), false);
        let mut encoder = T5Encoder::new(config, &frozen).unwrap();
        let row = ("mask".to_owned(), encoder.train_row(MASK).unwrap());
        let named = params.named().map(|(name, var)| (name.to_owned(), var.clone()));
        params = Params::from_vars(named.chain([row])).unwrap();
        encoder
    });
    (params, Model { transformer, text_encoder })
}

/// Losses, norms, and at last the weights and what the optimiser remembers, of steps of which each
/// has other pictures, texts, draws and rates: recorded, or asked for kernel by kernel.
fn train(gpu: &Cuda, reads_states: bool, recorded: bool) -> Vec<u64> {
    let device = Device::Cuda(gpu.clone());
    let (params, model) = networks(&device, reads_states);
    let objective = Objective {
        recipe: Recipe::Release,
        text_weight: 0.2,
        caption_dropout: 0.3,
        noise_shift: 1.0,
        null: vec![1, 0, 0, 0],
        mask: MASK,
    };
    let ema = Some(Ema::Rising(0.9));
    let config = AdamWConfig { clip: Some(0.5), ema, ..Default::default() };
    let mut optimizer = AdamW::new(&params, config).unwrap().without_clipping(|n| n == "mask");
    let (mut repeat, mut bits) = (Repeat::default(), Vec::new());
    for k in 0..3 {
        let latents = Rng::new(9 + k).normal([BATCH, 3, 4, 6], DType::F32).unwrap();
        let ids: Vec<u32> =
            (0..(BATCH * LENGTH) as u64).map(|i| ((i * (k + 2) + k) % 10) as u32).collect();
        let texts =
            Texts { ids: &ids, learned: &[true; BATCH * LENGTH], counted: None, length: LENGTH };
        let (images, texts) =
            (ImagePairs { latents: &latents, ids: &ids }, TextPairs { latents: &latents, texts });
        let step = objective.step(&model, &images, &texts, &Draws::new(3, k), 2).unwrap();
        let numbers = optimizer.numbers(1e-2 / (k + 1) as f64).unwrap();
        let inputs = [step.tensors(), vec![numbers]].concat();
        let mut f = |inputs: &[Tensor]| {
            let (numbers, inputs) = inputs.split_last().expect("the numbers are last");
            let (grads, mut found) = objective.descend(&model, &step.with(inputs)?)?;
            found.push(optimizer.queue(&grads, numbers)?);
            Ok(found)
        };
        let mut found = match recorded {
            true => repeat.run(gpu, &inputs.iter().collect::<Vec<_>>(), f).unwrap(),
            false => {
                let there = inputs.iter().map(|x| x.to_device(&device).unwrap());
                f(&there.collect::<Vec<_>>()).unwrap()
            }
        };
        if let Some(why) = repeat.refusal() {
            panic!("{why}");
        }
        let clipped = optimizer.finish(&found.pop().unwrap()).unwrap();
        assert!(clipped.factor < 1.0, "gradients are clipped");
        let losses = step.losses(&objective, &found).unwrap();
        bits.extend([losses.image, losses.text, losses.total, clipped.norm].map(f64::to_bits));
    }
    assert_eq!((repeat.is_recorded(), optimizer.steps()), (recorded, 3));
    let named = [params.tensors(), optimizer.state()].concat();
    bits.extend(named.iter().flat_map(|(_, x)| x.to_f64_vec()).map(f64::to_bits));
    bits
}

/// In two parts, with blocks run again on the way back.
#[test]
fn recorded_steps_have_the_bits_of_steps_that_are_not() {
    let (_turn, gpu) = gpu();
    for reads_states in [false, true] {
        let [got, want] = [true, false].map(|recorded| train(&gpu, reads_states, recorded));
        assert!(got == want, "by states: {reads_states}");
    }
    assert_listed();
}

/// A run that repeats its first step, and one that is resumed before each: every step of it is a
/// first one, which is asked for kernel by kernel.
#[test]
fn a_run_repeats_its_steps() {
    let (_turn, gpu) = gpu();
    let (device, folder) = (Device::Cuda(gpu), tempfile::tempdir().unwrap());
    let told = |trainer: &mut Trainer| {
        let report = trainer.step().unwrap();
        assert!(trainer.is_recorded(), "{:?}", trainer.refusal());
        (format!("{:?} {:?}", report.losses, report.by_noise), report.grad_norm.to_bits())
    };
    let files = |trainer: &mut Trainer| {
        let saved = trainer.save().unwrap();
        ["model.safetensors", "optimizer.safetensors"]
            .map(|name| fs::read(saved.join(name)).unwrap())
    };
    let mut straight = open(&folder.path().join("straight"), &device);
    let mut want = Vec::new();
    for _ in 0..4 {
        want.push((told(&mut straight), files(&mut straight)));
    }
    for want in want {
        let mut resumed = open(&folder.path().join("resumed"), &device);
        assert!(!resumed.is_recorded());
        assert!((told(&mut resumed), files(&mut resumed)) == want);
    }
    assert_listed();
}
