//! What an operation is: a forward pass and a vjp, in one value.
//!
//! An operation is a struct of its parameters with an [`Op`] impl. [`apply`](crate::apply()) runs
//! it on variables; if one of them is tracked (and recording is on) the result is tracked too, and
//! remembers what the vjp will need. Writing an operation takes one file in `ops/`:
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
//!     const TWICE: bool = true;
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
//! * `vjp` speaks [`Var`]. Made of differentiable operations of what is kept, like the one above,
//!   it gives second derivatives under
//!   [`Backward::create_graph`](crate::Backward::create_graph): [`Op::TWICE`] says so. A fused one
//!   works on `value()`s, answers `Var::constant(dx)` and leaves `TWICE` alone: whoever
//!   differentiates that again gets `Err(OnceDifferentiable)`, never a zero.
//! * `bf16` and `f16` operands arrive as `f32` unless [`Op::HALF`] says that the operation reads
//!   them itself. Gradients of halves are `f32`.
//! * On a GPU an operation runs if it says so by [`Op::CUDA`]; operands then lie on one device.
//!   Where it would call a kernel of the CPU's it asks a tensor for its [`cuda`](Tensor::cuda) and
//!   [launches](tensor::Cuda::kernel) one of the GPU's. A vjp made of other operations needs nothing
//!   more. Nothing is computed on the CPU in a GPU's place.
//! * What costs little to make, [`Op::AGAIN`], nobody keeps: it is made again for the vjp that needs
//!   it.
//! * Any number of operands, several outputs, or a gradient that is part of a tensor: [`OpMany`].

use std::fmt::Debug;

use tensor::{DType, Result, Shape, Tensor};

use crate::backward::{Before, Gradient};
use crate::{Aux, Var};

/// A differentiable operation of `N` inputs and one output.
pub trait Op<const N: usize>: Debug + Send + 'static {
    /// Lower-case name, as errors print it.
    const NAME: &'static str;
    /// For each input, what its gradient is computed from, and so what outlives the forward pass
    /// if that gradient is wanted. The shapes of inputs, and `Aux`, are always kept.
    const KEEPS: [Keep; N];
    /// Whether half-precision inputs reach [`forward`](Self::forward) as they are.
    const HALF: bool = false;
    /// Whether the vjp is made of differentiable operations on what was kept and on ȳ, so that it
    /// has a derivative in turn. If not, whoever asks for one gets `Err(OnceDifferentiable)`.
    const TWICE: bool = false;
    /// Whether forward pass and vjp take operands in a GPU's memory too; if not, whoever applies it
    /// to some gets an error.
    const CUDA: bool = false;
    /// Whether running [`forward`](Self::forward) once more is cheap beside keeping what it gives.
    /// Then all inputs are kept, but those that are made again of what is kept, and an operation
    /// whose vjp needs the output has it made again.
    const AGAIN: bool = false;
    /// What the forward pass leaves behind for the backward pass: statistics of rows, or `()`.
    type Aux: Aux;

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
    /// Whether the vjp is made of differentiable operations on what was kept and on ȳ, so that it
    /// has a derivative in turn. If not, whoever asks for one gets `Err(OnceDifferentiable)`.
    const TWICE: bool = false;
    /// Whether forward pass and vjp take operands in a GPU's memory too; if not, whoever applies it
    /// to some gets an error.
    const CUDA: bool = false;
    /// The longest chain of operations that may make the outputs again: with 1 they are made of what
    /// is kept, with 2 also of what is made again of that. A sum that becomes a part of the next one,
    /// as a residual stream does, has to end its chain at 1: another would be the whole network.
    const AGAIN_DEPTH: usize = 1;
    /// What the forward pass leaves behind for the backward pass.
    type Aux: Aux;

    /// What the gradient of input `i` is computed from.
    fn keeps(&self, i: usize) -> Keep;

    /// The inputs that [`again`](Self::again) needs, where that is cheap beside keeping the outputs:
    /// they are at hand in any case, and an operation whose vjp needs an output has it made again.
    fn again_from(&self) -> Option<Keep> {
        None
    }

    /// The outputs, and what the vjp needs besides inputs and outputs.
    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Self::Aux)>;

    /// The outputs once more, to the last bit, from what was kept.
    fn again(&self, kept: Kept<'_, Self::Aux>) -> Result<Vec<Tensor>> {
        unreachable!("{} is not made again", kept.name)
    }

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

    /// How many inputs there may be for each to be kept.
    pub const MOST: usize = 63;

    /// Input `i`, one of the first [`MOST`](Self::MOST).
    pub const fn x(i: usize) -> Self {
        assert!(i < Self::MOST, "only one of the first 63 inputs can be kept");
        Self(1 << i)
    }

    /// What either of two names.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn has_x(self, i: usize) -> bool {
        i < Self::MOST && self.0 & (1 << i) != 0
    }

    pub(crate) const fn has_y(self) -> bool {
        self.0 & Self::Y.0 != 0
    }
}

/// What outlived the forward pass.
pub struct Kept<'a, A: ?Sized> {
    pub(crate) name: &'static str,
    pub(crate) inputs: &'a [Input],
    pub(crate) outputs: &'a [Option<Var>],
    /// In a vjp that nobody records, watches or lists.
    pub(crate) before: Option<&'a Before<'a>>,
    /// What the forward pass left behind.
    pub aux: &'a A,
}

impl<A: ?Sized> Clone for Kept<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: ?Sized> Copy for Kept<'_, A> {}

impl<'a, A: ?Sized> Kept<'a, A> {
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

    /// Takes what the gradient of input `i` is so far, to be added to where it is: the vjp's answer
    /// is the sum, and an error loses it. `None` if nothing has arrived, somebody else has it too,
    /// it is another input's as well, not whole or not in this machine's memory, or the pass is
    /// recorded, watched or listed.
    pub(crate) fn take_before(&self, i: usize) -> Option<Tensor> {
        self.before?.take(i)
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
#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
    pub(crate) var: Option<Var>,
}
