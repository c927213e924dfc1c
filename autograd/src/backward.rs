//! The backward pass: from the youngest node to the oldest, without recursion.
//!
//! A node's id is larger than those of the nodes it was made from. So a max-heap of the ids that
//! have been sent a gradient is all the order there is: the youngest one's gradient is complete,
//! because every user of it was younger still. Its operation's vjp then sends gradients on, and
//! what the operation had saved is freed. The order is fixed, and so are the bits. Parameters, where
//! the walk ends, [add up](Grads) what they are sent as it comes.

use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use tensor::{DType, Error, Result, Tensor};

use crate::Var;
use crate::node::{Edge, Node};
use crate::scope::{with_recording, within};

use grads::Sum;

mod gpu;
mod gradient;
mod grads;
mod product;

pub use gradient::Gradient;
pub(crate) use gradient::accumulate_part;
pub(crate) use grads::Before;
pub use grads::Grads;
pub(crate) use product::FEW_ROWS;
pub use product::Product;

/// A parameter, or one output of an operation, by its node's id.
type Key = (u64, usize);

fn key(edge: &Edge) -> Key {
    (edge.node.id(), edge.output)
}

impl Var {
    /// The gradients of this scalar with respect to every parameter it depends on.
    ///
    /// Frees what the graph saved, so that it can be run once; see [`Backward`] for the rest.
    ///
    /// Errors: more than one element; no parameter behind it; run before; an operation's own.
    #[track_caller]
    pub fn backward(&self) -> Result<Grads> {
        let mut grads = Grads::default();
        self.backward_into(&mut grads)?;
        Ok(grads)
    }

    /// The same, added to the gradients of other passes: those of the micro-batch before, say. Each
    /// is added as it comes, so that there never is a second set of them.
    ///
    /// Errors: as [`backward`](Self::backward); some gradients may have been added, or lost, by
    /// then.
    #[track_caller]
    pub fn backward_into(&self, grads: &mut Grads) -> Result<()> {
        if self.numel() != 1 {
            return Err(Error::shape("backward", "only a scalar has one gradient")
                .operand("output", self)
                .note("reduce it to a loss, or say with Backward::root what to weight it with"));
        }
        let seed = Tensor::ones(self.shape(), compute_dtype(self.dtype()));
        Backward::new().root(self, seed).run_into(grads)
    }
}

/// The gradient of Σ ⟨root, seed⟩ over several roots with respect to every parameter behind them.
///
/// Errors: see [`Backward::run`].
#[track_caller]
pub fn backward_with(roots: &[(Var, Tensor)]) -> Result<Grads> {
    roots.iter().fold(Backward::new(), |pass, (root, seed)| pass.root(root, seed.clone())).run()
}

/// A backward pass to be configured and run.
///
/// ```
/// use autograd::{Backward, Var};
/// use tensor::Tensor;
/// # fn main() -> tensor::Result<()> {
/// let x = Var::parameter(Tensor::from_vec(vec![3.0], [1])?);
/// let y = x.square()?.mul(&x)?;
/// let seed = Tensor::from_vec(vec![1.0], [1])?;
/// let first = Backward::new().root(&y, seed.clone()).create_graph().run()?;
/// let slope = first.get_var(&x).expect("x is a parameter");
/// let second = Backward::new().root(slope, seed).run()?;
/// assert_eq!(second.get(&x).unwrap().to_f64_vec(), [18.0]); // (x³)″ = 6x
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Backward {
    roots: Vec<(Var, Tensor)>,
    wanted: Vec<Var>,
    retain_graph: bool,
    create_graph: bool,
}

impl Backward {
    /// A pass from nowhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts at `root` with the gradient `seed`, of its shape.
    pub fn root(mut self, root: &Var, seed: Tensor) -> Self {
        self.roots.push((root.clone(), seed));
        self
    }

    /// Also reports the gradient of `var`, which need not be a parameter.
    pub fn wrt(mut self, var: &Var) -> Self {
        self.wanted.push(var.clone());
        self
    }

    /// Keeps what the graph saved, so that another pass may follow.
    pub fn retain_graph(mut self) -> Self {
        self.retain_graph = true;
        self
    }

    /// Records the pass itself, so that gradients can be differentiated again. Implies
    /// [`retain_graph`](Self::retain_graph).
    pub fn create_graph(mut self) -> Self {
        (self.create_graph, self.retain_graph) = (true, true);
        self
    }

    /// Runs the pass.
    ///
    /// Errors: a root that no parameter is behind, or a seed not like it; a graph whose saved
    /// tensors an earlier pass has freed; a second derivative that an operation does not have.
    #[track_caller]
    pub fn run(self) -> Result<Grads> {
        let mut grads = Grads::default();
        self.run_into(&mut grads)?;
        Ok(grads)
    }

    /// Runs the pass, and adds what it finds to the gradients of others: of the micro-batch before,
    /// or of a [retained](Self::retain_graph) graph from another root.
    ///
    /// Errors: as [`run`](Self::run); some gradients may have been added, or lost, by then.
    #[track_caller]
    pub fn run_into(self, grads: &mut Grads) -> Result<()> {
        // With what this pass finds, unless it is recorded, those of others are variables no more.
        if !self.create_graph {
            grads.forget_vars();
        }
        let mut walk = Walk::new(grads);
        for (root, seed) in self.roots {
            let Some(edge) = root.edge() else {
                return Err(Error::value("backward", "nothing to differentiate with respect to")
                    .operand("root", &root)
                    .note("no parameter is behind it, or it was computed under no_grad"));
            };
            if seed.shape() != root.shape() {
                return Err(Error::shape("backward", "the seed is not like its root")
                    .operand("root", &root)
                    .operand("seed", &seed));
            }
            let seed = seed.to_dtype(compute_dtype(root.dtype()));
            let seed = Var::constant(seed.to_device(&root.value().device())?);
            walk.send(edge, Gradient::Whole(seed))?;
        }
        let wanted = self.wanted.iter().filter_map(Var::edge).map(key).collect();
        with_recording(self.create_graph, || walk.run(&wanted, self.retain_graph))
    }
}

/// The dtype that an element type is computed in, and that its gradients have: halves are storage.
pub fn compute_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A pass on its way: the nodes that have been sent gradients and have not been visited, and the
/// gradients of those where it ends.
pub(crate) struct Walk<'a> {
    youngest: BinaryHeap<u64>,
    pending: HashMap<u64, Pending>,
    grads: &'a mut Grads,
}

/// A node and the sum of what it was sent, for each of its outputs.
struct Pending {
    node: Arc<Node>,
    gradients: Vec<Option<Var>>,
}

impl<'a> Walk<'a> {
    fn new(grads: &'a mut Grads) -> Self {
        Self { youngest: BinaryHeap::new(), pending: HashMap::new(), grads }
    }

    /// Adds a gradient to what an edge's node will be visited with; a parameter has no vjp to wait
    /// for, and takes it at once.
    pub(crate) fn send(&mut self, edge: &Edge, gradient: Gradient) -> Result<()> {
        if edge.node.is_leaf() {
            return self.grads.add(edge, gradient);
        }
        let pending = match self.pending.entry(edge.node.id()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.youngest.push(edge.node.id());
                let gradients = vec![None; edge.node.outputs()];
                entry.insert(Pending { node: edge.node.clone(), gradients })
            }
        };
        let slot = &mut pending.gradients[edge.output];
        *slot = Some(gradient.joined(slot.take().map(Sum::Whole), edge.output)?);
        Ok(())
    }

    /// What has arrived of the gradients of these.
    pub(crate) fn before<'b>(&'b mut self, inputs: &'b [Option<Edge>]) -> Before<'b> {
        Before::new(&mut self.pending, self.grads, inputs)
    }

    fn run(mut self, wanted: &HashSet<Key>, retain: bool) -> Result<()> {
        while let Some(id) = self.youngest.pop() {
            let Pending { node, gradients } =
                self.pending.remove(&id).expect("an id enters the heap with its node");
            for (output, gradient) in gradients.iter().enumerate() {
                if let Some(gradient) = gradient
                    && wanted.contains(&(id, output))
                {
                    self.grads.report((id, output), gradient.clone());
                }
            }
            let record = node.take_record().ok_or_else(|| node.freed())?;
            // What the vjp applies belongs to the modules of what it is the vjp of.
            let path = node.scope().cloned();
            let sent = within(path, || record.backward(&node, &gradients, &mut self));
            if retain {
                node.restore_record(record);
            }
            sent.map_err(|error| node.blame(error))?;
        }
        Ok(())
    }
}
