//! Where an access lies, and whether it may be made.

use super::Block;
use super::warp::{Warp, lanes};
use crate::fault::{FaultKind, Trap};
use crate::isa::{Address, FULL, LANES, Space, W64};
use crate::race::Access;
use crate::visit::Visit;

/// What an instruction wants of global memory, for one lane or, of adjacent addresses, for all of
/// them from this one on.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub lane: usize,
    pub address: u64,
    pub bytes: usize,
    /// What the address is a multiple of.
    pub align: usize,
    pub access: Access,
}

impl Wanted {
    /// Bytes at a multiple of their number.
    pub fn new(lane: usize, address: u64, bytes: usize, access: Access) -> Self {
        Self { lane, address, bytes, align: bytes, access }
    }
}

/// A buffer, and a byte of it.
type Place = (usize, usize);

impl Block<'_> {
    /// Counts the traffic of an access.
    pub(super) fn count(
        &mut self,
        pc: usize,
        space: Space,
        addresses: &W64,
        bytes: usize,
        active: u32,
    ) {
        match space {
            Space::Param => {}
            Space::Shared => {
                self.counters.shared(pc, lanes(active).map(|lane| (lane, addresses[lane])), bytes);
            }
            Space::Global => {
                self.counters.global(pc, lanes(active).map(|lane| addresses[lane]), bytes);
            }
        }
    }

    /// Where in shared memory an access lies; `None` if it is out of bounds and that is allowed.
    pub(super) fn shared_place(
        &self,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
    ) -> Result<Option<usize>, Trap> {
        self.aligned(lane, address, align)?;
        let (at, size) = (address as usize, self.shared.size());
        if at.checked_add(bytes).is_some_and(|end| end <= size) {
            return Ok(Some(at));
        }
        if !self.env.checks.bounds {
            return Ok(None);
        }
        let text = format!("shared[{at}..{}] is beyond its {size} bytes", at.saturating_add(bytes));
        Err(Trap::new(FaultKind::OutOfBounds, lane, text))
    }

    /// Where in global memory a full warp's access of consecutive addresses lies, checked as a whole;
    /// `None` if it is not of that kind or a check fails: then lane by lane finds out where.
    pub(super) fn coalesced(
        &mut self,
        warp: &mut Warp,
        space: Space,
        addresses: &W64,
        total: usize,
        active: u32,
        access: Access,
    ) -> Option<Place> {
        let first = addresses[0];
        let next = |lane: usize| addresses[lane] == first.wrapping_add((lane * total) as u64);
        if space != Space::Global || active != FULL || !(1..LANES).all(next) {
            return None;
        }
        let one = Wanted::new(0, first, total, access);
        let (i, at) = self.global_range(warp, Wanted { bytes: total * LANES, ..one }).ok()??;
        for lane in 0..LANES {
            self.leave(warp, Wanted { lane, ..one }, (i, at + lane * total)).ok()?;
        }
        Some((i, at))
    }

    /// Where in global memory an access of one lane lies: checked for everything.
    pub(super) fn global_place(
        &mut self,
        warp: &mut Warp,
        wanted: Wanted,
    ) -> Result<Option<Place>, Trap> {
        let place = self.global_range(warp, wanted)?;
        if let Some(place) = place {
            self.leave(warp, wanted, place)?;
        }
        Ok(place)
    }

    /// The same, not yet checked for races within the block.
    fn global_range(&self, warp: &mut Warp, wanted: Wanted) -> Result<Option<Place>, Trap> {
        let Wanted { lane, address, bytes, access, .. } = wanted;
        let Some((i, at)) = self.place(warp, wanted)? else { return Ok(None) };
        let (env, buffer) = (self.env, self.env.memory.allocation(i));
        if env.checks.uninitialised && access != Access::Write && !buffer.is_written(at, bytes) {
            let text = format!("nothing was written to {}", env.memory.describe(address));
            return Err(Trap::new(FaultKind::UninitialisedMemory, lane, text));
        }
        if env.checks.races && env.launch.grid != [1; 3] {
            let me = Visit { launch: env.number, block: self.linear, access };
            buffer
                .visit(at, bytes, me)
                .map_err(|other| self.block_race(lane, address, me, other))?;
        }
        Ok(Some((i, at)))
    }

    #[cold]
    fn block_race(&self, lane: usize, address: u64, me: Visit, other: Option<u32>) -> Trap {
        let others = other.map_or("other blocks".to_owned(), |block| format!("block {block}"));
        let text = format!(
            "{} is {} by block {} and touched by {others} in the same launch",
            self.env.memory.describe(address),
            me.access.name(),
            me.block,
        );
        Trap { other, ..Trap::new(FaultKind::BlockRace, lane, text) }
    }

    /// Leaves a mark of a lane's access of global memory, for the threads of its block.
    #[inline]
    fn leave(&mut self, warp: &Warp, wanted: Wanted, (i, at): Place) -> Result<(), Trap> {
        if !self.env.checks.races {
            return Ok(());
        }
        let Wanted { lane, bytes, access, .. } = wanted;
        let now = self.now(warp, lane);
        self.footprint.touch(i, at, bytes, now, access).map_err(|(byte, conflict)| {
            let place = self.env.memory.describe_in(i, byte);
            conflict.trap(FaultKind::GlobalRace, &place, now, access)
        })
    }

    /// Where in global memory a lane stores these bytes. Lanes of one instruction may store the same
    /// value to the same place.
    pub(super) fn global_store(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        address: u64,
        data: &[u8],
    ) -> Result<Option<Place>, Trap> {
        let bytes = data.len();
        let wanted = Wanted::new(lane, address, bytes, Access::Write);
        let place = self.global_range(warp, wanted)?;
        if let Some((i, at)) = place {
            let mut held = [0; 32];
            self.env.memory.allocation(i).read(at, &mut held[..bytes]);
            let same = held[..bytes] == *data;
            if !(same && self.footprint.written_with(i, at, self.now(warp, lane))) {
                self.leave(warp, wanted, (i, at))?;
            }
        }
        Ok(place)
    }

    /// Which buffer an access lies in and where.
    #[inline]
    fn place(&self, warp: &mut Warp, wanted: Wanted) -> Result<Option<Place>, Trap> {
        let Wanted { lane, address, bytes, align, .. } = wanted;
        self.aligned(lane, address, align)?;
        match self.env.memory.locate(address, bytes, warp.hint) {
            Ok(found) => {
                warp.hint = found.0;
                Ok(Some(found))
            }
            Err(_) if !self.env.checks.bounds => Ok(None),
            Err(kind) => {
                let place = self.env.memory.describe(address);
                let text = format!("{bytes} bytes at {address:#x}: {place}");
                Err(Trap::new(kind, lane, text))
            }
        }
    }

    fn aligned(&self, lane: usize, address: u64, align: usize) -> Result<(), Trap> {
        // Sizes are powers of two: no division, of which there would be one for each lane.
        if address & (align as u64 - 1) == 0 || !self.env.checks.alignment {
            return Ok(());
        }
        let text = format!("address {address:#x} is not a multiple of {align}");
        Err(Trap::new(FaultKind::Misaligned, lane, text))
    }
}

/// The address of each lane; those of shared memory wrap at 32 bits.
pub(super) fn addresses(
    warp: &Warp,
    space: Space,
    address: Address,
    active: u32,
) -> Result<W64, Trap> {
    let base = warp.wide(address.base, active)?;
    let at = base.map(|b| b.wrapping_add_signed(address.offset));
    Ok(if space == Space::Shared { at.map(|a| u64::from(a as u32)) } else { at })
}
