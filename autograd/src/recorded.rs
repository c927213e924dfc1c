//! An application of an operation as the graph holds it: what its vjp needs, and its way back.

use std::sync::Arc;

use tensor::{Error, Result, Tensor};

use crate::apply::Erased;
use crate::backward::{Gradient, Walk, compute_dtype};
use crate::node::{Edge, Node, Record};
use crate::op::{Input, Kept};
use crate::profile::{Pass, Run, bytes_of, lists_events, measured};
use crate::saved::{Aux, Held, Role};
use crate::{Var, anomaly, no_grad, scope};

/// An operation that was applied, and what its vjp needs.
pub(crate) struct Recorded {
    pub(crate) op: Box<dyn Erased>,
    pub(crate) inputs: Vec<Input>,
    /// Inputs that are not kept: the nodes they came from make them again.
    pub(crate) again: Vec<usize>,
    /// See [`Record::again_depth`].
    pub(crate) depth: usize,
    /// Values only: a variable would own its node, which owns this.
    pub(crate) outputs: Vec<Option<Tensor>>,
    pub(crate) aux: Box<dyn Aux>,
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
        let is_seen = scope::is_recording() || anomaly::is_watching() || lists_events();
        let before = (!is_seen).then(|| walk.before(node.inputs()));
        let before = before.as_ref();
        let kept = Kept { name: node.name(), inputs, outputs, before, aux: &*self.aux };
        let needs: Vec<bool> = node.inputs().iter().map(Option::is_some).collect();
        let only_once = scope::is_recording() && !self.op.is_twice_differentiable();
        let is_kept = |edge: &Option<Edge>| edge.as_ref().is_none_or(|edge| edge.node.is_leaf());
        let vjp = || {
            let gradients = self.op.vjp(kept, dy, &needs)?.into_iter().zip(node.inputs());
            // Only parameters keep products; whoever passes a gradient on needs it.
            let made = gradients.map(|(gradient, edge)| match is_kept(edge) {
                true => gradient,
                false => gradient.map(Gradient::made),
            });
            Ok(made.collect::<Vec<_>>())
        };
        let vjp = || if only_once { no_grad(vjp) } else { vjp() };
        let gradients = measured(vjp, |gradients| self.about(inputs, dy, gradients))?;
        if anomaly::is_watching() {
            self.check_finite(inputs, dy, &gradients)?;
        }
        for (i, (edge, gradient)) in node.inputs().iter().zip(gradients).enumerate() {
            if let (Some(edge), Some(gradient)) = (edge, gradient) {
                self.check(i, &gradient)?;
                let gradient = match only_once {
                    true => gradient.map(|dx| once(node, dx)),
                    false => gradient,
                };
                walk.send(edge, gradient)?;
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

    fn again_depth(&self) -> usize {
        self.depth
    }

    fn again(&self, node: &Node) -> Result<Vec<Tensor>> {
        let inputs = &self.inputs_at_hand(node)?[..];
        let (name, aux) = (node.name(), &*self.aux);
        let kept = Kept { name, inputs, outputs: &[], before: None, aux };
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
        let made = gradients.iter().flatten().flatten().flat_map(Gradient::values);
        let values = dy.iter().flatten().chain(kept).map(Var::value).chain(made);
        let values: Vec<_> = values.collect();
        self.run(Pass::Vjp, bytes_of(values.iter().chain(self.outputs.iter().flatten())))
    }

    /// The error of a vjp whose answer for input `i` cannot be its gradient.
    fn check(&self, i: usize, gradient: &Gradient) -> Result<()> {
        let Input { shape, dtype, .. } = &self.inputs[i];
        if gradient.shape() == *shape && gradient.dtype() == compute_dtype(*dtype) {
            return Ok(());
        }
        Err(Error::shape(
            self.op.name(),
            format!("its vjp is wrong: the gradient is not like input {i}"),
        )
        .operand("input", (shape, dtype.name()))
        .operand("gradient", (&gradient.shape(), gradient.dtype().name())))
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
            let values = gradient.iter().flat_map(Gradient::values);
            made.extend(values.map(|dx| (Role::InputGradient(i), dx)));
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
