//! What an operation is checked and timed by: random cases, a float64 reference, a cost.
//!
//! A [`Spec`] is an operation's entry in the registry ([`crate::ops::OPS`]). From it follow, for
//! every operation alike ([`check_op`]):
//!
//! 1. the forward pass in f64 and in f32 against the reference;
//! 2. the gradient in f64 against difference quotients, and in f32 against f64;
//! 3. the second derivative likewise, if there is one;
//! 4. equal bits for strided and for packed operands, and for halves and the same numbers widened.

use std::fmt;

use tensor::rng::Rng;
use tensor::{DType, ErrorKind, Result, Tensor};

pub use crate::draw::Draw;
use crate::{Backward, Var, compute_dtype, gradcheck};

/// An operation's entry in the registry.
pub trait Spec: Sync {
    /// The operation's name.
    fn name(&self) -> &'static str;
    /// Its formula in a line, for tables.
    fn equation(&self) -> &'static str;
    /// A random small instance: shapes, layouts, parameters and values in safe ranges.
    fn case(&self, draw: &mut Draw) -> Result<Case>;
    /// A typical instance of a real model, for timing. Its reference is not used.
    fn bench(&self, draw: &mut Draw) -> Result<Case>;
}

/// An operation with operands.
pub struct Case {
    /// What is special about it: parameters, shapes.
    pub label: String,
    /// The operands.
    pub inputs: Vec<Tensor>,
    forward: Box<Forward>,
    reference: Box<Reference>,
    magnitude: f64,
    flops: f64,
}

type Forward = dyn Fn(&[Var]) -> Result<Var>;
type Reference = dyn Fn(&[Vec<f64>]) -> Vec<f64>;

impl Case {
    /// `forward` applied to `inputs`; `reference` computes the same in plain float64 loops from
    /// the inputs' elements in row-major order.
    pub fn new<const N: usize>(
        label: impl Into<String>,
        inputs: [Tensor; N],
        forward: impl Fn(&[Var]) -> Result<Var> + 'static,
        reference: impl Fn(&[Vec<f64>]) -> Vec<f64> + 'static,
    ) -> Self {
        Self {
            label: label.into(),
            inputs: inputs.into(),
            forward: Box::new(forward),
            reference: Box::new(reference),
            magnitude: 1.0,
            flops: 0.0,
        }
    }

    /// The size of the intermediate results, if it is not that of the inputs, which are of order
    /// one: rounding errors may be that much larger. A sum of n random terms: √n.
    pub fn magnitude(self, magnitude: f64) -> Self {
        Self { magnitude, ..self }
    }

    /// Arithmetic operations of the forward pass.
    pub fn flops(self, flops: f64) -> Self {
        Self { flops, ..self }
    }

    /// What the forward pass costs: its arithmetic, and each operand and result moved once.
    pub fn cost(&self) -> Result<Cost> {
        let bytes = |x: &Tensor| x.numel() * x.dtype().size();
        let output = bytes(&self.run(&self.constants())?.value());
        let moved = self.inputs.iter().map(bytes).sum::<usize>() + output;
        Ok(Cost { flops: self.flops, bytes: moved as f64 })
    }

    /// The operands as constants.
    pub fn constants(&self) -> Vec<Var> {
        self.inputs.iter().cloned().map(Var::constant).collect()
    }

    /// The operands, floating-point ones as parameters.
    pub fn parameters(&self) -> Vec<Var> {
        let variable = |x: &Tensor| match x.dtype().is_float() {
            true => Var::parameter(x.clone()),
            false => Var::constant(x.clone()),
        };
        self.inputs.iter().map(variable).collect()
    }

    /// The operation on `x`.
    pub fn run(&self, x: &[Var]) -> Result<Var> {
        (self.forward)(x)
    }

    /// What the result should be.
    pub fn reference(&self) -> Vec<f64> {
        (self.reference)(&self.inputs.iter().map(Tensor::to_f64_vec).collect::<Vec<_>>())
    }

    /// The same operation on other operands.
    fn with_inputs(&mut self, change: impl Fn(&Tensor) -> Tensor) {
        self.inputs = self.inputs.iter().map(change).collect();
    }

    /// The result, and the gradient of every float operand under a fixed ȳ.
    fn gradients(&self) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let x = self.parameters();
        let y = self.run(&x)?;
        if !y.is_tracked() {
            return Ok((y.value(), vec![None; x.len()]));
        }
        let grads = Backward::new().root(&y, seed(&y.value())?).run()?;
        Ok((y.value(), x.iter().map(|x| grads.get(x).cloned()).collect()))
    }
}

/// A fixed ȳ between −1 and 1 for a result like `y`.
fn seed(y: &Tensor) -> Result<Tensor> {
    let mut rng = Rng::new(0x0073_6565_6400);
    let values = (0..y.numel()).map(|_| 2.0 * rng.next_uniform() - 1.0).collect();
    Ok(Tensor::from_vec::<f64>(values, y.shape())?.to_dtype(compute_dtype(y.dtype())))
}

/// What a forward pass costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Arithmetic operations.
    pub flops: f64,
    /// Bytes read and written, each operand and result once.
    pub bytes: f64,
}

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
    /// Forward pass in f32 against the reference.
    pub forward_f32: f64,
    /// Gradient in f64 against difference quotients.
    pub gradient_f64: f64,
    /// Gradient in f32 against f64.
    pub gradient_f32: f64,
    /// Second derivative in f64 against difference quotients; `None` if there is none.
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
    let mut report = OpReport {
        name: spec.name(),
        cases,
        forward_f64: 0.0,
        forward_f32: 0.0,
        gradient_f64: 0.0,
        gradient_f32: 0.0,
        second_f64: Some(0.0),
        failures: Vec::new(),
    };
    for i in 0..cases {
        let case = |dtype| spec.case(&mut Draw::new(seed.wrapping_add(i as u64), dtype));
        report.forward(&case(DType::F64)?, &case(DType::F32)?)?;
        report.gradient(&case(DType::F64)?)?;
        report.single_precision(case(DType::F32)?)?;
        report.second(&case(DType::F64)?)?;
        report.same_bits(case(DType::F32)?, case(DType::BF16)?)?;
    }
    Ok(report)
}

impl OpReport {
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

    fn forward(&mut self, double: &Case, single: &Case) -> Result<()> {
        for (case, eps) in [(double, f64::EPSILON), (single, f64::from(f32::EPSILON))] {
            let y = case.run(&case.constants())?.value().to_f64_vec();
            let error = distance(&y, &case.reference(), case.magnitude);
            let dtype = if eps == f64::EPSILON { "f64" } else { "f32" };
            let what = format!("forward {dtype} against reference");
            let error = self.note(&what, case, error, FORWARD_ULPS * eps);
            let worst = if dtype == "f64" { &mut self.forward_f64 } else { &mut self.forward_f32 };
            *worst = worst.max(error);
        }
        Ok(())
    }

    fn gradient(&mut self, case: &Case) -> Result<()> {
        let checked = gradcheck(|x| case.run(x), &case.inputs)?;
        let error = self.note("gradient f64", case, checked.error(), 1e-6);
        self.gradient_f64 = self.gradient_f64.max(error);
        Ok(())
    }

    /// Gradients in f32 against those in f64 of the same numbers.
    fn single_precision(&mut self, mut case: Case) -> Result<()> {
        let (_, single) = case.gradients()?;
        case.with_inputs(|x| if x.dtype().is_float() { x.to_dtype(DType::F64) } else { x.clone() });
        let (_, double) = case.gradients()?;
        for (single, double) in single.iter().zip(&double) {
            let error = match (single, double) {
                (Some(a), Some(b)) => distance(&a.to_f64_vec(), &b.to_f64_vec(), case.magnitude),
                (None, None) => 0.0,
                _ => f64::NAN,
            };
            let limit = GRADIENT_ULPS * f64::from(f32::EPSILON);
            let error = self.note("gradient f32 against f64", &case, error, limit);
            self.gradient_f32 = self.gradient_f32.max(error);
        }
        Ok(())
    }

    /// The gradient as a function whose gradient is checked.
    fn second(&mut self, case: &Case) -> Result<()> {
        let gradient = |x: &[Var]| {
            let track = |x: &Var| match x.dtype().is_float() && !x.is_tracked() {
                true => Var::parameter(x.value()),
                false => x.clone(),
            };
            let x: Vec<Var> = x.iter().map(track).collect();
            let y = case.run(&x)?;
            let seed = seed(&y.value())?;
            let grads = Backward::new().root(&y, seed).create_graph().run()?;
            let mut total = Var::constant(Tensor::scalar(0.0, DType::F64));
            for dx in x.iter().filter_map(|x| grads.get_var(x)) {
                total = total.add(&dx.square()?.sum_all()?)?;
            }
            Ok(total)
        };
        match gradcheck(gradient, &case.inputs) {
            Ok(checked) => {
                let error = self.note("second derivative f64", case, checked.error(), 1e-6);
                self.second_f64 = self.second_f64.map(|worst| worst.max(error));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::OnceDifferentiable => {
                self.second_f64 = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Layout and storage type change no bit.
    fn same_bits(&mut self, mut strided: Case, mut half: Case) -> Result<()> {
        let (y, gradients) = strided.gradients()?;
        strided.with_inputs(Tensor::contiguous);
        let (packed_y, packed_gradients) = strided.gradients()?;
        let same = |a: &Option<Tensor>, b: &Option<Tensor>| {
            a.as_ref().map(Tensor::to_f64_vec) == b.as_ref().map(Tensor::to_f64_vec)
        };
        let equal = y.to_f64_vec() == packed_y.to_f64_vec()
            && gradients.iter().zip(&packed_gradients).all(|(a, b)| same(a, b));
        self.note("strided against packed", &strided, f64::from(u8::from(!equal)), 0.0);
        let y = half.run(&half.constants())?.value();
        half.with_inputs(|x| if x.dtype().is_float() { x.to_dtype(DType::F32) } else { x.clone() });
        let wide = half.run(&half.constants())?.value();
        let equal = y.to_f64_vec() == wide.to_f64_vec();
        self.note("bf16 against the same in f32", &half, f64::from(u8::from(!equal)), 0.0);
        Ok(())
    }
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

    #[test]
    fn nan_is_no_small_error() {
        assert!(distance(&[f64::NAN, 1.0], &[0.0, 1.0], 1.0).is_nan());
        assert!(distance(&[1.0], &[1.0, 2.0], 1.0).is_nan());
    }
}
