//! What an operation is checked and timed by: random cases, a float64 reference, a cost.
//!
//! A [`Spec`] is an operation's entry in the registry ([`crate::ops::OPS`]). From it follow, for
//! every operation alike ([`check_op`]):
//!
//! 1. the forward pass in f64, in f32 and from halves against the reference of the same numbers;
//! 2. the gradient in f64 against difference quotients, and in f32, from f32 and from halves, against
//!    f64 of the same numbers;
//! 3. the second derivative in f64 likewise, or the error that there is none;
//! 4. equal bits for strided and for packed operands, for halves and the same numbers widened, and
//!    for a result that is [made again](crate::Op::AGAIN).

use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

mod agree;
mod check;
mod families;

pub use crate::draw::{Draw, Layout};
use crate::{Backward, Var, compute_dtype};
pub use agree::{Agreement, Difference, OTHER_BITS, agree, difference};
pub use check::{OpReport, check_op};
pub use families::agree_by_family;

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
    pub fn new(
        label: impl Into<String>,
        inputs: impl Into<Vec<Tensor>>,
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
        Self { magnitude: magnitude.max(1.0), ..self }
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
        Ok((y.value(), x.iter().map(|x| grads.get(x)).collect()))
    }
}

/// A fixed ȳ between −1 and 1 for a result like `y`, of numbers that bf16 has: where a GPU rounds it,
/// nothing is lost.
fn seed(y: &Tensor) -> Result<Tensor> {
    let mut rng = Rng::new(0x0073_6565_6400);
    let values = (0..y.numel()).map(|_| 2.0 * rng.next_uniform() - 1.0).collect();
    let values = Tensor::from_vec::<f64>(values, y.shape())?.to_dtype(DType::BF16);
    Ok(values.to_dtype(compute_dtype(y.dtype())))
}

/// What a forward pass costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Arithmetic operations.
    pub flops: f64,
    /// Bytes read and written, each operand and result once.
    pub bytes: f64,
}
