//! What an operation is: a forward pass and a vjp, in one value.
//!
//! An operation is a struct of its parameters with an [`Op`] impl. [`apply`] runs it on variables;
//! if one of them is tracked (and recording is on) the result is tracked too, and remembers what
//! the vjp will need. Writing an operation takes one file in `ops/`:
//!
//! ```
//! use autograd::{Keep, Kept, Op, Var, apply};
//! use tensor::{Result, Tensor};
//!
//! /// The dot product, y = Σᵢ aᵢ·bᵢ.
//! #[derive(Debug)]
//! struct Dot;
//!
//! impl Op<2> for Dot {
//!     const NAME: &'static str = "dot";
//!     // ā is computed from b, b̄ from a.
//!     const KEEPS: [Keep; 2] = [Keep::x(1), Keep::x(0)];
//!     type Aux = ();
//!
//!     fn forward(&self, [a, b]: [&Tensor; 2]) -> Result<(Tensor, ())> {
//!         let pairs = a.slice::<f64>()?.iter().zip(b.slice::<f64>()?);
//!         Ok((Tensor::scalar(pairs.map(|(a, b)| a * b).sum(), a.dtype()), ()))
//!     }
//!
//!     fn vjp(&self, kept: Kept<()>, dy: &Var, needs: [bool; 2]) -> Result<[Option<Var>; 2]> {
//!         let da = needs[0].then(|| kept.x(1).mul(dy)).transpose()?;
//!         let db = needs[1].then(|| kept.x(0).mul(dy)).transpose()?;
//!         Ok([da, db])
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let a = Var::parameter(Tensor::from_vec(vec![1.0, 2.0], [2])?);
//! let b = Var::constant(Tensor::from_vec(vec![3.0, 4.0], [2])?);
//! let y = apply(Dot, [&a, &b])?;
//! assert_eq!(y.backward()?.get(&a).unwrap().to_f64_vec(), [3.0, 4.0]);
//! # Ok(())
//! # }
//! ```
//!
//! * `vjp` has no default: an operation without a gradient answers `[None; N]` in writing.
//! * `vjp` speaks [`Var`]. Made of differentiable operations, like the one above, it gives second
//!   derivatives under [`Backward::create_graph`](crate::Backward::create_graph). A fused one works
//!   on `value()`s and answers `Var::constant(dx)`; whoever differentiates that again gets
//!   `Err(OnceDifferentiable)`: the engine sees to it, the operation need not.
//! * `bf16` and `f16` operands arrive as `f32` unless [`Op::HALF`] says that the operation reads
//!   them itself. Gradients of halves are `f32`.
//! * Any number of operands, several outputs, or a gradient that is part of a tensor: [`OpMany`].

use std::any::Any;
use std::fmt::Debug;
use std::panic::Location;
use std::sync::Arc;

use tensor::{DType, Error, Result, Shape, Tensor};

use crate::backward::{Gradient, Walk, compute_dtype};
use crate::node::{Edge, Node, Record};
use crate::{Var, scope};

/// A differentiable operation of `N` inputs and one output.
pub trait Op<const N: usize>: Debug + Send + 'static {
    /// Lower-case name, as errors print it.
    const NAME: &'static str;
    /// For each input, what its gradient is computed from, and so what outlives the forward pass
    /// if that gradient is wanted. The shapes of inputs, and `Aux`, are always kept.
    const KEEPS: [Keep; N];
    /// Whether half-precision inputs reach [`forward`](Self::forward) as they are.
    const HALF: bool = false;
    /// What the forward pass leaves behind for the backward pass: statistics of rows, or `()`.
    type Aux: Send + 'static;

    /// The output, and what the vjp needs besides inputs and output.
    fn forward(&self, x: [&Tensor; N]) -> Result<(Tensor, Self::Aux)>;

    /// x̄ᵢ = ȳ·∂y/∂xᵢ for each i that `needs` names; others may be `None`.
    fn vjp(
        &self,
        kept: Kept<'_, Self::Aux>,
        dy: &Var,
        needs: [bool; N],
    ) -> Result<[Option<Var>; N]>;
}

/// A differentiable operation of any number of inputs and outputs.
pub trait OpMany: Debug + Send + 'static {
    /// Lower-case name, as errors print it.
    const NAME: &'static str;
    /// Whether half-precision inputs reach [`forward`](Self::forward) as they are.
    const HALF: bool = false;
    /// What the forward pass leaves behind for the backward pass.
    type Aux: Send + 'static;

    /// What the gradient of input `i` is computed from.
    fn keeps(&self, i: usize) -> Keep;

    /// The outputs, and what the vjp needs besides inputs and outputs.
    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Self::Aux)>;

    /// The gradient of each input that `needs` names, given one for each output that was used.
    fn vjp(
        &self,
        kept: Kept<'_, Self::Aux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>>;
}

/// Inputs and outputs that a gradient is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep(u64);

impl Keep {
    /// Neither inputs nor outputs.
    pub const NOTHING: Self = Self(0);
    /// The output, or all of them.
    pub const Y: Self = Self(1 << 63);

    /// Input `i`, one of the first 63.
    pub const fn x(i: usize) -> Self {
        assert!(i < 63, "only one of the first 63 inputs can be kept");
        Self(1 << i)
    }

    /// What either of two names.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has_x(self, i: usize) -> bool {
        i < 63 && self.0 & (1 << i) != 0
    }

    const fn has_y(self) -> bool {
        self.0 & Self::Y.0 != 0
    }
}

/// What outlived the forward pass.
pub struct Kept<'a, A> {
    name: &'static str,
    inputs: &'a [Input],
    outputs: &'a [Option<Var>],
    /// What the forward pass left behind.
    pub aux: &'a A,
}

impl<A> Clone for Kept<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Kept<'_, A> {}

impl<'a, A> Kept<'a, A> {
    /// Input `i`.
    ///
    /// # Panics
    /// If `KEEPS` does not name it for a gradient that is wanted.
    pub fn x(&self, i: usize) -> &'a Var {
        let var = self.inputs[i].var.as_ref();
        var.unwrap_or_else(|| panic!("{} does not keep its input {i}", self.name))
    }

    /// The output.
    ///
    /// # Panics
    /// As [`x`](Self::x).
    pub fn y(&self) -> &'a Var {
        self.output(0)
    }

    /// Output `i`.
    ///
    /// # Panics
    /// As [`x`](Self::x).
    pub fn output(&self, i: usize) -> &'a Var {
        let var = self.outputs[i].as_ref();
        var.unwrap_or_else(|| panic!("{} does not keep its output {i}", self.name))
    }

    /// The shape of input `i`, kept or not.
    pub fn shape(&self, i: usize) -> &'a Shape {
        &self.inputs[i].shape
    }

    /// The element type of input `i`, kept or not.
    pub fn dtype(&self, i: usize) -> DType {
        self.inputs[i].dtype
    }
}

/// An input as a record keeps it.
struct Input {
    shape: Shape,
    dtype: DType,
    var: Option<Var>,
}

/// Runs an operation.
///
/// Errors: the operation's own; float operands that differ in element type.
#[track_caller]
pub fn apply<O: Op<N>, const N: usize>(op: O, x: [&Var; N]) -> Result<Var> {
    let mut outputs = apply_many(Fixed::<O, N>(op), &x)?;
    Ok(outputs.pop().expect("a fixed operation has one output"))
}

/// Runs an operation of any number of inputs and outputs.
///
/// Errors: as [`apply`].
#[track_caller]
pub fn apply_many<O: OpMany>(op: O, x: &[&Var]) -> Result<Vec<Var>> {
    apply_erased(Box::new(op), x)
}

/// Everything about applying an operation that does not depend on which it is, compiled once.
#[track_caller]
fn apply_erased(op: Box<dyn Erased>, x: &[&Var]) -> Result<Vec<Var>> {
    let caller = Location::caller();
    let x = operands(&*op, x)?;
    let values: Vec<Tensor> = x.iter().map(Var::value).collect();
    let result = op.forward(&values.iter().collect::<Vec<_>>());
    let (y, aux) = result.map_err(|error| error.at(caller))?;
    drop(values);
    if !scope::is_recording() || x.iter().all(|x| !x.is_tracked()) {
        return Ok(y.into_iter().map(Var::constant).collect());
    }
    let keeps = (0..x.len())
        .filter(|&i| x[i].is_tracked())
        .fold(Keep::NOTHING, |all, i| all.and(op.keeps(i)));
    let edges = x.iter().map(|x| x.edge().cloned()).collect();
    let inputs = x.into_iter().enumerate().map(|(i, x)| Input {
        shape: *x.shape(),
        dtype: x.dtype(),
        var: keeps.has_x(i).then_some(x),
    });
    let inputs = inputs.collect();
    let outputs = y.iter().map(|y| keeps.has_y().then(|| y.clone())).collect();
    let name = op.name();
    let node =
        Node::operation(name, edges, y.len(), Box::new(Recorded { op, inputs, outputs, aux }));
    let edge = |output| Some(Edge { node: node.clone(), output });
    Ok(y.into_iter().enumerate().map(|(i, y)| Var::with_edge(y, edge(i))).collect())
}

/// The operands with halves widened, unless the operation reads them itself.
#[track_caller]
fn operands(op: &dyn Erased, x: &[&Var]) -> Result<Vec<Var>> {
    let mut floats = x.iter().filter(|x| x.dtype().is_float());
    if let Some(first) = floats.next()
        && let Some(other) =
            floats.find(|x| compute_dtype(x.dtype()) != compute_dtype(first.dtype()))
    {
        return Err(Error::dtype(op.name(), "operands of different precision")
            .operand("one", *first)
            .operand("another", *other)
            .note("convert one of them with to_dtype: nothing is promoted silently"));
    }
    let widen = |x: &&Var| match x.dtype() {
        DType::BF16 | DType::F16 if !op.reads_half() => x.to_dtype(DType::F32),
        _ => Ok((*x).clone()),
    };
    x.iter().map(widen).collect()
}

/// What an operation leaves behind, whatever its type.
type AnyAux = Box<dyn Any + Send>;

/// An [`OpMany`] whose type has been forgotten.
trait Erased: Send {
    fn name(&self) -> &'static str;
    fn reads_half(&self) -> bool;
    fn keeps(&self, i: usize) -> Keep;
    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, AnyAux)>;
    fn vjp(
        &self,
        kept: Kept<'_, AnyAux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>>;
}

impl<O: OpMany> Erased for O {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn reads_half(&self) -> bool {
        O::HALF
    }

    fn keeps(&self, i: usize) -> Keep {
        OpMany::keeps(self, i)
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, AnyAux)> {
        let (y, aux) = OpMany::forward(self, x)?;
        Ok((y, Box::new(aux)))
    }

    fn vjp(
        &self,
        kept: Kept<'_, AnyAux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let Kept { name, inputs, outputs, aux } = kept;
        let aux = aux.downcast_ref().expect("forward of the same operation made it");
        OpMany::vjp(self, Kept { name, inputs, outputs, aux }, dy, needs)
    }
}

/// An [`Op`] as an [`OpMany`].
#[derive(Debug)]
struct Fixed<O, const N: usize>(O);

impl<O: Op<N>, const N: usize> OpMany for Fixed<O, N> {
    const NAME: &'static str = O::NAME;
    const HALF: bool = O::HALF;
    type Aux = O::Aux;

    fn keeps(&self, i: usize) -> Keep {
        O::KEEPS[i]
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, O::Aux)> {
        let x = x.try_into().expect("apply passes N operands");
        self.0.forward(x).map(|(y, aux)| (vec![y], aux))
    }

    fn vjp(
        &self,
        kept: Kept<'_, O::Aux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let dy = dy[0].as_ref().expect("the only output is the one that was used");
        let needs = needs.try_into().expect("apply passed N operands");
        let gradients = self.0.vjp(kept, dy, needs)?;
        Ok(gradients.into_iter().map(|gradient| gradient.map(Gradient::Whole)).collect())
    }
}

/// An operation that was applied, and what its vjp needs.
struct Recorded {
    op: Box<dyn Erased>,
    inputs: Vec<Input>,
    /// Values only: a variable would own its node, which owns this.
    outputs: Vec<Option<Tensor>>,
    aux: AnyAux,
}

impl Record for Recorded {
    fn backward(&self, node: &Arc<Node>, dy: &[Option<Var>], walk: &mut Walk) -> Result<()> {
        let variable = |(output, value): (usize, &Option<Tensor>)| {
            let edge = Edge { node: node.clone(), output };
            Some(Var::with_edge(value.clone()?, Some(edge)))
        };
        let outputs: Vec<_> = self.outputs.iter().enumerate().map(variable).collect();
        let (inputs, outputs) = (&self.inputs[..], &outputs[..]);
        let kept = Kept { name: node.name(), inputs, outputs, aux: &self.aux };
        let needs: Vec<bool> = node.inputs().iter().map(Option::is_some).collect();
        let gradients = self.op.vjp(kept, dy, &needs)?;
        for (i, (edge, gradient)) in node.inputs().iter().zip(gradients).enumerate() {
            if let (Some(edge), Some(gradient)) = (edge, gradient) {
                self.check(i, &gradient)?;
                walk.send(edge, self.differentiable(i, gradient, dy))?;
            }
        }
        Ok(())
    }
}

impl Recorded {
    /// The error of a vjp whose answer for input `i` cannot be its gradient.
    fn check(&self, i: usize, gradient: &Gradient) -> Result<()> {
        let Input { shape, dtype, .. } = &self.inputs[i];
        let (var, fits) = match gradient {
            Gradient::Whole(var) => (var, var.shape() == shape),
            Gradient::Part { part, shape: whole, .. } => (part, whole == shape),
        };
        if fits && var.dtype() == compute_dtype(*dtype) {
            return Ok(());
        }
        Err(Error::shape(
            self.op.name(),
            format!("its vjp is wrong: the gradient is not like input {i}"),
        )
        .operand("input", (shape, dtype.name()))
        .operand("gradient", var))
    }

    /// With the pass itself recorded: if the vjp's answer is a constant although something that
    /// it was computed from is not, differentiating it again must fail rather than give zero.
    fn differentiable(&self, i: usize, gradient: Gradient, dy: &[Option<Var>]) -> Gradient {
        let keep = self.op.keeps(i);
        let varies = || {
            dy.iter().flatten().any(Var::is_tracked)
                || keep.has_y()
                || self.inputs.iter().enumerate().any(|(k, input)| {
                    keep.has_x(k) && input.var.as_ref().is_some_and(Var::is_tracked)
                })
        };
        match gradient {
            Gradient::Whole(dx) if scope::is_recording() && !dx.is_tracked() && varies() => {
                Gradient::Whole(once(self.op.name(), dx))
            }
            Gradient::Part { part, shape, axis, start }
                if scope::is_recording() && !part.is_tracked() && varies() =>
            {
                Gradient::Part { part: once(self.op.name(), part), shape, axis, start }
            }
            gradient => gradient,
        }
    }
}

/// A value that cannot be differentiated: a backward pass that reaches it fails.
fn once(name: &'static str, value: Var) -> Var {
    struct Once(&'static str);
    impl Record for Once {
        fn backward(&self, _: &Arc<Node>, _: &[Option<Var>], _: &mut Walk) -> Result<()> {
            Err(Error::once_differentiable(self.0))
        }
    }
    let node = Node::operation(name, Vec::new(), 1, Box::new(Once(name)));
    Var::with_edge(value.into_value(), Some(Edge { node, output: 0 }))
}
