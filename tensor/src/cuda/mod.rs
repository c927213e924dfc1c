//! A GPU of NVIDIA's: its memory, its kernels, and launches that are checked.
//!
//! The driver is looked for when a GPU is asked for ([`Cuda::open`]); building and running without
//! one needs nothing of CUDA. A GPU is one queue: copies and kernels happen in the order in which
//! they were asked for, and what is dropped is given back in that order. Kernels are those of
//! `kernels::ptx`, handed to the driver as text when they are first launched ([`Cuda::kernel`]). What
//! is asked for again and again with the same shapes can be recorded and asked for at once ([`Graph`],
//! [`Repeat`]).
//!
//! # Errors come late
//!
//! What is asked of a GPU has been queued, not done, when a call returns. So the driver's errors come
//! with a later call, at the latest with the one that waits,
//! [`Tensor::to_device`](crate::Tensor::to_device). Tensors follow suit: memory that could not be
//! had, a copy that no kernel can make, give a tensor that is *lost*. It has shape and element type
//! and no elements; whoever launches a kernel on it or copies it from the GPU gets the error of what
//! went wrong. So views, packing and conversion need no `Result`, and want of the GPU's memory is
//! no panic.

mod driver;
mod graph;
mod kernel;
mod memory;
mod repeat;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::{Error, Result};
pub use graph::Graph;
pub use kernel::Launch;
pub(crate) use memory::Memory;
pub use repeat::Repeat;

/// A GPU that has been opened; equal to every other handle of the same one.
#[derive(Clone)]
pub struct Cuda(Arc<Gpu>);

/// What the driver says of a card, and of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Compute capability: (8, 0) is an A100's.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
    /// The version of CUDA that the driver is of.
    pub driver: (i32, i32),
}

struct Gpu {
    ordinal: usize,
    card: Card,
    kernels: Mutex<HashMap<String, Arc<kernel::Loaded>>>,
    recording: Mutex<Option<graph::Recording>>,
    /// Bytes of tensors, now and at most.
    live: AtomicUsize,
    peak: AtomicUsize,
    queue: driver::Queue,
}

/// The least compute capability the kernels run on.
const LEAST: (i32, i32) = (8, 0);

impl Cuda {
    /// The GPU of this number. It is opened once, however often it is asked for, and closed when the
    /// last handle and the last tensor are gone.
    ///
    /// Errors: no driver on this machine; no such GPU; one that is too old.
    #[track_caller]
    pub fn open(ordinal: usize) -> Result<Self> {
        static OPEN: Mutex<Vec<Weak<Gpu>>> = Mutex::new(Vec::new());
        let mut open = locked(&OPEN);
        open.retain(|gpu| gpu.strong_count() > 0);
        if let Some(gpu) = open.iter().filter_map(Weak::upgrade).find(|gpu| gpu.ordinal == ordinal)
        {
            return Ok(Self(gpu));
        }
        if !driver::is_present() {
            return Err(Error::device(
                "cuda",
                "no CUDA driver on this machine (libcuda.so): install NVIDIA's, or use the device cpu",
            ));
        }
        let opened = driver::Queue::open(ordinal).and_then(|queue| Ok((queue.card()?, queue)));
        let (card, queue) = match opened {
            Ok(opened) => opened,
            Err(text) => {
                return Err(Error::device("cuda", format!("GPU {ordinal} does not open: {text}"))
                    .note("nvidia-smi lists the GPUs that the driver knows"));
            }
        };
        if card.capability < LEAST {
            let (major, minor) = card.capability;
            let message = format!("{} has compute capability {major}.{minor}", card.name);
            return Err(Error::device("cuda", message)
                .note("the kernels need 8.0: Ampere (A100, RTX 30) or younger"));
        }
        let (kernels, recording, live, peak) = Default::default();
        let gpu = Arc::new(Gpu { ordinal, card, kernels, recording, live, peak, queue });
        open.push(Arc::downgrade(&gpu));
        Ok(Self(gpu))
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.0.ordinal
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.0.card
    }

    /// Bytes that tensors hold now.
    pub fn live_bytes(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// The most bytes that tensors held at once, since it was opened or since
    /// [`reset_peak`](Self::reset_peak).
    pub fn peak_bytes(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Begins a new measurement of [`peak_bytes`](Self::peak_bytes) from what is held now.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.live_bytes(), Ordering::Relaxed);
    }

    /// Waits for everything that was asked for.
    ///
    /// Errors: the driver's, of any of it.
    #[track_caller]
    pub fn synchronize(&self) -> Result<()> {
        match self.may_read().and_then(|()| self.0.queue.wait()) {
            Ok(()) => Ok(()),
            Err(text) => Err(Error::device("synchronize", text)),
        }
    }
}

impl PartialEq for Cuda {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Cuda {}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.0.ordinal)
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.0.card.name)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing half done is ever behind these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
