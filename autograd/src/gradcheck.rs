//! Gradients against finite differences.
//!
//! For y = f(x) and random ȳ and v, reverse mode gives ⟨x̄, v⟩ with x̄ = Jᵀȳ, and a difference
//! quotient gives the same number as ⟨ȳ, Jv⟩: one number for all elements at once, at a cost
//! that does not depend on how many there are, so that whole models can be checked. In float64 with
//! the four-point stencil
//!
//! ```text
//! φ′(0) ≈ (φ(−2h) − 8·φ(−h) + 8·φ(h) − φ(2h)) / 12h,   φ(s) = ⟨ȳ, f(x + s·v)⟩
//! ```
//!
//! errors of order h⁴ and of order ε/h both stay near 10⁻¹²: a gradient that is wrong anywhere
//! shows. [`gradcheck_dense`] then says where.
//!
//! Errors are relative to the input's largest derivative, but to no less than 10⁻⁴·Σ|ȳ·y|, below
//! which the quotient is mostly rounding: derivatives of less than 10⁻¹⁰ of that sum go unseen, so
//! give functions whose slopes are of the size of their values.

use std::fmt;

use tensor::rng::Rng;
use tensor::{DType, Result, Shape, Tensor};

use crate::{Backward, Var, compute_dtype};

/// The step of the difference quotient, for values of order one.
const STEP: f64 = 1e-3;

/// A relative difference from the gradient that asks for no second quotient.
const AGREEMENT: f64 = 1e-7;

/// Random directions tried for each input.
const DIRECTIONS: u64 = 3;

/// How gradients compared with difference quotients.
#[derive(Clone, Debug, Default)]
pub struct GradReport {
    /// One entry for each input that has a gradient.
    pub inputs: Vec<InputReport>,
}

/// How one input's gradient compared, in the worst direction or the worst element.
#[derive(Clone, Debug)]
pub struct InputReport {
    /// Which input.
    pub input: usize,
    /// The element, if elements were compared one by one.
    pub element: Option<Vec<usize>>,
    /// The backward pass's answer; 0 where no gradient arrived.
    pub analytic: f64,
    /// The difference quotient.
    pub numeric: f64,
    /// Their difference, relative to the largest derivative of that input.
    pub error: f64,
}

impl GradReport {
    /// The worst error of all; NaN is the worst there is.
    pub fn error(&self) -> f64 {
        let errors = self.inputs.iter().map(|input| input.error);
        // A NaN replaces any number, and nothing replaces it.
        errors.fold(0.0, |worst, e| if e > worst || e.is_nan() { e } else { worst })
    }

    /// Whether the worst error is below 10⁻⁶, which no wrong formula reaches.
    pub fn passed(&self) -> bool {
        // A NaN does not pass.
        self.inputs.iter().all(|input| input.error < 1e-6)
    }
}

impl fmt::Display for GradReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "gradient {}", if self.passed() { "agrees" } else { "IS WRONG" })?;
        for input in &self.inputs {
            write!(f, "  input {}", input.input)?;
            if let Some(element) = &input.element {
                write!(f, " at {element:?}")?;
            }
            let InputReport { analytic, numeric, error, .. } = input;
            writeln!(f, ": analytic {analytic:.12e}, numeric {numeric:.12e}, error {error:.1e}")?;
        }
        Ok(())
    }
}

/// Compares the gradient of `f` with difference quotients along random directions.
///
/// Floating-point inputs are taken as float64 and differentiated, others passed on as they are.
/// `f` must be smooth within 0.002 of every input element, and a pure function.
///
/// ```
/// use autograd::gradcheck;
/// use tensor::{Tensor, Result};
/// # fn main() -> Result<()> {
/// let x = Tensor::from_vec(vec![0.5, -1.0, 2.0], [3])?;
/// let report = gradcheck(|x| x[0].tanh()?.mul(&x[0]), &[x])?;
/// assert!(report.passed(), "{report}");
/// # Ok(())
/// # }
/// ```
///
/// Errors: those of `f` and of its backward pass.
pub fn gradcheck(f: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) -> Result<GradReport> {
    let check = Check::new(f, inputs)?;
    let mut report = GradReport::default();
    for i in check.differentiable() {
        let mut tries = Vec::new();
        for direction in 0..DIRECTIONS {
            let v = random(&check.inputs[i], 1 + direction + DIRECTIONS * i as u64)?;
            tries.push((None, check.analytic(i, &v), check.numeric(i, &v)?));
        }
        report.inputs.extend(check.worst(i, tries));
    }
    Ok(report)
}

/// Compares the gradient of `f` with difference quotients element by element, and names the worst
/// element of each input. Four evaluations of `f` for each element: for small inputs.
///
/// Errors: those of `f` and of its backward pass.
pub fn gradcheck_dense(f: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) -> Result<GradReport> {
    let check = Check::new(f, inputs)?;
    let mut report = GradReport::default();
    for i in check.differentiable() {
        let mut tries = Vec::new();
        let shape = *check.inputs[i].shape();
        for k in 0..shape.numel() {
            let mut v = vec![0.0; shape.numel()];
            v[k] = 1.0;
            tries.push((
                Some(coordinates(&shape, k)),
                check.analytic(i, &v),
                check.numeric(i, &v)?,
            ));
        }
        report.inputs.extend(check.worst(i, tries));
    }
    Ok(report)
}

/// A function at a point, with its backward pass done.
struct Check<F> {
    f: F,
    inputs: Vec<Tensor>,
    gradients: Vec<Option<Vec<f64>>>,
    /// ȳ.
    weights: Vec<f64>,
    /// Derivatives much smaller than this are the difference quotient's rounding errors.
    floor: f64,
}

impl<F: Fn(&[Var]) -> Result<Var>> Check<F> {
    fn new(f: F, inputs: &[Tensor]) -> Result<Self> {
        let widen =
            |x: &Tensor| if x.dtype().is_float() { x.to_dtype(DType::F64) } else { x.clone() };
        let inputs: Vec<Tensor> = inputs.iter().map(widen).collect();
        let variable = |x: &Tensor| match x.dtype().is_float() {
            true => Var::parameter(x.clone()),
            false => Var::constant(x.clone()),
        };
        let x: Vec<Var> = inputs.iter().map(variable).collect();
        let y = f(&x)?;
        let weights = random(&y.value(), 0)?;
        let floor = y.value().to_f64_vec().iter().zip(&weights).map(|(y, w)| (y * w).abs()).sum();
        let mut gradients = vec![None; x.len()];
        if y.is_tracked() {
            let seed = Tensor::from_slice(&weights, y.shape())?.to_dtype(compute_dtype(y.dtype()));
            let grads = Backward::new().root(&y, seed).run()?;
            gradients = x.iter().map(|x| grads.get(x).map(|g| g.to_f64_vec())).collect();
        }
        Ok(Self { f, inputs, gradients, weights, floor: 1e-4 * f64::max(floor, 1e-300) })
    }

    fn differentiable(&self) -> impl Iterator<Item = usize> {
        (0..self.inputs.len()).filter(|&i| self.inputs[i].dtype().is_float())
    }

    /// ⟨x̄ᵢ, v⟩.
    fn analytic(&self, i: usize, v: &[f64]) -> f64 {
        let gradient = self.gradients[i].as_ref();
        gradient.map_or(0.0, |g| g.iter().zip(v).map(|(g, v)| g * v).sum())
    }

    /// The difference quotient of ⟨ȳ, f⟩ along `v`, a direction of input `i`.
    ///
    /// Where the function bends sharply, the quotient errs by the fourth power of the step: if it
    /// disagrees with the gradient, that of a tenth of the step decides. A wrong gradient is wrong
    /// at any step.
    fn numeric(&self, i: usize, v: &[f64]) -> Result<f64> {
        let (analytic, coarse) = (self.analytic(i, v), self.quotient(i, v, STEP)?);
        let scale = analytic.abs().max(coarse.abs()).max(self.floor);
        let agrees = (analytic - coarse).abs() < AGREEMENT * scale;
        if agrees { Ok(coarse) } else { self.quotient(i, v, STEP / 10.0) }
    }

    /// The slope along `v` by four points, `step` apart.
    fn quotient(&self, i: usize, v: &[f64], step: f64) -> Result<f64> {
        let (x, shape) = (self.inputs[i].to_f64_vec(), self.inputs[i].shape());
        let mut slope = 0.0;
        for (steps, weight) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
            let moved = x.iter().zip(v).map(|(x, v)| x + steps * step * v).collect();
            let mut inputs: Vec<Var> = self.inputs.iter().cloned().map(Var::constant).collect();
            inputs[i] = Var::constant(Tensor::from_vec(moved, shape)?);
            let y = (self.f)(&inputs)?.value().to_f64_vec();
            slope += weight * y.iter().zip(&self.weights).map(|(y, w)| y * w).sum::<f64>();
        }
        Ok(slope / (12.0 * step))
    }

    /// The worst of several comparisons of input `i`.
    fn worst(&self, i: usize, tries: Vec<(Option<Vec<usize>>, f64, f64)>) -> Option<InputReport> {
        let largest = |scale: f64, (_, a, n): &(_, f64, f64)| scale.max(a.abs()).max(n.abs());
        let scale = tries.iter().fold(self.floor, largest);
        let reports = tries.into_iter().map(|(element, analytic, numeric)| InputReport {
            input: i,
            element,
            analytic,
            numeric,
            error: (analytic - numeric).abs() / scale,
        });
        // NaN is the worst.
        let rank =
            |report: &InputReport| if report.error.is_nan() { f64::INFINITY } else { report.error };
        reports.max_by(|a, b| rank(a).total_cmp(&rank(b)))
    }
}

/// The index on each axis of element `k` in row-major order.
pub(crate) fn coordinates(shape: &Shape, mut k: usize) -> Vec<usize> {
    let mut index = vec![0; shape.rank()];
    for (digit, &length) in index.iter_mut().zip(shape.iter()).rev() {
        (*digit, k) = (k % length, k / length);
    }
    index
}

/// Numbers between −1 and 1, one for each element of `like`.
fn random(like: &Tensor, stream: u64) -> Result<Vec<f64>> {
    let mut rng = Rng::new(0x6772_6164).stream(stream);
    Ok((0..like.numel()).map(|_| 2.0 * rng.next_uniform() - 1.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keep, Kept, Op, apply};

    /// x², with a gradient that is wrong for one element in a hundred.
    #[derive(Debug)]
    struct Wrong;

    impl Op<1> for Wrong {
        const NAME: &'static str = "wrong";
        const KEEPS: [Keep; 1] = [Keep::x(0)];
        type Aux = ();

        fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
            let y = x.to_f64_vec().into_iter().map(|x| x * x).collect();
            Ok((Tensor::from_vec(y, x.shape())?, ()))
        }

        fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
            let slope = kept.x(0).mul_scalar(2.0)?.mul(dy)?.value();
            let mut dx = slope.to_f64_vec();
            dx[37] *= 1.01;
            Ok([Some(Var::constant(Tensor::from_vec(dx, slope.shape())?))])
        }
    }

    #[test]
    fn a_planted_error_is_found_and_named() {
        let x = Rng::new(1).normal([5, 20], DType::F64).unwrap();
        let right = gradcheck(|x| x[0].square(), std::slice::from_ref(&x)).unwrap();
        assert!(right.error() < 1e-9, "{right}");
        let f = |x: &[Var]| apply(Wrong, [&x[0]]);
        let wrong = gradcheck(f, std::slice::from_ref(&x)).unwrap();
        assert!(!wrong.passed() && wrong.to_string().contains("WRONG"));
        let dense = gradcheck_dense(f, &[x]).unwrap();
        assert_eq!(dense.inputs[0].element, Some(vec![1, 17]));
        assert!(dense.to_string().contains("[1, 17]"), "{dense}");
    }

    #[test]
    fn nan_is_the_worst_error() {
        let x = Tensor::from_vec(vec![-1.0, 1.0], [2]).unwrap();
        let report = gradcheck(|x| x[0].ln()?.add(&x[0].detach()), &[x.clone(), x]).unwrap();
        assert!(report.error().is_nan() && !report.passed(), "{report}");
    }

    #[test]
    fn a_missing_gradient_is_an_error_too() {
        let x = Tensor::ones([3], DType::F64);
        let report = gradcheck(|x| x[0].detach().square(), &[x]).unwrap();
        assert!(!report.passed());
    }

    #[test]
    fn constant_functions_and_integers_are_no_trouble() {
        let x = Tensor::ones([3], DType::F64);
        let ids = Tensor::arange(3, DType::I64);
        let report = gradcheck(|x| x[0].mul_scalar(0.0)?.add_scalar(1.0), &[x, ids]).unwrap();
        assert!(report.passed() && report.inputs.len() == 1, "{report}");
    }
}
