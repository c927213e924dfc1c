//! Functions of tensors that a GPU is shown once and then does as one piece.
//!
//! A network of many small layers asks a GPU for thousands of short kernels, and asking takes longer
//! than doing. A [`Graph`] is all that a function asked for, with every address and number in it: to
//! run it again is one call. It is a function from tensors to tensors all the same; what it is made
//! of never shows. It may also write in place to tensors that are there: a step of training moves
//! weights.
//!
//! # How a function is recorded
//!
//! 1. It runs once as always, on copies of its inputs that the graph keeps. That loads its kernels and
//!    makes what it uploads; copies of its results are where the graph will leave them.
//! 2. It is gone through again while the queue records instead of doing. Memory that is asked for then
//!    is the graph's own, at fixed addresses, given back within it; what was uploaded the first time
//!    is there already; what launches reach besides is kept alive, so that nobody writes over it.
//!
//! So the function has to be the same both times, may read nothing, and may leave nothing behind but
//! what it writes in place: each of these is an error. What it writes in place must be one tensor's
//! alone, when it is recorded and whenever it is run: others would see it change.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use super::{Cuda, driver, locked, memory};
use crate::buffer::Storage;
use crate::{Device, Error, Result, Tensor};

/// A function of tensors of fixed shapes, recorded by [`Cuda::record`].
pub struct Graph {
    // Given up first: the rest is what it works on.
    graph: driver::Graph,
    gpu: Cuda,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// What it reads of what was there before.
    _read: Vec<Arc<Storage>>,
    /// What it writes of that.
    written: Vec<Arc<Storage>>,
}

/// A function while it is being recorded.
pub(super) struct Recording {
    number: u64,
    thread: ThreadId,
    /// Whether the queue records by now; before that the function runs as always.
    captures: bool,
    /// What the function uploads, and the copy on the GPU; at the second time, what is left of that.
    uploads: VecDeque<[Tensor; 2]>,
    /// Tables of addresses as they will be in the graph, and where on the GPU they belong.
    tables: Vec<[Tensor; 2]>,
    /// What launches reach that was there before, by address; and whether they write to it.
    held: HashMap<usize, (Arc<Storage>, bool)>,
    /// Memory that was there before and is not needed any more. To give it back would be recorded.
    given_up: Vec<driver::Memory>,
    /// Memory asked for while recording that was not given back yet.
    live: usize,
}

impl Cuda {
    /// Does `f` with copies of `inputs`, and records what it does: its results, and the graph that
    /// does the same with other inputs of these shapes, or why there is none.
    ///
    /// Whatever else `f` reaches stays in the graph as it is now: other tensors, numbers, and what it
    /// uploads itself. Until this returns other threads leave the GPU alone.
    ///
    /// Cost: `f` runs once, and is gone through twice. The graph keeps its inputs and results, and
    /// memory for all that `f` holds at once.
    ///
    /// Errors: those of `f` as it runs. Of the graph: those of `f` as it is gone through again; it
    /// reads elements, uploads something else the second time, writes in place to what others share,
    /// leaves a tensor behind, or gives results of another device; a recording is under way; the
    /// driver's.
    #[track_caller]
    pub fn record(
        &self,
        inputs: &[&Tensor],
        mut f: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<(Vec<Tensor>, Result<Graph>)> {
        let inputs = inputs.iter().map(|x| Ok(self.take(x)?.to_owned_copy()));
        let inputs = inputs.collect::<Result<Vec<Tensor>>>()?;
        if let Err(error) = self.begin(VecDeque::new(), false) {
            return Ok((f(&inputs)?, Err(error)));
        }
        let first = f(&inputs);
        let uploads = self.end().uploads;
        let first = first?;
        let outputs = first.iter().map(Tensor::to_owned_copy).collect();
        Ok((first, self.capture(inputs, outputs, uploads, f)))
    }

    /// What `f` does with these inputs, as a graph that leaves results in these places.
    fn capture(
        &self,
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
        uploads: VecDeque<[Tensor; 2]>,
        mut f: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Graph> {
        if let Some(elsewhere) = outputs.iter().find(|y| y.cuda() != Some(self)) {
            let message = format!("a result is not in the memory of {self}");
            return Err(Error::device("record", message).operand("result", elsewhere));
        }
        self.begin(uploads.clone(), true)?;
        let second = match self.0.queue.begin_capture() {
            Ok(()) => f(&inputs).and_then(|results| leave(self, &results, &outputs)),
            Err(text) => Err(Error::device("record", text)),
        };
        let graph = self.0.queue.end_capture();
        let Recording { held, live, tables, .. } = self.end();
        second?;
        let graph = graph.map_err(|text| Error::device("record", text))?;
        if live > 0 {
            let message = format!("{live} tensors that it made are still there");
            return Err(Error::device("record", message).note("a graph gives its results alone"));
        }
        for [table, place] in &tables {
            memory::copy(self, &self.upload(table)?, place)?;
        }
        let (written, read): (Vec<_>, Vec<_>) =
            held.into_values().partition(|(_, written)| *written);
        let [written, mut read] = [written, read]
            .map(|all| all.into_iter().map(|(storage, _)| storage).collect::<Vec<_>>());
        read.extend(uploads.into_iter().map(|[_, copy]| copy.storage));
        Ok(Graph { graph, gpu: self.clone(), inputs, outputs, _read: read, written })
    }

    /// The tensor on this GPU.
    pub(super) fn take(&self, x: &Tensor) -> Result<Tensor> {
        x.to_device(&Device::Cuda(self.clone()))
    }

    fn begin(&self, uploads: VecDeque<[Tensor; 2]>, captures: bool) -> Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut recording = locked(&self.0.recording);
        if recording.is_some() {
            return Err(Error::device("record", "a graph is being recorded already"));
        }
        let (number, thread) = (NUMBER.fetch_add(1, Ordering::Relaxed), thread::current().id());
        let (tables, held, given_up, live) = Default::default();
        let of = Recording { number, thread, captures, uploads, tables, held, given_up, live };
        *recording = Some(of);
        Ok(())
    }

    fn end(&self) -> Recording {
        // Not dropped here: memory that goes looks at the lock.
        locked(&self.0.recording).take().expect("it was begun")
    }

    /// What a recording has to know of, if one is under way that is this thread's.
    fn recorded<T>(&self, of: impl FnOnce(&mut Recording) -> T) -> Option<T> {
        let mut recording = locked(&self.0.recording);
        recording.as_mut().filter(|r| r.thread == thread::current().id()).map(of)
    }

    /// Whether this thread may ask for something. Errors: another one's graph is being recorded.
    pub(super) fn turn(&self) -> Result<(), String> {
        match &*locked(&self.0.recording) {
            Some(recording) if recording.captures && recording.thread != thread::current().id() => {
                Err("another thread records a graph".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Whether elements may be waited for and read. Errors: a graph is being recorded.
    pub(super) fn may_read(&self) -> Result<(), String> {
        self.turn()?;
        match self.recorded(|recording| recording.captures) {
            Some(true) => Err("nothing is known of it while a graph is recorded".to_owned()),
            _ => Ok(()),
        }
    }

    /// The copy that was made of this tensor the first time, while a graph is recorded.
    pub(super) fn uploaded_before(&self, x: &Tensor) -> Option<Result<Tensor>> {
        let before = self.recorded(|r| r.captures.then(|| r.uploads.pop_front()))??;
        let same = |[known, copy]: [Tensor; 2]| {
            let alike = (known.shape(), known.dtype()) == (x.shape(), x.dtype());
            (alike && known.bytes().ok()? == x.bytes().ok()?).then_some(copy)
        };
        Some(before.and_then(same).ok_or_else(|| {
            Error::device("record", "the function uploads something else the second time")
                .operand("upload", x)
                .note("what changes from run to run is an input of the graph")
        }))
    }

    /// Takes notice of an upload, and the copy made of it.
    pub(super) fn uploaded(&self, x: &Tensor, copy: &Tensor) {
        self.recorded(|recording| recording.uploads.push_back([x.clone(), copy.clone()]));
    }

    /// A table of addresses on the GPU. In a graph they are other ones than the first time, when the
    /// copy was made; it gets them once the recording has ended.
    pub(super) fn table(&self, addresses: Vec<i64>) -> Result<Tensor> {
        let shape = [addresses.len()];
        let table = Tensor::from_vec(addresses, shape)?;
        let before = self.recorded(|r| r.captures.then(|| r.uploads.pop_front())).flatten();
        match before {
            None => self.upload(&table),
            Some(Some([known, copy])) if known.shape() == table.shape() => {
                self.recorded(|r| r.tables.push([table, copy.clone()]));
                Ok(copy)
            }
            Some(_) => Err(Error::device("record", "a table of another length the second time")),
        }
    }

    /// Takes notice of memory that a launch reaches, and perhaps writes.
    pub(super) fn reached(&self, storage: &Arc<Storage>, writes: bool) {
        if self.was_there(storage) {
            self.recorded(|r| {
                let held = r.held.entry(Arc::as_ptr(storage).addr());
                held.or_insert_with(|| (storage.clone(), false)).1 |= writes;
            });
        }
    }

    /// Whether a graph is being recorded and this memory is none of its own.
    pub(super) fn was_there(&self, storage: &Storage) -> bool {
        let is_of_graph = |memory: &memory::Memory| memory.is_of_graph();
        matches!(storage, Storage::Device(memory) if !is_of_graph(memory))
            && self.recorded(|r| r.captures).unwrap_or(false)
    }

    /// Whether one tensor alone has this memory, the recording aside.
    pub(super) fn is_unshared(&self, storage: &Arc<Storage>) -> bool {
        let address = Arc::as_ptr(storage).addr();
        let is_held = self.recorded(|r| r.held.contains_key(&address)).unwrap_or(false);
        Arc::strong_count(storage) == 1 + usize::from(is_held)
    }

    /// Takes notice of new memory; the number of the graph that it is part of.
    pub(super) fn allocated(&self) -> Option<u64> {
        self.recorded(|recording| {
            recording.captures.then(|| {
                recording.live += 1;
                recording.number
            })
        })?
    }

    /// Whether the graph of that number is being recorded.
    pub(super) fn records(&self, graph: u64) -> bool {
        self.recorded(|recording| recording.number == graph).unwrap_or(false)
    }

    /// Gives back memory, of the graph of that number or of none.
    pub(super) fn give_back(&self, memory: driver::Memory, graph: Option<u64>) {
        let mut recording = locked(&self.0.recording);
        match (graph, recording.as_mut().filter(|recording| recording.captures)) {
            (None, None) => drop(memory),
            (None, Some(recording)) => recording.given_up.push(memory),
            (Some(graph), Some(recording)) if recording.number == graph => {
                recording.live -= 1;
                drop(memory);
            }
            // It goes with its graph.
            (Some(_), _) => memory.forget(),
        }
    }
}

/// Copies results to where a graph leaves them.
fn leave(gpu: &Cuda, results: &[Tensor], places: &[Tensor]) -> Result<()> {
    let alike =
        |(y, place): (&Tensor, &Tensor)| (y.shape(), y.dtype()) == (place.shape(), place.dtype());
    if results.len() != places.len() || !results.iter().zip(places).all(alike) {
        return Err(Error::device("record", "the function gives other results the second time"));
    }
    results.iter().zip(places).try_for_each(|(y, place)| memory::copy(gpu, y, place))
}

impl Graph {
    /// Whether it can be run with these inputs: they have the shapes and element types that it was
    /// recorded with, and what it writes in place is still one tensor's, and no other's.
    pub fn takes(&self, inputs: &[&Tensor]) -> bool {
        self.fits(inputs) && self.is_current()
    }

    fn fits(&self, inputs: &[&Tensor]) -> bool {
        let alike = |(x, place): (&&Tensor, &Tensor)| {
            (x.shape(), x.dtype()) == (place.shape(), place.dtype())
        };
        inputs.len() == self.inputs.len() && inputs.iter().zip(&self.inputs).all(alike)
    }

    fn is_current(&self) -> bool {
        // The tensor's, and ours.
        self.written.iter().all(|storage| Arc::strong_count(storage) == 2)
    }

    /// The function's results for these inputs, which may lie anywhere.
    ///
    /// Errors: it does not [take](Self::takes) them; the GPU's.
    #[track_caller]
    pub fn run(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        if !self.is_current() {
            let message = "others share what it writes in place, or it has been replaced";
            return Err(Error::device("graph", message));
        }
        if !self.fits(inputs) {
            let error = Error::shape("graph", "it was recorded with other inputs");
            let error = inputs.iter().fold(error, |error, x| error.operand("input", *x));
            return Err(self.inputs.iter().fold(error, |error, x| error.operand("recorded", x)));
        }
        for (x, place) in inputs.iter().zip(&self.inputs) {
            memory::copy(&self.gpu, &self.gpu.take(x)?, place)?;
        }
        match self.gpu.turn().and_then(|()| self.graph.launch()) {
            Ok(()) => Ok(self.outputs.iter().map(Tensor::to_owned_copy).collect()),
            Err(text) => Err(Error::device("graph", text)),
        }
    }
}
