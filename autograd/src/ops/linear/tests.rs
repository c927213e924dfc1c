//! Linear layers: misfits, empty axes, and inference.

use tensor::rng::Rng;

use super::*;
use crate::profile::Pass;
use crate::{Backward, Grads, no_grad};

fn ones(shape: &[usize]) -> Var {
    Var::parameter(Tensor::ones(shape, DType::F32))
}

#[test]
fn misfits_are_errors() {
    let (x, w, b) = (ones(&[2, 3, 4]), ones(&[5, 4]), ones(&[5]));
    assert!(x.linear(&ones(&[4, 5]), None).is_err());
    assert!(x.linear(&w, Some(&ones(&[4]))).is_err());
    assert!(ones(&[]).linear(&w, None).is_err());
    assert!(x.linears([(&w, Some(&b)), (&ones(&[5, 3]), None)]).is_err());
    let (gate, residual) = (ones(&[2, 5]), ones(&[2, 3, 5]));
    assert!(x.linear_gate_residual(&w, &b, &gate, &residual).is_ok());
    let error = x.linear_gate_residual(&w, &b, &ones(&[3, 5]), &residual).unwrap_err();
    assert!(error.to_string().contains("should be [2, 5]"), "{error}");
    assert!(x.linear_gate_residual(&w, &b, &gate, &ones(&[2, 1, 5])).is_err());
    let (square, short) = (ones(&[5, 5]), ones(&[4]));
    let [up, down] = [[&w, &b], [&square, &b]];
    assert!(x.mlp_gate_residual(up, down, &gate, &residual).is_ok());
    let error =
        |up, down, gate| x.mlp_gate_residual(up, down, gate, &residual).unwrap_err().to_string();
    let text = error([&w, &short], down, &gate);
    assert!(text.contains("expected x [.., C]") && text.contains("[2, 3, 4]"), "{text}");
    let text = error(up, [&w, &b], &gate);
    assert!(text.contains("expected hidden [.., C]") && text.contains("[2, 3, 5]"), "{text}");
    let text = error(up, down, &residual);
    assert!(text.contains("should be [2, 5]"), "{text}");
    let row = ones(&[4]);
    assert!(row.linear_gate_residual(&w, &b, &ones(&[5]), &ones(&[5])).is_err());
}

#[test]
fn empty_axes_are_no_trouble() {
    for [samples, rows, inputs, outputs] in [[0, 3, 4, 5], [2, 0, 4, 5], [2, 3, 0, 5], [2, 3, 4, 0]]
    {
        let x = ones(&[samples, rows, inputs]);
        let (w, b) = (ones(&[outputs, inputs]), ones(&[outputs]));
        let (gate, residual) = (ones(&[samples, outputs]), ones(&[samples, rows, outputs]));
        let y = x.linear_gate_residual(&w, &b, &gate, &residual).unwrap();
        let (up, down) = ([&ones(&[inputs, outputs]), &ones(&[inputs])], [&w, &b]);
        let y = y.mlp_gate_residual(up, down, &gate, &residual).unwrap();
        let [y, _] = y.linears([(&ones(&[2, outputs]), None), (up[0], Some(up[1]))]).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        for operand in [&x, &w, &b, &gate, &residual, up[0], up[1]] {
            assert_eq!(grads.get(operand).unwrap().shape(), operand.shape());
        }
    }
}

#[test]
fn inference_gives_the_same_bits() {
    let (x, w, b) = (random(1, &[2, 3, 40]), random(2, &[90, 40]), random(3, &[90]));
    let (gate, residual) = (random(4, &[2, 90]), random(5, &[2, 3, 90]));
    let square = random(6, &[90, 90]);
    let layers: [&dyn Fn() -> Result<Var>; 3] =
        [&|| x.linear(&w, Some(&b)), &|| x.linear_gate_residual(&w, &b, &gate, &residual), &|| {
            x.mlp_gate_residual([&w, &b], [&square, &b], &gate, &residual)
        }];
    for layer in layers {
        let bits = |y: Var| y.value().to_vec::<f32>().unwrap();
        let inferred = bits(no_grad(layer).unwrap());
        assert_eq!(bits(layer().unwrap()), inferred);
        assert!(inferred.iter().any(|y| *y != inferred[0]));
    }
}

#[test]
fn a_trace_lists_both_products_of_a_vjp() {
    let (x, w) = (ones(&[512, 64]), ones(&[64, 64]));
    let mut grads = Grads::default();
    for pass in ["first", "second"] {
        let run = || x.linear(&w, None).unwrap().sum_all().unwrap().backward_into(&mut grads);
        let (done, profile) = kernels::par::with_threads(2, || crate::profile(true, run));
        let products = profile.events.iter().filter(|event| event.op == "matmul");
        assert_eq!((done.is_ok(), products.count()), (true, 2), "{pass} pass");
    }
}

/// Its norm, which the layer behind has made again, is made of it, and has a vjp that wants it.
#[test]
fn a_sum_that_two_ask_for_is_made_again_once() {
    let (x, w, b, gate) = (ones(&[2, 3, 8]), ones(&[8, 8]), ones(&[8]), ones(&[2, 8]));
    let sum = x.linear_gate_residual(&w, &b, &gate, &x).unwrap();
    let loss = sum.layer_norm(1e-6).unwrap().linear(&w, None).unwrap().sum_all().unwrap();
    drop(sum);
    let made = ["linear_gate_residual", "layer_norm"];
    let again = |pass: Backward| {
        let (grads, profile) = crate::profile(true, || pass.run());
        assert!(grads.unwrap().get(&x).is_some());
        let forward = profile.events.iter().filter(|event| event.pass == Pass::Forward);
        forward.map(|event| event.op).filter(|op| made.contains(op)).collect::<Vec<_>>()
    };
    let pass = || Backward::new().root(&loss, Tensor::ones([], DType::F32));
    // The first pass frees what it has made again, though the graph stays.
    assert_eq!([again(pass().retain_graph()), again(pass())], [made, made]);
}

fn random(seed: u64, shape: &[usize]) -> Var {
    Var::parameter(Rng::new(seed).normal(shape, DType::F32).expect("the shape is small"))
}

/// Values and gradients of all outputs' squares.
fn bits(y: &[&Var], operands: &[&Var]) -> Vec<Option<Vec<u32>>> {
    let terms = y.iter().map(|y| y.square()?.mul_scalar(1e-3)?.sum_all());
    let loss = terms.reduce(|a, b| a?.add(&b?)).unwrap().unwrap();
    let grads = loss.backward().unwrap();
    let values = y.iter().map(|y| Some(y.value()));
    let all = values.chain(operands.iter().map(|x| grads.get(x)));
    let bits = |x: Tensor| x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    all.map(|x| x.map(bits)).collect()
}

/// Layers at once and one by one, of which all outputs are used or some, with one thread or two, as
/// they run and where a trace lists the products.
#[test]
fn layers_at_once_have_the_bits_of_separate_ones() {
    let rows = random(1, &[3, 200, 72]);
    // Of one of them the gradient of x is sums of two blocks.
    let widths = [64, kernels::gemm::KC + 76, 128];
    let weights = [0, 1, 2].map(|i| random(2 + i as u64, &[widths[i], 72]));
    let biases = [0, 1, 2].map(|i| random(12 + i as u64, &[widths[i]]));
    let layers = || [0, 1, 2].map(|i| (&weights[i], (i != 1).then_some(&biases[i])));
    let operands: Vec<&Var> = [&rows].into_iter().chain(&weights).chain(&biases).collect();
    for used in [&[0, 1, 2][..], &[0, 2], &[1]] {
        let run = |y: [Var; 3]| bits(&used.iter().map(|&i| &y[i]).collect::<Vec<_>>(), &operands);
        let x = || rows.mul_scalar(0.5).unwrap();
        let separate = || {
            let x = x();
            run(layers().map(|(w, b)| x.linear(w, b).unwrap()))
        };
        let at_once = || run(x().linears(layers()).unwrap());
        let want = separate();
        for threads in [1, 2] {
            assert!(kernels::par::with_threads(threads, at_once) == want, "{used:?}");
        }
        assert!(crate::profile(true, at_once).0 == want, "{used:?}");
    }
}

/// The gradients of a second pass are added where the first one's are, unless somebody has those,
/// with the bits of two passes that are added, of sums of one block or two.
#[test]
fn passes_add_up_in_place() {
    let weights = [random(1, &[64, 80]), random(2, &[96, 80]), random(3, &[80, 96])];
    let [lone, up, down] = &weights;
    let [b_up, b_down] = [random(4, &[96]), random(5, &[80])];
    let values = |x: &[Tensor; 3]| x.each_ref().map(|x| x.to_vec::<f32>().unwrap());
    for tokens in [100, kernels::gemm::KC / 2 + 10] {
        let loss = |seed: u64| {
            let [x, gate] = [random(seed, &[2, tokens, 80]), random(seed + 1, &[2, 80])];
            let y = x.linear(lone, None).unwrap();
            let z = x.mlp_gate_residual([up, &b_up], [down, &b_down], &gate, &x).unwrap();
            let [y, z] = [y, z].map(|y| y.square().unwrap().sum_all().unwrap());
            y.add(&z).unwrap()
        };
        let of = |grads: &Grads| weights.each_ref().map(|w| grads.get(w).unwrap());
        let [one, two] = [10, 20].map(|seed| values(&of(&loss(seed).backward().unwrap())));
        for is_shared in [false, true] {
            let mut grads = loss(10).backward().unwrap();
            let before = of(&grads);
            let address = |x: &Tensor| x.slice::<f32>().unwrap().as_ptr();
            let places = before.each_ref().map(address);
            let before = is_shared.then_some(before);
            let second = || loss(20).backward_into(&mut grads).unwrap();
            let rows = crate::profile(false, second).1.rows.into_iter();
            let is_weight = |shape: &Shape| weights.iter().any(|w| w.shape() == shape);
            let sums = rows.filter(|row| row.op == "sum of gradients" && is_weight(&row.shapes[0]));
            let in_place = !is_shared && 2 * tokens <= kernels::gemm::KC;
            assert_eq!(sums.count(), if in_place { 0 } else { 3 }, "{tokens} tokens");
            let after = of(&grads);
            for (i, sum) in values(&after).iter().enumerate() {
                let terms = one[i].iter().zip(&two[i]);
                assert!(sum.iter().eq(terms.map(|(a, b)| a + b).collect::<Vec<_>>().iter()));
                assert!((address(&after[i]) == places[i]) != is_shared, "{i}, {tokens} tokens");
            }
            assert!(before.is_none_or(|before| values(&before) == one), "left alone");
        }
    }
}

/// The second derivative of layers at once is that of separate ones.
#[test]
fn layers_at_once_can_be_differentiated_twice() {
    let [x, v, w] = [1, 2, 3].map(|i| random(i, &[4, 4]));
    let second = |layers: &dyn Fn() -> [Var; 2]| {
        let [a, b] = layers();
        let loss = a.mul(&b).unwrap().square().unwrap().sum_all().unwrap();
        let one = Tensor::ones([], DType::F32);
        let grads = crate::Backward::new().root(&loss, one).create_graph().run().unwrap();
        let slope = grads.get_var(&x).unwrap();
        bits(&[slope], &[&x, &v, &w])
    };
    let separate = second(&|| [x.linear(&v, None).unwrap(), x.linear(&w, None).unwrap()]);
    let at_once = second(&|| x.linears([(&v, None), (&w, None)]).unwrap());
    assert_eq!(at_once.len(), separate.len());
    for (a, b) in at_once.iter().zip(&separate) {
        let [a, b] = [a, b].map(|x| x.as_ref().unwrap().iter().map(|&x| f32::from_bits(x)));
        assert!(a.zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs())));
    }
}

/// The rows once, however many layers, and every weight.
#[test]
fn layers_at_once_keep_rows_once() {
    let made = |seed, shape: &[usize]| random(seed, shape).mul_scalar(0.5).unwrap();
    let (x, v, w, b) = (made(1, &[5, 6]), made(2, &[3, 6]), made(3, &[3, 6]), made(4, &[3]));
    let [y, z] = x.linears([(&v, Some(&b)), (&w, None)]).unwrap();
    let rows = crate::SavedReport::of(&y.add(&z).unwrap()).rows;
    let linear = rows.iter().filter(|row| row.op == "linear");
    let (buffers, bytes) = linear.fold((0, 0), |sum, row| (sum.0 + row.buffers, sum.1 + row.bytes));
    assert_eq!((buffers, bytes), (3, (5 * 6 + 2 * 3 * 6) * size_of::<f32>()));
}

#[test]
fn too_many_layers_are_an_error() {
    let (x, w, b) = (ones(&[2, 3]), ones(&[4, 3]), ones(&[4]));
    assert!(x.linears([(&w, Some(&b)); 31]).is_ok());
    let error = x.linears([(&w, Some(&b)); 32]).unwrap_err().to_string();
    assert!(error.contains("no more than 62"), "{error}");
}

/// An MLP has the bits of the operations it is made of: of many rows and few, of halves, and with
/// sums longer than a block.
#[test]
fn an_mlp_has_the_bits_of_its_pieces() {
    let long = kernels::gemm::KC + 76;
    for [samples, tokens, inputs, hidden, outputs] in
        [[2, 130, 40, 72, 24], [2, 800, 24, long, 40], [1, 9, 40, 136, 24]]
    {
        let operands = [
            random(1, &[samples, tokens, inputs]),
            random(2, &[hidden, inputs]),
            random(3, &[hidden]),
            random(4, &[outputs, hidden]),
            random(5, &[outputs]),
            random(6, &[samples, outputs]),
            random(7, &[samples, tokens, outputs]),
        ];
        let all: Vec<&Var> = operands.iter().collect();
        for dtype in [DType::F32, DType::BF16] {
            let x = || {
                let x = operands.iter().map(|x| x.mul_scalar(0.3)?.to_dtype(dtype));
                x.collect::<Result<Vec<Var>>>().unwrap()
            };
            let fused = || {
                let x = x();
                x[0].mlp_gate_residual([&x[1], &x[2]], [&x[3], &x[4]], &x[5], &x[6]).unwrap()
            };
            let pieces = || {
                let x = x();
                let hidden = x[0].linear(&x[1], Some(&x[2])).unwrap().gelu_tanh().unwrap();
                hidden.linear_gate_residual(&x[3], &x[4], &x[5], &x[6]).unwrap()
            };
            let want = kernels::par::with_threads(1, || bits(&[&pieces()], &all));
            for threads in [1, 2] {
                let got = kernels::par::with_threads(threads, || bits(&[&fused()], &all));
                assert!(got == want, "{tokens} tokens, {dtype}");
            }
        }
    }
}
