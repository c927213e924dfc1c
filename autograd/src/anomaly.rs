//! Where NaN and infinity come from.

use std::cell::Cell;

use tensor::{Error, Result, Tensor};

use crate::gradcheck::coordinates;
use crate::saved::Role;
use crate::scope::with;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` and watches: the first operation, forward or backward, that makes an infinity of finite
/// numbers, or a NaN of numbers that are none, is an error that names it, its modules, the line
/// that applied it, and what it was given. Without it such numbers spread in silence, as they do in
/// IEEE 754.
///
/// Watching reads every operand and result once more. Not watching costs nothing.
///
/// ```
/// use autograd::{Var, detect_anomaly};
/// use tensor::Tensor;
/// # fn main() -> tensor::Result<()> {
/// let x = Var::parameter(Tensor::from_vec(vec![4.0, 0.0], [2])?);
/// // √0 is 0, but its slope there is infinite.
/// let error = detect_anomaly(|| x.sqrt()?.sum_all()?.backward()).unwrap_err().to_string();
/// assert!(error.contains("sqrt: makes numbers that are not finite"), "{error}");
/// # Ok(())
/// # }
/// ```
///
/// Errors: those of `f`; the first such operation.
pub fn detect_anomaly<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    with(&WATCHING, true, f)
}

/// Whether operations are watched here.
pub(crate) fn is_watching() -> bool {
    WATCHING.get()
}

/// The error of an operation that made an infinity of what is finite, or a NaN of what is none.
pub(crate) fn check(
    op: &'static str,
    made: &[(Role, Tensor)],
    from: &[(Role, Tensor)],
) -> Result<()> {
    let any = |all: &[(Role, Tensor)], is: fn(f64) -> bool| {
        all.iter().any(|(_, x)| x.to_f64_vec().into_iter().any(is))
    };
    let not_finite = |x: f64| !x.is_finite();
    if !any(made, not_finite) {
        return Ok(());
    }
    let message = match any(from, not_finite) {
        false => "makes numbers that are not finite of numbers that are",
        true if any(made, f64::is_nan) && !any(from, f64::is_nan) => "makes NaN of infinities",
        true => return Ok(()),
    };
    let error = Error::value(op, message);
    let all = from.iter().chain(made);
    Err(all.fold(error, |error, (role, x)| error.operand(role.to_string(), (x, numbers(x)))))
}

/// What the elements of a tensor are, in a few words.
fn numbers(x: &Tensor) -> String {
    let elements = x.to_f64_vec();
    let Some(first) = elements.iter().position(|x| !x.is_finite()) else {
        let least = elements.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = elements.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        return format!("from {least:.3e} to {largest:.3e}");
    };
    let nan = elements.iter().filter(|x| x.is_nan()).count();
    let infinite = elements.iter().filter(|x| x.is_infinite()).count();
    let at = coordinates(x.shape(), first);
    format!("{nan} NaN and {infinite} infinite of {}, the first at {at:?}", elements.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keep, Kept, Op, Var, apply, checkpoint, scope};
    use tensor::DType;

    fn parameter(values: &[f64]) -> Var {
        Var::parameter(Tensor::from_slice(values, [values.len()]).unwrap())
    }

    #[test]
    fn the_forward_operation_is_named_and_those_before_and_after_are_not() {
        let x = parameter(&[3.0, 0.0, -1.0]);
        let mut line = 0;
        let error = detect_anomaly(|| {
            scope("blocks.3", || {
                let y = x.square()?;
                line = line!() + 1;
                let z = y.ln()?;
                z.exp()?.sum_all()
            })
        });
        let text = error.unwrap_err().to_string();
        for part in [
            "ln: makes numbers that are not finite",
            "input 0   [3]  f64  cpu  from 0.000e0 to 9.000e0",
            "output 0  [3]  f64  cpu  0 NaN and 1 infinite of 3, the first at [1]",
            "blocks.3",
            &format!("anomaly.rs:{line}"),
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    /// The vjp of a fused operation, and one that applies others, which are not to blame.
    #[test]
    fn the_operation_of_the_backward_pass_is_named() {
        for checkpointed in [false, true] {
            let x = parameter(&[4.0, 0.0]);
            let mut line = 0;
            let error = detect_anomaly(|| {
                let root = |x: &Var| scope("norm", || x.sqrt());
                line = line!() - 1;
                let y = match checkpointed {
                    true => checkpoint([&x], move |[x]| Ok([root(&x)?]))?[0].clone(),
                    false => root(&x)?,
                };
                y.mul_scalar(2.0)?.sum_all()?.backward()
            });
            let text = error.unwrap_err().to_string();
            for part in [
                "sqrt: makes numbers that are not finite",
                "help      in the backward pass of sqrt",
                "norm",
                &format!("anomaly.rs:{line}"),
            ] {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
        }
    }

    /// y = x, with a gradient of which the last element is NaN.
    #[derive(Debug)]
    struct Spoils;

    impl Op<1> for Spoils {
        const NAME: &'static str = "spoils";
        const KEEPS: [Keep; 1] = [Keep::NOTHING];
        type Aux = ();

        fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
            Ok((x.clone(), ()))
        }

        fn vjp(&self, _: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
            let mut dx = dy.value().to_f64_vec();
            *dx.last_mut().expect("not empty") = f64::NAN;
            Ok([Some(Var::constant(Tensor::from_vec(dx, dy.shape())?))])
        }
    }

    #[test]
    fn a_vjp_that_computes_by_itself_is_watched_too() {
        let x = parameter(&[1.0, 2.0]);
        let loss = || apply(Spoils, [&x])?.sum_all();
        let text = detect_anomaly(|| loss()?.backward()).unwrap_err().to_string();
        assert!(text.contains("gradient of input 0   [2]  f64  cpu  1 NaN"), "{text}");
        assert!(text.contains("gradient of output 0  [2]  f64  cpu  from 1.0"), "{text}");
        assert!(loss().unwrap().backward().is_ok(), "nobody watches any more");
    }

    #[test]
    fn sums_of_gradients_are_watched() {
        let x = Var::parameter(Tensor::zeros([1], DType::F32));
        let large = || x.mul_scalar(3e38);
        assert!(detect_anomaly(|| large()?.sub(&large()?)?.backward()).is_ok());
        let error = detect_anomaly(|| large()?.add(&large()?)?.backward()).unwrap_err();
        assert!(error.to_string().contains("sum of gradients: makes"), "{error}");
    }

    #[test]
    fn infinities_that_cancel_are_found() {
        let x = parameter(&[1.0, f64::INFINITY]);
        let error = detect_anomaly(|| x.sub(&x.square()?)).unwrap_err().to_string();
        assert!(error.contains("sub: makes NaN of infinities"), "{error}");
    }

    #[test]
    fn what_was_not_finite_before_is_nobodys_fault() {
        let x = parameter(&[1.0, f64::NAN]);
        assert!(detect_anomaly(|| x.exp()?.sum_all()?.backward()).is_ok());
        assert!(parameter(&[-1.0]).ln().unwrap().item().unwrap().is_nan(), "not watched");
    }
}
