//! The whole autoencoder against the equations, written down a second time with loops over `f64`.

use std::collections::BTreeMap;

use autograd::{Params, Var};
use serde_json::json;
use tensor::DType;
use tensor::rng::Rng;

use super::*;

fn config() -> VaeConfig {
    serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [2, 4], "layers_per_block": 1,
        "latent_channels": 2, "norm_num_groups": 2, "scaling_factor": 1.5, "shift_factor": 0.1,
    }))
    .unwrap()
}

/// A picture of any number of channels.
#[derive(Clone)]
struct Planes {
    size: [usize; 3],
    values: Vec<f64>,
}

impl Planes {
    fn build(size: [usize; 3], value: impl Fn(usize, usize, usize) -> f64) -> Self {
        let [channels, height, width] = size;
        let places = (0..channels * height * width)
            .map(|i| value(i / (height * width), i / width % height, i % width));
        Self { size, values: places.collect() }
    }

    /// An element; 0 outside of the picture.
    fn at(&self, c: usize, y: usize, x: usize) -> f64 {
        let [_, height, width] = self.size;
        if y < height && x < width { self.values[(c * height + y) * width + x] } else { 0.0 }
    }

    fn add(&self, other: &Self) -> Self {
        Self::build(self.size, |c, y, x| self.at(c, y, x) + other.at(c, y, x))
    }
}

struct Plain(BTreeMap<String, Tensor>);

impl Plain {
    fn numbers(&self, name: &str) -> Vec<f64> {
        self.0[name].to_f64_vec()
    }

    /// A k x k convolution; `before` zeros stand above and to the left, as many as it takes after.
    fn conv(&self, name: &str, x: &Planes, k: usize, stride: usize, before: usize) -> Planes {
        let weight = self.numbers(&format!("{name}.weight"));
        let bias = self.numbers(&format!("{name}.bias"));
        let [inputs, height, width] = x.size;
        Planes::build([bias.len(), height / stride, width / stride], |o, y, column| {
            let mut sum = bias[o];
            for i in 0..inputs * k * k {
                let (c, dy, dx) = (i / (k * k), i / k % k, i % k);
                // Above and to the left of the picture these wrap round to far outside.
                let (y, x_) = (y * stride + dy, column * stride + dx);
                let value = x.at(c, y.wrapping_sub(before), x_.wrapping_sub(before));
                sum += weight[((o * inputs + c) * k + dy) * k + dx] * value;
            }
            sum
        })
    }

    /// Each of two groups of channels with mean 0 and variance 1, then scaled and shifted.
    fn norm(&self, name: &str, x: &Planes) -> Planes {
        let weight = self.numbers(&format!("{name}.weight"));
        let bias = self.numbers(&format!("{name}.bias"));
        let half = x.values.len() / 2;
        let statistics: Vec<[f64; 2]> = x
            .values
            .chunks(half)
            .map(|group| {
                let mean = group.iter().sum::<f64>() / half as f64;
                let squares = group.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
                [mean, (squares / half as f64 + 1e-6).sqrt()]
            })
            .collect();
        Planes::build(x.size, |c, y, column| {
            let [mean, deviation] = statistics[c / (x.size[0] / 2)];
            (x.at(c, y, column) - mean) / deviation * weight[c] + bias[c]
        })
    }

    fn norm_silu(&self, name: &str, x: &Planes) -> Planes {
        let x = self.norm(name, x);
        Planes::build(x.size, |c, y, column| {
            let x = x.at(c, y, column);
            x / (1.0 + (-x).exp())
        })
    }

    fn same(&self, name: &str, x: &Planes) -> Planes {
        self.conv(name, x, 3, 1, 1)
    }

    fn resnet(&self, name: &str, x: &Planes) -> Planes {
        let part = |part: &str| format!("{name}.{part}");
        let h = self.same(&part("conv1"), &self.norm_silu(&part("norm1"), x));
        let h = self.same(&part("conv2"), &self.norm_silu(&part("norm2"), &h));
        let shortcut = part("conv_shortcut");
        match self.0.contains_key(&format!("{shortcut}.weight")) {
            true => h.add(&self.conv(&shortcut, x, 1, 1, 0)),
            false => h.add(x),
        }
    }

    fn middle(&self, name: &str, x: &Planes) -> Planes {
        let x = self.resnet(&format!("{name}.resnets.0"), x);
        let attention = |part: &str| format!("{name}.attentions.0.{part}");
        let normed = self.norm(&attention("group_norm"), &x);
        // A linear map of the channels of every place is a convolution of one element.
        let project = |part: &str, x: &Planes| self.conv(&attention(part), x, 1, 1, 0);
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(|part| project(part, &normed));
        let [channels, height, width] = x.size;
        let place = |p: &Planes, c: usize, i: usize| p.values[c * height * width + i];
        let attended = Planes::build(x.size, |c, y, column| {
            let score = |j: usize| {
                let product = |c| place(&q, c, y * width + column) * place(&k, c, j);
                ((0..channels).map(product).sum::<f64>() / (channels as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (0..height * width).map(score).collect();
            let weighted = scores.iter().enumerate().map(|(j, score)| score * place(&v, c, j));
            weighted.sum::<f64>() / scores.iter().sum::<f64>()
        });
        self.resnet(&format!("{name}.resnets.1"), &x.add(&project("to_out.0", &attended)))
    }

    /// Mean and log-variance, one behind the other.
    fn encode(&self, picture: &Planes) -> Planes {
        let x = self.same("encoder.conv_in", picture);
        let x = self.resnet("encoder.down_blocks.0.resnets.0", &x);
        let x = self.conv("encoder.down_blocks.0.downsamplers.0.conv", &x, 3, 2, 0);
        let x = self.resnet("encoder.down_blocks.1.resnets.0", &x);
        let x = self.middle("encoder.mid_block", &x);
        self.same("encoder.conv_out", &self.norm_silu("encoder.conv_norm_out", &x))
    }

    fn decode(&self, latents: &Planes) -> Planes {
        let mut x = self.middle("decoder.mid_block", &self.same("decoder.conv_in", latents));
        for j in 0..2 {
            x = self.resnet(&format!("decoder.up_blocks.0.resnets.{j}"), &x);
        }
        let [channels, height, width] = x.size;
        let twice = Planes::build([channels, 2 * height, 2 * width], |c, y, column| {
            x.at(c, y / 2, column / 2)
        });
        x = self.same("decoder.up_blocks.0.upsamplers.0.conv", &twice);
        for j in 0..2 {
            x = self.resnet(&format!("decoder.up_blocks.1.resnets.{j}"), &x);
        }
        self.same("decoder.conv_out", &self.norm_silu("decoder.conv_norm_out", &x))
    }
}

#[test]
fn computes_what_the_equations_say() {
    let draw = |i: u64, shape: &[usize], size: f64| {
        let values = Rng::new(13).stream(i).normal(shape, DType::F64).unwrap().to_f64_vec();
        let values: Vec<f64> = values.into_iter().map(|x| size * x).collect();
        Tensor::from_vec(values, shape).unwrap()
    };
    let list = inventory(&config());
    let weight =
        |(i, w): (usize, &crate::weights::Weight)| (w.name.clone(), draw(i as u64, &w.shape, 0.5));
    let weights: BTreeMap<String, Tensor> = list.iter().enumerate().map(weight).collect();
    let params = Params::from_tensors(weights.clone(), |_| false).unwrap();
    let (vae, plain) = (AutoencoderKl::new(config(), &params).unwrap(), Plain(weights));
    // Of five rows one has no place in the latents' two.
    let (pictures, latents) = (draw(1000, &[2, 3, 5, 6], 1.0), draw(1001, &[2, 2, 2, 3], 1.0));
    let posterior = vae.encode(&Var::constant(pictures.clone())).unwrap();
    let decoded = vae.decode(&Var::constant(latents.clone())).unwrap().value();
    for i in 0..2 {
        let sample = |x: &Tensor| x.select(0, i).unwrap().to_f64_vec();
        let planes = |x: &Tensor, size| Planes { size, values: sample(x) };
        let moments =
            [posterior.mean.value(), posterior.logvar.value()].map(|x| sample(&x)).concat();
        let wants = [
            plain.encode(&planes(&pictures, [3, 5, 6])),
            plain.decode(&planes(&latents, [2, 2, 3])),
        ];
        for (got, want) in [moments, sample(&decoded)].into_iter().zip(wants) {
            assert_eq!(got.len(), want.values.len());
            for (got, want) in got.iter().zip(&want.values) {
                let want = want.clamp(-30.0, 20.0);
                assert!((got - want).abs() < 1e-11 * (1.0 + want.abs()), "{got} is not {want}");
            }
        }
    }
}
