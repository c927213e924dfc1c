//! Shared memory of a block, with a shadow that knows what was written, by whom and when, and which
//! asynchronous copies are still to come.

use crate::fault::{FaultKind, Trap};
use crate::race::{Access, Cell, Now};

/// Which checks of shared memory are on.
#[derive(Clone, Copy)]
pub(crate) struct SharedChecks {
    pub races: bool,
    pub asynchronous: bool,
    pub uninitialised: bool,
}

/// The shared memory of one block.
pub(crate) struct Shared {
    bytes: Vec<u8>,
    written: Vec<bool>,
    cells: Vec<Cell>,
    /// For each cell, the asynchronous copies into it that are in flight.
    pending: Vec<u8>,
    /// Their sum.
    in_flight: usize,
    checks: SharedChecks,
    /// Barriers so far, over all blocks that ran in this memory: from 1.
    epoch: u32,
}

impl Shared {
    pub fn new(size: usize, checks: SharedChecks) -> Self {
        Self {
            bytes: vec![0xCD; size],
            written: vec![false; size],
            cells: vec![Cell::default(); size.div_ceil(2)],
            pending: vec![0; size.div_ceil(2)],
            in_flight: 0,
            checks,
            epoch: 1,
        }
    }

    /// The current epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// All threads have met: what was done so far lies before what is done from now on.
    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets everything, for the next block.
    pub fn reset(&mut self) {
        self.bytes.fill(0xCD);
        self.written.fill(false);
        self.pending.fill(0);
        self.in_flight = 0;
        self.barrier();
    }

    /// Bytes at an offset that is in bounds. A copy in flight is reported rather than the bytes it has
    /// not written yet.
    #[inline]
    pub fn read(&mut self, at: usize, size: usize, now: Now) -> Result<&[u8], Trap> {
        self.touch(at, size, now, Access::Read)?;
        self.initialised(at, size, now)?;
        Ok(&self.bytes[at..at + size])
    }

    /// Writes bytes at an offset that is in bounds.
    #[inline]
    pub fn write(&mut self, at: usize, data: &[u8], now: Now) -> Result<(), Trap> {
        // Lanes of one instruction may write the same value to the same place.
        let same = &self.bytes[at..at + data.len()] == data;
        if !(same && self.cells[at / 2].written_with(now)) {
            self.touch(at, data.len(), now, Access::Write)?;
        }
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.written[at..at + data.len()].fill(true);
        Ok(())
    }

    /// An atomic update of 4 or 8 bytes; what was there before.
    pub fn update(
        &mut self,
        at: usize,
        size: usize,
        now: Now,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, Trap> {
        self.touch(at, size, now, Access::Update)?;
        self.initialised(at, size, now)?;
        let mut word = [0; 8];
        word[..size].copy_from_slice(&self.bytes[at..at + size]);
        let old = u64::from_le_bytes(word);
        self.bytes[at..at + size].copy_from_slice(&f(old).to_le_bytes()[..size]);
        self.written[at..at + size].fill(true);
        Ok(old)
    }

    /// A `cp.async` into these bytes begins: nobody may touch them until it has ended.
    pub fn begin_copy(&mut self, at: usize, size: usize, now: Now) -> Result<(), Trap> {
        self.touch(at, size, now, Access::Write)?;
        self.pending[at / 2..(at + size) / 2].iter_mut().for_each(|n| *n = n.saturating_add(1));
        self.in_flight += size / 2;
        Ok(())
    }

    /// It ends, seen by the thread that waited for it; the others need a barrier.
    pub fn end_copy(&mut self, at: usize, data: &[u8], now: Now) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.written[at..at + data.len()].fill(true);
        let cells = at / 2..(at + data.len()) / 2;
        self.pending[cells.clone()].iter_mut().for_each(|n| *n = n.saturating_sub(1));
        self.in_flight -= cells.len();
        self.cells[cells].iter_mut().for_each(|cell| cell.wrote(now));
    }

    #[inline]
    fn touch(&mut self, at: usize, size: usize, now: Now, access: Access) -> Result<(), Trap> {
        let cells = at / 2..(at + size).div_ceil(2);
        if self.checks.asynchronous
            && self.in_flight > 0
            && let Some(i) = self.pending[cells.clone()].iter().position(|pending| *pending > 0)
        {
            return Err(in_flight(cells.start + i, now));
        }
        if !self.checks.races || size < 2 {
            return Ok(());
        }
        for (cell, i) in self.cells[cells.clone()].iter_mut().zip(cells) {
            cell.touch(now, access).map_err(|conflict| {
                conflict.trap(FaultKind::SharedRace, &format!("shared[{}]", 2 * i), now, access)
            })?;
        }
        Ok(())
    }

    #[inline]
    fn initialised(&self, at: usize, size: usize, now: Now) -> Result<(), Trap> {
        if !self.checks.uninitialised || self.written[at..at + size].iter().all(|w| *w) {
            return Ok(());
        }
        let text = format!("nothing was written to all of shared[{at}..{}]", at + size);
        Err(Trap::new(FaultKind::UninitialisedMemory, now.lane(), text))
    }
}

#[cold]
fn in_flight(cell: usize, now: Now) -> Trap {
    let text = format!("shared[{}] is touched while a cp.async into it is in flight", 2 * cell);
    Trap::new(FaultKind::AsyncInFlight, now.lane(), text)
}
