//! The checks that follow from an operation's entry in the registry.

use std::fmt;

use tensor::{DType, ErrorKind, Result, Tensor};

use super::{Case, Draw, Spec, seed};
use crate::{Backward, Var, gradcheck};

/// What [`check_op`] found. Errors are relative to the largest element of what they are compared
/// with, or to the case's magnitude where that is larger.
#[derive(Clone, Debug)]
pub struct OpReport {
    /// The operation's name.
    pub name: &'static str,
    /// How many cases were tried.
    pub cases: usize,
    /// Forward pass in f64 against the reference.
    pub forward_f64: f64,
    /// Forward pass in f32, from f32 and from halves, against the reference of the same numbers.
    pub forward_f32: f64,
    /// Gradient in f64 against difference quotients.
    pub gradient_f64: f64,
    /// Gradient in f32, from f32 and from halves, against f64 of the same numbers.
    pub gradient_f32: f64,
    /// Second derivative in f64 against difference quotients; `None` if there is none, and asking
    /// for it is an error.
    pub second_f64: Option<f64>,
    /// What went wrong, with the case it did.
    pub failures: Vec<String>,
}

impl OpReport {
    /// Whether every check of every case passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for OpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, cases, forward_f64, forward_f32, gradient_f64, gradient_f32, .. } = self;
        write!(
            f,
            "{name:<20} {cases} cases: forward f64 {forward_f64:.0e}, f32 {forward_f32:.0e}; "
        )?;
        write!(f, "gradient f64 {gradient_f64:.0e}, f32 {gradient_f32:.0e}; second derivative ")?;
        match self.second_f64 {
            Some(error) => write!(f, "{error:.0e}")?,
            None => write!(f, "none")?,
        }
        self.failures.iter().try_for_each(|failure| write!(f, "\n  {failure}"))
    }
}

/// Rounding errors of a forward pass, in units of the last place of what was added up: a few for
/// each operation in a chain; sums are trees.
const FORWARD_ULPS: f64 = 16.0;

/// Rounding errors of a gradient, whose chain is that of forward and backward pass.
const GRADIENT_ULPS: f64 = 64.0;

/// Runs every check on `cases` random instances of an operation.
///
/// Errors: the operation failed to run at all, on a case it said it could do.
pub fn check_op(spec: &dyn Spec, cases: usize, seed: u64) -> Result<OpReport> {
    let mut report = OpReport::new(spec.name());
    for i in 0..cases {
        report.check(|dtype| spec.case(&mut Draw::new(seed.wrapping_add(i as u64), dtype)))?;
    }
    Ok(report)
}

impl OpReport {
    /// A report of nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            cases: 0,
            forward_f64: 0.0,
            forward_f32: 0.0,
            gradient_f64: 0.0,
            gradient_f32: 0.0,
            second_f64: Some(0.0),
            failures: Vec::new(),
        }
    }

    /// Runs every check on one instance, which `case` gives with floats of any type.
    ///
    /// Errors: as [`check_op`].
    pub fn check(&mut self, case: impl Fn(DType) -> Result<Case>) -> Result<()> {
        self.cases += 1;
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            self.forward(&case(dtype)?, dtype)?;
            self.again(&case(dtype)?)?;
        }
        self.gradient(&case(DType::F64)?)?;
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            self.single_precision(case(dtype)?, dtype)?;
        }
        self.second(&case(DType::F64)?)?;
        self.same_bits("strided against packed", case(DType::F32)?, Tensor::contiguous)?;
        // Half precision is storage.
        for half in [DType::BF16, DType::F16] {
            let what = format!("{half} against the same in f32");
            self.same_bits(&what, case(half)?, |x| in_type(x, DType::F32))?;
        }
        Ok(())
    }

    /// Notes an error and, if it is above `limit` or NaN, a failure.
    fn note(&mut self, what: &str, case: &Case, error: f64, limit: f64) -> f64 {
        if !(error <= limit) {
            let shapes: Vec<_> = case.inputs.iter().map(|x| x.shape().to_string()).collect();
            self.failures.push(format!(
                "{what}: error {error:.2e} above {limit:.0e} for {} on {}",
                case.label,
                shapes.join(" ")
            ));
        }
        error
    }

    fn forward(&mut self, case: &Case, dtype: DType) -> Result<()> {
        let y = case.run(&case.constants())?.value().to_f64_vec();
        let error = distance(&y, &case.reference(), case.magnitude);
        let (eps, worst) = match dtype {
            DType::F64 => (f64::EPSILON, self.forward_f64),
            _ => (f64::from(f32::EPSILON), self.forward_f32),
        };
        let what = format!("forward {dtype} against reference");
        let worst = worst.max(self.note(&what, case, error, FORWARD_ULPS * eps));
        match dtype {
            DType::F64 => self.forward_f64 = worst,
            _ => self.forward_f32 = worst,
        }
        Ok(())
    }

    /// What is made again for those who did not keep it is what it was.
    fn again(&mut self, case: &Case) -> Result<()> {
        let y = case.run(&case.parameters())?;
        if let Some(edge) = y.edge()
            && edge.node.again_depth() > 0
        {
            let equal = bits(&y.value()) == bits(&edge.node.again(edge.output)?);
            self.note("made again", case, f64::from(u8::from(!equal)), 0.0);
        }
        Ok(())
    }

    fn gradient(&mut self, case: &Case) -> Result<()> {
        let checked = gradcheck(|x| case.run(x), &case.inputs)?;
        let error = self.note("gradient f64", case, checked.error(), 1e-6);
        self.gradient_f64 = self.gradient_f64.max(error);
        Ok(())
    }

    /// Gradients in f32, of operands stored as `dtype`, against those in f64 of the same numbers.
    fn single_precision(&mut self, mut case: Case, dtype: DType) -> Result<()> {
        let (_, single) = case.gradients()?;
        case.with_inputs(|x| in_type(x, DType::F64));
        let (_, double) = case.gradients()?;
        for (single, double) in single.iter().zip(&double) {
            let error = match (single, double) {
                (Some(a), Some(b)) => distance(&a.to_f64_vec(), &b.to_f64_vec(), case.magnitude),
                (None, None) => 0.0,
                _ => f64::NAN,
            };
            let limit = GRADIENT_ULPS * f64::from(f32::EPSILON);
            let what = format!("gradient of {dtype} against f64");
            let error = self.note(&what, &case, error, limit);
            self.gradient_f32 = self.gradient_f32.max(error);
        }
        Ok(())
    }

    /// The second derivative of all operands together; or, if that is an error, of each alone:
    /// what is neither an error nor right would be a silent zero.
    fn second(&mut self, case: &Case) -> Result<()> {
        let mut operands = case.inputs.clone();
        operands.push(seed(&case.run(&case.constants())?.value())?);
        let all: Vec<usize> = (0..operands.len()).collect();
        if self.second_along(case, &operands, &all)? {
            return Ok(());
        }
        self.second_f64 = None;
        for i in all {
            self.second_along(case, &operands, &[i])?;
        }
        Ok(())
    }

    /// Checks the derivative, along the operands `along`, of the gradient along them; the last
    /// operand is ȳ. Answers whether there is one.
    fn second_along(&mut self, case: &Case, operands: &[Tensor], along: &[usize]) -> Result<bool> {
        let gradient = |moved: &[Var]| {
            let mut x: Vec<Var> = operands.iter().cloned().map(Var::constant).collect();
            for (&i, moved) in along.iter().zip(moved) {
                let is_constant = moved.dtype().is_float() && !moved.is_tracked();
                x[i] = if is_constant { Var::parameter(moved.value()) } else { moved.clone() };
            }
            let (dy, x) = x.split_last().expect("there is at least ȳ");
            // The gradient of y is ȳ, a variable like the others.
            let weighted = case.run(x)?.mul(dy)?;
            let ones = Tensor::ones(weighted.shape(), DType::F64);
            let mut total = Var::constant(Tensor::scalar(0.0, DType::F64));
            if weighted.is_tracked() {
                let grads = Backward::new().root(&weighted, ones).create_graph().run()?;
                for dx in x.iter().filter_map(|x| grads.get_var(x)) {
                    total = total.add(&dx.square()?.sum_all()?)?;
                }
            }
            Ok(total)
        };
        let moved: Vec<Tensor> = along.iter().map(|&i| operands[i].clone()).collect();
        match gradcheck(gradient, &moved) {
            Ok(checked) => {
                let error = self.note("second derivative f64", case, checked.error(), 1e-6);
                self.second_f64 = self.second_f64.map(|worst| worst.max(error));
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::OnceDifferentiable => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same numbers in another layout or storage give the same bits, forward and backward.
    fn same_bits(
        &mut self,
        what: &str,
        mut case: Case,
        change: impl Fn(&Tensor) -> Tensor,
    ) -> Result<()> {
        let bits = |(y, gradients): (Tensor, Vec<Option<Tensor>>)| -> Vec<_> {
            std::iter::once(Some(y)).chain(gradients).map(|x| x.as_ref().map(bits)).collect()
        };
        let before = bits(case.gradients()?);
        case.with_inputs(change);
        let equal = before == bits(case.gradients()?);
        self.note(what, &case, f64::from(u8::from(!equal)), 0.0);
        Ok(())
    }
}

/// A float tensor in another float type; others as they are.
fn in_type(x: &Tensor, dtype: DType) -> Tensor {
    if x.dtype().is_float() { x.to_dtype(dtype) } else { x.clone() }
}

/// The bits of every element, widened; zeros differ by their sign, NaNs by nothing.
fn bits(x: &Tensor) -> Vec<u64> {
    let canonical = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    x.to_f64_vec().into_iter().map(canonical).collect()
}

/// The largest difference of two vectors, relative to the largest element or to `magnitude`.
fn distance(a: &[f64], b: &[f64], magnitude: f64) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let scale = b.iter().fold(magnitude, |scale, b| scale.max(b.abs()));
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // A NaN replaces any number, and nothing replaces it.
    apart.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst }) / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keep, Kept, Op, apply, compute_dtype};

    /// 2x, said to be x + x², with a gradient of its own.
    struct Liar;

    impl Spec for Liar {
        fn name(&self) -> &'static str {
            "liar"
        }
        fn equation(&self) -> &'static str {
            "2x"
        }
        fn case(&self, draw: &mut Draw) -> Result<Case> {
            let x = draw.uniform([4], 1.0, 2.0)?;
            let forward = |x: &[Var]| x[0].add(&x[0].detach());
            Ok(Case::new("", [x], forward, |x| x[0].iter().map(|x| x + x * x).collect()))
        }
        fn bench(&self, draw: &mut Draw) -> Result<Case> {
            self.case(draw)
        }
    }

    #[test]
    fn a_wrong_forward_and_a_wrong_gradient_are_reported() {
        let report = check_op(&Liar, 1, 0).unwrap();
        let text = report.to_string();
        assert!(!report.passed());
        for what in ["forward f64", "forward f32", "gradient f64"] {
            assert!(text.contains(what), "{text}");
        }
        assert!(!text.contains("strided against"), "{text}");
    }

    /// y = x, of which the gradient is wrong for operands stored in half precision.
    #[derive(Debug)]
    struct WrongForHalves;

    impl Op<1> for WrongForHalves {
        const NAME: &'static str = "wrong_for_halves";
        const KEEPS: [Keep; 1] = [Keep::NOTHING];
        const HALF: bool = true;
        const TWICE: bool = true;
        type Aux = ();

        fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
            Ok((x.to_dtype(compute_dtype(x.dtype())), ()))
        }

        fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
            let wrong = matches!(kept.dtype(0), DType::BF16 | DType::F16);
            Ok([Some(dy.mul_scalar(if wrong { 1.001 } else { 1.0 })?)])
        }
    }

    #[test]
    fn a_wrong_gradient_of_halves_is_reported() {
        let mut report = OpReport::new("wrong_for_halves");
        let case = |dtype| {
            let x = Tensor::full([3], 0.3, dtype);
            Ok(Case::new("", [x], |x| apply(WrongForHalves, [&x[0]]), |x| x[0].clone()))
        };
        report.check(case).unwrap();
        let what = report.failures.iter().filter_map(|failure| failure.split(':').next());
        let seen = [
            "gradient of bf16 against f64",
            "gradient of f16 against f64",
            "bf16 against the same in f32",
            "f16 against the same in f32",
        ];
        assert_eq!(what.collect::<Vec<_>>(), seen);
    }

    /// y = x·w, of which the vjp says to be differentiable and is only along one operand.
    #[derive(Debug)]
    struct HalfTrue;

    impl Op<2> for HalfTrue {
        const NAME: &'static str = "half_true";
        const KEEPS: [Keep; 2] = [Keep::x(1), Keep::x(0)];
        const TWICE: bool = true;
        type Aux = ();

        fn forward(&self, [x, w]: [&Tensor; 2]) -> Result<(Tensor, ())> {
            let pairs = x.to_f64_vec().into_iter().zip(w.to_f64_vec());
            let y = Tensor::from_vec(pairs.map(|(x, w)| x * w).collect(), x.shape())?;
            Ok((y.to_dtype(x.dtype()), ()))
        }

        fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 2]) -> Result<[Option<Var>; 2]> {
            Ok([Some(kept.x(1).mul(dy)?), Some(kept.x(0).detach().mul(dy)?)])
        }
    }

    #[test]
    fn a_silent_zero_of_the_second_derivative_is_reported() {
        let mut report = OpReport::new("half_true");
        let case = |dtype| {
            let x = Tensor::full([3], 0.5, dtype);
            let forward = |x: &[Var]| apply(HalfTrue, [&x[0], &x[1]]);
            let reference = |x: &[Vec<f64>]| vec![x[0][0] * x[1][0]; 3];
            Ok(Case::new("", [x.clone(), x], forward, reference))
        };
        report.check(case).unwrap();
        let text = report.to_string();
        assert!(report.failures.iter().all(|f| f.starts_with("second derivative")), "{text}");
        assert!(!report.passed() && report.second_f64.is_some(), "{text}");
    }

    #[test]
    fn nan_is_no_small_error() {
        assert!(distance(&[f64::NAN, 1.0], &[0.0, 1.0], 1.0).is_nan());
        assert!(distance(&[1.0], &[1.0, 2.0], 1.0).is_nan());
    }
}
