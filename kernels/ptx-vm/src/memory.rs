//! Global memory: buffers with the initialised bytes and the accesses of each cell remembered.
//!
//! Blocks of a launch run on several threads and share this memory as they do on a GPU, so it is made
//! of atomics, used with relaxed ordering: a kernel with a data race is wrong, the machine is not.

use crate::fault::FaultKind;
use crate::isa::Rmw;
use crate::visit::Visit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Address of the first buffer; far from anything a kernel might make up.
const FIRST: u64 = 0x7F00_0000_0000;
/// Alignment of buffers, as cudaMalloc's.
const ALIGN: u64 = 512;
/// Unmapped bytes after each buffer, so that an overrun never lands in the next.
const GUARD: u64 = 4096;

/// The global memory of a machine.
#[derive(Default)]
pub struct Memory {
    /// In order of their addresses: new ones only grow.
    allocations: Vec<Allocation>,
    /// Address and size of what was freed.
    freed: Vec<(u64, u64)>,
    next: u64,
}

/// One live buffer.
pub(crate) struct Allocation {
    pub base: u64,
    bytes: usize,
    words: Vec<AtomicU32>,
    /// For each word, a bit for each byte that was written.
    written: Vec<AtomicU8>,
    /// For each two bytes, which block did what to them in which launch: see [`Visit::after`]. Made
    /// when first needed.
    marks: OnceLock<Vec<AtomicU64>>,
}

impl Memory {
    /// A new buffer, uninitialised; its address. A buffer of no bytes has an address too.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        let base = self.next.max(FIRST);
        self.next = (base + bytes as u64 + GUARD).next_multiple_of(ALIGN);
        self.allocations.push(Allocation::new(base, bytes));
        base
    }

    /// A buffer that was freed, at its address and of its size, uninitialised as if it were new.
    ///
    /// # Errors
    /// [`FaultKind::OutOfBounds`] if no buffer of this address was freed.
    pub fn alloc_again(&mut self, address: u64) -> Result<(), FaultKind> {
        let found = self.freed.iter().rposition(|(base, _)| *base == address);
        let (base, bytes) = self.freed.remove(found.ok_or(FaultKind::OutOfBounds)?);
        let place = self.allocations.partition_point(|a| a.base < base);
        self.allocations.insert(place, Allocation::new(base, bytes as usize));
        Ok(())
    }

    /// Frees the buffer at this address.
    ///
    /// # Errors
    /// [`FaultKind::UseAfterFree`] if it is freed already, [`FaultKind::OutOfBounds`] if it never
    /// was the address of a buffer.
    pub fn free(&mut self, address: u64) -> Result<(), FaultKind> {
        match self.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(i) => {
                let gone = self.allocations.remove(i);
                self.freed.push((gone.base, gone.bytes as u64));
                Ok(())
            }
            Err(_) if self.freed.iter().any(|f| f.0 == address) => Err(FaultKind::UseAfterFree),
            Err(_) => Err(FaultKind::OutOfBounds),
        }
    }

    /// Address and size of every live buffer.
    pub fn live(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        self.allocations.iter().map(|a| (a.base, a.bytes))
    }

    /// The address of the live buffer that holds an address.
    pub fn buffer_of(&self, address: u64) -> Option<u64> {
        self.locate(address, 1, 0).ok().map(|(i, _)| self.allocations[i].base)
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// Unless all of them lie in one live buffer.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), FaultKind> {
        let (i, offset) = self.locate(address, data.len(), 0)?;
        let to = &self.allocations[i];
        let aligned = if offset.is_multiple_of(4) { data.len() / 4 } else { 0 };
        for (k, word) in data[..4 * aligned].as_chunks::<4>().0.iter().enumerate() {
            to.words[offset / 4 + k].store(u32::from_le_bytes(*word), Relaxed);
            to.written[offset / 4 + k].store(15, Relaxed);
        }
        for (k, byte) in data.iter().enumerate().skip(4 * aligned) {
            to.store(offset + k, 1, u64::from(*byte));
        }
        Ok(())
    }

    /// Reads bytes to the host.
    ///
    /// # Errors
    /// Unless all of them lie in one live buffer.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), FaultKind> {
        let (i, offset) = self.locate(address, data.len(), 0)?;
        self.allocations[i].read(offset, data);
        Ok(())
    }

    /// Copies bytes from one place to another, which may overlap. Bytes that were never written stay
    /// so.
    ///
    /// # Errors
    /// Unless both ranges lie in live buffers.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), FaultKind> {
        let (from, start) = self.locate(from, bytes, 0)?;
        let (to, end) = self.locate(to, bytes, 0)?;
        let (from, to) = (&self.allocations[from], &self.allocations[to]);
        let each = if (start | end | bytes).is_multiple_of(4) { 4 } else { 1 };
        let part = |k| (from.load(start + k, each), from.written(start + k));
        let data: Vec<(u64, u8)> = (0..bytes).step_by(each).map(part).collect();
        for (k, (value, written)) in (0..bytes).step_by(each).zip(data) {
            to.store(end + k, each, value);
            to.forget(end + k, !written & ((1 << each) - 1));
        }
        Ok(())
    }

    /// Writes one byte to a whole range.
    ///
    /// # Errors
    /// Unless it lies in one live buffer.
    pub fn fill(&mut self, address: u64, value: u8, bytes: usize) -> Result<(), FaultKind> {
        self.write(address, &vec![value; bytes])
    }

    /// The first byte of a range that nothing was written to, as an offset into the range.
    ///
    /// # Errors
    /// Unless the range lies in one live buffer.
    pub fn first_unwritten(&self, address: u64, bytes: usize) -> Result<Option<usize>, FaultKind> {
        let (i, offset) = self.locate(address, bytes, 0)?;
        let buffer = &self.allocations[i];
        if buffer.is_written(offset, bytes) {
            return Ok(None);
        }
        Ok((0..bytes).find(|k| !buffer.is_written(offset + k, 1)))
    }

    /// Which buffer holds these bytes, and where in it; `hint` is tried first.
    #[inline]
    pub(crate) fn locate(
        &self,
        address: u64,
        bytes: usize,
        hint: usize,
    ) -> Result<(usize, usize), FaultKind> {
        if let Some(offset) = self.allocations.get(hint).and_then(|a| a.offset(address, bytes)) {
            return Ok((hint, offset));
        }
        self.search(address, bytes)
    }

    #[inline(never)]
    fn search(&self, address: u64, bytes: usize) -> Result<(usize, usize), FaultKind> {
        let after = self.allocations.partition_point(|a| a.base <= address);
        let found = after
            .checked_sub(1)
            .and_then(|i| Some((i, self.allocations[i].offset(address, bytes)?)));
        found.ok_or_else(|| {
            let inside =
                |&(base, size): &(u64, u64)| base <= address && address < base + size.max(1);
            if self.freed.iter().any(inside) {
                FaultKind::UseAfterFree
            } else {
                FaultKind::OutOfBounds
            }
        })
    }

    /// Forgets which launches touched what, so that their numbers can be given again.
    pub(crate) fn forget_launches(&mut self) {
        self.allocations.iter_mut().for_each(|a| a.marks = OnceLock::new());
    }

    pub(crate) fn allocation(&self, i: usize) -> &Allocation {
        &self.allocations[i]
    }

    pub(crate) fn count(&self) -> usize {
        self.allocations.len()
    }

    /// In words: the buffer nearest to an address.
    pub(crate) fn describe(&self, address: u64) -> String {
        let after = self.allocations.partition_point(|a| a.base <= address);
        match after.checked_sub(1) {
            Some(i) => self.describe_in(i, (address - self.allocations[i].base) as usize),
            None => "before every buffer".to_owned(),
        }
    }

    /// In words: a byte of a buffer.
    pub(crate) fn describe_in(&self, i: usize, byte: usize) -> String {
        format!("byte {byte} of a buffer of {} bytes", self.allocations[i].bytes)
    }
}

impl Allocation {
    fn new(base: u64, bytes: usize) -> Self {
        let words = bytes.div_ceil(4);
        Self {
            base,
            bytes,
            words: (0..words).map(|_| AtomicU32::new(0xCDCD_CDCD)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
            marks: OnceLock::new(),
        }
    }

    #[inline]
    fn offset(&self, address: u64, bytes: usize) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.base)?).ok()?;
        (offset.checked_add(bytes)? <= self.bytes).then_some(offset)
    }

    /// 1, 2, 4 or 8 bytes, at any offset.
    #[inline]
    pub fn load(&self, offset: usize, bytes: usize) -> u64 {
        let word = |i: usize| u64::from(self.words[i].load(Relaxed));
        let (i, at) = (offset / 4, offset % 4);
        match bytes {
            4 if at == 0 => word(i),
            8 if at == 0 => word(i) | word(i + 1) << 32,
            _ if at + bytes <= 4 => word(i) >> (8 * at) & ((1 << (8 * bytes)) - 1),
            _ => (0..bytes).map(|k| self.load(offset + k, 1) << (8 * k)).sum(),
        }
    }

    /// Any number of bytes, at any offset.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let aligned = if offset.is_multiple_of(4) { out.len() / 4 } else { 0 };
        for (k, word) in out[..4 * aligned].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = self.words[offset / 4 + k].load(Relaxed).to_le_bytes();
        }
        for (k, byte) in out.iter_mut().enumerate().skip(4 * aligned) {
            *byte = self.load(offset + k, 1) as u8;
        }
    }

    /// Stores 1, 2, 4 or 8 bytes, at any offset, and marks them written.
    #[inline]
    pub fn store(&self, offset: usize, bytes: usize, value: u64) {
        let (i, at) = (offset / 4, offset % 4);
        match bytes {
            4 if at == 0 => self.store_word(i, value as u32),
            8 if at == 0 => {
                self.store_word(i, value as u32);
                self.store_word(i + 1, (value >> 32) as u32);
            }
            _ if at + bytes <= 4 => {
                let mask = ((1u64 << (8 * bytes)) - 1) as u32;
                let merge =
                    |old: u32| Some(old & !(mask << (8 * at)) | (value as u32 & mask) << (8 * at));
                // The closure never declines, so the update cannot fail.
                let _ = self.words[i].fetch_update(Relaxed, Relaxed, merge);
                self.written[i].fetch_or(((1u8 << bytes) - 1) << at, Relaxed);
            }
            _ => (0..bytes).for_each(|k| self.store(offset + k, 1, value >> (8 * k) & 0xFF)),
        }
    }

    fn store_word(&self, i: usize, value: u32) {
        self.words[i].store(value, Relaxed);
        self.written[i].store(15, Relaxed);
    }

    /// Whether all these bytes were written.
    #[inline]
    pub fn is_written(&self, offset: usize, bytes: usize) -> bool {
        if offset.is_multiple_of(4) && bytes.is_multiple_of(4) {
            return (offset / 4..(offset + bytes) / 4).all(|i| self.written[i].load(Relaxed) == 15);
        }
        (offset..offset + bytes).all(|k| self.written[k / 4].load(Relaxed) >> (k % 4) & 1 == 1)
    }

    /// A bit for each byte from here to the end of its word, whether it was written.
    fn written(&self, offset: usize) -> u8 {
        self.written[offset / 4].load(Relaxed) >> (offset % 4)
    }

    /// Marks bytes of a word, by bits from here on, as never written.
    fn forget(&self, offset: usize, bytes: u8) {
        self.written[offset / 4].fetch_and(!(bytes << (offset % 4)), Relaxed);
    }

    /// Applies a read-modify-write to 4 or 8 aligned bytes; returns what was there. Blocks with
    /// atomics run one after another, so no other thread comes between.
    pub fn update(&self, offset: usize, bytes: usize, f: impl Fn(u64) -> u64) -> u64 {
        let old = self.load(offset, bytes);
        self.store(offset, bytes, f(old));
        old
    }

    /// Notes what a block does; or says which other block it races with, if it is one.
    ///
    /// Single bytes are not tracked: cells are two bytes.
    #[inline]
    pub fn visit(&self, offset: usize, bytes: usize, me: Visit) -> Result<(), Option<u32>> {
        if bytes < 2 {
            return Ok(());
        }
        let marks = self
            .marks
            .get_or_init(|| (0..self.bytes.div_ceil(2)).map(|_| AtomicU64::new(0)).collect());
        for cell in &marks[offset / 2..(offset + bytes).div_ceil(2)] {
            let mut old = cell.load(Relaxed);
            loop {
                let new = me.after(old)?;
                if new == old {
                    break;
                }
                match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        }
        Ok(())
    }
}

/// What a read-modify-write leaves behind, in the low bits of its type.
pub(crate) fn rmw(op: Rmw, ty: crate::isa::Ty, old: u64, a: u64, b: u64) -> u64 {
    use crate::isa::Ty::*;
    match (op, ty) {
        (Rmw::Add, F32) => {
            let sum = f32::from_bits(old as u32) + f32::from_bits(a as u32);
            u64::from(crate::float::canonical(sum))
        }
        (Rmw::Add, F64) => crate::float::canonical64(f64::from_bits(old) + f64::from_bits(a)),
        (Rmw::Add, _) => old.wrapping_add(a),
        (Rmw::Min, S32) => u64::from((old as i32).min(a as i32) as u32),
        (Rmw::Max, S32) => u64::from((old as i32).max(a as i32) as u32),
        (Rmw::Min, S64) => (old as i64).min(a as i64) as u64,
        (Rmw::Max, S64) => (old as i64).max(a as i64) as u64,
        (Rmw::Min, _) => old.min(a),
        (Rmw::Max, _) => old.max(a),
        (Rmw::And, _) => old & a,
        (Rmw::Or, _) => old | a,
        (Rmw::Xor, _) => old ^ a,
        (Rmw::Exch, _) => a,
        (Rmw::Cas, _) => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}
