//! Running an operation on variables, and remembering what its vjp needs.
//!
//! An operation's type is forgotten here: the graph holds [`Recorded`] applications, whatever they
//! are of, and everything that does not depend on the operation is compiled once.

use std::any::Any;
use std::panic::Location;
use std::sync::Arc;

use tensor::{DType, Error, Result, Tensor};

use crate::backward::{Gradient, Walk, compute_dtype};
use crate::node::{Edge, Node, Origin, Record};
use crate::op::{Input, Keep, Kept, Op, OpMany};
use crate::profile::{Pass, Run, bytes_of, measured};
use crate::saved::{Aux, Held, Role};
use crate::{Var, anomaly, no_grad, scope};

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
    let is_made_again = |&i: &usize| edges[i].as_ref().is_some_and(|edge| edge.node.makes_again());
    // Nothing is made again of what is made again: no chain of them can grow.
    let is_kept = |from: &Keep| !(0..x.len()).filter(is_made_again).any(|i| from.has_x(i));
    let from = op.again_from().filter(is_kept);
    let keeps = (0..x.len())
        .filter(|&i| x[i].is_tracked())
        .fold(from.unwrap_or(Keep::NOTHING), |all, i| all.and(op.keeps(i)));
    let again: Vec<usize> =
        (0..x.len()).filter(|&i| keeps.has_x(i)).filter(is_made_again).collect();
    let inputs = x.into_iter().enumerate().map(|(i, x)| Input {
        shape: *x.shape(),
        dtype: x.dtype(),
        var: (keeps.has_x(i) && !again.contains(&i)).then(|| x.snapshot()),
    });
    let inputs = inputs.collect();
    let outputs = y.iter().map(|y| keeps.has_y().then(|| y.clone())).collect();
    let origin = Origin::new(op.name(), caller);
    let makes_again = from.is_some();
    let record = Box::new(Recorded { op, inputs, again, makes_again, outputs, aux });
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
trait Erased: Send {
    fn name(&self) -> &'static str;
    fn runs_on_cuda(&self) -> bool;
    fn reads_half(&self) -> bool;
    fn is_twice_differentiable(&self) -> bool;
    fn keeps(&self, i: usize) -> Keep;
    fn again_from(&self) -> Option<Keep>;
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
        let Kept { name, inputs, outputs, aux } = self;
        let aux: &dyn Any = aux;
        let aux = aux.downcast_ref().expect("forward of the same operation made it");
        Kept { name, inputs, outputs, aux }
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

/// An operation that was applied, and what its vjp needs.
struct Recorded {
    op: Box<dyn Erased>,
    inputs: Vec<Input>,
    /// Inputs that are not kept: the nodes they came from make them again.
    again: Vec<usize>,
    /// Whether the outputs can be made again.
    makes_again: bool,
    /// Values only: a variable would own its node, which owns this.
    outputs: Vec<Option<Tensor>>,
    aux: Box<dyn Aux>,
}

impl Record for Recorded {
    fn backward(&self, node: &Arc<Node>, dy: &[Option<Var>], walk: &mut Walk) -> Result<()> {
        let variable = |(output, value): (usize, &Option<Tensor>)| {
            let edge = Edge { node: node.clone(), output };
            Some(Var::with_edge(value.clone()?, Some(edge)))
        };
        let outputs: Vec<_> = self.outputs.iter().enumerate().map(variable).collect();
        let inputs = self.inputs_at_hand(node)?;
        let (inputs, outputs) = (&inputs[..], &outputs[..]);
        let kept = Kept { name: node.name(), inputs, outputs, aux: &*self.aux };
        let needs: Vec<bool> = node.inputs().iter().map(Option::is_some).collect();
        let only_once = scope::is_recording() && !self.op.is_twice_differentiable();
        let vjp = || self.op.vjp(kept, dy, &needs);
        let vjp = || if only_once { no_grad(vjp) } else { vjp() };
        let gradients = measured(vjp, |gradients| self.about(inputs, dy, gradients))?;
        if anomaly::is_watching() {
            self.check_finite(inputs, dy, &gradients)?;
        }
        for (i, (edge, gradient)) in node.inputs().iter().zip(gradients).enumerate() {
            if let (Some(edge), Some(gradient)) = (edge, gradient) {
                self.check(i, &gradient)?;
                let sealed = |dx: Var| if only_once { once(node, dx) } else { dx };
                walk.send(edge, gradient.map(sealed))?;
            }
        }
        Ok(())
    }

    fn saved(&self, see: &mut dyn FnMut(Role, Held<'_>)) {
        for (i, input) in self.inputs.iter().enumerate() {
            if let Some(var) = &input.var {
                see(Role::Input(i), Held::Var(var));
            }
        }
        for (i, output) in self.outputs.iter().enumerate() {
            if let Some(output) = output {
                see(Role::Output(i), Held::Memory(output.buffer()));
            }
        }
        self.aux.memory(&mut |memory| see(Role::Aux, Held::Memory(memory)));
    }

    fn makes_again(&self) -> bool {
        self.makes_again
    }

    fn again(&self, node: &Node) -> Result<Vec<Tensor>> {
        let inputs = &self.inputs[..];
        let kept = Kept { name: node.name(), inputs, outputs: &[], aux: &*self.aux };
        measured(
            || self.op.again(kept),
            |result| {
                let kept = inputs.iter().filter_map(|input| input.var.as_ref());
                let kept: Vec<_> = kept.map(Var::value).collect();
                self.run(Pass::Forward, bytes_of(kept.iter().chain(result.iter().flatten())))
            },
        )
    }
}

impl Recorded {
    /// The inputs that the vjp needs, those made again among them.
    fn inputs_at_hand(&self, node: &Node) -> Result<Vec<Input>> {
        let mut inputs = self.inputs.clone();
        for &i in &self.again {
            let edge = node.inputs()[i].as_ref().expect("what is made again has a node");
            let value = edge.node.again(edge.output)?;
            inputs[i].var = Some(Var::with_edge(value, Some(edge.clone())));
        }
        Ok(inputs)
    }

    /// What a profile says of a run on these inputs.
    fn run(&self, pass: Pass, bytes: usize) -> Run {
        let shapes = self.inputs.iter().map(|input| input.shape).collect();
        Run { op: self.op.name(), pass, shapes, bytes }
    }

    /// What a profile says of a vjp.
    fn about(
        &self,
        inputs: &[Input],
        dy: &[Option<Var>],
        gradients: &Result<Vec<Option<Gradient>>>,
    ) -> Run {
        let kept = inputs.iter().filter_map(|input| input.var.as_ref());
        let made = gradients.iter().flatten().flatten().map(Gradient::var);
        let values: Vec<_> = dy.iter().flatten().chain(kept).chain(made).map(Var::value).collect();
        self.run(Pass::Vjp, bytes_of(values.iter().chain(self.outputs.iter().flatten())))
    }

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

    /// The error of a vjp that makes a NaN or an infinity of numbers.
    fn check_finite(
        &self,
        inputs: &[Input],
        dy: &[Option<Var>],
        gradients: &[Option<Gradient>],
    ) -> Result<()> {
        let (mut from, mut made) = (Vec::new(), Vec::new());
        for (i, dy) in dy.iter().enumerate() {
            from.extend(dy.as_ref().map(|dy| (Role::OutputGradient(i), dy.value())));
        }
        for (i, input) in inputs.iter().enumerate() {
            from.extend(input.var.as_ref().map(|x| (Role::Input(i), x.value())));
        }
        for (i, output) in self.outputs.iter().enumerate() {
            from.extend(output.as_ref().map(|y| (Role::Output(i), y.clone())));
        }
        for (i, gradient) in gradients.iter().enumerate() {
            made.extend(gradient.as_ref().map(|dx| (Role::InputGradient(i), dx.var().value())));
        }
        anomaly::check(self.op.name(), &made, &from)
    }
}

/// The gradient that a once differentiable operation at `node` answered: a backward pass that
/// reaches it fails, rather than take it for a constant.
fn once(node: &Node, gradient: Var) -> Var {
    struct Once;
    impl Record for Once {
        fn backward(&self, node: &Arc<Node>, _: &[Option<Var>], _: &mut Walk) -> Result<()> {
            Err(Error::once_differentiable(node.name()))
        }

        fn saved(&self, _: &mut dyn FnMut(Role, Held<'_>)) {}
    }
    let node = Node::operation(node.origin().clone(), Vec::new(), 1, Box::new(Once));
    Var::with_edge(gradient.into_value(), Some(Edge { node, output: 0 }))
}
