//! Shared memory of a block, with a shadow that knows who touched each cell and when.
//!
//! Two accesses of a cell by different threads, one of them a write, must be ordered: by a barrier of
//! the block between them, or, within a warp, by `bar.warp.sync`. Time is therefore counted in
//! *epochs* (barriers of the block so far) and *steps* (warp barriers of the warp so far), and an
//! access is a [`Stamp`] of both. A cell is two bytes; accesses of single bytes are not checked for
//! races, so that neighbours may write theirs.

use crate::fault::{FaultKind, Trap};

/// Who and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Barriers so far; 0 is before every epoch.
    pub epoch: u32,
    /// Warp barriers of this warp so far.
    pub step: u32,
    /// Instructions of this warp so far: equal for the lanes of one instruction.
    pub issue: u32,
    pub warp: u16,
    pub lane: u8,
}

/// More than one of them.
const MANY_LANES: u8 = u8::MAX;
const MANY_WARPS: u16 = u16::MAX;

impl Stamp {
    fn thread(self) -> u32 {
        u32::from(self.warp) * 32 + u32::from(self.lane)
    }

    /// Whether this earlier access certainly happened before `now`.
    #[inline]
    fn before(self, now: Stamp) -> bool {
        self.epoch < now.epoch
            || self.warp == now.warp && (self.lane == now.lane || self.step < now.step)
    }

    /// The last readers with one more.
    #[inline]
    fn joined(self, now: Stamp) -> Stamp {
        if self.epoch < now.epoch {
            return now;
        }
        let warp = if self.warp == now.warp { now.warp } else { MANY_WARPS };
        let lane =
            if self.step < now.step || self.lane == now.lane { now.lane } else { MANY_LANES };
        Stamp { warp, lane, ..now }
    }

    fn name(self) -> String {
        match (self.warp, self.lane) {
            (MANY_WARPS, _) => "threads of several warps".to_owned(),
            (warp, MANY_LANES) => format!("several lanes of warp {warp}"),
            _ => format!("thread {}", self.thread()),
        }
    }
}

/// The shadow of two bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: Stamp,
    read: Stamp,
    /// Asynchronous copies into it that are in flight.
    pending: u8,
}

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
    checks: SharedChecks,
    /// Barriers so far, over all blocks that ran in this memory: from 1.
    epoch: u32,
    /// Cells that copies in flight are going to write.
    in_flight: usize,
}

impl Shared {
    pub fn new(size: usize, checks: SharedChecks) -> Self {
        Self {
            bytes: vec![0xCD; size],
            written: vec![false; size],
            cells: vec![Cell::default(); size.div_ceil(2)],
            checks,
            epoch: 1,
            in_flight: 0,
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
        self.barrier();
        if self.in_flight > 0 {
            self.in_flight = 0;
            self.cells.fill(Cell::default());
        }
    }

    /// Bytes at an offset that is in bounds. A copy in flight is reported rather than the bytes it has
    /// not written yet.
    #[inline]
    pub fn read(&mut self, at: usize, size: usize, now: Stamp) -> Result<&[u8], Trap> {
        self.touch(at, size, now, false)?;
        if self.checks.uninitialised && !self.written[at..at + size].iter().all(|w| *w) {
            return Err(Trap::new(
                FaultKind::UninitialisedMemory,
                now.lane.into(),
                format!("nothing was written to all of shared[{at}..{}]", at + size),
            ));
        }
        Ok(&self.bytes[at..at + size])
    }

    /// Writes bytes at an offset that is in bounds.
    #[inline]
    pub fn write(&mut self, at: usize, data: &[u8], now: Stamp) -> Result<(), Trap> {
        // Lanes of one instruction may write the same value to the same place.
        let same = &self.bytes[at..at + data.len()] == data;
        let first = self.cells[at / 2].write;
        if !(same && first.warp == now.warp && first.issue == now.issue && first.epoch == now.epoch)
        {
            self.touch(at, data.len(), now, true)?;
        }
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.written[at..at + data.len()].fill(true);
        Ok(())
    }

    /// An atomic update of 4 or 8 bytes: ordered against every other, by definition.
    pub fn update(&mut self, at: usize, size: usize, f: impl Fn(u64) -> u64) -> u64 {
        let mut word = [0; 8];
        word[..size].copy_from_slice(&self.bytes[at..at + size]);
        let old = u64::from_le_bytes(word);
        self.bytes[at..at + size].copy_from_slice(&f(old).to_le_bytes()[..size]);
        self.written[at..at + size].fill(true);
        old
    }

    /// A `cp.async` into these bytes begins: nobody may touch them until it has ended.
    pub fn begin_copy(&mut self, at: usize, size: usize, now: Stamp) -> Result<(), Trap> {
        self.touch(at, size, now, true)?;
        for cell in &mut self.cells[at / 2..(at + size) / 2] {
            cell.pending += 1;
        }
        self.in_flight += size / 2;
        Ok(())
    }

    /// It ends, seen by the thread that waited for it; the others need a barrier.
    pub fn end_copy(&mut self, at: usize, data: &[u8], now: Stamp) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.written[at..at + data.len()].fill(true);
        for cell in &mut self.cells[at / 2..(at + data.len()) / 2] {
            cell.pending = cell.pending.saturating_sub(1);
            cell.write = now;
        }
        self.in_flight = self.in_flight.saturating_sub(data.len() / 2);
    }

    #[inline]
    fn touch(&mut self, at: usize, size: usize, now: Stamp, write: bool) -> Result<(), Trap> {
        let checks = self.checks;
        for (i, cell) in self.cells[at / 2..(at + size).div_ceil(2)].iter_mut().enumerate() {
            if checks.asynchronous && cell.pending > 0 {
                return Err(in_flight(at / 2 + i, now));
            }
            if !checks.races || size < 2 {
                continue;
            }
            if !cell.write.before(now) {
                return Err(race(at / 2 + i, now, write, cell.write, true));
            }
            if write {
                if !cell.read.before(now) {
                    return Err(race(at / 2 + i, now, write, cell.read, false));
                }
                cell.write = now;
            } else {
                cell.read = cell.read.joined(now);
            }
        }
        Ok(())
    }
}

#[cold]
fn in_flight(cell: usize, now: Stamp) -> Trap {
    let text = format!("shared[{}] is touched while a cp.async into it is in flight", 2 * cell);
    Trap::new(FaultKind::AsyncInFlight, now.lane.into(), text)
}

#[cold]
fn race(cell: usize, now: Stamp, write: bool, other: Stamp, wrote: bool) -> Trap {
    let verb = |w| if w { "written" } else { "read" };
    let text = format!(
        "shared[{}] is {} by thread {} and {} by {}, with no barrier between",
        2 * cell,
        verb(write),
        now.thread(),
        verb(wrote),
        other.name(),
    );
    let trap = Trap::new(FaultKind::SharedRace, now.lane.into(), text);
    if other.warp == MANY_WARPS || other.lane == MANY_LANES {
        trap
    } else {
        trap.against(other.thread())
    }
}
