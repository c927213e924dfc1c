//! A velocity that a GPU recorded once, beside the one it is asked for kernel by kernel. The GPU is the
//! virtual machine behind the stand-in for the driver, with all its checks on.
#![cfg(target_os = "linux")]

use autograd::{Params, Var, no_grad};
use ddit::config::TransformerConfig;
use ddit::mmdit::{Mmdit, TextInput, inventory};
use serde_json::json;
use tensor::rng::Rng;
use tensor::{DType, Device, Tensor};

#[test]
fn a_recorded_velocity_has_the_bits_of_one_that_is_not() {
    cuda::install();
    let device = Device::cuda(0).expect("the stand-in has a GPU");
    let Device::Cuda(gpu) = &device else { unreachable!("it was asked for") };
    let config: TransformerConfig = serde_json::from_value(json!({
        "vocab_size": 11, "sample_size": 6, "patch_size": 2, "in_channels": 3, "out_channels": 3,
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 0, "caption_projection_dim": 16, "pos_embed_max_size": 5,
        "text_embedding": true, "max_text_length": 8,
    }))
    .unwrap();
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
    let graph = graph.unwrap();
    for (seed, time) in [(1, 999.0), (2, 300.5)] {
        let want = no_grad(|| model.velocity(&Var::constant(latents(seed)), text, &[time; 2]));
        let got = graph.run(&[&latents(seed), &features(time)]).unwrap();
        let bits = |x: &Tensor| x.to_f64_vec().into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&got[0]), bits(&want.unwrap().value()));
    }
}
