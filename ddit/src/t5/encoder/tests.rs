//! The encoder against plain loops, finite differences and itself in other storage.

use std::collections::BTreeMap;

use autograd::optim::{AdamW, AdamWConfig};
use autograd::{gradcheck, no_grad};
use serde_json::json;
use tensor::rng::Rng;
use tensor::{DType, Tensor};

use super::*;

/// Two texts of five tokens; token 7, the one that is learnt, is in both.
const IDS: [u32; 10] = [3, 7, 0, 7, 1, 10, 7, 2, 9, 9];
const LENGTH: usize = 5;

/// Heads are together wider than the model, and five tokens reach logarithmic buckets.
fn config() -> T5Config {
    serde_json::from_value(json!({
        "vocab_size": 11, "d_model": 6, "d_kv": 4, "d_ff": 10, "num_layers": 2, "num_heads": 2,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 4,
        "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
    }))
    .unwrap()
}

/// Fresh weights, with norms that are not all ones.
fn weights(dtype: DType) -> Vec<(String, Tensor)> {
    let mut weights = inventory(&config()).fresh(5, DType::F32).unwrap();
    for (i, (name, tensor)) in weights.iter_mut().enumerate() {
        if name.ends_with("norm.weight") {
            let noise = Rng::new(i as u64).normal(tensor.shape(), DType::F32).unwrap();
            let sum = Var::constant(noise).mul_scalar(0.2).unwrap().add_scalar(1.0).unwrap();
            *tensor = sum.value();
        }
        *tensor = tensor.to_dtype(dtype);
    }
    weights
}

fn encoder(weights: Vec<(String, Tensor)>, trains: bool) -> (T5Encoder, Params) {
    let params = Params::from_tensors(weights, |_| trains).unwrap();
    (T5Encoder::new(config(), &params).unwrap(), params)
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    tensor.contiguous().bytes().unwrap().to_vec()
}

#[test]
fn the_largest_encoder_has_the_published_tensors() {
    let config: T5Config = serde_json::from_value(json!({
        "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
        "num_heads": 64, "feed_forward_proj": "gated-gelu",
    }))
    .unwrap();
    let list = inventory(&config);
    assert_eq!(list.iter().len(), 219);
    assert_eq!(list.iter().map(|w| w.shape.numel()).sum::<usize>(), 4_762_310_656);
}

/// rms(x, w) of every row.
fn rms(x: &[Vec<f64>], w: &[f64]) -> Vec<Vec<f64>> {
    let row = |x: &Vec<f64>| {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter().zip(w).map(|(x, w)| w * x / (mean + 1e-6).sqrt()).collect()
    };
    x.iter().map(row).collect()
}

/// x Wᵀ, W stored by rows.
fn linear(x: &[Vec<f64>], w: &[f64]) -> Vec<Vec<f64>> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.iter().map(|x| w.chunks(x.len()).map(|w| dot(x, w)).collect()).collect()
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}

/// One text by the equations, a loop for each.
fn plain(weights: &BTreeMap<String, Vec<f64>>, ids: &[u32]) -> Vec<Vec<f64>> {
    let (config, positions) = (config(), &weights[POSITIONS]);
    let (width, head, heads) = (config.d_model, config.d_kv, config.num_heads);
    let row = |&id: &u32| weights["shared.weight"][id as usize * width..][..width].to_vec();
    let mut x: Vec<Vec<f64>> = ids.iter().map(row).collect();
    for i in 0..config.num_layers {
        let w = |name: &str| &weights[&format!("encoder.block.{i}.layer.{name}.weight")][..];
        let h = rms(&x, w("0.layer_norm"));
        let [q, k, v] = ["q", "k", "v"].map(|n| linear(&h, w(&format!("0.SelfAttention.{n}"))));
        let mut attended = vec![vec![0.0; heads * head]; ids.len()];
        for h in 0..heads {
            for a in 0..ids.len() {
                let score = |b: usize| {
                    let dot: f64 = (h * head..(h + 1) * head).map(|c| q[a][c] * k[b][c]).sum();
                    let bucket = bucket(b as isize - a as isize, 8, 4);
                    (dot + positions[bucket * heads + h]).exp()
                };
                let scores: Vec<f64> = (0..ids.len()).map(score).collect();
                let total: f64 = scores.iter().sum();
                for c in h * head..(h + 1) * head {
                    attended[a][c] = (0..ids.len()).map(|b| scores[b] / total * v[b][c]).sum();
                }
            }
        }
        add(&mut x, &linear(&attended, w("0.SelfAttention.o")));
        let h = rms(&x, w("1.layer_norm"));
        let mut hidden = linear(&h, w("1.DenseReluDense.wi_0"));
        let up = linear(&h, w("1.DenseReluDense.wi_1"));
        for (g, u) in hidden.iter_mut().flatten().zip(up.iter().flatten()) {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            *g = 0.5 * *g * (1.0 + (root * (*g + 0.044715 * g.powi(3))).tanh()) * u;
        }
        add(&mut x, &linear(&hidden, w("1.DenseReluDense.wo")));
    }
    rms(&x, &weights["encoder.final_layer_norm.weight"])
}

#[test]
fn states_are_those_of_the_equations() {
    let named = weights(DType::F64).into_iter().map(|(name, t)| (name, t.to_f64_vec())).collect();
    let want: Vec<f64> = IDS.chunks(LENGTH).flat_map(|ids| plain(&named, ids)).flatten().collect();
    let (encoder, _) = encoder(weights(DType::F64), false);
    let states = encoder.forward(&IDS, LENGTH).unwrap();
    assert_eq!(*states.shape(), [2, LENGTH, 6]);
    let got = states.value().to_f64_vec();
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}\n{want:?}");
}

/// Gradients of every weight and of a row of its own, in f64 against difference quotients.
#[test]
fn gradients_are_those_of_differences() {
    let (names, mut inputs): (Vec<_>, Vec<_>) = weights(DType::F64).into_iter().unzip();
    inputs.push(Rng::new(9).normal([6], DType::F64).unwrap());
    let states = |x: &[Var]| {
        let (row, vars) = x.split_last().unwrap();
        let params = Params::from_vars(names.iter().cloned().zip(vars.iter().cloned()))?;
        let mut encoder = T5Encoder::new(config(), &params)?;
        encoder.set_row(7, row.clone())?;
        encoder.forward(&IDS, LENGTH)
    };
    let report = gradcheck(states, &inputs).unwrap();
    assert_eq!(report.inputs.len(), names.len() + 1);
    assert!(report.passed(), "{report}");
}

#[test]
fn half_precision_is_storage_alone() {
    for dtype in [DType::BF16, DType::F16] {
        let stored = weights(dtype);
        let widened = stored.iter().map(|(name, t)| (name.clone(), t.to_dtype(DType::F32)));
        let run = |weights, trains| {
            let (encoder, params) = encoder(weights, trains);
            (encoder.forward(&IDS, LENGTH).unwrap(), params)
        };
        let (half, params) = run(stored.clone(), true);
        let (wide, wide_params) = run(widened.collect(), true);
        assert_eq!(bits(&half.value()), bits(&wide.value()));
        let seed = Rng::new(3).normal(half.shape(), DType::F32).unwrap();
        let [grads, wide_grads] =
            [half, wide].map(|states| autograd::backward_with(&[(states, seed.clone())]).unwrap());
        for (name, var) in params.named() {
            let wide = wide_grads.get(&wide_params.get(name).unwrap()).unwrap();
            assert_eq!(bits(&grads.get(var).unwrap()), bits(&wide), "{name}");
        }
    }
}

#[test]
fn recomputed_passes_have_the_same_gradients() {
    let gradients = |on: bool| {
        let (encoder, params) = encoder(weights(DType::F32), true);
        let states = encoder.with_checkpointing(on).forward(&IDS, LENGTH).unwrap();
        let grads = states.square().unwrap().sum_all().unwrap().backward().unwrap();
        params.named().map(|(_, var)| bits(&grads.get(var).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(gradients(true), gradients(false));
}

/// The paper's second stage: one row learns through the whole encoder, in half precision, and
/// nothing else changes by a bit.
#[test]
fn one_row_learns_alone() {
    let (encoder, params) = encoder(weights(DType::BF16), false);
    let mut encoder = encoder.with_checkpointing(true);
    let before = params.tensors();
    // What the encoder says with another row is something that it can learn to say.
    let mut teacher = T5Encoder::new(config(), &params).unwrap();
    teacher.set_row(7, Var::constant(Rng::new(4).normal([6], DType::F32).unwrap())).unwrap();
    let target = teacher.forward(&IDS, LENGTH).unwrap();
    let row = encoder.train_row(7).unwrap();
    let loss = |encoder: &T5Encoder| {
        let states = encoder.forward(&IDS, LENGTH).unwrap();
        states.sub(&target).unwrap().square().unwrap().mean_all().unwrap()
    };
    let trained = Params::from_vars([("mask_embedding".to_owned(), row.clone())]).unwrap();
    let mut optimiser = AdamW::new(&trained, AdamWConfig::default()).unwrap();
    let first = no_grad(|| loss(&encoder)).item().unwrap();
    for _ in 0..60 {
        optimiser.step(&loss(&encoder).backward().unwrap(), 0.05).unwrap();
    }
    let last = no_grad(|| loss(&encoder));
    let last = last.item().unwrap();
    assert!(last < 0.3 * first, "{first} to {last}");
    for ((name, old), (_, new)) in before.iter().zip(&params.tensors()) {
        assert_eq!(bits(old), bits(new), "{name}");
    }

    // Put into another copy of the encoder, from its own file, it is the same encoder.
    let file = tempfile::NamedTempFile::new().unwrap();
    crate::t5::save_row(file.path(), &row.value()).unwrap();
    let mut again = T5Encoder::new(config(), &params).unwrap();
    let loaded = crate::t5::load_row(file.path(), 6).unwrap();
    again.set_row(7, Var::constant(loaded)).unwrap();
    assert_eq!(no_grad(|| loss(&again)).item().unwrap(), last);

    // In the table, rounded to its type, it is row 7 and nothing else.
    let (old, new) = (&before[0].1, encoder.embedding().table().unwrap());
    for id in 0..11 {
        let [old, new] = [old, &new].map(|table| bits(&table.select(0, id).unwrap()));
        assert_eq!(old == new, id != 7, "row {id}");
    }
}
