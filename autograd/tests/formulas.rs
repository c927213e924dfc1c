//! Elementwise formulas against the standard library's functions.
//!
//! The registry's reference of an elementwise operation is its own formula in f64, so the registry
//! shows that every kernel computes the formula, and this file that the formula is the function
//! its name says.

use autograd::ops::elementwise::{BINARY, UNARY};
use autograd::spec::{Draw, Spec};
use tensor::DType;

/// What operation `name` is of one number, with the arguments that the registry tries; `None` for
/// one that the standard library has no words for.
fn unary(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "neg" => |x| 0.0 - x,
        "mul_scalar" => |x| -1.7 * x,
        "add_scalar" => |x| x + 0.3,
        "clamp" => |x| x.clamp(-1.0, 0.5),
        "exp" => f64::exp,
        "ln" => f64::ln,
        "sqrt" => f64::sqrt,
        "square" => |x| x.powi(2),
        "recip" => f64::recip,
        "abs" => f64::abs,
        "relu" => |x| x.clamp(0.0, f64::INFINITY),
        "tanh" => f64::tanh,
        "sigmoid" => |x| 0.5 + 0.5 * (0.5 * x).tanh(),
        "silu" => |x| x / (1.0 + (-x).exp()),
        "gelu_tanh" => |x| {
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        },
        "softplus" => |x| x.exp().ln_1p(),
        _ => return None,
    })
}

/// What operation `name` is of two numbers.
fn binary(name: &str) -> Option<fn(f64, f64) -> f64> {
    Some(match name {
        "add" => |a, b| a + b,
        "sub" => |a, b| a - b,
        "mul" => |a, b| a * b,
        "div" => |a, b| a / b,
        "maximum" => f64::max,
        "minimum" => f64::min,
        _ => return None,
    })
}

/// Instances of an operation whose operands have equal shapes, so that elements pair up.
fn pairs(op: &dyn Spec) -> impl Iterator<Item = (Vec<Vec<f64>>, Vec<f64>)> {
    let case = |seed| op.case(&mut Draw::new(seed, DType::F64)).unwrap();
    let equal = (1..400).map(case).filter(|case| {
        let shape = case.inputs[0].shape();
        case.inputs.iter().all(|x| x.shape() == shape) && shape.numel() > 0
    });
    equal.map(|case| {
        let inputs = case.inputs.iter().map(|x| x.to_f64_vec()).collect();
        let y = case.run(&case.constants()).unwrap().value().to_f64_vec();
        (inputs, y)
    })
}

fn assert_near(name: &str, x: &[f64], y: f64, want: f64) {
    let error = (y - want).abs() / want.abs().max(1.0);
    assert!(error < 1e-14, "{name} of {x:?} is {y}, not {want}");
}

#[test]
fn formulas_of_one_number_are_what_they_are_called() {
    for op in UNARY {
        let name = op.name();
        let Some(truth) = unary(name) else { continue };
        let mut tried = 0;
        for (x, y) in pairs(*op) {
            for (&x, y) in x[0].iter().zip(y) {
                assert_near(name, &[x], y, truth(x));
                tried += 1;
            }
        }
        assert!(tried > 1000, "{name}: {tried}");
    }
}

#[test]
fn formulas_of_two_numbers_are_what_they_are_called() {
    for op in BINARY {
        let name = op.name();
        let Some(truth) = binary(name) else { continue };
        let mut tried = 0;
        for (x, y) in pairs(*op) {
            for ((&a, &b), y) in x[0].iter().zip(&x[1]).zip(y) {
                assert_near(name, &[a, b], y, truth(a, b));
                tried += 1;
            }
        }
        assert!(tried > 200, "{name}: {tried}");
    }
}
