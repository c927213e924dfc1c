//! The driver's state, behind one lock. Nothing here is unsafe: handles are numbers.

use crate::card::{self, CARDS, Card};
use crate::operation::{KernelStatistics, Operation};
use crate::order::Order;
use crate::raw::Host;
use crate::status::{Error, Status};
use ptx_vm::{Kernel, Machine};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

/// A kernel of a loaded module.
pub(crate) struct Function {
    pub kernel: Kernel,
    pub module: usize,
    pub ptx_version: u32,
}

/// A point in the work of a stream.
#[derive(Default)]
pub(crate) struct Event {
    /// When it was recorded, unless in a capture.
    pub at: Option<Instant>,
    /// The capture it was recorded in.
    pub capture: Option<usize>,
}

/// Whom a capture keeps from what may wait for everything: `CUstreamCaptureMode`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaptureMode {
    /// Every thread.
    Global,
    /// The one that began it.
    ThreadLocal(ThreadId),
    /// Nobody.
    Relaxed,
}

/// Operations being captured, or captured.
pub(crate) struct Graph {
    pub mode: CaptureMode,
    pub operations: Vec<Operation>,
    /// Buffers allocated while capturing: their addresses are the graph's as long as it is there.
    pub buffers: Vec<u64>,
    /// Handles made from this graph, and itself, that still exist.
    pub owners: usize,
}

/// What a handle stands for.
pub(crate) enum Object {
    /// With the capture it takes part in.
    Stream(Option<usize>),
    Event(Event),
    Module,
    Function(Arc<Function>),
    /// A graph being captured or captured.
    Graph(Graph),
    /// An executable graph, by the graph it came from.
    Executable(usize),
}

/// The driver.
pub(crate) struct Driver {
    pub machine: Machine,
    pub card: Card,
    pub initialised: bool,
    objects: HashMap<usize, Object>,
    next: usize,
    pub order: Order,
    /// Whether unordered work on streams is an error.
    pub check_order: bool,
    /// Whether work is done at the next synchronisation only, and what was left for it.
    pub is_late: bool,
    pub left: Vec<(usize, Operation)>,
    /// What a kernel did wrong: all that is asked of the context from then on has this error.
    pub dead: Option<Error>,
    /// Bytes of dynamic shared memory each function has opted in to.
    pub opted_in: HashMap<usize, u32>,
    /// Pinned host memory: address and size.
    host: BTreeMap<usize, usize>,
    pub statistics: BTreeMap<String, KernelStatistics>,
    /// The code and text of the last error that had more to say than its code.
    pub last: Option<(Error, CString)>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// Runs a call with the driver locked. A panic inside is `CUDA_ERROR_UNKNOWN`, never an unwinding
/// into C.
pub(crate) fn call(f: impl FnOnce(&mut Driver) -> Status) -> i32 {
    let run = AssertUnwindSafe(|| {
        let mut guard = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        f(guard.get_or_insert_with(Driver::new))
    });
    match catch_unwind(run) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error as i32,
        Err(_) => 999,
    }
}

/// Streams that exist without being created: the default one, and its legacy and per-thread names.
const BUILT_IN_STREAMS: usize = 2;

impl Driver {
    fn new() -> Self {
        let mut driver = Self {
            machine: Machine::new(),
            card: CARDS[0],
            initialised: false,
            objects: HashMap::new(),
            next: 0x1000,
            order: Order::default(),
            check_order: true,
            is_late: false,
            left: Vec::new(),
            dead: None,
            opted_in: HashMap::new(),
            host: BTreeMap::new(),
            statistics: BTreeMap::new(),
            last: None,
        };
        driver.set_card(CARDS[0]);
        driver
    }

    pub fn set_card(&mut self, card: Card) {
        self.card = card;
        self.machine.limits.threads = card::THREADS;
        self.machine.limits.shared = card.shared_opt_in as usize;
    }

    /// Remembers what an error is about, for `cuGetErrorString`.
    pub fn fail(&mut self, error: Error, text: String) -> Error {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        self.last = Some((error, text));
        error
    }

    /// A new handle.
    pub fn create(&mut self, object: Object) -> usize {
        self.next += 0x10;
        self.objects.insert(self.next, object);
        self.next
    }

    pub fn get(&mut self, handle: usize) -> Result<&mut Object, Error> {
        if !self.objects.contains_key(&handle) {
            return Err(
                self.fail(Error::InvalidHandle, format!("handle {handle:#x} does not exist"))
            );
        }
        self.objects.get_mut(&handle).ok_or(Error::InvalidHandle)
    }

    pub fn destroy(&mut self, handle: usize) -> Result<Object, Error> {
        self.get(handle)?;
        self.objects.remove(&handle).ok_or(Error::InvalidHandle)
    }

    pub fn function(&mut self, handle: usize) -> Result<Arc<Function>, Error> {
        match self.get(handle)? {
            Object::Function(function) => Ok(function.clone()),
            _ => Err(Error::InvalidHandle),
        }
    }

    pub fn event(&mut self, handle: usize) -> Result<&mut Event, Error> {
        match self.get(handle)? {
            Object::Event(event) => Ok(event),
            _ => Err(Error::InvalidHandle),
        }
    }

    /// The capture a stream takes part in.
    pub fn captured(&mut self, stream: usize) -> Result<Option<usize>, Error> {
        if stream <= BUILT_IN_STREAMS {
            return Ok(None);
        }
        match self.get(stream)? {
            Object::Stream(capture) => Ok(*capture),
            _ => Err(Error::InvalidHandle),
        }
    }

    /// Makes a stream take part in a capture, or in none.
    pub fn set_captured(&mut self, stream: usize, capture: Option<usize>) -> Status {
        match self.get(stream)? {
            Object::Stream(own) => {
                *own = capture;
                Ok(())
            }
            _ => Err(Error::InvalidHandle),
        }
    }

    /// Takes every stream out of a capture that has ended.
    pub fn release_streams(&mut self, capture: usize) {
        for object in self.objects.values_mut() {
            match object {
                Object::Stream(own) if *own == Some(capture) => *own = None,
                _ => {}
            }
        }
    }

    /// Everything that was made on the device is gone, and so is what a kernel did wrong; work is done
    /// at once.
    pub fn reset(&mut self) {
        self.left.clear();
        self.objects.clear();
        self.opted_in.clear();
        self.order = Order::default();
        let buffers: Vec<u64> = self.machine.memory.live().map(|(address, _)| address).collect();
        for buffer in buffers {
            self.machine.memory.free(buffer).expect("it is alive");
        }
        (self.is_late, self.dead, self.last) = (false, None, None);
    }

    /// What may wait for everything is an error while a stream is being captured, in a mode that
    /// forbids it to this thread.
    pub fn no_capture(&mut self, what: &str) -> Status {
        let here = CaptureMode::ThreadLocal(thread::current().id());
        let forbids = |object: &Object| match object {
            Object::Stream(Some(capture)) => match self.objects.get(capture) {
                Some(Object::Graph(graph)) => [CaptureMode::Global, here].contains(&graph.mode),
                _ => false,
            },
            _ => false,
        };
        if !self.objects.values().any(forbids) {
            return Ok(());
        }
        Err(self
            .fail(Error::StreamCaptureUnsupported, format!("{what} while a stream is captured")))
    }

    /// Waiting for a stream that is being captured is an error.
    pub fn not_captured(&mut self, stream: usize, what: &str) -> Status {
        match self.captured(stream)? {
            None => Ok(()),
            Some(_) => {
                let text = format!("{what} on a stream that is being captured");
                Err(self.fail(Error::StreamCaptureUnsupported, text))
            }
        }
    }

    pub fn capture_mut(&mut self, graph: usize) -> Result<&mut Graph, Error> {
        match self.get(graph)? {
            Object::Graph(graph) => Ok(graph),
            _ => Err(Error::InvalidHandle),
        }
    }

    /// One owner of a graph is gone; with the last, so are its buffers.
    pub fn release_graph(&mut self, graph: usize) -> Status {
        let found = self.capture_mut(graph)?;
        found.owners -= 1;
        if found.owners == 0 {
            let buffers = std::mem::take(&mut found.buffers);
            self.destroy(graph)?;
            for buffer in buffers {
                if self.machine.memory.buffer_of(buffer).is_some() {
                    self.free(buffer)?;
                }
            }
        }
        Ok(())
    }

    /// The function of a module's kernel, if it has one of that name.
    pub fn find_function(&mut self, module: usize, name: &str) -> Result<Option<usize>, Error> {
        if !matches!(self.get(module)?, Object::Module) {
            return Err(Error::InvalidHandle);
        }
        let is_it = |object: &Object| match object {
            Object::Function(f) => f.module == module && f.kernel.name == name,
            _ => false,
        };
        Ok(self.objects.iter().find(|(_, object)| is_it(object)).map(|(handle, _)| *handle))
    }

    /// Removes the functions of a module.
    pub fn forget_functions(&mut self, module: usize) {
        self.objects
            .retain(|_, object| !matches!(object, Object::Function(f) if f.module == module));
    }

    /// Bytes of live buffers.
    pub fn allocated(&self) -> u64 {
        self.machine.memory.live().map(|(_, bytes)| bytes as u64).sum()
    }

    pub fn alloc(&mut self, bytes: usize) -> Result<u64, Error> {
        if bytes == 0 {
            return Err(self.fail(Error::InvalidValue, "an allocation of no bytes".to_owned()));
        }
        let free = self.card.memory - self.allocated();
        if bytes as u64 > free {
            let text = format!("{bytes} bytes asked for, {free} free");
            return Err(self.fail(Error::OutOfMemory, text));
        }
        Ok(self.machine.memory.alloc(bytes))
    }

    /// A stream uses the buffer that holds an address.
    pub fn used(&mut self, stream: usize, address: u64, write: bool) -> Status {
        let Some(buffer) = self.machine.memory.buffer_of(address) else { return Ok(()) };
        match self.order.used(stream, buffer, write) {
            Some(other) if self.check_order => {
                let verb = if write { "writes" } else { "reads" };
                let text = format!(
                    "stream {stream:#x} {verb} the buffer at {buffer:#x}, which stream {other:#x} \
                     uses, with no event or synchronisation between"
                );
                Err(self.fail(Error::LaunchFailed, text))
            }
            _ => Ok(()),
        }
    }

    /// Whether a host address lies in pinned memory.
    pub fn is_pinned(&self, memory: Host) -> bool {
        let before = self.host.range(..=memory.address()).next_back();
        before.is_some_and(|(start, bytes)| memory.address() < start + bytes)
    }

    pub fn free(&mut self, address: u64) -> Status {
        self.order.freed(address);
        self.machine.memory.free(address).map_err(|kind| {
            let how = match kind {
                ptx_vm::FaultKind::UseAfterFree => "was freed before",
                _ => "is not the address of a buffer",
            };
            self.fail(Error::InvalidValue, format!("free of {address:#x}, which {how}"))
        })
    }

    pub fn alloc_host(&mut self, bytes: usize) -> Result<Host, Error> {
        if bytes == 0 {
            return Err(self.fail(Error::InvalidValue, "a host allocation of no bytes".to_owned()));
        }
        let memory = Host::pinned(bytes);
        self.host.insert(memory.address(), bytes);
        Ok(memory)
    }

    pub fn free_host(&mut self, memory: Host) -> Status {
        match self.host.remove(&memory.address()) {
            Some(bytes) => {
                memory.release(bytes);
                Ok(())
            }
            None => {
                Err(self.fail(Error::InvalidValue, "free of host memory not allocated".to_owned()))
            }
        }
    }

    /// Everything that was made and not destroyed: device and host memory, and handles.
    pub fn leaks(&self) -> Vec<String> {
        let device = self.machine.memory.live();
        let mut out: Vec<String> =
            device.map(|(a, n)| format!("device memory at {a:#x}, {n} bytes")).collect();
        out.extend(self.host.iter().map(|(a, n)| format!("host memory at {a:#x}, {n} bytes")));
        for (handle, object) in &self.objects {
            let kind = match object {
                Object::Stream(_) => "stream",
                Object::Event(_) => "event",
                Object::Module => "module",
                // A function belongs to its module, a capture's graph to its owners.
                Object::Function(_) => continue,
                Object::Graph(_) => "graph",
                Object::Executable(_) => "executable graph",
            };
            out.push(format!("{kind} {handle:#x}"));
        }
        out.sort();
        out
    }
}
