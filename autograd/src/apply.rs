//! Running an operation on variables, and remembering what its vjp needs.
//!
//! An operation's type is forgotten here: the graph holds [`Recorded`] applications, whatever they
//! are of, and everything that does not depend on the operation is compiled once.

use std::any::Any;
use std::panic::Location;

use tensor::{DType, Error, Result, Tensor};

use crate::backward::{Gradient, compute_dtype};
use crate::node::{Edge, Node, Origin};
use crate::op::{Input, Keep, Kept, Op, OpMany};
use crate::profile::{Pass, Run, bytes_of, measured};
use crate::recorded::Recorded;
use crate::saved::{Aux, Role};
use crate::{Var, anomaly, scope};

/// Runs an operation.
///
/// Errors: the operation's own; float operands that differ in element type; operands on different
/// devices, or on one that the operation does not run on.
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
    on_one_device(&*op, &values)?;
    let about = |result: &Result<(Vec<Tensor>, _)>| Run {
        op: op.name(),
        pass: Pass::Forward,
        shapes: values.iter().map(|x| *x.shape()).collect(),
        bytes: bytes_of(values.iter().chain(result.iter().flat_map(|(y, _)| y))),
    };
    let result = measured(|| op.forward(&values.iter().collect::<Vec<_>>()), about);
    let (y, aux) = result.map_err(|error| error.at(caller))?;
    if anomaly::is_watching() {
        let named = |role: fn(usize) -> Role, all: &[Tensor]| {
            all.iter().cloned().enumerate().map(|(i, x)| (role(i), x)).collect::<Vec<_>>()
        };
        let (made, from) = (named(Role::Output, &y), named(Role::Input, &values));
        anomaly::check(op.name(), &made, &from).map_err(|error| error.at(caller))?;
    }
    drop(values);
    if !scope::is_recording() || x.iter().all(|x| !x.is_tracked()) {
        return Ok(y.into_iter().map(Var::constant).collect());
    }
    let edges: Vec<_> = x.iter().map(|x| x.edge().cloned()).collect();
    let depth = |&i: &usize| edges[i].as_ref().map_or(0, |edge| edge.node.again_depth());
    let made_of = |from: Keep| (0..x.len()).filter(|&i| from.has_x(i)).map(|i| depth(&i)).max();
    let from = op.again_from().filter(|from| made_of(*from) < Some(op.again_depth()));
    let own_depth = from.map_or(0, |from| 1 + made_of(from).unwrap_or(0));
    let keeps = (0..x.len())
        .filter(|&i| x[i].is_tracked())
        .fold(from.unwrap_or(Keep::NOTHING), |all, i| all.and(op.keeps(i)));
    let again: Vec<usize> =
        (0..x.len()).filter(|&i| keeps.has_x(i)).filter(|i| depth(i) > 0).collect();
    let inputs = x.into_iter().enumerate().map(|(i, x)| Input {
        shape: *x.shape(),
        dtype: x.dtype(),
        var: (keeps.has_x(i) && !again.contains(&i)).then(|| x.snapshot()),
    });
    let inputs = inputs.collect();
    let outputs = y.iter().map(|y| keeps.has_y().then(|| y.clone())).collect();
    let origin = Origin::new(op.name(), caller);
    let record = Box::new(Recorded { op, inputs, again, depth: own_depth, outputs, aux });
    let node = Node::operation(origin, edges, y.len(), record);
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

/// Errors unless all operands lie on one device, and the operation runs there.
#[track_caller]
fn on_one_device(op: &dyn Erased, x: &[Tensor]) -> Result<()> {
    let Some(first) = x.first() else { return Ok(()) };
    if let Some(other) = x.iter().find(|x| x.cuda() != first.cuda()) {
        return Err(Error::device(op.name(), "operands on different devices")
            .operand("one", first)
            .operand("another", other)
            .note("copy one of them with to_device: nothing moves silently"));
    }
    if first.cuda().is_some() && !op.runs_on_cuda() {
        return Err(Error::device(op.name(), "this operation has no GPU kernel")
            .operand("input", first)
            .note("copy the operands with to_device(&Device::Cpu) to compute it there"));
    }
    Ok(())
}

/// An [`OpMany`] whose type has been forgotten.
pub(crate) trait Erased: Send {
    fn name(&self) -> &'static str;
    fn runs_on_cuda(&self) -> bool;
    fn reads_half(&self) -> bool;
    fn is_twice_differentiable(&self) -> bool;
    fn keeps(&self, i: usize) -> Keep;
    fn again_from(&self) -> Option<Keep>;
    fn again_depth(&self) -> usize;
    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Box<dyn Aux>)>;
    fn again(&self, kept: Kept<'_, dyn Aux>) -> Result<Vec<Tensor>>;
    fn vjp(
        &self,
        kept: Kept<'_, dyn Aux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>>;
}

impl<O: OpMany> Erased for O {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn runs_on_cuda(&self) -> bool {
        O::CUDA
    }

    fn reads_half(&self) -> bool {
        O::HALF
    }

    fn is_twice_differentiable(&self) -> bool {
        O::TWICE
    }

    fn keeps(&self, i: usize) -> Keep {
        OpMany::keeps(self, i)
    }

    fn again_from(&self) -> Option<Keep> {
        OpMany::again_from(self)
    }

    fn again_depth(&self) -> usize {
        O::AGAIN_DEPTH
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Box<dyn Aux>)> {
        let (y, aux) = OpMany::forward(self, x)?;
        Ok((y, Box::new(aux)))
    }

    fn again(&self, kept: Kept<'_, dyn Aux>) -> Result<Vec<Tensor>> {
        OpMany::again(self, kept.typed())
    }

    fn vjp(
        &self,
        kept: Kept<'_, dyn Aux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        OpMany::vjp(self, kept.typed(), dy, needs)
    }
}

impl<'a> Kept<'a, dyn Aux> {
    /// What an operation with this `Aux` left behind.
    fn typed<A: Aux>(self) -> Kept<'a, A> {
        let Kept { name, inputs, outputs, before, aux } = self;
        let aux: &dyn Any = aux;
        let aux = aux.downcast_ref().expect("forward of the same operation made it");
        Kept { name, inputs, outputs, before, aux }
    }
}

/// An [`Op`] as an [`OpMany`].
#[derive(Debug)]
struct Fixed<O, const N: usize>(O);

impl<O: Op<N>, const N: usize> OpMany for Fixed<O, N> {
    const NAME: &'static str = O::NAME;
    const HALF: bool = O::HALF;
    const TWICE: bool = O::TWICE;
    const CUDA: bool = O::CUDA;
    const AGAIN_DEPTH: usize = 2;
    type Aux = O::Aux;

    fn keeps(&self, i: usize) -> Keep {
        O::KEEPS[i]
    }

    fn again_from(&self) -> Option<Keep> {
        O::AGAIN.then(|| (0..N).fold(Keep::NOTHING, |all, i| all.and(Keep::x(i))))
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, O::Aux)> {
        let x = x.try_into().expect("apply passes N operands");
        self.0.forward(x).map(|(y, aux)| (vec![y], aux))
    }

    fn again(&self, kept: Kept<'_, O::Aux>) -> Result<Vec<Tensor>> {
        let x: [Tensor; N] = std::array::from_fn(|i| kept.x(i).value());
        self.0.forward(x.each_ref()).map(|(y, _)| vec![y])
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
