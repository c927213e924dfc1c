//! What a graph keeps for its backward pass, by operation and module.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use tensor::Tensor;

use crate::Var;
use crate::node::Node;

/// What a forward pass may leave behind for its vjp besides operands and results: `()`, tensors,
/// or a type of one's own that says where its memory is.
pub trait Aux: Any + Send {
    /// Shows the addresses of each buffer it keeps alive, for a [`SavedReport`].
    fn memory(&self, see: &mut dyn FnMut(Range<usize>));
}

impl Aux for () {
    fn memory(&self, _: &mut dyn FnMut(Range<usize>)) {}
}

impl Aux for Tensor {
    fn memory(&self, see: &mut dyn FnMut(Range<usize>)) {
        see(self.buffer());
    }
}

impl Aux for Arc<[u32]> {
    fn memory(&self, see: &mut dyn FnMut(Range<usize>)) {
        let Range { start, end } = self.as_ptr_range();
        see(start.addr()..end.addr());
    }
}

impl<A: Aux> Aux for Option<A> {
    fn memory(&self, see: &mut dyn FnMut(Range<usize>)) {
        self.iter().for_each(|aux| aux.memory(see));
    }
}

impl<A: Aux> Aux for Vec<A> {
    fn memory(&self, see: &mut dyn FnMut(Range<usize>)) {
        self.iter().for_each(|aux| aux.memory(see));
    }
}

impl<A: Aux, const N: usize> Aux for [A; N] {
    fn memory(&self, see: &mut dyn FnMut(Range<usize>)) {
        self.iter().for_each(|aux| aux.memory(see));
    }
}

/// What a tensor is to the operation that keeps or makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Operand i.
    Input(usize),
    /// Result i.
    Output(usize),
    /// What the forward pass left behind besides: see [`Aux`].
    Aux,
    /// The gradient of operand i.
    InputGradient(usize),
    /// The gradient of result i.
    OutputGradient(usize),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(i) => write!(f, "input {i}"),
            Self::Output(i) => write!(f, "output {i}"),
            Self::Aux => write!(f, "aux"),
            Self::InputGradient(i) => write!(f, "gradient of input {i}"),
            Self::OutputGradient(i) => write!(f, "gradient of output {i}"),
        }
    }
}

/// Something that a node keeps alive.
pub(crate) enum Held<'a> {
    /// A variable, with the graph behind it.
    Var(&'a Var),
    /// The addresses of a buffer.
    Memory(Range<usize>),
}

/// What a graph keeps for its backward pass: which operation of which module keeps what, largest
/// first. Printed, it is a table.
///
/// A buffer that several operations keep, or several views of it, is counted once, for the first
/// operation that kept it. Whole buffers are counted: a view keeps all of what it is a view of.
/// Parameters are not, since they are there anyway; nor are arguments of an operation, as the rows
/// it gathers or the targets it scores; nor is what the closure of a
/// [`checkpoint`](crate::checkpoint()) has captured, which cannot be seen.
///
/// ```
/// use autograd::{SavedReport, Var, scope};
/// use tensor::{DType, Tensor};
/// # fn main() -> tensor::Result<()> {
/// let x = Var::constant(Tensor::ones([1024, 256], DType::F32));
/// let w = Var::parameter(Tensor::ones([256, 256], DType::F32));
/// let y = scope("mlp", || x.linear(&w, None)?.tanh())?;
/// let report = SavedReport::of(&y);
/// assert_eq!(report.bytes(), 2 << 20); // x of linear, y of tanh
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SavedReport {
    /// What is kept, largest first.
    pub rows: Vec<SavedRow>,
}

/// What the operations of one kind in one module keep in one role.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedRow {
    /// The names of the modules around it, joined by dots; empty outside of any.
    pub module: String,
    /// The operation.
    pub op: &'static str,
    /// What the buffers are to it.
    pub role: Role,
    /// How many buffers.
    pub buffers: usize,
    /// How many bytes they have together.
    pub bytes: usize,
}

impl SavedReport {
    /// What the graph behind `root` keeps now: a backward pass frees it.
    pub fn of(root: &Var) -> Self {
        let nodes = nodes_behind(root);
        let mut counted: HashSet<usize> = HashSet::new();
        for node in &nodes {
            node.saved(&mut |_, held| {
                if let Held::Var(var) = held
                    && var.is_parameter()
                {
                    counted.insert(var.value().buffer().start);
                }
            });
        }
        let mut rows: Vec<SavedRow> = Vec::new();
        let mut places = HashMap::new();
        for node in &nodes {
            let module = node.scope().map_or("", |path| path);
            node.saved(&mut |role, held| {
                let buffer = match held {
                    Held::Var(var) => var.value().buffer(),
                    Held::Memory(buffer) => buffer,
                };
                if buffer.is_empty() || !counted.insert(buffer.start) {
                    return;
                }
                let place = *places.entry((module, node.name(), role)).or_insert_with(|| {
                    let (module, op) = (module.to_owned(), node.name());
                    rows.push(SavedRow { module, op, role, buffers: 0, bytes: 0 });
                    rows.len() - 1
                });
                rows[place].buffers += 1;
                rows[place].bytes += buffer.len();
            });
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
        Self { rows }
    }

    /// All bytes together.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.bytes).sum()
    }
}

/// The nodes of a graph, oldest first.
fn nodes_behind(root: &Var) -> Vec<Arc<Node>> {
    let mut nodes = HashMap::new();
    let mut pending: Vec<_> = root.edge().map(|edge| edge.node.clone()).into_iter().collect();
    while let Some(node) = pending.pop() {
        if nodes.contains_key(&node.id()) {
            continue;
        }
        pending.extend(node.inputs().iter().flatten().map(|edge| edge.node.clone()));
        // A checkpoint has no edges but those of what it keeps.
        node.saved(&mut |_, held| {
            if let Held::Var(var) = held {
                pending.extend(var.edge().map(|edge| edge.node.clone()));
            }
        });
        nodes.insert(node.id(), node);
    }
    let mut nodes: Vec<_> = nodes.into_values().collect();
    nodes.sort_by_key(|node| node.id());
    nodes
}

impl fmt::Display for SavedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let width = self.rows.iter().map(|row| row.module.len()).max().unwrap_or(0).max(6);
        let op = self.rows.iter().map(|row| row.op.len()).max().unwrap_or(0).max(9);
        writeln!(f, "{:<width$}  {:<op$}  keeps      buffers        MiB", "module", "operation")?;
        for SavedRow { module, op: name, role, buffers, bytes } in &self.rows {
            let (role, mib) = (role.to_string(), mib(*bytes));
            writeln!(f, "{module:<width$}  {name:<op$}  {role:<9}  {buffers:>7}  {mib:>9.2}")?;
        }
        let buffers: usize = self.rows.iter().map(|row| row.buffers).sum();
        let total = mib(self.bytes());
        write!(f, "{:<width$}  {:<op$}  {:<9}  {buffers:>7}  {total:>9.2}", "all", "", "")
    }
}
