//! The backward pass: its order, what it frees on the way, and graphs of any depth.

use std::sync::{Arc, Mutex};
use std::thread;

use autograd::optim::Clipped;
use autograd::{Aux, Backward, Grads, Keep, Kept, Op, Var, apply, detect_anomaly, profile};
use tensor::rng::Rng;
use tensor::{DType, ErrorKind, Result, Tensor};

/// What happens in a backward pass, in its order.
type Log = Arc<Mutex<Vec<String>>>;

/// y = Σ x over the operands, and a note of when its vjp runs.
#[derive(Debug)]
struct Noted<const N: usize>(u32, Log);

/// Left behind by a [`Noted`]: a note of when it is dropped.
struct Saved(u32, Log);

impl Drop for Saved {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(format!("free {}", self.0));
    }
}

impl Aux for Saved {
    fn memory(&self, _: &mut dyn FnMut(std::ops::Range<usize>)) {}
}

impl<const N: usize> Op<N> for Noted<N> {
    const NAME: &'static str = "noted";
    const KEEPS: [Keep; N] = [Keep::NOTHING; N];
    const TWICE: bool = true;
    type Aux = Saved;

    fn forward(&self, x: [&Tensor; N]) -> Result<(Tensor, Saved)> {
        let sum = x.iter().map(|x| x.item()).sum::<Result<f64>>()?;
        Ok((Tensor::scalar(sum, DType::F64), Saved(self.0, self.1.clone())))
    }

    fn vjp(&self, _: Kept<'_, Saved>, dy: &Var, _: [bool; N]) -> Result<[Option<Var>; N]> {
        self.1.lock().unwrap().push(format!("vjp {}", self.0));
        Ok([(); N].map(|()| Some(dy.clone())))
    }
}

/// A graph in which depth and age disagree: 3 is nearer to the root than 2, and older than 4.
///
/// ```text
/// x ─ 0 ─┬─ 1 ─ 2 ─ 4 ─┐
///        └─ 3 ─────────┴─ 5
/// ```
fn graph(x: &Var, log: &Log) -> Result<Var> {
    let one = |i, x: &Var| apply(Noted::<1>(i, log.clone()), [x]);
    let root = one(0, x)?;
    let two = one(2, &one(1, &root)?)?;
    let three = one(3, &root)?;
    let four = one(4, &two)?;
    apply(Noted::<2>(5, log.clone()), [&three, &four])
}

#[test]
fn the_youngest_node_comes_next_and_is_freed_before_the_one_after_it() {
    let (x, log) = (Var::parameter(Tensor::scalar(1.0, DType::F64)), Log::default());
    let y = graph(&x, &log).unwrap();
    assert!(log.lock().unwrap().is_empty());
    let grads = y.backward().unwrap();
    assert_eq!(grads.get(&x).unwrap().item().unwrap(), 2.0);
    let happened = log.lock().unwrap().join(", ");
    let expected = [5, 4, 3, 2, 1, 0].map(|i| format!("vjp {i}, free {i}")).join(", ");
    assert_eq!(happened, expected);
}

#[test]
fn a_retained_graph_is_freed_with_its_last_variable() {
    let (x, log) = (Var::parameter(Tensor::scalar(1.0, DType::F64)), Log::default());
    let y = graph(&x, &log).unwrap();
    let pass = || Backward::new().root(&y, Tensor::scalar(1.0, DType::F64));
    pass().retain_graph().run().unwrap();
    pass().run().unwrap();
    let error = pass().run().unwrap_err();
    assert!(error.to_string().contains("has freed this graph"), "{error}");
    let count = |what: &str| log.lock().unwrap().iter().filter(|s| s.starts_with(what)).count();
    assert_eq!((count("vjp"), count("free")), (12, 6));
    let z = graph(&x, &log).unwrap();
    assert_eq!(count("free"), 6);
    drop(z);
    assert_eq!(count("free"), 12);
}

/// A thread's stack holds some thousand nested calls; the graph has a million nodes.
/// f = x³ and g = 2x³ on one graph: once each, and f″ along.
#[test]
fn passes_through_a_retained_graph_add_up() {
    let x = Var::parameter(Tensor::scalar(3.0, DType::F64));
    let cube = x.square().unwrap().mul(&x).unwrap();
    let twice = cube.mul_scalar(2.0).unwrap();
    let one = || Tensor::scalar(1.0, DType::F64);
    let mut grads = Grads::default();
    Backward::new().root(&cube, one()).create_graph().run_into(&mut grads).unwrap();
    assert_eq!(grads.get_var(&x).unwrap().item().unwrap(), 27.0);
    Backward::new().root(&twice, one()).create_graph().run_into(&mut grads).unwrap();
    let slope = grads.get_var(&x).unwrap().clone();
    assert_eq!((slope.item().unwrap(), grads.get(&x).unwrap().item().unwrap()), (81.0, 81.0));
    Backward::new().root(&cube, one()).retain_graph().run_into(&mut grads).unwrap();
    assert_eq!(grads.get(&x).unwrap().item().unwrap(), 108.0);
    assert!(grads.get_var(&x).is_none(), "the last pass was not recorded");
    assert_eq!(slope.backward().unwrap().get(&x).unwrap().item().unwrap(), 54.0, "18x");
}

#[test]
fn a_million_operations_need_no_stack() {
    let small = thread::Builder::new().stack_size(128 << 10);
    let run = small.spawn(|| {
        let x = Var::parameter(Tensor::scalar(1.0, DType::F64));
        let mut y = x.clone();
        for _ in 0..1_000_000 {
            y = y.neg().unwrap();
        }
        let pass = Backward::new().root(&y, Tensor::scalar(1.0, DType::F64));
        let grads = pass.retain_graph().run().unwrap();
        drop(y);
        grads.get(&x).unwrap().item().unwrap()
    });
    assert_eq!(run.unwrap().join().unwrap(), 1.0);
}

/// The second derivative of what has none is an error that says where, also where the value does
/// not depend on what the operation keeps: ∂²/∂b² of an MLP whose other operands are constants.
#[test]
fn a_missing_second_derivative_names_operation_module_and_line() {
    let constant = |shape: [usize; 2]| Var::constant(Tensor::ones(shape, DType::F64));
    let bias = Var::parameter(Tensor::full([3], 0.1, DType::F64));
    let (x, up, down) = (constant([2, 4]), constant([3, 4]), constant([4, 3]));
    let other_bias = Var::constant(Tensor::ones([4], DType::F64));
    let line = line!() + 1;
    let layer = || x.mlp_gate_residual([&up, &bias], [&down, &other_bias], &x, &x);
    let y = autograd::scope("blocks.1", || autograd::scope("mlp", layer)).unwrap();
    let loss = y.sum_all().unwrap();
    let one = Tensor::scalar(1.0, DType::F64);
    let grads = Backward::new().root(&loss, one).create_graph().run().unwrap();
    let slope = grads.get_var(&bias).unwrap().sum_all().unwrap();
    let error = slope.backward().unwrap_err();
    assert_eq!((error.kind(), error.op()), (ErrorKind::OnceDifferentiable, "mlp_gate_residual"));
    assert_eq!((error.location().file(), error.location().line()), (file!(), line));
    assert!(error.to_string().contains("in     blocks.1.mlp"), "{error}");
}

/// Through what has a second derivative, exactly; through what has none, an error.
#[test]
fn second_derivatives_pass_through_what_has_them() {
    let x = Var::parameter(Tensor::from_vec(vec![0.3, -0.5], [1, 2]).unwrap());
    let w = Var::parameter(Tensor::from_vec(vec![1.0, 2.0, -1.0, 0.5], [2, 2]).unwrap());
    let y = x.linear(&w, None).unwrap().tanh().unwrap().sum_all().unwrap();
    let one = Tensor::scalar(1.0, DType::F64);
    let grads = Backward::new().root(&y, one).create_graph().run().unwrap();
    let slope = grads.get_var(&x).unwrap().sum_all().unwrap();
    let second = slope.backward().unwrap();
    // y = Σ tanh(wᵢ·x): ∂/∂x Σⱼ ∂y/∂xⱼ = Σᵢ tanh″(wᵢ·x)·(Σⱼ wᵢⱼ)·wᵢ.
    let rows = [[1.0, 2.0], [-1.0, 0.5]];
    let mut want = [0.0; 2];
    for [a, b] in rows {
        let t = (a * 0.3_f64 - b * 0.5).tanh();
        let bend = -2.0 * t * (1.0 - t * t) * (a + b);
        want = [want[0] + bend * a, want[1] + bend * b];
    }
    let got = second.get(&x).unwrap().to_f64_vec();
    assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-14), "{got:?} {want:?}");
    let soft = x.softmax(1).unwrap().square().unwrap().sum_all().unwrap();
    let one = Tensor::scalar(1.0, DType::F64);
    let grads = Backward::new().root(&soft, one).create_graph().run().unwrap();
    let error = grads.get_var(&x).unwrap().sum_all().unwrap().backward().unwrap_err();
    assert_eq!((error.kind(), error.op()), (ErrorKind::OnceDifferentiable, "softmax"));
}

/// Nor is there a third derivative of a formula, and that is an error too.
#[test]
fn third_derivatives_are_errors() {
    let x = Var::parameter(Tensor::scalar(0.5, DType::F64));
    let mut y = x.tanh().unwrap();
    for _ in 0..2 {
        let pass = Backward::new().root(&y, Tensor::scalar(1.0, DType::F64));
        y = pass.create_graph().run().unwrap().get_var(&x).unwrap().clone();
    }
    let t = 0.5_f64.tanh();
    assert!((y.item().unwrap() + 2.0 * t * (1.0 - t * t)).abs() < 1e-15);
    let error = y.backward().unwrap_err();
    assert_eq!((error.kind(), error.op()), (ErrorKind::OnceDifferentiable, "tanh"));
}

/// Weights that rows went through, in one pass or several, get the sum of all outer products,
/// whether it is kept as two matrices, made, or made as soon as there are too many rows for that.
#[test]
fn gradients_of_few_rows_add_up_like_any_others() {
    const SIZE: [usize; 2] = [72, 56];
    let mut rng = Rng::new(3);
    let mut normal = |shape: [usize; 2]| rng.normal(shape, DType::F64).unwrap();
    let weight = Var::parameter(normal(SIZE));
    // Rows of each use of the weights in each pass.
    let passes: [&[&[usize]]; 8] = [
        &[&[1]],
        &[&[2], &[3]],
        &[&[2, 1], &[2]],
        &[&[3], &[3], &[3], &[3]],
        &[&[2], &[40]],
        &[&[40], &[2]],
        &[&[40, 2]],
        &[&[2, 40], &[0], &[1]],
    ];
    for passes in passes {
        let mut grads = Grads::default();
        let mut want = vec![0.0; SIZE[0] * SIZE[1]];
        for uses in passes {
            let mut terms = Vec::new();
            for &rows in *uses {
                let [slopes, x] = SIZE.map(|width| normal([rows, width]));
                for row in 0..rows {
                    let [slope, x] = [&slopes, &x].map(|t| t.select(0, row).unwrap().to_f64_vec());
                    let outer = slope.iter().flat_map(|slope| x.iter().map(move |x| slope * x));
                    want.iter_mut().zip(outer).for_each(|(want, term)| *want += term);
                }
                let y = Var::constant(x).linear(&weight, None).unwrap();
                terms.push(y.mul(&Var::constant(slopes)).unwrap().sum_all().unwrap());
            }
            let loss = terms.into_iter().reduce(|a, b| a.add(&b).unwrap()).unwrap();
            loss.backward_into(&mut grads).unwrap();
        }
        let got = grads.get(&weight).unwrap().to_f64_vec();
        let error = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
        assert!(error < 1e-12, "{passes:?}: {error}");
        let norm = want.iter().map(|g| g * g).sum::<f64>().sqrt();
        let clipped = Clipped::of(&grads, [&weight], None).unwrap();
        assert!((clipped.norm / norm - 1.0).abs() < 1e-12, "{passes:?}");
    }
}

/// Rows of different precision do not fit one product, and add up nevertheless.
#[test]
fn rows_of_different_precision_add_up() {
    let weight = Var::parameter(Tensor::zeros([64, 64], DType::F32));
    let ones = |dtype| Var::constant(Tensor::ones([1, 64], dtype));
    let sum = |x: &Var| x.linear(&weight, None).unwrap().sum_all().unwrap();
    let mut grads = Grads::default();
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let loss = sum(&ones(dtype)).add(&sum(&ones(DType::F32))).unwrap();
        loss.backward_into(&mut grads).unwrap();
    }
    assert_eq!(grads.get(&weight).unwrap().to_f64_vec(), [6.0; 64 * 64]);
}

/// The norm of a product is that of its elements: of rows that cancel, 0, and where an element is
/// too large for its type, infinite, as it is for who steps along it.
#[test]
fn a_norm_sees_what_a_product_hides() {
    let filled = |x: f32| Tensor::from_vec(vec![x; 64], [1, 64]).unwrap();
    let norm = |rows: &[(f32, f32)]| {
        let (weight, mut grads) =
            (Var::parameter(Tensor::ones([64, 64], DType::F32)), Grads::default());
        for &(slope, x) in rows {
            let y = Var::constant(filled(x)).linear(&weight, None).unwrap();
            y.mul(&Var::constant(filled(slope)))
                .unwrap()
                .sum_all()
                .unwrap()
                .backward_into(&mut grads)
                .unwrap();
        }
        // Nor does it matter to `get` whether somebody watches.
        let watched = detect_anomaly(|| Ok(grads.get(&weight).unwrap())).unwrap();
        let there: f64 = watched.to_f64_vec().iter().map(|g| g * g).sum();
        let norm = Clipped::of(&grads, [&weight], None).unwrap().norm;
        assert!(norm == there.sqrt() || (norm / there.sqrt() - 1.0).abs() < 1e-6, "{norm} {there}");
        norm
    };
    assert_eq!(norm(&[(2.0, 3.0)]), 6.0 * 64.0);
    assert_eq!(norm(&[(1.5, 2.5), (-1.5, 2.5)]), 0.0);
    assert_eq!(norm(&[(1e30, 1e30)]), f64::INFINITY);
    assert_eq!(norm(&[(1e30, 1e30), (-1e30, 1e30)]), f64::INFINITY);
    assert!((norm(&[(1e18, 1e18)]) / 64e36 - 1.0).abs() < 1e-6);
}

/// Whoever passes a gradient on needs it at once: that counts for the vjp.
#[test]
fn a_product_that_is_passed_on_is_work_of_its_vjp() {
    let weight = Var::parameter(Tensor::ones([256, 256], DType::F32));
    let x = Var::constant(Tensor::ones([2, 256], DType::F32));
    let half = weight.mul_scalar(0.5).unwrap();
    let loss = x.linear(&half, None).unwrap().sum_all().unwrap();
    let (grads, profile) = profile(false, || loss.backward());
    assert_eq!(grads.unwrap().get(&weight).unwrap().to_f64_vec(), [1.0; 256 * 256]);
    let flops =
        |op| profile.rows.iter().filter(|row| row.op == op).map(|row| row.flops).sum::<u64>();
    assert_eq!((flops("linear"), flops("matmul")), (2 * 2 * 256 * 256, 0));
}

/// A gradient that is kept as a product is none where somebody looks at it: it can be
/// differentiated once more, is asked for by name, and is watched.
#[test]
fn a_product_is_made_for_whoever_looks_at_it() {
    let ones = |shape: [usize; 2]| Tensor::ones(shape, DType::F64);
    let (weight, x) = (Var::parameter(ones([32, 32])), Var::parameter(ones([1, 32])));
    let cubes = || {
        let y = x.linear(&weight, None)?;
        y.square()?.mul(&y)?.sum_all()
    };
    // Each of 32 outputs is 32; 3y²·x.
    let seed = || Tensor::scalar(1.0, DType::F64);
    let grads = Backward::new().root(&cubes().unwrap(), seed()).create_graph().run().unwrap();
    let slope = grads.get_var(&weight).unwrap().sum_all().unwrap();
    assert_eq!(slope.item().unwrap(), 1024.0 * 3.0 * 1024.0);
    // 6y·x·Σx of that row.
    let second = slope.backward().unwrap().get(&weight).unwrap().to_f64_vec();
    assert!(second.iter().all(|&g| g == 6.0 * 32.0 * 32.0), "{}", second[0]);

    let doubled = weight.mul_scalar(2.0).unwrap();
    let y = x.linear(&doubled, None).unwrap().sum_all().unwrap();
    let grads = Backward::new().root(&y, seed()).wrt(&doubled).run().unwrap();
    assert_eq!(grads.get(&doubled).unwrap().to_f64_vec(), [1.0; 1024]);
    assert_eq!(grads.get(&weight).unwrap().to_f64_vec(), [2.0; 1024]);

    let filled = |shape: [usize; 2], x: f64| {
        Tensor::from_vec(vec![x; shape.iter().product()], shape).unwrap()
    };
    let (tiny, huge) = (Var::parameter(filled([32, 32], 1e-200)), filled([1, 32], 1e200));
    let watched = detect_anomaly(|| {
        Var::constant(huge).linear(&tiny, None)?.sum_all()?.mul_scalar(1e200)?.backward()
    });
    let error = watched.unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}
