//! The optimiser against its reference, and what it remembers.

use super::*;
use tensor::rng::Rng;

fn store(dtype: DType) -> Params {
    let tensor = |i: u64| (format!("p{i}"), Rng::new(i).normal([5, 3], dtype).unwrap());
    Params::from_tensors((0..3).map(tensor), |_| true).unwrap()
}

/// Gradients of p0 and p1, not of p2.
fn grads(params: &Params, step: u64) -> Grads {
    let weight = Var::constant(Rng::new(100 + step).normal([5, 3], DType::F64).unwrap());
    let [a, b] = [params.get("p0").unwrap(), params.get("p1").unwrap()];
    let loss = a.mul(&weight).unwrap().add(&b.square().unwrap()).unwrap();
    loss.sum_all().unwrap().backward().unwrap()
}

fn config() -> AdamWConfig {
    AdamWConfig { clip: Some(2.0), ema: Some(Ema::Constant(0.9)), ..AdamWConfig::default() }
}

#[test]
fn follows_the_reference_and_leaves_others_alone() {
    let params = store(DType::F64);
    let values = |name: &str| params.get(name).unwrap().value().to_f64_vec();
    let (mut p, untouched) = (values("p1"), values("p2"));
    let (mut m, mut v, mut e) = (vec![0.0; 15], vec![0.0; 15], p.clone());
    let mut adamw = AdamW::new(&params, config()).unwrap();
    for number in 1..=4 {
        let grads = grads(&params, number);
        let g = grads.get(&params.get("p1").unwrap()).unwrap().to_f64_vec();
        let all = ["p0", "p1"].map(|n| grads.get(&params.get(n).unwrap()).unwrap().to_f64_vec());
        let norm = all.concat().iter().map(|g| g * g).sum::<f64>().sqrt();
        let clipped = adamw.step(&grads, 0.1).unwrap();
        assert!((clipped.norm - norm).abs() < 1e-12 && (clipped.factor - 2.0 / norm).abs() < 1e-12);
        let update = Update {
            lr: 0.1,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            clip: clipped.factor,
            number,
            ema_decay: 0.9,
        };
        let state = State { p: &mut p, m: &mut m, v: &mut v, ema: Some(&mut e) };
        adamw::reference(&update, &g, state);
    }
    let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-13);
    assert!(near(&values("p1"), &p) && near(&adamw.average()[1].1.to_f64_vec(), &e));
    assert_eq!(values("p2"), untouched);
    assert!(near(&adamw.average()[2].1.to_f64_vec(), &untouched), "an average of one value");
}

/// What is exempt has no part in the norm, moves as if it were alone, and is watched all the
/// same.
#[test]
fn exempt_parameters_move_as_if_they_were_alone() {
    let params = store(DType::F64);
    let p0 = params.get("p0").unwrap();
    let mut both = AdamW::new(&params, config()).unwrap().without_clipping(|name| name == "p0");
    let loss = |params: &Params| {
        let [a, b] = [params.get("p0").unwrap(), params.get("p1").unwrap()];
        let sum = a.mul_scalar(7.0).unwrap().square().unwrap().add(&b.square().unwrap());
        sum.unwrap().sum_all().unwrap().backward().unwrap()
    };
    let alone = store(DType::F64);
    let first = Params::from_vars([("p0".to_owned(), alone.get("p0").unwrap())]).unwrap();
    let free = AdamWConfig { clip: None, ..config() };
    let mut apart = AdamW::new(&first, free).unwrap();
    for _ in 0..3 {
        let p1 = params.get("p1").unwrap();
        let grads = loss(&params);
        let norm = Clipped::of(&grads, [&p1], None).unwrap().norm;
        assert_eq!(both.step(&grads, 0.1).unwrap().norm, norm);
        apart.step(&loss(&alone), 0.1).unwrap();
    }
    assert_eq!(p0.value().to_f64_vec(), alone.get("p0").unwrap().value().to_f64_vec());

    let wild = p0.mul_scalar(f64::INFINITY).unwrap().sum_all().unwrap().backward().unwrap();
    let before = params.tensors()[1].1.to_f64_vec();
    assert!(!both.step(&wild, 0.1).unwrap().norm.is_finite());
    assert_eq!((both.steps(), params.tensors()[1].1.to_f64_vec()), (3, before));
}

#[test]
fn goes_on_from_a_saved_state_to_the_last_bit() {
    let (params, mut steps) = (store(DType::F64), 0..);
    let mut adamw = AdamW::new(&params, config()).unwrap();
    let mut run = |adamw: &mut AdamW, params: &Params, n| {
        for step in steps.by_ref().take(n) {
            adamw.step(&grads(params, step), 0.01).unwrap();
        }
    };
    run(&mut adamw, &params, 3);
    let (state, weights) = (adamw.state(), params.tensors());
    run(&mut adamw, &params, 3);
    let copy = store(DType::F64);
    copy.set(weights).unwrap();
    let mut resumed = AdamW::new(&copy, config()).unwrap();
    resumed.restore(state.clone()).unwrap();
    for step in 3..6 {
        resumed.step(&grads(&copy, step), 0.01).unwrap();
    }
    let bits = |named: Vec<(String, Tensor)>| {
        named.iter().flat_map(|(_, t)| t.to_f64_vec()).map(f64::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(bits(copy.tensors()), bits(params.tensors()));
    assert_eq!(bits(resumed.state()), bits(adamw.state()));
    assert_eq!(resumed.steps(), 6);
    let error = resumed.restore(state.into_iter().skip(2)).unwrap_err().to_string();
    assert!(error.contains("ema.p0") || error.contains("m.p0 is missing"), "{error}");
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    let params = store(DType::F32);
    let p = params.get("p0").unwrap();
    let loss = p.mul_scalar(f64::NAN).unwrap().sum_all().unwrap();
    let before = params.tensors();
    let mut adamw = AdamW::new(&params, config()).unwrap();
    assert!(adamw.step(&loss.backward().unwrap(), 0.1).unwrap().norm.is_nan());
    assert_eq!((adamw.steps(), p.value().to_f64_vec()), (0, before[0].1.to_f64_vec()));
}

#[test]
fn averages_rise_and_halves_are_refused() {
    assert_eq!([0, 10, 1_000_000].map(|k| Ema::Rising(0.99).decay(k)), [0.1, 0.55, 0.99]);
    assert_eq!(Ema::Constant(0.5).decay(0), 0.5);
    let half = store(DType::BF16);
    assert!(AdamW::new(&half, config()).is_err());
}
