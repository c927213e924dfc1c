//! What can go wrong: a text that does not parse, and a kernel that misbehaves.

use std::fmt;

/// A PTX text this machine cannot read: bad syntax, an unknown symbol, an unsupported instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

/// The class of a [`Fault`]. Real hardware reports the first two at most; the others silently give
/// wrong numbers, on some cards, on some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access outside every live buffer, or beyond the end of shared memory.
    OutOfBounds,
    /// An address that is not a multiple of the size of its access.
    Misaligned,
    /// An access to a buffer that has been freed.
    UseAfterFree,
    /// A register or predicate read before anything was written to it.
    UninitialisedRegister,
    /// Global or shared memory read before anything was written to it.
    UninitialisedMemory,
    /// Two threads of a block touch one shared cell with no barrier between, and neither do both read
    /// nor are both atomic.
    SharedRace,
    /// The same of global memory.
    GlobalRace,
    /// Two blocks of one launch touch one global cell, and neither do both read nor are both atomic.
    BlockRace,
    /// Shared memory touched while a `cp.async` into it is still in flight.
    AsyncInFlight,
    /// A `.sync` or `.aligned` instruction that some lanes it needs have not reached, or ended before.
    DivergentSync,
    /// Some warps wait at a barrier that others ended without reaching.
    MissingBarrier,
    /// More instructions than [`Limits::instructions`](crate::Limits): probably an endless loop.
    Timeout,
    /// A launch the kernel does not allow: block too large, arguments that do not match.
    BadLaunch,
}

/// A kernel stopped: where, who, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which check fired.
    pub kind: FaultKind,
    /// Name of the kernel.
    pub kernel: String,
    /// Index of the instruction in the kernel; 0 for [`FaultKind::BadLaunch`].
    pub pc: usize,
    /// Line of the PTX text, from 1; 0 where the fault has no line.
    pub line: u32,
    /// The text of that line.
    pub source: String,
    /// Block (CTA) index.
    pub block: [u32; 3],
    /// Thread of the block, counted linearly: warp 32·w + lane.
    pub thread: u32,
    /// For races: the other thread, or for [`FaultKind::BlockRace`] the other block, linearly; none if
    /// there are several.
    pub other: Option<u32>,
    /// What happened.
    pub message: String,
}

impl Fault {
    /// Lane of the faulting thread in its warp.
    pub fn lane(&self) -> u32 {
        self.thread % 32
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.kernel, self.kind)?;
        if self.line > 0 {
            let [x, y, z] = self.block;
            write!(f, " at PTX line {}, block ({x}, {y}, {z}), thread {}", self.line, self.thread)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.source.is_empty() {
            write!(f, " | {}", self.source)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// A fault before it is known where it happened; the executor adds the place.
#[derive(Debug)]
pub(crate) struct Trap {
    pub kind: FaultKind,
    pub lane: u32,
    pub other: Option<u32>,
    pub message: String,
}

impl Trap {
    pub fn new(kind: FaultKind, lane: usize, message: impl Into<String>) -> Self {
        Self { kind, lane: lane as u32, other: None, message: message.into() }
    }

    /// The same for a set of lanes: the lowest speaks for all.
    pub fn of_lanes(kind: FaultKind, lanes: u32, message: impl Into<String>) -> Self {
        Self::new(kind, lanes.trailing_zeros().min(31) as usize, message)
    }

    pub fn against(mut self, other: u32) -> Self {
        self.other = Some(other);
        self
    }
}
