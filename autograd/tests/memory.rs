//! Memory of a graph: what it keeps, and that the backward pass gives it back as it goes.
//!
//! The pool is one for the process, so this file has one test.

use std::sync::{Arc, Mutex};

use autograd::{
    Backward, Grads, Keep, Kept, Op, SavedReport, Var, apply, checkpoint, no_grad, scope,
};
use tensor::{DType, Result, Tensor, pool};

/// The identity, which notes how much memory is in use when its vjp runs.
#[derive(Debug)]
struct Gauge(Arc<Mutex<Vec<usize>>>);

impl Op<1> for Gauge {
    const NAME: &'static str = "gauge";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        Ok((x.clone(), ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        self.0.lock().unwrap().push(pool::stats().live);
        Ok([Some(dy.clone())])
    }
}

/// A MiB.
const WHOLE: usize = 1 << 20;
const LAYERS: usize = 16;

fn input() -> Var {
    Var::parameter(Tensor::ones([WHOLE / 4], DType::F32))
}

#[test]
fn a_graph_keeps_what_the_report_says_and_gives_it_back_as_the_pass_goes() {
    // exp keeps its output, gauge nothing.
    let (x, seen) = (input(), Arc::default());
    let before = pool::stats().live;
    let mut y = x.clone();
    for i in 0..LAYERS {
        let layer = || apply(Gauge(Arc::clone(&seen)), [&y])?.mul_scalar(0.5)?.exp();
        y = scope(&format!("layers.{}", i % 2), layer).unwrap();
    }
    let loss = y.sum_all().unwrap();
    drop(y);
    let report = SavedReport::of(&loss);
    assert_eq!(report.bytes(), LAYERS * WHOLE, "{report}");
    let kept = pool::stats().live - before;
    assert!((report.bytes()..report.bytes() + WHOLE / 2).contains(&kept), "{kept} bytes\n{report}");
    let rows: Vec<_> = report.rows.iter().map(|row| (&*row.module, row.op, row.buffers)).collect();
    assert_eq!(rows, [("layers.0", "exp", LAYERS / 2), ("layers.1", "exp", LAYERS / 2)]);

    pool::reset_peak();
    let start = pool::stats().live;
    loss.backward().unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len(), LAYERS);
    assert!(seen.windows(2).all(|pair| pair[1] + WHOLE <= pair[0]), "it does not fall: {seen:?}");
    // The gradient that comes, the one that goes, and a broadcast seed: never the whole graph.
    let peak = pool::stats().peak;
    assert!(peak <= start + 3 * WHOLE, "{peak} from {start}");
    assert_eq!(SavedReport::of(&loss).rows, [], "nothing is left");
    drop(loss);
    assert!(pool::stats().live < before + WHOLE / 2, "{} from {before}", pool::stats().live);

    checkpoints_keep_their_inputs(&x);
    shared_buffers_count_once(&x);
    what_is_cheap_is_made_again(&x);
    passes_share_one_set_of_gradients();
    gradients_of_few_rows_take_little_memory();
    inference_keeps_nothing(&x);
}

fn checkpoints_keep_their_inputs(x: &Var) {
    let mut y = x.mul_scalar(1.0).unwrap();
    for _ in 0..4 {
        let block = |[y]: [Var; 1]| Ok([y.exp()?.tanh()?.exp()?]);
        [y] = scope("block", || checkpoint([&y], block)).unwrap();
    }
    let report = SavedReport::of(&y);
    assert_eq!((report.rows.len(), report.bytes()), (1, 4 * WHOLE), "{report}");
    assert_eq!((report.rows[0].op, &*report.rows[0].module), ("checkpoint", "block"));
}

/// Two halves of one buffer and the buffer itself: it is kept once. Parameters are there anyway.
fn shared_buffers_count_once(x: &Var) {
    let hidden = x.mul_scalar(2.0).unwrap();
    let halves = hidden.chunk(0, 2).unwrap();
    let product = halves[0].mul(&halves[1]).unwrap().sum_all().unwrap();
    let whole = hidden.square().unwrap().sum_all().unwrap();
    let with_parameter = x.square().unwrap().sum_all().unwrap();
    let loss = product.add(&whole).unwrap().add(&with_parameter).unwrap();
    let report = SavedReport::of(&loss);
    assert_eq!(report.bytes(), WHOLE, "{report}");
    let table = report.to_string();
    assert!(table.contains("mul") && table.lines().last().unwrap().ends_with("1.00"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
}

/// Of a chain of norms every third one is kept, and a linear layer's gradient is that of one whose
/// operand was there.
fn what_is_cheap_is_made_again(x: &Var) {
    let rows = x.reshape([WHOLE / 256, 64]).unwrap().mul_scalar(2.0).unwrap();
    let w = Var::parameter(Tensor::arange(64 * 64, DType::F32).reshape([64, 64]).unwrap());
    let w = w.mul_scalar(1e-3).unwrap();
    let norms = |n: usize| (0..n).try_fold(rows.clone(), |x, _| x.layer_norm(1e-6));
    let slope = |y: &Var| {
        let loss = y.square().unwrap().sum_all().unwrap();
        let pass = Backward::new().root(&loss, Tensor::ones(loss.shape(), DType::F32)).wrt(&w);
        // `rows` and w are behind all of them.
        let grads = pass.retain_graph().run().unwrap();
        grads.get(&w).unwrap().to_vec::<f32>().unwrap()
    };
    for (n, kept) in [(1, WHOLE), (2, WHOLE), (3, 2 * WHOLE), (5, 2 * WHOLE)] {
        let y = norms(n).unwrap().linear(&w, None).unwrap();
        let report = SavedReport::of(&y);
        assert!((kept..kept + WHOLE / 4).contains(&report.bytes()), "{n} norms\n{report}");
        let there = Var::constant(norms(n).unwrap().value()).linear(&w, None).unwrap();
        assert!(slope(&y) == slope(&there), "{n} norms");
    }
    // A gated residual is made of what is kept, its norm of that, both to the last bit.
    let stream = rows.reshape([16, WHOLE / 4096, 64]).unwrap();
    let other = Var::parameter(w.mul_scalar(2.0).unwrap().value());
    let gate = Var::parameter(Tensor::ones([16, 64], DType::F32));
    let bias = Var::parameter(Tensor::ones([64], DType::F32));
    let joined = stream.linear_gate_residual(&other, &bias, &gate, &stream).unwrap();
    let normed = joined.layer_norm(1e-6).unwrap();
    drop(joined);
    let y = normed.linear(&w, None).unwrap();
    let report = SavedReport::of(&y);
    assert!((2 * WHOLE..2 * WHOLE + WHOLE / 4).contains(&report.bytes()), "{report}");
    let there = Var::constant(normed.value()).linear(&w, None).unwrap();
    assert!(slope(&y) == slope(&there));
    // Of normalised rows, h = x·Wᵀ + b, its GELU, the branch made of that, and the sum with the
    // residual, h and the branch alone are kept.
    let normed = stream.layer_norm(1e-6).unwrap();
    let layer = [&other, &bias];
    let joined = normed.mlp_gate_residual(layer, layer, &gate, &stream).unwrap();
    drop(normed);
    let there = Var::constant(joined.value()).linear(&w, None).unwrap();
    let y = joined.linear(&w, None).unwrap();
    drop(joined);
    let report = SavedReport::of(&y);
    assert!((3 * WHOLE..3 * WHOLE + WHOLE / 4).contains(&report.bytes()), "{report}");
    assert!(slope(&y) == slope(&there));
}

/// Gradients of a second pass go where those of the first are.
fn passes_share_one_set_of_gradients() {
    let weights: Vec<Var> = (0..LAYERS).map(|_| input()).collect();
    let loss = || {
        let terms = weights.iter().map(|w| w.square()?.sum_all());
        terms.reduce(|a, b| a?.add(&b?)).unwrap().unwrap()
    };
    let mut grads = loss().backward().unwrap();
    pool::reset_peak();
    let before = pool::stats().live;
    loss().backward_into(&mut grads).unwrap();
    let more = pool::stats().peak - before;
    assert!(more <= 4 * WHOLE, "{more} bytes for gradients of {LAYERS} MiB");
    let all = weights.iter().map(|w| grads.get(w).unwrap().to_f64_vec());
    assert!(all.flatten().all(|slope| slope == 4.0));
}

/// Gradients of weights that few rows went through stay the two matrices they are the product of,
/// and nothing else lives on with them.
fn gradients_of_few_rows_take_little_memory() {
    let weights = || Var::parameter(Tensor::ones([WHOLE / 1024, 256], DType::F32));
    let weights: Vec<Var> = (0..LAYERS).map(|_| weights()).collect();
    let kept = |rows: usize| {
        let before = pool::stats().live;
        let mut grads = Grads::default();
        for _ in 0..2 {
            // Some rows of something large.
            let x = Tensor::ones([2 * WHOLE / 1024, 256], DType::F32);
            let x = Var::constant(x.narrow(0, 7, rows / 2).unwrap());
            let terms = weights.iter().map(|w| x.linear(w, None)?.sum_all());
            let loss = terms.reduce(|a, b| a?.add(&b?)).unwrap().unwrap();
            loss.backward_into(&mut grads).unwrap();
        }
        let gradient = grads.get(&weights[0]).unwrap().to_f64_vec();
        assert!(gradient.iter().all(|&slope| slope == rows as f64));
        pool::stats().live - before
    };
    let few = kept(8);
    assert!(few <= WHOLE, "{few} bytes for gradients of {LAYERS} MiB");
    assert!(kept(48) <= 6 * WHOLE && kept(80) >= LAYERS * WHOLE);
}

/// Layers that keep what is before their GELU or gate do so for a backward pass alone.
fn inference_keeps_nothing(x: &Var) {
    let rows = x.reshape([1, WHOLE / 256, 64]).unwrap().detach();
    let weight = |shape: &[usize]| Var::parameter(Tensor::ones(shape, DType::F32));
    let (w, b, gate) = (weight(&[64, 64]), weight(&[64]), weight(&[1, 64]));
    let mlp = || rows.mlp_gate_residual([&w, &b], [&w, &b], &gate, &rows);
    let layers: [(&dyn Fn() -> Result<Var>, usize); 2] =
        [(&|| rows.linear_gate_residual(&w, &b, &gate, &rows), WHOLE), (&mlp, 2 * WHOLE)];
    for (layer, more) in layers {
        let kept = |run: &dyn Fn() -> Result<Var>| {
            let before = pool::stats().live;
            let y = run().unwrap();
            let kept = pool::stats().live - before;
            drop(y);
            kept
        };
        assert_eq!((kept(layer), kept(&|| no_grad(layer))), (WHOLE + more, WHOLE));
    }
}
