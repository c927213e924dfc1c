//! The graph behind tracked variables: nodes and the edges between them.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tensor::{Error, Result, Tensor};

use crate::backward::Walk;
use crate::saved::{Held, Role};
use crate::{Var, scope};

/// One output of a node: where a variable came from and where its gradient goes.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) node: Arc<Node>,
    pub(crate) output: usize,
}

/// What a node needs to send gradients on to the nodes it was made from.
pub(crate) trait Record: Send {
    /// Sends each input's share of the gradients `dy`, one for each output of `node` that anyone
    /// used, to `walk`.
    fn backward(&self, node: &Arc<Node>, dy: &[Option<Var>], walk: &mut Walk) -> Result<()>;

    /// Shows what it keeps alive.
    fn saved(&self, see: &mut dyn FnMut(Role, Held<'_>));

    /// How many operations, one of what the other makes, make the outputs again for those who need
    /// them, who then need not keep them; 0 if nothing does.
    fn again_depth(&self) -> usize {
        0
    }

    /// The outputs once more.
    fn again(&self, node: &Node) -> Result<Vec<Tensor>> {
        unreachable!("{} does not make its outputs again", node.name())
    }
}

/// Who asked for a node: what errors on the way back through it name.
#[derive(Clone)]
pub(crate) struct Origin {
    /// The operation.
    name: &'static str,
    /// The modules it was applied in.
    scope: Option<Arc<str>>,
    /// The user's line that applied it.
    location: &'static Location<'static>,
}

impl Origin {
    /// An operation applied in the modules of the code that is running.
    pub(crate) fn new(name: &'static str, location: &'static Location<'static>) -> Self {
        Self { name, scope: scope::path(), location }
    }
}

/// A parameter, or one application of an operation.
pub(crate) struct Node {
    id: u64,
    is_leaf: bool,
    outputs: usize,
    inputs: Vec<Option<Edge>>,
    origin: Origin,
    /// Taken out by the backward pass, so that what was saved is freed as the pass goes along.
    record: Mutex<Option<Box<dyn Record>>>,
    /// The outputs that were made [again](Self::again), for the next who asks: a residual stream's
    /// have two. So from the first on they take the memory that keeping them would, while what is
    /// younger has been freed; a pass that fails leaves them to whoever drops the graph.
    remade: Mutex<Option<Vec<Tensor>>>,
}

/// Ids grow, so that an operation's inputs are older than its outputs.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Node {
    /// The node of a parameter.
    pub(crate) fn leaf(location: &'static Location<'static>) -> Arc<Self> {
        Self::make(Origin::new("parameter", location), Vec::new(), 1, None)
    }

    /// The node of an operation with `outputs` results on `inputs`; untracked ones are `None`.
    pub(crate) fn operation(
        origin: Origin,
        inputs: Vec<Option<Edge>>,
        outputs: usize,
        record: Box<dyn Record>,
    ) -> Arc<Self> {
        Self::make(origin, inputs, outputs, Some(record))
    }

    fn make(
        origin: Origin,
        inputs: Vec<Option<Edge>>,
        outputs: usize,
        record: Option<Box<dyn Record>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            is_leaf: record.is_none(),
            outputs,
            inputs,
            origin,
            record: Mutex::new(record),
            remade: Mutex::new(None),
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> &'static str {
        self.origin.name
    }

    /// The modules it was made in.
    pub(crate) fn scope(&self) -> Option<&Arc<str>> {
        self.origin.scope.as_ref()
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> &[Option<Edge>] {
        &self.inputs
    }

    /// The error of the backward pass through this node, laid at the door of who made it.
    pub(crate) fn blame(&self, error: Error) -> Error {
        let Origin { name, scope, location } = &self.origin;
        let error = error.note(format!("in the backward pass of {name}")).at(location);
        match scope {
            Some(path) => error.scope(path),
            None => error,
        }
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.is_leaf
    }

    /// The record, for the one backward pass there is; `None` if that has been. All users of the
    /// outputs have been visited: what was made again for them is freed.
    pub(crate) fn take_record(&self) -> Option<Box<dyn Record>> {
        let record = lock(&self.record).take();
        lock(&self.remade).take();
        record
    }

    /// Shows what the record keeps alive; nothing once it was taken.
    pub(crate) fn saved(&self, see: &mut dyn FnMut(Role, Held<'_>)) {
        if let Some(record) = &*lock(&self.record) {
            record.saved(see);
        }
    }

    /// See [`Record::again_depth`]: unless it is 0, a user of the outputs need not keep them, as they
    /// are made [again](Self::again).
    pub(crate) fn again_depth(&self) -> usize {
        lock(&self.record).as_ref().map_or(0, |record| record.again_depth())
    }

    /// An output once more. It is made once for all who ask before a backward pass visits this node.
    ///
    /// Errors: those of the operation; a backward pass has freed what it is made from.
    pub(crate) fn again(&self, output: usize) -> Result<Tensor> {
        let record = lock(&self.record);
        let record = record.as_ref().ok_or_else(|| self.freed())?;
        let mut remade = lock(&self.remade);
        let outputs = match &mut *remade {
            Some(outputs) => outputs,
            nothing => nothing.insert(record.again(self)?),
        };
        Ok(outputs[output].clone())
    }

    /// The error of a second pass through a graph that was not retained.
    pub(crate) fn freed(&self) -> Error {
        Error::value(self.name(), "a backward pass has freed this graph")
            .note("keep it with Backward::retain_graph")
    }

    /// Puts the record back, for another backward pass.
    pub(crate) fn restore_record(&self, record: Box<dyn Record>) {
        *lock(&self.record) = Some(record);
    }
}

/// What a lock guards, whatever became of a thread that held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node owned.
type Remains = (Vec<Option<Edge>>, Option<Box<dyn Record>>);

thread_local! {
    static REMAINS: RefCell<Vec<Remains>> = const { RefCell::new(Vec::new()) };
    static BURYING: Cell<bool> = const { Cell::new(false) };
}

/// A chain of a million nodes must not be dropped by a million nested calls: a node that is dropped
/// while another one is only leaves what it owned in a list, which the first one works through.
impl Drop for Node {
    fn drop(&mut self) {
        let inputs = std::mem::take(&mut self.inputs);
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if inputs.is_empty() && record.is_none() {
            return;
        }
        // Once the thread is ending there is no list any more, and no long chain either.
        let _ = REMAINS.try_with(|list| list.borrow_mut().push((inputs, record)));
        if BURYING.replace(true) {
            return;
        }
        while let Ok(Some(remains)) = REMAINS.try_with(|list| list.borrow_mut().pop()) {
            drop(remains);
        }
        BURYING.set(false);
    }
}
