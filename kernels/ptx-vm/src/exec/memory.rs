//! Loads, stores and atomics.

use super::Block;
use super::place::{Wanted, addresses};
use super::warp::{Warp, lanes};
use crate::fault::{FaultKind, Trap};
use crate::isa::{Dst, LANES, Rmw, Space, Src, Transfer, Ty, W64};
use crate::memory::rmw;
use crate::race::Access;

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
        if let Some((i, at)) =
            self.coalesced(warp, what.space, &addresses, total, active, Access::Read)
        {
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
                    split(self.shared.read(at, total, self.now(warp, lane))?, &mut out);
                }
            }
            Space::Global => {
                let wanted = Wanted::new(lane, address, total, Access::Read);
                if let Some((i, at)) = self.global_place(warp, wanted)? {
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
        if let Some((i, at)) =
            self.coalesced(warp, what.space, &addresses, total, active, Access::Write)
        {
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
            let mut bytes = [0u8; 32];
            for (k, part) in bytes[..total].chunks_exact_mut(each).enumerate() {
                put(part, values[k][lane]);
            }
            let data = &bytes[..total];
            if what.space == Space::Shared {
                if let Some(at) = self.shared_place(lane, address, total, total)? {
                    self.shared.write(at, data, self.now(warp, lane))?;
                }
            } else if let Some((i, at)) = self.global_store(warp, lane, address, data)? {
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
            let (address, f) = (addresses[lane], |old| rmw(op, what.ty, old, a[lane], b[lane]));
            if what.space == Space::Shared {
                if let Some(at) = self.shared_place(lane, address, bytes, bytes)? {
                    old[lane] = self.shared.update(at, bytes, self.now(warp, lane), f)?;
                }
            } else if let Some((i, at)) =
                self.global_place(warp, Wanted::new(lane, address, bytes, Access::Update))?
            {
                self.counters.read(i, bytes);
                self.counters.written(i, bytes);
                old[lane] = self.env.memory.allocation(i).update(at, bytes, f);
            }
        }
        warp.set_wide(dst, &old, active);
        Ok(())
    }
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
