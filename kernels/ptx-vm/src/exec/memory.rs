//! Loads, stores, atomics and asynchronous copies.

use super::Block;
use super::warp::{Copy, Warp, lanes};
use crate::fault::{FaultKind, Trap};
use crate::isa::{Address, Dst, FULL, LANES, Rmw, Space, Src, Transfer, Ty, W64};
use crate::memory::{Access, rmw};

impl Block<'_> {
    pub(super) fn load(
        &mut self,
        warp: &mut Warp,
        pc: usize,
        what: &Transfer,
        dst: &[Dst],
        active: u32,
    ) -> Result<(), Trap> {
        let (each, total) = (what.ty.bytes(), what.ty.bytes() * dst.len());
        let addresses = addresses(warp, what.space, what.address, active)?;
        self.count(pc, what.space, &addresses, total, active);
        let mut values = [[0u64; LANES]; 4];
        if let Some((i, at)) = self.coalesced(warp, what.space, &addresses, total, active, false) {
            self.counters.read(i, total * LANES);
            let from = self.env.memory.allocation(i);
            for (k, value) in values.iter_mut().enumerate().take(dst.len()) {
                for lane in 0..LANES {
                    value[lane] = from.load(at + lane * total + k * each, each);
                }
            }
        } else {
            self.load_lanes(warp, what, &addresses, [each, total], active, &mut values)?;
        }
        for (dst, value) in dst.iter().zip(&mut values) {
            if what.ty.signed() {
                *value = value.map(|x| extend(x, what.ty));
            }
            warp.set_wide(*dst, value, active);
        }
        Ok(())
    }

    fn load_lanes(
        &mut self,
        warp: &mut Warp,
        what: &Transfer,
        addresses: &W64,
        [each, total]: [usize; 2],
        active: u32,
        values: &mut [W64; 4],
    ) -> Result<(), Trap> {
        for lane in lanes(active) {
            let loaded = self.load_lane(warp, what.space, lane, addresses[lane], [each, total])?;
            for (value, loaded) in values.iter_mut().zip(loaded) {
                value[lane] = loaded;
            }
        }
        Ok(())
    }

    /// What one lane loads: `total` bytes, `each` to a value. Out of bounds, with that check off, it
    /// is zero.
    #[inline]
    fn load_lane(
        &mut self,
        warp: &mut Warp,
        space: Space,
        lane: usize,
        address: u64,
        [each, total]: [usize; 2],
    ) -> Result<[u64; 4], Trap> {
        let mut out = [0; 4];
        let split = |bytes: &[u8], out: &mut [u64; 4]| {
            out.iter_mut().zip(bytes.chunks_exact(each)).for_each(|(out, part)| *out = word(part));
        };
        match space {
            Space::Param => {
                let at = address as usize;
                let Some(bytes) = self.env.parameters.get(at..at.saturating_add(total)) else {
                    let text = format!("parameters end before byte {}", at.saturating_add(total));
                    return Err(Trap::new(FaultKind::OutOfBounds, lane, text));
                };
                split(bytes, &mut out);
            }
            Space::Shared => {
                if let Some(at) = self.shared_place(lane, address, total, total)? {
                    let now = self.stamp(warp, lane);
                    split(self.shared.read(at, total, now)?, &mut out);
                }
            }
            Space::Global => {
                if let Some((i, at)) =
                    self.global_place(warp, lane, address, total, total, false)?
                {
                    self.counters.read(i, total);
                    let from = self.env.memory.allocation(i);
                    (0..total / each).for_each(|k| out[k] = from.load(at + k * each, each));
                }
            }
        }
        Ok(out)
    }

    pub(super) fn store(
        &mut self,
        warp: &mut Warp,
        pc: usize,
        what: &Transfer,
        src: &[Src],
        active: u32,
    ) -> Result<(), Trap> {
        let (each, total) = (what.ty.bytes(), what.ty.bytes() * src.len());
        let addresses = addresses(warp, what.space, what.address, active)?;
        self.count(pc, what.space, &addresses, total, active);
        let mut values = [[0u64; LANES]; 4];
        for (value, src) in values.iter_mut().zip(src) {
            *value = warp.wide(*src, active)?;
        }
        if let Some((i, at)) = self.coalesced(warp, what.space, &addresses, total, active, true) {
            self.counters.written(i, total * LANES);
            let to = self.env.memory.allocation(i);
            for (k, value) in values.iter().enumerate().take(src.len()) {
                for lane in 0..LANES {
                    to.store(at + lane * total + k * each, each, value[lane]);
                }
            }
            return Ok(());
        }
        for lane in lanes(active) {
            let address = addresses[lane];
            if what.space == Space::Shared {
                if let Some(at) = self.shared_place(lane, address, total, total)? {
                    let mut bytes = [0u8; 32];
                    for (k, part) in bytes[..total].chunks_exact_mut(each).enumerate() {
                        put(part, values[k][lane]);
                    }
                    let now = self.stamp(warp, lane);
                    self.shared.write(at, &bytes[..total], now)?;
                }
            } else if let Some((i, at)) =
                self.global_place(warp, lane, address, total, total, true)?
            {
                self.counters.written(i, total);
                let to = self.env.memory.allocation(i);
                (0..src.len()).for_each(|k| to.store(at + k * each, each, values[k][lane]));
            }
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        warp: &mut Warp,
        op: Rmw,
        what: &Transfer,
        dst: Dst,
        [a, b]: [Src; 2],
        active: u32,
    ) -> Result<(), Trap> {
        let bytes = what.ty.bytes();
        let addresses = addresses(warp, what.space, what.address, active)?;
        let (a, b) = (warp.wide(a, active)?, warp.wide(b, active)?);
        let mut old = [0; LANES];
        for lane in lanes(active) {
            let f = |old| rmw(op, what.ty, old, a[lane], b[lane]);
            if what.space == Space::Shared {
                if let Some(at) = self.shared_place(lane, addresses[lane], bytes, bytes)? {
                    old[lane] = self.shared.update(at, bytes, f);
                }
            } else if let Some((i, at)) = self.place(warp, lane, addresses[lane], bytes, bytes)? {
                self.counters.read(i, bytes);
                self.counters.written(i, bytes);
                old[lane] = self.env.memory.allocation(i).update(at, bytes, f);
            }
        }
        warp.set_wide(dst, &old, active);
        Ok(())
    }

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
        let valid = warp.narrow(valid, active)?.map(|v| (v as usize).min(bytes));
        let reading =
            lanes(active).filter(|lane| valid[*lane] > 0).fold(0, |m, lane| m | 1 << lane);
        self.count(pc, Space::Global, &from, bytes, reading);
        self.count(pc, Space::Shared, &to, bytes, active);
        for lane in lanes(active) {
            let mut data = [0u8; 16];
            let size = valid[lane];
            if size > 0
                && let Some((i, at)) =
                    self.global_place(warp, lane, from[lane], size, bytes, false)?
            {
                self.counters.read(i, size);
                self.env.memory.allocation(i).read(at, &mut data[..size]);
            }
            if let Some(at) = self.shared_place(lane, to[lane], bytes, bytes)? {
                let now = self.stamp(warp, lane);
                self.shared.begin_copy(at, bytes, now)?;
                warp.open.push(Copy { lane: lane as u8, at: at as u32, size: bytes as u8, data });
            }
        }
        Ok(())
    }

    /// Ends the oldest groups until `keep` are left; without a number, everything in flight.
    pub(super) fn wait(&mut self, warp: &mut Warp, keep: Option<usize>) {
        if keep.is_none() {
            let open = std::mem::take(&mut warp.open);
            warp.groups.push_back(open);
        }
        while warp.groups.len() > keep.unwrap_or(0) {
            for copy in warp.groups.pop_front().into_iter().flatten() {
                let now = self.stamp(warp, copy.lane.into());
                self.shared.end_copy(copy.at as usize, &copy.data[..copy.size.into()], now);
            }
        }
    }

    fn count(&mut self, pc: usize, space: Space, addresses: &W64, bytes: usize, active: u32) {
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
    fn coalesced(
        &self,
        warp: &mut Warp,
        space: Space,
        addresses: &W64,
        total: usize,
        active: u32,
        write: bool,
    ) -> Option<(usize, usize)> {
        let first = addresses[0];
        let next = |lane: usize| addresses[lane] == first.wrapping_add((lane * total) as u64);
        if space != Space::Global || active != FULL || !(1..LANES).all(next) {
            return None;
        }
        self.global_place(warp, 0, first, total * LANES, total, write).ok()?
    }

    /// Where in global memory a plain access lies, checked for races and, if it reads, for
    /// initialisation.
    fn global_place(
        &self,
        warp: &mut Warp,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
        write: bool,
    ) -> Result<Option<(usize, usize)>, Trap> {
        let Some((i, at)) = self.place(warp, lane, address, bytes, align)? else { return Ok(None) };
        let (env, buffer) = (self.env, self.env.memory.allocation(i));
        if env.checks.uninitialised && !write && !buffer.is_written(at, bytes) {
            let text = format!("nothing was written to {}", env.memory.describe(address));
            return Err(Trap::new(FaultKind::UninitialisedMemory, lane, text));
        }
        if env.checks.races {
            let me = Access { launch: env.number, block: self.linear + 1, write };
            buffer.touch(at, bytes, me).map_err(|other| {
                let text = format!(
                    "block {} {} {}, which block {other} touches in the same launch",
                    self.linear,
                    if write { "writes" } else { "reads" },
                    env.memory.describe(address)
                );
                Trap::new(FaultKind::GlobalRace, lane, text).against(other)
            })?;
        }
        Ok(Some((i, at)))
    }

    /// Which buffer an access lies in and where.
    #[inline]
    fn place(
        &self,
        warp: &mut Warp,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
    ) -> Result<Option<(usize, usize)>, Trap> {
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

/// 1, 2, 4 or 8 bytes as a number. The lengths are spelt out so that each is one instruction.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// The reverse of [`word`].
#[inline]
fn put(bytes: &mut [u8], value: u64) {
    match bytes.len() {
        1 => bytes[0] = value as u8,
        2 => bytes.copy_from_slice(&(value as u16).to_le_bytes()),
        4 => bytes.copy_from_slice(&(value as u32).to_le_bytes()),
        _ => bytes.copy_from_slice(&value.to_le_bytes()),
    }
}

/// Signed types fill their register.
fn extend(value: u64, ty: Ty) -> u64 {
    let bits = 64 - 8 * ty.bytes() as u32;
    if ty.signed() { ((value << bits) as i64 >> bits) as u64 } else { value }
}
