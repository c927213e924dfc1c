//! What a stream does: now, at the next synchronisation, or, while it is captured, at each launch of
//! the graph.

use crate::driver::{Driver, Function};
use crate::raw::{Callback, Host};
use crate::status::{Error, Status};
use ptx_vm::{Counts, FaultKind, Launch};
use std::sync::Arc;

/// The default stream.
const DEFAULT_STREAM: usize = 0;

/// Work on a stream.
#[derive(Clone)]
pub(crate) enum Operation {
    /// Of a graph: the buffer is there from now on, and nothing is written to it.
    Alloc {
        address: u64,
    },
    Free {
        address: u64,
    },
    Launch {
        function: Arc<Function>,
        launch: Launch,
        parameters: Vec<u8>,
    },
    Upload {
        to: u64,
        from: Host,
        bytes: usize,
    },
    Download {
        to: Host,
        from: u64,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        value: u8,
        bytes: usize,
    },
    Call(Callback),
}

/// Sums over the launches of one kernel.
#[derive(Clone, Copy, Default)]
pub(crate) struct KernelStatistics {
    pub launches: u64,
    pub blocks: u64,
    pub counts: Counts,
}

impl Driver {
    /// Does it, or records it if the stream is being captured; or, where work is
    /// [late](crate::extra::fakecuda_set_late), leaves it for the next synchronisation.
    pub fn submit(&mut self, stream: usize, operation: Operation) -> Status {
        match self.captured(stream)? {
            Some(capture) => self.capture_mut(capture)?.operations.push(operation),
            None if self.is_late => self.left.push((stream, operation)),
            None => self.perform(stream, &operation)?,
        }
        Ok(())
    }

    /// Does what was left for now.
    ///
    /// Errors: of the first of it that goes wrong; what is behind that is not done.
    pub fn catch_up(&mut self) -> Status {
        let left = std::mem::take(&mut self.left);
        left.iter().try_for_each(|(stream, operation)| self.perform(*stream, operation))
    }

    /// Does it now and waits for it: the functions without `Async` in their names.
    pub fn perform_and_wait(&mut self, operation: &Operation) -> Status {
        self.no_capture("a copy that is waited for")?;
        self.catch_up()?;
        self.perform(DEFAULT_STREAM, operation)?;
        self.order.synchronised(DEFAULT_STREAM);
        Ok(())
    }

    /// Does it now, on a stream.
    fn perform(&mut self, stream: usize, operation: &Operation) -> Status {
        self.order.begin(stream);
        match operation {
            Operation::Upload { to, .. } | Operation::Fill { to, .. } => {
                self.used(stream, *to, true)?
            }
            Operation::Free { address } => self.used(stream, *address, true)?,
            Operation::Download { from, .. } => self.used(stream, *from, false)?,
            Operation::Copy { to, from, .. } => {
                self.used(stream, *from, false)?;
                self.used(stream, *to, true)?;
            }
            Operation::Alloc { .. } | Operation::Launch { .. } | Operation::Call(_) => {}
        }
        self.run(stream, operation)
    }

    fn run(&mut self, stream: usize, operation: &Operation) -> Status {
        let memory = &mut self.machine.memory;
        let (what, result) = match operation {
            Operation::Alloc { address } => {
                // A graph that left it behind the last time frees it when it is launched again.
                if memory.buffer_of(*address).is_some() {
                    self.free(*address)?;
                }
                ("allocation", self.machine.memory.alloc_again(*address))
            }
            Operation::Free { address } => return self.free(*address),
            Operation::Launch { function, launch, parameters } => {
                return self.launch(stream, function, *launch, parameters);
            }
            Operation::Call(callback) => {
                callback.call();
                return Ok(());
            }
            Operation::Upload { to, from, bytes } => {
                ("host-to-device copy", memory.write(*to, &from.read(*bytes)?))
            }
            Operation::Download { to, from, bytes } => {
                if self.machine.checks.uninitialised
                    && let Ok(Some(byte)) = memory.first_unwritten(*from, *bytes)
                {
                    let text = format!(
                        "device-to-host copy of {bytes} bytes at {from:#x}: nothing wrote byte {byte}"
                    );
                    return Err(self.fail(Error::LaunchFailed, text));
                }
                let mut data = vec![0; *bytes];
                let read = memory.read(*from, &mut data);
                if read.is_ok() {
                    to.write(&data)?;
                }
                // Into pageable memory the driver copies by itself, and returns when it has.
                if !self.is_pinned(*to) {
                    self.order.synchronised(stream);
                }
                ("device-to-host copy", read)
            }
            Operation::Copy { to, from, bytes } => {
                ("device-to-device copy", memory.copy(*to, *from, *bytes))
            }
            Operation::Fill { to, value, bytes } => ("memset", memory.fill(*to, *value, *bytes)),
        };
        result.map_err(|kind| {
            let reason = match kind {
                FaultKind::UseAfterFree => "a buffer already freed",
                _ => "bytes outside every buffer",
            };
            self.fail(Error::InvalidValue, format!("{what} of {reason}"))
        })
    }

    fn launch(
        &mut self,
        stream: usize,
        function: &Function,
        launch: Launch,
        parameters: &[u8],
    ) -> Status {
        let kernel = &function.kernel;
        match self.machine.launch_packed(kernel, launch, parameters) {
            Ok(statistics) => {
                let sum = self.statistics.entry(kernel.name.clone()).or_default();
                sum.launches += 1;
                sum.blocks += statistics.blocks;
                sum.counts += statistics.total();
                statistics.traffic.iter().try_for_each(|(buffer, traffic)| {
                    self.used(stream, *buffer, traffic.written > 0)
                })
            }
            Err(fault) => {
                let error = match fault.kind {
                    FaultKind::OutOfBounds | FaultKind::UseAfterFree => Error::IllegalAddress,
                    FaultKind::Misaligned => Error::MisalignedAddress,
                    FaultKind::BadLaunch => {
                        return Err(self.fail(Error::InvalidValue, fault.to_string()));
                    }
                    _ => Error::LaunchFailed,
                };
                self.dead = Some(error);
                Err(self.fail(error, fault.to_string()))
            }
        }
    }
}
