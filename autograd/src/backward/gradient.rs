//! What operations send to their inputs, and how it adds up.

use kernels::Real;
use kernels::elementwise::{add_assign, add_region};
use tensor::{DType, Element, Result, Shape, Tensor};

use super::gpu;
use super::grads::Sum;
use super::product::Product;
use crate::profile::{Pass, Run, measured};
use crate::saved::Role;
use crate::scope::is_recording;
use crate::{Var, anomaly, ops};

/// What an operation sends to one of its inputs.
#[derive(Clone, Debug)]
pub enum Gradient {
    /// A gradient of the input's shape.
    Whole(Var),
    /// A gradient that is zero but for a part of the input: `part` belongs at `start` of `axis`
    /// of an input of shape `shape`. It is added there; the zeros are never made.
    Part {
        /// The values, of the input's shape but for `axis`.
        part: Var,
        /// The shape of the input.
        shape: Shape,
        /// The axis it is a part of.
        axis: usize,
        /// Its first index there.
        start: usize,
    },
    /// A gradient of weights that few rows went through: see [`product`](Self::product).
    Product(Product),
}

impl From<Var> for Gradient {
    fn from(gradient: Var) -> Self {
        Self::Whole(gradient)
    }
}

impl Gradient {
    /// The gradient of weights, leftᵀ·right: `left` is that of what they made of rows, `right` are
    /// the rows. That of what turns one vector of each sample into all modulations of a block, say,
    /// has the rank of the batch.
    ///
    /// Where both are much smaller than it, a parameter keeps copies of the two, to which rows of
    /// other passes are appended, until somebody [asks](super::Grads::get) for the product. It is
    /// made at once of many rows, on a GPU, and where it is recorded or
    /// [watched](crate::detect_anomaly).
    ///
    /// Shapes: \[R, O\], \[R, I\] → \[O, I\]. Errors: as [`Var::matmul`].
    pub fn product(left: &Var, right: &Var) -> Result<Self> {
        let at_once = is_recording() || anomaly::is_watching();
        if !at_once && let Some(product) = Product::of([&left.value()], [&right.value()]) {
            return Ok(Self::Product(product));
        }
        Ok(Self::Whole(left.transpose(0, 1)?.matmul(right)?))
    }

    /// The shape of what it is the gradient of.
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Whole(var) => *var.shape(),
            Self::Part { shape, .. } => *shape,
            Self::Product(product) => product.shape(),
        }
    }

    /// The type of its elements.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Whole(var) | Self::Part { part: var, .. } => var.dtype(),
            Self::Product(product) => product.dtype(),
        }
    }

    /// What it is kept as.
    pub(crate) fn values(&self) -> Vec<Tensor> {
        match self {
            Self::Whole(var) | Self::Part { part: var, .. } => vec![var.value()],
            Self::Product(product) => product.factors().into(),
        }
    }

    /// The same, made if it is a product.
    pub(crate) fn made(self) -> Self {
        match self {
            Self::Product(product) => Self::Whole(Var::constant(product.whole())),
            other => other,
        }
    }

    /// The same with other values of that shape.
    pub(crate) fn map(self, f: impl FnOnce(Var) -> Var) -> Self {
        match self {
            Self::Whole(var) => Self::Whole(f(var)),
            Self::Part { part, shape, axis, start } => {
                Self::Part { part: f(part), shape, axis, start }
            }
            product @ Self::Product(_) => product.made().map(f),
        }
    }

    /// This gradient of output `output` of a node, and those that arrived before.
    pub(super) fn joined(self, before: Option<Sum>, output: usize) -> Result<Var> {
        const NAME: &str = "sum of gradients";
        let Some(before) = before else { return self.add_to(None) };
        if anomaly::is_watching() {
            let named = |x: Tensor| (Role::OutputGradient(output), x);
            let before = before.into_var();
            let from = [self.values(), vec![before.value()]].concat().into_iter().map(named);
            let from: Vec<_> = from.collect();
            let sum = self.add_to(Some(before))?;
            anomaly::check(NAME, &[named(sum.value())], &from)?;
            return Ok(sum);
        }
        let shape = self.shape();
        let moved = if let Self::Part { part, .. } = &self { part.numel() } else { shape.numel() };
        let bytes = 3 * moved * self.dtype().size();
        let run = Run { op: NAME, pass: Pass::Other, shapes: vec![shape], bytes };
        measured(|| self.add_to(Some(before.into_var())), |_| run)
    }

    /// This gradient added to what has arrived before.
    fn add_to(self, sum: Option<Var>) -> Result<Var> {
        match (self, sum) {
            (product @ Self::Product(_), sum) => product.made().add_to(sum),
            (Self::Whole(gradient), None) => Ok(gradient),
            (Self::Whole(gradient), Some(sum)) if is_recording() => sum.add(&gradient),
            (Self::Whole(gradient), Some(sum)) => {
                Ok(Var::constant(accumulate(sum.into_value(), gradient.into_value())?))
            }
            (Self::Part { part, shape, axis, start }, sum) if is_recording() => {
                let whole = ops::shape::place(&part, shape, axis, start)?;
                Self::Whole(whole).add_to(sum)
            }
            (Self::Part { part, shape, axis, start }, sum) => {
                let sum = match sum {
                    Some(sum) => sum.into_value(),
                    None => Tensor::zeros_on(part.value().cuda(), shape, part.dtype()),
                };
                Ok(Var::constant(accumulate_part(sum, &part.value(), axis, start)?))
            }
        }
    }
}

/// a + b, in the buffer of one of them if nobody else has it.
fn accumulate(mut a: Tensor, mut b: Tensor) -> Result<Tensor> {
    fn add<T: Real + Element>(a: &mut Tensor, b: &Tensor) -> Result<()> {
        add_assign(a.slice_mut::<T>()?, b.slice::<T>()?);
        Ok(())
    }
    if !a.is_unshared() {
        (a, b) = (b, a);
    }
    if !(a.is_unshared() && a.is_contiguous() && b.is_contiguous()) || a.cuda().is_some() {
        return ops::elementwise::pointwise(&kernels::elementwise::exprs::Add, "add", [&a, &b]);
    }
    match a.dtype() {
        DType::F64 => add::<f64>(&mut a, &b)?,
        _ => add::<f32>(&mut a, &b)?,
    }
    Ok(a)
}

/// Adds `part` to the elements of `sum` from `start` of `axis` on.
pub(crate) fn accumulate_part(
    mut sum: Tensor,
    part: &Tensor,
    axis: usize,
    start: usize,
) -> Result<Tensor> {
    fn add<T: Real + Element>(
        sum: &mut Tensor,
        part: &Tensor,
        axis: usize,
        start: usize,
    ) -> Result<()> {
        let shape = *sum.shape();
        let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        let (sum, part) = (sum.slice_mut::<T>()?, (part.shape()[axis], part.slice::<T>()?));
        add_region(sum, [outer, shape[axis], inner], start, part.1, part.0);
        Ok(())
    }
    if let Some(gpu) = part.cuda() {
        gpu::add_part(gpu, &mut sum, part, axis, start)?;
        return Ok(sum);
    }
    let part = part.contiguous();
    match sum.dtype() {
        DType::F64 => add::<f64>(&mut sum, &part, axis, start)?,
        _ => add::<f32>(&mut sum, &part, axis, start)?,
    }
    Ok(sum)
}
