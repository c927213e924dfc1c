//! Writes a pipeline folder of the published size, with random weights: what the program does on
//! the real one, in time and memory, can be measured without it.
//!
//! ```sh
//! cargo run --release -p tests --example full_size -- FOLDER
//! ```
//!
//! Geometries are those of SD3-medium's D-DiT, T5-XXL and SD3's autoencoder; names and shapes
//! follow from them, by the library's inventories. Everything is bf16 and in shards as published;
//! 14 GB, of which one tensor is in memory at a time. The tokenizer is T5's own, from
//! `$DDIT_SHARED/data/t5` or `../shared/data/t5`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ddit::config::{SchedulerConfig, TransformerConfig, VaeConfig};
use ddit::folder::{Geometry, write_component, write_frame};
use ddit::t5::T5Config;
use ddit::text::Tokenizer;
use ddit::weights::{Start, Weight};
use half::bf16;
use serde_json::{Value, from_value, json};
use tensor::io::safetensors::Info;
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

/// Random numbers that all tensors are made of, each from a place of its own; a prime, so that rows
/// of matrices do not repeat.
const NUMBERS: usize = 4_194_301;

/// How far a tensor begins after the one before.
const STEP: usize = 1_299_709;

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: full_size FOLDER")?;
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
    let tokenizer = Tokenizer::open(Path::new(&shared).join("data/t5"))?;
    let numbers = Rng::new(0).normal([NUMBERS], DType::F32)?.to_vec::<f32>()?;
    write_frame(&out, [true; 2], &tokenizer, &SchedulerConfig::new(3.0))?;
    write::<TransformerConfig>(&out.join("transformer"), transformer(), &numbers)?;
    write::<T5Config>(&out.join("text_encoder"), text_encoder(), &numbers)?;
    write::<VaeConfig>(&out.join("vae"), autoencoder(), &numbers)
}

/// Writes a network of this geometry.
fn write<C: Geometry>(path: &Path, config: Value, numbers: &[f32]) -> Result<(), Box<dyn Error>> {
    let (begun, config) = (Instant::now(), from_value::<C>(config)?);
    let inventory = config.inventory()?;
    let tensors = inventory.iter().enumerate().map(|(i, weight)| {
        let info = Info { dtype: DType::BF16, shape: weight.shape };
        (weight.name.as_str(), (info, move || random(weight, numbers, i * STEP)))
    });
    write_component(path, &config, tensors)?;
    let gigabytes = inventory.iter().map(|w| 2.0 * w.shape.numel() as f64).sum::<f64>() / 1e9;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}: {} tensors, {gigabytes:.2} GB in {seconds:.0} s",
        path.display(),
        inventory.iter().len()
    );
    Ok(())
}

/// A tensor as trained ones are: of the size that it begins with, but nothing is 0.
fn random(weight: &Weight, numbers: &[f32], from: usize) -> Result<Tensor> {
    let fan_in = weight.shape[1..].iter().product::<usize>() as f64;
    let (centre, deviation) = match &weight.start {
        Start::Formula(table) => return Ok(table().to_dtype(DType::BF16)),
        Start::Ones => (1.0, 0.05),
        Start::Normal { deviation } => (0.0, *deviation),
        Start::Uniform { bound } => (0.0, bound / 3_f64.sqrt()),
        Start::Zeros if weight.shape.rank() == 1 => (0.0, 0.02),
        Start::Zeros => (0.0, 0.2 / fan_in.sqrt()),
    };
    let number = |&z: &f32| bf16::from_f32((centre + deviation * f64::from(z)) as f32);
    let numbers: Vec<bf16> = numbers.iter().map(number).collect();
    Ok(Tensor::build(weight.shape, |mut rest: &mut [bf16]| {
        let mut from = from % numbers.len();
        while !rest.is_empty() {
            let count = rest.len().min(numbers.len() - from);
            let (part, after) = rest.split_at_mut(count);
            part.copy_from_slice(&numbers[from..from + count]);
            (rest, from) = (after, 0);
        }
    }))
}

fn transformer() -> Value {
    json!({
        "_class_name": "SD3JointModelFlexible", "vocab_size": 32100, "sample_size": 128,
        "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
        "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
        "dual_attention_layers": [], "qk_norm": null,
    })
}

fn text_encoder() -> Value {
    json!({
        "architectures": ["T5EncoderModel"], "vocab_size": 32128, "d_model": 4096, "d_kv": 64,
        "d_ff": 10240, "num_layers": 24, "num_heads": 64, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new",
    })
}

fn autoencoder() -> Value {
    json!({
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3,
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16,
        "norm_num_groups": 32, "act_fn": "silu", "scaling_factor": 1.5305, "shift_factor": 0.0609,
        "use_quant_conv": false, "use_post_quant_conv": false, "mid_block_add_attention": true,
    })
}
