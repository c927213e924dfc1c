//! The gradients that a backward pass found.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tensor::{Result, Tensor};

use super::gradient::Gradient;
use super::product::{Product, sum_squares};
use super::{Key, Pending, key};
use crate::Var;
use crate::node::Edge;
use crate::scope::is_recording;

/// The gradients that a backward pass found: of every parameter it reached, and of the variables
/// that were asked for.
///
/// That of weights which few rows went through is kept as the two tensors that it is the
/// [product](Gradient::product) of.
#[derive(Debug, Default)]
pub struct Grads {
    values: HashMap<Key, Sum>,
    /// With `create_graph`: the gradients as variables.
    vars: HashMap<Key, Var>,
}

/// A sum of gradients.
#[derive(Debug)]
pub(super) enum Sum {
    Whole(Var),
    Product(Product),
}

impl Sum {
    pub(super) fn into_var(self) -> Var {
        match self {
            Self::Whole(var) => var,
            Self::Product(product) => Var::constant(product.whole()),
        }
    }
}

impl Grads {
    /// The gradient of a variable; `None` if the pass did not reach it, or if it is neither a
    /// parameter nor was asked for.
    ///
    /// Cost: none, or the [product](Gradient::product) it is kept as, at every call.
    pub fn get(&self, var: &Var) -> Option<Tensor> {
        Some(match self.values.get(&key(var.edge()?))? {
            Sum::Whole(var) => var.value(),
            Sum::Product(product) => product.whole(),
        })
    }

    /// Σ g² of the gradient of a variable in this machine's memory; `None` as for
    /// [`get`](Self::get).
    pub(crate) fn sum_squares(&self, var: &Var) -> Option<Result<f64>> {
        Some(match self.values.get(&key(var.edge()?))? {
            Sum::Whole(var) => sum_squares(&var.value()),
            Sum::Product(product) => product.sum_squares(),
        })
    }

    /// The gradient of a variable as something to differentiate again; `None` as for
    /// [`get`](Self::get), and without [`Backward::create_graph`](super::Backward::create_graph).
    pub fn get_var(&self, var: &Var) -> Option<&Var> {
        self.vars.get(&key(var.edge()?))
    }

    /// Forgets the variables: from now on what they held are values.
    pub(super) fn forget_vars(&mut self) {
        self.vars.clear();
    }

    /// Reports the gradient of an output of an operation.
    pub(super) fn report(&mut self, key: Key, gradient: Var) {
        if is_recording() {
            self.vars.insert(key, gradient.clone());
        }
        self.values.insert(key, Sum::Whole(Var::constant(gradient.into_value())));
    }

    /// Adds what a parameter is sent to what it was sent before.
    pub(super) fn add(&mut self, edge: &Edge, gradient: Gradient) -> Result<()> {
        let key = key(edge);
        let product = match (self.values.get(&key), gradient) {
            (_, gradient) if is_recording() => Err(gradient),
            (None, Gradient::Product(new)) => Ok(new),
            (Some(Sum::Product(before)), Gradient::Product(new)) => {
                before.plus(&new).ok_or(Gradient::Product(new))
            }
            (_, gradient) => Err(gradient),
        };
        match product {
            Ok(product) => {
                self.values.insert(key, Sum::Product(product));
            }
            Err(gradient) => {
                let before = self.take(key);
                self.report(key, gradient.joined(before, edge.output)?);
            }
        }
        Ok(())
    }

    /// What was reported so far, to be added to.
    fn take(&mut self, key: Key) -> Option<Sum> {
        let value = self.values.remove(&key);
        self.vars.remove(&key).map(Sum::Whole).or(value)
    }
}

/// The gradients that a vjp may add to where they are.
pub(crate) struct Before<'a> {
    /// Those of outputs of operations, and of parameters.
    so_far: Mutex<(&'a mut HashMap<u64, Pending>, &'a mut Grads)>,
    /// Where the inputs come from.
    inputs: &'a [Option<Edge>],
}

impl<'a> Before<'a> {
    pub(super) fn new(
        pending: &'a mut HashMap<u64, Pending>,
        grads: &'a mut Grads,
        inputs: &'a [Option<Edge>],
    ) -> Self {
        Self { so_far: Mutex::new((pending, grads)), inputs }
    }

    /// Takes that of input `i`, if it is of no other input, nobody else has it, and it lies in this
    /// machine's memory as it is.
    pub(crate) fn take(&self, i: usize) -> Option<Tensor> {
        let edge = self.inputs[i].as_ref()?;
        if self.inputs.iter().flatten().filter(|other| key(other) == key(edge)).count() > 1 {
            return None;
        }
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let (pending, grads) = &mut *so_far;
        if !edge.node.is_leaf() {
            let slot = &mut pending.get_mut(&edge.node.id())?.gradients[edge.output];
            return alone(slot.take()?).map_err(|shared| *slot = Some(shared)).ok();
        }
        let other = match grads.values.remove(&key(edge))? {
            Sum::Whole(var) => match alone(var) {
                Ok(sum) => return Some(sum),
                Err(shared) => Sum::Whole(shared),
            },
            product => product,
        };
        grads.values.insert(key(edge), other);
        None
    }
}

/// A gradient to be written to: one that nobody else has and that lies in this machine's memory as
/// it is.
fn alone(gradient: Var) -> std::result::Result<Tensor, Var> {
    let sum = gradient.into_value();
    if sum.is_unshared() && sum.is_contiguous() && sum.cuda().is_none() {
        Ok(sum)
    } else {
        Err(Var::constant(sum))
    }
}
