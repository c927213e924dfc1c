//! `Var`: a tensor that remembers how it was made.
//!
//! A `Var` is a value and, if gradients may be asked of it, an edge to the graph node that made
//! it. Nodes own the nodes they came from, and nothing owns a node but the `Var`s and nodes made
//! from it: when the last of them is dropped the graph is gone. A `Var` without an edge is a
//! constant and records nothing, so that inference is the same code as training.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, PoisonError, RwLock};

use tensor::{DType, Device, Error, Operand, Result, Shape, Tensor};

use crate::node::{Edge, Node};

/// A tensor that remembers how it was made. Cloning is cheap and gives the same variable.
///
/// ```
/// use autograd::Var;
/// use tensor::Tensor;
/// # fn main() -> tensor::Result<()> {
/// let x = Var::parameter(Tensor::from_vec(vec![1.0, 2.0, 3.0], [3])?);
/// let loss = x.square()?.sum_all()?;
/// let grads = loss.backward()?;
/// assert_eq!(grads.get(&x).unwrap().to_f64_vec(), [2.0, 4.0, 6.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Var(Arc<Inner>);

struct Inner {
    shape: Shape,
    dtype: DType,
    /// Written for parameters only, by the optimiser; a graph keeps [snapshots](Var::snapshot).
    value: RwLock<Tensor>,
    edge: Option<Edge>,
}

impl Var {
    /// A value that no gradient is asked of.
    pub fn constant(value: Tensor) -> Self {
        Self::with_edge(value, None)
    }

    /// A leaf of the graph: something to learn. Every backward pass that reaches it reports its
    /// gradient, and [`set_value`](Self::set_value) may change it.
    ///
    /// # Panics
    /// If the elements are not floating-point numbers.
    #[track_caller]
    pub fn parameter(value: Tensor) -> Self {
        assert!(value.dtype().is_float(), "{} elements have no gradient", value.dtype());
        let node = Node::leaf(Location::caller());
        Self::with_edge(value, Some(Edge { node, output: 0 }))
    }

    pub(crate) fn with_edge(value: Tensor, edge: Option<Edge>) -> Self {
        let (shape, dtype) = (*value.shape(), value.dtype());
        Self(Arc::new(Inner { shape, dtype, value: RwLock::new(value), edge }))
    }

    pub(crate) fn edge(&self) -> Option<&Edge> {
        self.0.edge.as_ref()
    }

    /// The value. Cheap: tensors share their elements.
    pub fn value(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The value, without sharing it if this was the variable's last handle.
    pub(crate) fn into_value(self) -> Tensor {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => inner.value.into_inner().unwrap_or_else(PoisonError::into_inner),
            Err(shared) => Self(shared).value(),
        }
    }

    /// The same variable with the value it has now, whatever a parameter's will be: what a graph
    /// keeps of it.
    pub(crate) fn snapshot(&self) -> Self {
        match self.is_parameter() {
            true => Self::with_edge(self.value(), self.edge().cloned()),
            false => self.clone(),
        }
    }

    /// Gives a parameter another value; graphs made before keep the old one. (What the closure of a
    /// [`checkpoint`](crate::checkpoint()) has captured is read when that runs again.)
    ///
    /// Errors: not a parameter; another shape or element type.
    #[track_caller]
    pub fn set_value(&self, value: Tensor) -> Result<()> {
        if value.shape() != self.shape() || value.dtype() != self.dtype() {
            return Err(Error::shape("set_value", "the new value is not like the old one")
                .operand("old", self)
                .operand("new", &value));
        }
        self.update(|old| *old = value)
    }

    /// Changes a parameter's value in place, or a copy of it where a graph still needs the old.
    ///
    /// Errors: not a parameter.
    #[track_caller]
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut Tensor) -> R) -> Result<R> {
        if !self.is_parameter() {
            return Err(Error::value("set_value", "only parameters change")
                .operand("variable", self)
                .note("make it with Var::parameter"));
        }
        Ok(change(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The lengths of the axes.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The lengths of the axes, for destructuring: `let [batch, tokens, width] = x.dims()?`.
    ///
    /// Errors: the variable has not `N` axes.
    #[track_caller]
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        match <[usize; N]>::try_from(&**self.shape()) {
            Ok(lengths) => Ok(lengths),
            Err(_) => Err(Error::shape("dims", format!("expected {N} axes"))
                .operand("input", (self, format!("{} axes", self.rank())))),
        }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.0.shape.rank()
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.0.shape.numel()
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Where the elements lie.
    pub fn device(&self) -> Device {
        self.value().device()
    }

    /// The only element, as `f64`.
    ///
    /// Errors: there is not exactly one.
    #[track_caller]
    pub fn item(&self) -> Result<f64> {
        self.value().item()
    }

    /// Whether a backward pass would give a gradient to this variable or go on through it.
    pub fn is_tracked(&self) -> bool {
        self.0.edge.is_some()
    }

    /// Whether this is a leaf made by [`parameter`](Self::parameter).
    pub fn is_parameter(&self) -> bool {
        self.edge().is_some_and(|edge| edge.node.is_leaf())
    }

    /// The number of the graph node that made this variable: larger for younger ones; `None` for
    /// a constant.
    pub fn id(&self) -> Option<u64> {
        self.edge().map(|edge| edge.node.id())
    }

    /// The same value as a constant.
    pub fn detach(&self) -> Self {
        if self.is_tracked() { Self::constant(self.value()) } else { self.clone() }
    }
}

impl From<Tensor> for Var {
    fn from(value: Tensor) -> Self {
        Self::constant(value)
    }
}

impl From<&Var> for Operand {
    fn from(var: &Var) -> Self {
        Self::from(&var.value())
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.edge().map_or("constant", |edge| edge.node.name());
        write!(f, "Var({} {} by {origin})", self.shape(), self.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_change_and_others_do_not() {
        let x = Var::parameter(Tensor::zeros([2], DType::F32));
        let before = x.value();
        x.set_value(Tensor::ones([2], DType::F32)).unwrap();
        assert_eq!((before.to_f64_vec()[0], x.value().to_f64_vec()[0]), (0.0, 1.0));
        assert!(x.set_value(Tensor::ones([3], DType::F32)).is_err());
        assert!(x.set_value(Tensor::ones([2], DType::F64)).is_err());
        assert!(x.detach().set_value(before).is_err());
    }

    /// Also what is made again, and what a checkpoint was given.
    #[test]
    fn graphs_keep_the_values_they_were_made_with() {
        let parameter = |x: f64| Var::parameter(Tensor::full([2], x, DType::F64));
        let graphs: [fn(&Var) -> Result<Var>; 3] = [
            |w| w.square(),
            |w| {
                let rows = Var::constant(Tensor::from_vec(vec![3.0, 4.0], [1, 2])?);
                rows.rms_norm(w, 1e-6)?.square()
            },
            |w| Ok(crate::checkpoint([w], |[w]| Ok([w.square()?.mul(&w)?]))?[0].clone()),
        ];
        for (i, graph) in graphs.iter().enumerate() {
            let slope = |later: f64| {
                let w = parameter(2.0);
                let loss = graph(&w).unwrap().sum_all().unwrap();
                w.set_value(Tensor::full([2], later, DType::F64)).unwrap();
                loss.backward().unwrap().get(&w).unwrap().to_f64_vec()
            };
            assert_eq!(slope(2.0), slope(3.0), "graph {i}");
        }
        let (w, seed) = (parameter(2.0), Tensor::ones([2], DType::F64));
        let y = w.square().unwrap();
        w.set_value(Tensor::full([2], 3.0, DType::F64)).unwrap();
        let grads = crate::backward_with(&[(y, seed)]).unwrap();
        assert_eq!(grads.get(&w).unwrap().to_f64_vec(), [4.0; 2]);
    }

    /// A step in place: a graph's snapshots are gone with the pass that went through it.
    #[test]
    fn a_parameter_is_copied_for_a_living_graph_only() {
        let w = Var::parameter(Tensor::ones([2, 2], DType::F32));
        let place = |w: &Var| w.value().buffer().start;
        let change = |w: &Var| w.update(|p| p.slice_mut::<f32>().map(|p| p[0] = 2.0)).unwrap();
        let before = place(&w);
        let loss = w.square().unwrap().sum_all().unwrap();
        loss.backward().unwrap();
        change(&w).unwrap();
        assert_eq!(place(&w), before, "loss is alive, and its graph has been freed");
        let _alive = w.square().unwrap();
        change(&w).unwrap();
        assert_ne!(place(&w), before);
    }

    #[test]
    fn handles_are_the_same_variable() {
        let x = Var::parameter(Tensor::zeros([2, 3], DType::F32));
        assert_eq!(x.clone().id(), x.id());
        assert_eq!((x.is_tracked(), x.detach().is_tracked()), (true, false));
        assert_eq!(x.dims().unwrap(), [2, 3]);
        assert!(x.dims::<3>().is_err());
    }
}
