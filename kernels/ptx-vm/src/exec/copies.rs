//! Asynchronous copies. Groups of them are a thread's own, as in the PTX manual: lanes that are apart
//! commit and wait for theirs alone.

use super::Block;
use super::place::{Wanted, addresses};
use super::warp::{Copy, Warp, lanes};
use crate::fault::{FaultKind, Trap};
use crate::isa::{Address, Space, Src};
use crate::race::Access;

impl Block<'_> {
    /// `cp.async`: the bytes are read now and written when the group is waited for; those beyond
    /// `valid` are zero.
    pub(super) fn copy(
        &mut self,
        warp: &mut Warp,
        pc: usize,
        [shared, global]: [Address; 2],
        bytes: usize,
        valid: Src,
        active: u32,
    ) -> Result<(), Trap> {
        let to = addresses(warp, Space::Shared, shared, active)?;
        let from = addresses(warp, Space::Global, global, active)?;
        let valid = warp.narrow(valid, active)?.map(|v| v as usize);
        let reading =
            lanes(active).filter(|lane| valid[*lane] > 0).fold(0, |m, lane| m | 1 << lane);
        self.count(pc, Space::Global, &from, bytes, reading);
        self.count(pc, Space::Shared, &to, bytes, active);
        for lane in lanes(active) {
            let mut data = [0u8; 16];
            if valid[lane] > bytes && self.env.checks.bounds {
                let text = format!("{} bytes of a cp.async of {bytes} are valid", valid[lane]);
                return Err(Trap::new(FaultKind::OutOfBounds, lane, text));
            }
            let size = valid[lane].min(bytes);
            let wanted =
                Wanted { bytes: size, ..Wanted::new(lane, from[lane], bytes, Access::Read) };
            if size > 0
                && let Some((i, at)) = self.global_place(warp, wanted)?
            {
                self.counters.read(i, size);
                self.env.memory.allocation(i).read(at, &mut data[..size]);
            }
            if let Some(at) = self.shared_place(lane, to[lane], bytes, bytes)? {
                self.shared.begin_copy(at, bytes, self.now(warp, lane))?;
                let (group, at, size) = (warp.committed[lane], at as u32, bytes as u8);
                warp.copies.push(Copy { lane: lane as u8, group, at, size, data });
            }
        }
        Ok(())
    }

    /// Ends these lanes' copies but for the last `keep` groups that each has committed; without a
    /// number, all of them, committed or not.
    pub(super) fn wait(&mut self, warp: &mut Warp, keep: Option<u32>, active: u32) {
        if keep.is_none() {
            commit(warp, active);
        }
        let mut copies = std::mem::take(&mut warp.copies);
        copies.retain(|copy| {
            let lane = usize::from(copy.lane);
            let waits = active >> lane & 1 == 1;
            if !waits || copy.group.saturating_add(keep.unwrap_or(0)) >= warp.committed[lane] {
                return true;
            }
            let data = &copy.data[..copy.size.into()];
            self.shared.end_copy(copy.at as usize, data, self.now(warp, lane));
            false
        });
        warp.copies = copies;
    }
}

/// These lanes' copies since their last groups become a group, of each lane for itself.
pub(super) fn commit(warp: &mut Warp, active: u32) {
    lanes(active).for_each(|lane| warp.committed[lane] += 1);
}
