//! The rules of races within a block: who touched a cell of memory, when, and how.
//!
//! Two accesses of a cell by different threads must be ordered, unless both read or both are atomic:
//! by a barrier of the block between them, or, within a warp, by `bar.warp.sync`. Time is therefore
//! counted in *epochs* (barriers of the block so far) and, within a warp, in the instructions it has
//! issued. A cell is two bytes; accesses of single bytes are not checked, so that neighbours may
//! write theirs.

use crate::fault::{FaultKind, Trap};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// `atom` and `red`.
    Update,
}

impl Access {
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "written",
            Self::Update => "updated atomically",
        }
    }
}

/// Who and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Barriers so far; 0 is before every epoch.
    pub epoch: u32,
    /// Instructions of this warp so far: equal for the lanes of one instruction.
    pub issue: u32,
    pub warp: u16,
    pub lane: u8,
}

/// More than one of them.
const MANY_LANES: u8 = u8::MAX;
const MANY_WARPS: u16 = u16::MAX;

/// The present of a thread.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub stamp: Stamp,
    /// What its warp issued before this instruction, a warp barrier, is ordered.
    pub ordered: u32,
}

impl Now {
    pub fn lane(&self) -> usize {
        self.stamp.lane.into()
    }
}

impl Stamp {
    fn thread(self) -> u32 {
        u32::from(self.warp) * 32 + u32::from(self.lane)
    }

    /// Whether this earlier access certainly happened before `now`.
    #[inline]
    fn before(self, now: Now) -> bool {
        self.epoch < now.stamp.epoch
            || self.warp == now.stamp.warp
                && (self.lane == now.stamp.lane || self.issue < now.ordered)
    }

    /// The last of many that need not be ordered, with one more.
    #[inline]
    fn joined(self, now: Now) -> Stamp {
        if self.epoch < now.stamp.epoch {
            return now.stamp;
        }
        let Stamp { warp, lane, .. } = now.stamp;
        let warp = if self.warp == warp { warp } else { MANY_WARPS };
        let alone = self.issue < now.ordered || self.lane == lane;
        Stamp { warp, lane: if alone { lane } else { MANY_LANES }, ..now.stamp }
    }

    fn name(self) -> String {
        match (self.warp, self.lane) {
            (MANY_WARPS, _) => "threads of several warps".to_owned(),
            (warp, MANY_LANES) => format!("several lanes of warp {warp}"),
            _ => format!("thread {}", self.thread()),
        }
    }
}

/// The last accesses of two bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cell {
    write: Stamp,
    read: Stamp,
    update: Stamp,
}

/// An earlier access that another one is not ordered after.
pub(crate) struct Conflict {
    stamp: Stamp,
    access: Access,
}

impl Cell {
    /// Notes an access, or says which earlier one it races with.
    #[inline]
    pub fn touch(&mut self, now: Now, access: Access) -> Result<(), Conflict> {
        if !self.write.before(now) {
            return Err(Conflict { stamp: self.write, access: Access::Write });
        }
        if access != Access::Read && !self.read.before(now) {
            return Err(Conflict { stamp: self.read, access: Access::Read });
        }
        if access != Access::Update && !self.update.before(now) {
            return Err(Conflict { stamp: self.update, access: Access::Update });
        }
        match access {
            Access::Read => self.read = self.read.joined(now),
            Access::Write => self.write = now.stamp,
            Access::Update => self.update = self.update.joined(now),
        }
        Ok(())
    }

    /// Notes a write that was checked when it began.
    pub fn wrote(&mut self, now: Now) {
        self.write = now.stamp;
    }

    /// Whether a lane of this very instruction wrote it: another may write the same value.
    #[inline]
    pub fn written_with(&self, now: Now) -> bool {
        Stamp { lane: now.stamp.lane, ..self.write } == now.stamp
    }
}

impl Conflict {
    /// The fault: this `access` of `place` races with that one.
    #[cold]
    pub fn trap(self, kind: FaultKind, place: &str, now: Now, access: Access) -> Trap {
        let text = format!(
            "{place} is {} by thread {} and {} by {}, with no barrier between",
            access.name(),
            now.stamp.thread(),
            self.access.name(),
            self.stamp.name(),
        );
        let trap = Trap::new(kind, now.lane(), text);
        if self.stamp.warp == MANY_WARPS || self.stamp.lane == MANY_LANES {
            trap
        } else {
            trap.against(self.stamp.thread())
        }
    }
}
