//! The CUDA driver, by way of cudarc: the only file of this crate that calls it.
//!
//! **Invariant: the driver writes host memory only through slices that are borrowed until it has been
//! waited for, and reads it only from storages that are [held](Queue::upload) until then; and everything
//! on a device happens in the order of one stream.** Events
//! between streams are therefore not needed, memory is given back in that order too, and what a
//! kernel does wrong it does to the memory of the device, where no Rust value lives.

#![allow(unsafe_code)]

use std::mem::{MaybeUninit, take};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use cudarc::driver::result::ctx::set_current;
use cudarc::driver::sys::{
    self, CUfunction_attribute, CUgraphInstantiate_flags, CUmemPool_attribute, CUmemoryPool,
    CUstreamCaptureMode, CUstreamCaptureStatus,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use kernels::ptx::Kernel;

use super::{Card, locked};
use crate::buffer::Storage;

/// What the driver says of an error, or we of what it would not survive.
pub(super) type Result<T> = std::result::Result<T, String>;

fn told<T>(result: std::result::Result<T, cudarc::driver::DriverError>) -> Result<T> {
    result.map_err(|error| {
        let text = |part: std::result::Result<&std::ffi::CStr, _>| {
            part.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into())
        };
        format!("{}: {}", text(error.error_name()), text(error.error_string()))
    })
}

/// Whether the driver's library is on this machine.
pub(super) fn is_present() -> bool {
    // SAFETY: opens the library, which runs what it runs when it is loaded, and looks no further.
    unsafe { sys::is_culib_present() }
}

/// A device, a context on it, and the one stream of everything.
pub(super) struct Queue {
    stream: Arc<CudaStream>,
    /// What was uploaded since the last wait.
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    held: Vec<Arc<Storage>>,
    bytes: usize,
}

/// Bytes that uploads hold at most before they are waited for.
const MOST_HELD: usize = 64 << 20;

impl Queue {
    /// Opens a device. The library [`is_present`].
    pub fn open(ordinal: usize) -> Result<Self> {
        // Of a library that is only a stub, as containers have it, cudarc misses functions, and
        // panics.
        let open = AssertUnwindSafe(|| told(Self::connect(ordinal)));
        catch_unwind(open).unwrap_or_else(|_| Err("its library lacks functions".to_owned()))
    }

    fn connect(ordinal: usize) -> std::result::Result<Self, cudarc::driver::DriverError> {
        let context = CudaContext::new(ordinal)?;
        // SAFETY: one stream orders everything (see above), so no events are needed.
        unsafe { context.disable_event_tracking() };
        if context.has_async_alloc() {
            // Freed memory stays in the driver's pool; it would be given back at every wait.
            let (pool, mut keep) = (pool_of(&context)?, u64::MAX);
            let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let keep = (&raw mut keep).cast();
            // SAFETY: the number is of the type that the attribute has.
            unsafe { sys::cuMemPoolSetAttribute(pool, threshold, keep) }.result()?;
        }
        Ok(Self { stream: context.new_stream()?, sources: Mutex::default() })
    }

    /// What the driver says of the card, and of itself.
    pub fn card(&self) -> Result<Card> {
        let context = self.stream.context();
        let mut version = 0;
        // SAFETY: writes the number that it is given a place for.
        told(unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
        Ok(Card {
            name: told(context.name())?,
            capability: told(context.compute_capability())?,
            memory: told(context.total_mem())?,
            driver: (version / 1000, version % 1000 / 10),
        })
    }

    /// Memory of at least one byte, whose contents are unspecified.
    pub fn alloc(&self, bytes: usize) -> Result<Memory> {
        // SAFETY: bytes may be anything. What reads them early is a mistake like that of reading
        // any other number too early: see `buffer`.
        let slice = told(unsafe { self.stream.alloc::<u8>(bytes) })?;
        Ok(Memory { _bound: Bound(self.stream.context().clone()), slice })
    }

    /// Sets all bytes to zero.
    pub fn clear(&self, memory: &mut Memory) -> Result<()> {
        told(self.stream.memset_zeros(&mut memory.slice))
    }

    /// Copies bytes of this machine's to the start of a device's memory, which is not shorter.
    ///
    /// The driver may read them when the call returns, or later: pageable memory too, it does not say
    /// which. So nobody gets their storage before the next wait.
    pub fn upload(&self, from: &Arc<Storage>, part: Range<usize>, to: &mut Memory) -> Result<()> {
        let bytes = part.len();
        told(self.stream.memcpy_htod(&from.bytes()[part], &mut to.slice))?;
        let mut sources = locked(&self.sources);
        sources.held.push(from.clone());
        sources.bytes += bytes;
        let is_much = sources.bytes > MOST_HELD;
        drop(sources);
        if is_much { self.wait() } else { Ok(()) }
    }

    /// Copies as many bytes, from a place in a device's memory that has them, and waits.
    pub fn download(&self, from: &Memory, offset: usize, to: &mut [u8]) -> Result<()> {
        told(self.stream.memcpy_dtoh(&from.slice.slice(offset..offset + to.len()), to))?;
        self.wait()
    }

    /// Waits for everything that was asked for.
    pub fn wait(&self) -> Result<()> {
        // Taken before: what another thread sends meanwhile may not have been waited for.
        let Sources { held, bytes } = take(&mut *locked(&self.sources));
        let waited = told(self.stream.synchronize());
        if waited.is_err() {
            let mut sources = locked(&self.sources);
            sources.held.extend(held);
            sources.bytes += bytes;
        }
        waited
    }

    /// From now on what is asked for is recorded, not done. A graph has memory of its own: what the
    /// driver's pool keeps is given back first, so that there are not two of everything.
    pub fn begin_capture(&self) -> Result<()> {
        if !self.stream.context().has_async_alloc() {
            return Err("the driver has no memory in the order of a stream".to_owned());
        }
        self.wait()?;
        let pool = told(pool_of(self.stream.context()))?;
        // SAFETY: gives back what nobody has.
        told(unsafe { sys::cuMemPoolTrimTo(pool, 0) }.result())?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        told(self.stream.begin_capture(mode))
    }

    /// Ends that; what was recorded.
    pub fn end_capture(&self) -> Result<Graph> {
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        match told(self.stream.end_capture(flags))? {
            Some(graph) => Ok(Graph { graph, stream: self.stream.clone() }),
            None => Err("the driver recorded nothing".to_owned()),
        }
    }

    /// The driver's translation of a kernel for its card.
    pub fn load(&self, kernel: &Kernel) -> Result<Function> {
        let spec = kernel.spec();
        let module = told(self.stream.context().load_module(Ptx::from_src(kernel.ptx())))?;
        let function = told(module.load_function(&spec.name))?;
        if spec.shared_is_dynamic() {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            told(function.set_attribute(most, spec.shared as i32))?;
        }
        Ok(Function(function))
    }

    /// Starts a kernel.
    ///
    /// `arguments` have been compared with the kernel's parameters, in number and types, and the
    /// memory that they point to is alive: it is given back after the kernel, in the stream's order.
    pub fn launch(
        &self,
        function: &Function,
        [grid, block]: [[u32; 3]; 2],
        shared: u32,
        arguments: &[Word],
    ) -> Result<()> {
        let mut builder = self.stream.launch_builder(&function.0);
        for argument in arguments {
            match argument {
                Word::Pointer(value) => builder.arg(value),
                Word::U32(value) => builder.arg(value),
                Word::F32(value) => builder.arg(value),
                Word::F64(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: grid.into(),
            block_dim: block.into(),
            shared_mem_bytes: shared,
        };
        // SAFETY: the arguments are those of the kernel, by the caller's promise; a kernel reaches
        // the memory of the device alone.
        told(unsafe { builder.launch(config) }).map(drop)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Sources go now. An error has nobody to be told.
        let _ = self.wait();
    }
}

/// The pool that a device's memory comes from.
fn pool_of(
    context: &CudaContext,
) -> std::result::Result<CUmemoryPool, cudarc::driver::DriverError> {
    let mut pool = MaybeUninit::uninit();
    // SAFETY: writes the pool, which is there then.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(pool.as_mut_ptr(), context.cu_device()).result()?;
        Ok(pool.assume_init())
    }
}

/// Memory of a device, given back in the order of the stream when it is dropped, by any thread.
pub(super) struct Memory {
    // Dropped first.
    _bound: Bound,
    slice: CudaSlice<u8>,
}

impl Memory {
    /// Where it begins, as kernels take it.
    pub fn address(&self) -> u64 {
        self.slice.device_ptr(self.slice.stream()).0
    }

    /// Leaves the memory to the graph that it is part of.
    pub fn forget(self) {
        self.slice.leak();
    }
}

/// Makes a context, when it is dropped, the one of the thread: cudarc frees memory in whichever that
/// has, and a thread that only drops has none.
struct Bound(Arc<CudaContext>);

impl Drop for Bound {
    fn drop(&mut self) {
        // SAFETY: the context is open as long as this has it.
        self.0.record_err(unsafe { set_current(self.0.cu_ctx()) });
    }
}

/// Work that was recorded. What it reaches is alive as long as it is: see `graph`.
pub(super) struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
}

impl Graph {
    /// Asks for all of it. While something is recorded that is an error: CUDA has no graphs with
    /// memory of their own within others.
    pub fn launch(&self) -> Result<()> {
        match told(self.stream.capture_status())? {
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => told(self.graph.launch()),
            _ => Err("a graph cannot be part of another one".to_owned()),
        }
    }
}

/// A kernel that the driver has translated.
pub(super) struct Function(CudaFunction);

/// An argument as a kernel takes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    /// An address in the device's memory.
    Pointer(u64),
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
    /// A number.
    F64(f64),
}
