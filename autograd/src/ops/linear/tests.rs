//! Linear layers: misfits, empty axes, and inference.

use tensor::rng::Rng;

use super::*;
use crate::no_grad;

fn ones(shape: &[usize]) -> Var {
    Var::parameter(Tensor::ones(shape, DType::F32))
}

#[test]
fn misfits_are_errors() {
    let (x, w, b) = (ones(&[2, 3, 4]), ones(&[5, 4]), ones(&[5]));
    assert!(x.linear(&ones(&[4, 5]), None).is_err());
    assert!(x.linear(&w, Some(&ones(&[4]))).is_err());
    assert!(ones(&[]).linear(&w, None).is_err());
    assert!(x.linear_gelu(&w, &ones(&[1])).is_err());
    let (gate, residual) = (ones(&[2, 5]), ones(&[2, 3, 5]));
    assert!(x.linear_gate_residual(&w, &b, &gate, &residual).is_ok());
    let error = x.linear_gate_residual(&w, &b, &ones(&[3, 5]), &residual).unwrap_err();
    assert!(error.to_string().contains("should be [2, 5]"), "{error}");
    assert!(x.linear_gate_residual(&w, &b, &gate, &ones(&[2, 1, 5])).is_err());
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
        let y = y.linear_gelu(&ones(&[2, outputs]), &ones(&[2])).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        for operand in [&x, &w, &b, &gate, &residual] {
            assert_eq!(grads.get(operand).unwrap().shape(), operand.shape());
        }
    }
}

#[test]
fn inference_gives_the_same_bits() {
    let random = |seed, shape: &[usize]| {
        Var::parameter(Rng::new(seed).normal(shape, DType::F32).expect("the shape is small"))
    };
    let (x, w, b) = (random(1, &[2, 3, 40]), random(2, &[50, 40]), random(3, &[50]));
    let (gate, residual) = (random(4, &[2, 50]), random(5, &[2, 3, 50]));
    let layers: [&dyn Fn() -> Result<Var>; 3] =
        [&|| x.linear(&w, Some(&b)), &|| x.linear_gelu(&w, &b), &|| {
            x.linear_gate_residual(&w, &b, &gate, &residual)
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
    let run = || x.linear(&w, None).unwrap().sum_all().unwrap().backward().unwrap();
    let events = kernels::par::with_threads(2, || crate::profile(true, || drop(run())).1.events);
    assert_eq!(events.iter().filter(|event| event.op == "matmul").count(), 2);
}
