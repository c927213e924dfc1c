//! Training steps and answers of a tiny D-DiT on a GPU, beside the CPU. The GPU is the virtual
//! machine behind the stand-in for the driver, with all its checks on.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::{ControlFlow, Deref};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use autograd::optim::{AdamW, AdamWConfig, Ema};
use autograd::{Params, no_grad};
use ddit::config::{Recipe, VaeConfig};
use ddit::mmdit::{Mmdit, TextInput, inventory};
use ddit::objective::{Draws, ImagePairs, Losses, Objective, TextPairs, Texts, VaeObjective};
use ddit::pipeline::{Model, Prompts, Texts as Given};
use ddit::t5::{self, T5Config, T5Encoder};
use ddit::train::Trainer;
use ddit::vae::{self, AutoencoderKl};
use ddit::weights::Inventory;
use samplers::flow::{FlowStep, Guidance, Schedule, Solver};
use samplers::masked::{Canvas, DdpmCache, Query, TextStep, TwoStage};
use serde_json::json;
use tensor::io::safetensors::SafeTensors;
use tensor::rng::Rng;
use tensor::{DType, Device, Tensor};

mod listed;
mod tiny;
use listed::assert_listed;
use tiny::{config, open};

/// Samples of a batch, and tokens of a text.
const BATCH: usize = 2;
const LENGTH: usize = 5;
const MASK: u32 = 10;

fn params(device: &Device) -> Params {
    params_of(&inventory(&config()), device)
}

/// Weights of no particular network, on a device.
fn params_of(list: &Inventory, device: &Device) -> Params {
    let weights = list.iter().enumerate().map(|(i, weight)| {
        let noise = Rng::new(5).stream(i as u64).normal(weight.shape, DType::F64).unwrap();
        let values = noise.to_f64_vec().into_iter().map(|x| 0.2 * x as f32).collect();
        let tensor = Tensor::from_vec::<f32>(values, weight.shape).unwrap();
        (weight.name.clone(), tensor.to_device(device).unwrap())
    });
    Params::from_tensors(weights, |name| name != "pos_embed.pos_embed").unwrap()
}

fn objective() -> Objective {
    Objective {
        recipe: Recipe::Paper,
        text_weight: 0.2,
        caption_dropout: 0.3,
        noise_shift: 1.0,
        null: vec![1, 0, 0, 0, 0],
        mask: MASK,
    }
}

fn latents() -> Tensor {
    Rng::new(9).normal([BATCH, 3, 4, 6], DType::F32).unwrap()
}

const IDS: [u32; BATCH * LENGTH] = [2, 7, 3, 1, 0, 5, 9, 8, 6, 1];

/// Weights and averages after some training steps, and each step's losses and gradients' norm.
struct Trained {
    weights: BTreeMap<String, Vec<f64>>,
    average: BTreeMap<String, Vec<f64>>,
    gradients: BTreeMap<String, Vec<f64>>,
    losses: Vec<Losses>,
    norms: Vec<f64>,
}

fn model(params: &Params) -> Model {
    Model { transformer: Mmdit::new(config(), params).unwrap(), text_encoder: None }
}

fn train(device: &Device, steps: u64) -> Trained {
    let params = params(device);
    let model = model(&params);
    let settings =
        AdamWConfig { clip: Some(0.5), ema: Some(Ema::Constant(0.9)), ..Default::default() };
    let mut optimizer = AdamW::new(&params, settings).unwrap();
    let latents = latents();
    let learned = [true; BATCH * LENGTH];
    let texts = Texts { ids: &IDS, learned: &learned, counted: None, length: LENGTH };
    let (mut losses, mut norms, mut gradients) = (Vec::new(), Vec::new(), BTreeMap::new());
    for step in 0..steps {
        let images = ImagePairs { latents: &latents, ids: &IDS };
        let texts = TextPairs { latents: &latents, texts };
        let draws = Draws::new(3, step);
        let (grads, found) = objective().gradients(&model, &images, &texts, &draws, 1).unwrap();
        if step == 0 {
            let gradient = |(name, var)| Some((str::to_owned(name), grads.get(var)?.to_f64_vec()));
            gradients = params.trained().filter_map(gradient).collect();
        }
        norms.push(optimizer.step(&grads, 1e-2).unwrap().norm);
        losses.push(found);
    }
    let numbers = |named: Vec<(String, Tensor)>| {
        named.into_iter().map(|(name, x)| (name, x.to_f64_vec())).collect()
    };
    let (weights, average) = (numbers(params.tensors()), numbers(optimizer.average()));
    Trained { weights, average, gradients, losses, norms }
}

/// |a − b| / |b|, of vectors.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    difference / norm(&mut b.iter().copied()).max(1e-12)
}

/// The stand-in's GPU, for one test at a time: a picture is drawn by a recorded graph, and while
/// one is recorded no other thread may use the GPU.
struct Gpu(Device, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Deref for Gpu {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

fn gpu() -> Gpu {
    static ONE: Mutex<()> = Mutex::new(());
    let held = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    cuda::unless_gpu();
    Gpu(Device::cuda(0).expect("the stand-in has a GPU"), held)
}

#[test]
fn training_steps_are_those_of_the_cpu() {
    let (here, there) = (train(&Device::Cpu, 3), train(&gpu(), 3));
    assert_eq!(there.gradients.len(), here.gradients.len());
    assert!(here.gradients.len() > 50, "every weight learns");
    for (name, want) in &here.gradients {
        let apart = apart(&there.gradients[name], want);
        assert!(apart <= 1e-5, "gradient of {name}: {apart:.1e}");
    }
    for (a, b) in there.losses.iter().zip(&here.losses) {
        for (a, b) in [(a.image, b.image), (a.text, b.text), (a.total, b.total)] {
            assert!((a - b).abs() <= 1e-5 * b.abs(), "loss {a}, not {b}");
        }
    }
    assert!(apart(&there.norms, &here.norms) <= 1e-5);
    assert!(here.norms[0] > 0.5, "gradients are clipped");
    // A gradient near zero moves its weight by the whole learning rate in either direction.
    for (got, want) in [(&there.weights, &here.weights), (&there.average, &here.average)] {
        let outliers = |name: &String| {
            let pairs = got[name].iter().zip(&want[name]);
            pairs.filter(|(a, b)| (**a - **b).abs() > 1e-5).count()
        };
        let wrong: usize = want.keys().map(outliers).sum();
        let all: usize = want.values().map(Vec::len).sum();
        assert!(wrong * 1000 <= all, "{wrong} weights of {all} are elsewhere");
    }
    assert_listed();
}

#[test]
fn velocity_and_scores_are_those_of_the_cpu() {
    let answers = |device: &Device| {
        let model = Mmdit::new(config(), &params(device)).unwrap();
        let latents = autograd::Var::constant(latents());
        no_grad(|| {
            let text = TextInput::Ids(&IDS, LENGTH);
            let velocity = model.velocity(&latents, text, &[300.0, 999.0]).unwrap();
            let tokens = model.text_tokens(None, text, &[0.0; BATCH]).unwrap();
            let scores = model.text_logits(&tokens).unwrap();
            [velocity, scores].map(|x| x.value().to_f64_vec())
        })
    };
    for (got, want) in answers(&gpu()).iter().zip(&answers(&Device::Cpu)) {
        let apart = apart(got, want);
        assert!(apart <= 1e-5, "{apart:.1e}");
    }
    assert_listed();
}

/// Euler's method with guidance, from noise to latents.
#[test]
fn drawn_latents_are_those_of_the_cpu() {
    let draw = |device: &Device| {
        let model = model(&params(device));
        let null = Given::Ids(objective().null, LENGTH);
        let prompts = Prompts::new(Given::Ids(IDS.to_vec(), LENGTH), Some(&null)).unwrap();
        let (schedule, guidance) = (Schedule::shifted(4, 3.0).unwrap(), Guidance::new(2.5));
        let velocity = |state: &Tensor, sigma| {
            guidance.velocity(state, sigma, |state, sigma, pass| {
                model.velocity(state, sigma, pass, &prompts)
            })
        };
        let go_on = |_: &FlowStep| ControlFlow::Continue(());
        let drawn = no_grad(|| Solver::Euler.integrate(&latents(), &schedule, velocity, go_on));
        drawn.unwrap().to_f64_vec()
    };
    let apart = apart(&draw(&gpu()), &draw(&Device::Cpu));
    assert!(apart <= 1e-5, "{apart:.1e}");
    assert_listed();
}

/// Texts beside pictures, from masks to tokens, by the paper's sampler and the release's: the
/// scores that they ask for, and the tokens that they choose.
#[test]
fn written_texts_are_those_of_the_cpu() {
    let write = |device: &Device, exact: bool| {
        let (model, mut scores) = (model(&params(device)), Vec::new());
        let denoiser = |query: &Query| {
            let found = no_grad(|| model.denoise(query, Some(&latents())))?;
            scores.push(found.to_f64_vec());
            Ok(found)
        };
        let masks = [[i64::from(MASK); LENGTH]; BATCH];
        let canvas = Canvas::new(&masks, i64::from(MASK)).unwrap();
        let mut rngs = [7, 8].map(Rng::new);
        let go_on = |_: &TextStep| ControlFlow::Continue(());
        let canvas = match exact {
            true => TwoStage::new(4).sample(canvas, &mut rngs, denoiser, go_on),
            false => DdpmCache::new(4).sample(canvas, &mut rngs, denoiser, go_on),
        };
        (canvas.unwrap().to_tensor().to_vec::<i64>().unwrap(), scores)
    };
    for exact in [true, false] {
        let ((tokens, scores), (want, want_scores)) =
            (write(&gpu(), exact), write(&Device::Cpu, exact));
        assert!(!want.contains(&i64::from(MASK)) && want_scores.len() > 1, "{want:?}");
        assert_eq!(tokens, want);
        for (got, want) in scores.iter().zip(&want_scores) {
            let apart = apart(got, want);
            assert!(apart <= 1e-5, "{apart:.1e}");
        }
    }
    assert_listed();
}

#[test]
fn the_autoencoder_is_that_of_the_cpu() {
    let config: VaeConfig = serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [4, 6],
        "layers_per_block": 1, "latent_channels": 2, "norm_num_groups": 2, "scaling_factor": 0.5,
    }))
    .unwrap();
    let pictures = Rng::new(4).normal([2, 3, 6, 8], DType::F32).unwrap();
    let noise = Rng::new(6).normal([2, 2, 3, 4], DType::F32).unwrap();
    let answers = |device: &Device| {
        let params = params_of(&vae::inventory(&config), device);
        let vae = AutoencoderKl::new(config.clone(), &params).unwrap();
        let posterior = vae.encode(&autograd::Var::constant(pictures.clone())).unwrap();
        let latents = posterior.sample(&noise).unwrap();
        let decoded = vae.decode(&latents).unwrap();
        assert_eq!(decoded.value().device(), *device);
        let loss = VaeObjective::default().loss(&vae, &pictures, &noise).unwrap();
        let grads = loss.total.backward().unwrap();
        let gradients = params.trained().flat_map(|(_, var)| grads.get(var).unwrap().to_f64_vec());
        [latents.value().to_f64_vec(), decoded.value().to_f64_vec(), gradients.collect()]
    };
    for (got, want) in answers(&gpu()).iter().zip(&answers(&Device::Cpu)) {
        let apart = apart(got, want);
        assert!(apart <= 1e-5, "{apart:.1e}");
    }
    assert_listed();
}

#[test]
fn states_of_texts_are_those_of_the_cpu() {
    let config: T5Config = serde_json::from_value(json!({
        "vocab_size": 11, "d_model": 6, "d_kv": 4, "d_ff": 10, "num_layers": 2, "num_heads": 2,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 4,
        "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
    }))
    .unwrap();
    let states = |device: &Device| {
        let encoder = T5Encoder::new(config.clone(), &params_of(&t5::inventory(&config), device));
        let states = no_grad(|| encoder.unwrap().forward(&IDS, LENGTH)).unwrap().value();
        assert_eq!(states.device(), *device);
        states.to_f64_vec()
    };
    let apart = apart(&states(&gpu()), &states(&Device::Cpu));
    assert!(apart <= 1e-5, "{apart:.1e}");
    assert_listed();
}

fn steps(trainer: &mut Trainer, count: usize) -> Vec<f64> {
    (0..count).map(|_| trainer.step().unwrap().losses[0].1).collect()
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let device = gpu();
    let mut straight = open(&path("straight"), &device);
    let losses = steps(&mut straight, 4);
    let here = steps(&mut open(&path("here"), &Device::Cpu), 4);
    for (got, want) in losses.iter().zip(&here) {
        assert!((got - want).abs() <= 1e-5 * want, "loss {got}, not {want}");
    }

    let mut first = open(&path("stopped"), &device);
    assert_eq!(steps(&mut first, 2), losses[..2]);
    first.save().unwrap();
    // A step after the checkpoint is lost, as by a kill.
    steps(&mut first, 1);
    drop(first);
    let mut second = open(&path("stopped"), &device);
    assert_eq!(second.steps_done(), 2);
    assert_eq!(steps(&mut second, 2), losses[2..]);
    assert!(second.weights().iter().all(|(_, weight)| weight.device() == *device));
    let bits = |trainer: &mut Trainer| {
        let file = |path: PathBuf| fs::read(path).unwrap();
        let saved = trainer.save().unwrap();
        let model = trainer.export().unwrap().join("transformer/diffusion_pytorch_model");
        let [weights, memory] = ["model", "optimizer"].map(|name| saved.join(name));
        [weights, memory, model].map(|path| file(path.with_extension("safetensors")))
    };
    assert!(bits(&mut second) == bits(&mut straight), "checkpoint and model are the same files");
    let model = path("straight").join("model/transformer/diffusion_pytorch_model.safetensors");
    let weight =
        SafeTensors::open(model).unwrap().get("text_proj_out.weight").unwrap().to_f64_vec();
    assert!(weight.iter().any(|x| *x != 0.0), "and not empty");
    assert_listed();
}
