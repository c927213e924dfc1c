//! The gradients that a backward pass found.

use std::collections::HashMap;

use tensor::{Result, Tensor};

use super::gradient::{Gradient, Product};
use super::{Key, key};
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
    values: HashMap<Key, Value>,
    /// With `create_graph`: the gradients as variables.
    vars: HashMap<Key, Var>,
}

/// How a gradient is kept.
#[derive(Debug)]
enum Value {
    Whole(Tensor),
    Product(Product),
}

impl Grads {
    /// The gradient of a variable; `None` if the pass did not reach it, or if it is neither a
    /// parameter nor was asked for.
    ///
    /// Cost: none, or the [product](Gradient::product) it is kept as, at every call.
    pub fn get(&self, var: &Var) -> Option<Tensor> {
        Some(match self.values.get(&key(var.edge()?))? {
            Value::Whole(tensor) => tensor.clone(),
            Value::Product(product) => product.whole(),
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
        self.values.insert(key, Value::Whole(gradient.into_value()));
    }

    /// Adds what a parameter is sent to what it was sent before.
    pub(super) fn add(&mut self, edge: &Edge, gradient: Gradient) -> Result<()> {
        let key = key(edge);
        let product = match (self.values.get(&key), gradient) {
            (None, Gradient::Product(new)) => Ok(new),
            (Some(Value::Product(before)), Gradient::Product(new)) => {
                before.plus(&new).ok_or(Gradient::Product(new))
            }
            (_, gradient) => Err(gradient),
        };
        match product {
            Ok(product) => {
                self.values.insert(key, Value::Product(product));
            }
            Err(gradient) => {
                let before = self.take(key);
                self.report(key, gradient.joined(before, edge.output)?);
            }
        }
        Ok(())
    }

    /// What was reported so far, to be added to.
    fn take(&mut self, key: Key) -> Option<Var> {
        let value = self.values.remove(&key).map(|value| match value {
            Value::Whole(tensor) => tensor,
            Value::Product(product) => product.whole(),
        });
        self.vars.remove(&key).or_else(|| value.map(Var::constant))
    }
}
