//! Tensors in a GPU's memory: made, moved, copied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kernels::elementwise::ptx::{self, Identity};
use kernels::ptx::Storage as Stored;

use super::{Cuda, driver};
use crate::buffer::Storage;
use crate::layout::Layout;
use crate::{DType, Error, Result, Shape, Tensor};

/// Memory of a GPU.
pub(crate) struct Memory {
    contents: Contents,
    bytes: usize,
    gpu: Cuda,
    /// The graph that it is part of.
    graph: Option<u64>,
}

enum Contents {
    Held(driver::Memory),
    /// No bytes, which the driver does not give.
    Nothing,
    /// Why there are none.
    Lost(String),
}

impl Memory {
    /// So many bytes, whose contents are unspecified; lost if they cannot be had.
    pub fn uninit(gpu: &Cuda, bytes: usize) -> Self {
        let alloc = || gpu.turn().and_then(|()| gpu.0.queue.alloc(bytes));
        let contents = match bytes {
            0 => Contents::Nothing,
            _ => alloc().map_or_else(Contents::Lost, Contents::Held),
        };
        let mut graph = None;
        if matches!(contents, Contents::Held(_)) {
            let live = gpu.0.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
            gpu.0.peak.fetch_max(live, Ordering::Relaxed);
            graph = gpu.allocated();
        }
        Self { contents, bytes, gpu: gpu.clone(), graph }
    }

    /// So many zeros; lost if they cannot be had.
    pub fn zeros(gpu: &Cuda, bytes: usize) -> Self {
        let mut memory = Self::uninit(gpu, bytes);
        if let Contents::Held(held) = &mut memory.contents
            && let Err(text) = gpu.0.queue.clear(held)
        {
            memory.lose(text);
        }
        memory
    }

    /// Whose memory it is.
    pub fn gpu(&self) -> &Cuda {
        &self.gpu
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is part of a [graph](super::Graph).
    pub fn is_of_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// Where it begins, as kernels take it. Errors: why it is lost.
    pub fn address(&self) -> Result<u64, &str> {
        match &self.contents {
            Contents::Held(_) if self.graph.is_some_and(|graph| !self.gpu.records(graph)) => {
                Err("it was made while a graph was recorded")
            }
            Contents::Held(held) => Ok(held.address()),
            Contents::Nothing => Ok(0),
            Contents::Lost(text) => Err(text),
        }
    }

    /// Whether it may be waited for and read. Errors: why not.
    fn readable(&self) -> Result<(), String> {
        self.address()?;
        self.gpu.may_read()
    }

    /// Gives up the elements, for this reason.
    pub fn lose(&mut self, text: String) {
        self.give_back();
        self.contents = Contents::Lost(text);
    }

    fn give_back(&mut self) {
        if let Contents::Held(held) = std::mem::replace(&mut self.contents, Contents::Nothing) {
            self.gpu.0.live.fetch_sub(self.bytes, Ordering::Relaxed);
            self.gpu.give_back(held, self.graph);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Cuda {
    /// A copy of a tensor that is in this machine's memory.
    pub(crate) fn upload(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous();
        if let Some(before) = self.uploaded_before(&x) {
            return before;
        }
        let bytes = x.bytes()?.len();
        let mut memory = Memory::uninit(self, bytes);
        let start = x.layout.offset() * x.dtype().size();
        let sent = match &mut memory.contents {
            Contents::Held(held) => self.0.queue.upload(&x.storage, start..start + bytes, held),
            Contents::Nothing => Ok(()),
            Contents::Lost(text) => Err(std::mem::take(text)),
        };
        if let Err(text) = sent {
            return Err(Error::device("to_device", text).operand("input", &x));
        }
        let storage = Arc::new(Storage::Device(memory));
        let copy = Tensor::from_storage(storage, 0, *x.shape(), x.dtype());
        self.uploaded(&x, &copy);
        Ok(copy)
    }
}

impl Tensor {
    /// A copy, in this machine's memory, of a tensor that is in a GPU's.
    pub(crate) fn download(&self) -> Result<Self> {
        let x = self.contiguous();
        let Storage::Device(memory) = &*x.storage else { return Ok(x) };
        let bytes = x.numel() * x.dtype().size();
        let received = match &memory.contents {
            Contents::Held(held) => memory.readable().and_then(|()| {
                let mut to = Storage::uninit(bytes);
                let offset = x.layout.offset() * x.dtype().size();
                let slice = to.bytes_mut().expect("memory of our own is writable");
                memory.gpu.0.queue.download(held, offset, slice).map(|()| to)
            }),
            Contents::Nothing => Ok(Storage::uninit(bytes)),
            Contents::Lost(text) => Err(text.clone()),
        };
        match received {
            Ok(to) => Ok(Self::from_storage(Arc::new(to), 0, *x.shape(), x.dtype())),
            Err(text) => Err(Error::device("to_device", text).operand("input", self)),
        }
    }

    /// Writes `source`, converted, to the adjacent elements of this new tensor from `offset` on. Both
    /// are `gpu`'s. What cannot be written is lost, and this tensor with it.
    pub(crate) fn write_on(&mut self, gpu: &Cuda, offset: usize, source: &Self) {
        let part = self.with_layout(Layout::contiguous(*source.shape(), offset));
        if let Err(error) = copy(gpu, source, &part) {
            drop(part);
            let text = error.message().to_owned();
            match Arc::get_mut(&mut self.storage) {
                Some(Storage::Device(memory)) => memory.lose(text),
                _ => unreachable!("a new tensor of a GPU shares nothing"),
            }
        }
    }
}

/// The float type as which elements are moved, and how many of them one element is. (Float32
/// registers hold any 32 bits.)
fn words(dtype: DType) -> Option<(Stored, usize)> {
    match dtype {
        DType::F32 | DType::I32 => Some((Stored::F32, 1)),
        DType::F64 | DType::I64 => Some((Stored::F32, 2)),
        DType::BF16 => Some((Stored::Bf16, 1)),
        DType::F16 => Some((Stored::F16, 1)),
        DType::U8 | DType::Bool => None,
    }
}

/// `to` = `from`, element by element; `to` is contiguous.
pub(super) fn copy(gpu: &Cuda, from: &Tensor, to: &Tensor) -> Result<()> {
    let converts = from.dtype() != to.dtype();
    let is_float = |x: &Tensor| matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16);
    let pair = (words(from.dtype()), words(to.dtype()));
    let (Some((stored, each)), Some((stored_to, _))) = pair else {
        return Err(no_kernel(from, to));
    };
    if converts && !(is_float(from) && is_float(to)) {
        return Err(no_kernel(from, to));
    }
    let (mut shape, mut strides) = (from.shape().to_vec(), from.strides().to_vec());
    if each == 2 {
        shape.push(2);
        strides.iter_mut().for_each(|stride| *stride *= 2);
        strides.push(1);
    }
    let aligned = from.is_aligned(ptx::VECTOR) && to.is_aligned(ptx::VECTOR);
    let launch = ptx::Launch::new(&shape, [&strides], aligned);
    let launch = launch.map_err(|text| Error::shape("copy", text).operand("input", from))?;
    let storages = [stored, stored_to];
    gpu.kernel(&format!("copy {storages:?} {:?}", launch.layout), || {
        ptx::kernel("copy", &Identity, storages, launch.layout)
    })?
    .moved(from)
    .moved(to)
    .numbers(launch.numbers.iter().map(|&n| n as usize))
    .run([launch.len, 1, 1])
}

fn no_kernel(from: &Tensor, to: &Tensor) -> Error {
    let message = format!("no GPU kernel copies {} elements to {}", from.dtype(), to.dtype());
    Error::device("copy", message).operand("input", from)
}

/// Making tensors where others are.
impl Tensor {
    /// A tensor whose elements are whatever the memory held before, on any device; see
    /// [`uninit`](Self::uninit). A GPU whose memory runs out gives one that is lost.
    pub fn uninit_on(device: Option<&Cuda>, shape: impl Into<Shape>, dtype: DType) -> Self {
        match device {
            None => Self::uninit(shape, dtype),
            Some(gpu) => Self::made_on(gpu, shape.into(), dtype, Memory::uninit),
        }
    }

    /// All elements 0, on any device; as [`uninit_on`](Self::uninit_on).
    pub fn zeros_on(device: Option<&Cuda>, shape: impl Into<Shape>, dtype: DType) -> Self {
        match device {
            None => Self::zeros(shape, dtype),
            Some(gpu) => Self::made_on(gpu, shape.into(), dtype, Memory::zeros),
        }
    }

    fn made_on(gpu: &Cuda, shape: Shape, dtype: DType, make: fn(&Cuda, usize) -> Memory) -> Self {
        let memory = make(gpu, crate::tensor::byte_count(&shape, dtype));
        Self::from_storage(Arc::new(Storage::Device(memory)), 0, shape, dtype)
    }

    /// The same elements, adjacent, in row-major order and from a multiple of `count` elements' size:
    /// this tensor if it is so already, else a copy. What kernels with wide loads take.
    pub fn aligned(&self, count: u32) -> Self {
        match self.is_contiguous() && self.is_aligned(count) {
            true => self.clone(),
            false => self.to_owned_copy(),
        }
    }

    /// Whether the first element lies at a multiple of `count` elements' size.
    pub fn is_aligned(&self, count: u32) -> bool {
        // Buffers begin at multiples of 64 bytes at least.
        self.layout.offset().is_multiple_of(count as usize)
    }
}
