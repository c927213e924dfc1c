//! Memory that is kept: blocks go to free lists on drop and come back for the next tensor.
//!
//! A large block fresh from the operating system costs a page fault per page at first touch, which
//! holds the first write to a few GB/s. A training step asks for the same sizes again and again, so
//! each size class keeps a list of free blocks, and a step in steady state asks the system for
//! nothing.
//!
//! * Classes are powers of two in steps of an eighth (…, 1024, 1152, 1280, …, 2048, 2304, …), so at
//!   most a ninth of a block is slack.
//! * Every block starts at a multiple of 64 bytes: a cache line, and the widest SIMD register.
//! * Blocks of [`SHARED_FROM`] bytes and more ask for huge pages: one page fault and one TLB entry
//!   for 512 small pages. Those of [`HUGE_PAGE`] and more are anonymous maps of their own, which
//!   start at a multiple of it; smaller ones share such maps ([`slab`]).
//! * Memory is zero as the system hands it out and stale when reused; it is never uninitialised.
//! * Free blocks are given back, largest first, when keeping them would take the process more than
//!   an eightieth, and at least 64 MiB, above its peak of live bytes (or half of it, if that is
//!   less); [`trim`] gives all of them back. Of shared maps that is huge pages which nobody
//!   has a part of; where the system is not Linux, whole maps.

mod slab;

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions};

use slab::Piece;

/// Blocks of at least this many bytes ask for huge pages.
const SHARED_FROM: usize = 64 << 10;

/// Size and alignment of a huge page on x86-64 and on arm64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes that are kept above the peak of live ones: sizes that a step asks for at other times than
/// its peak take that much, and what is given back and asked for again costs page faults.
const SLACK: usize = 64 << 20;

/// Bytes the pool knows of, slack of the size classes included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// In use by tensors.
    pub live: usize,
    /// Free, kept for reuse.
    pub cached: usize,
    /// The largest `live` since the start or since [`reset_peak`].
    pub peak: usize,
}

/// What the pool holds now.
pub fn stats() -> Stats {
    state().stats
}

/// Begins a new measurement of [`Stats::peak`] from what is live now.
pub fn reset_peak() {
    let mut state = state();
    state.stats.peak = state.stats.live;
}

/// Gives every free block back to the operating system, as far as it shares no huge page (no map,
/// where that is not Linux) with one in use.
pub fn trim() {
    let mut state = state();
    state.high_water = state.stats.live;
    let freed = state.evict(0);
    drop(state);
    // Unmapping takes time: it happens here, where other threads can already allocate.
    drop(freed);
}

/// A block of memory from the pool; dropping it returns it there.
pub(crate) struct Block {
    memory: Memory,
    zeroed: bool,
}

impl Block {
    /// A block of at least `bytes` bytes.
    ///
    /// # Panics
    /// When the system has no such amount of memory, as `Vec` does.
    pub(crate) fn take(bytes: usize) -> Self {
        if bytes == 0 {
            return Self { memory: Memory::EMPTY, zeroed: true };
        }
        let class = Class::of(bytes);
        let mut state = state();
        if let Some(memory) = state.free.get_mut(class.index).and_then(Vec::pop) {
            state.stats.cached -= class.bytes;
            state.count_live(class.bytes);
            return Self { memory, zeroed: false };
        }
        state.count_live(class.bytes);
        let slack = SLACK.max(state.high_water / 80).min(state.high_water / 2);
        let keep = (state.high_water + slack).saturating_sub(state.stats.live);
        let freed = state.evict(keep);
        drop(state);
        drop(freed);
        let (memory, zeroed) = Memory::fresh(class.bytes);
        Self { memory, zeroed }
    }

    /// Whether every byte is still zero, as the operating system handed it out.
    pub(crate) fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Lines(lines) => bytemuck::cast_slice(lines),
            Memory::Piece(piece) => piece.bytes(),
            Memory::Map { map, start, bytes } => &map[*start..*start + *bytes],
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.zeroed = false;
        match &mut self.memory {
            Memory::Lines(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Piece(piece) => piece.bytes_mut(),
            Memory::Map { map, start, bytes } => &mut map[*start..*start + *bytes],
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = self.bytes().len();
        if bytes == 0 {
            return;
        }
        let memory = std::mem::replace(&mut self.memory, Memory::EMPTY);
        let class = Class::of(bytes);
        let mut state = state();
        state.stats.live -= bytes;
        state.stats.cached += bytes;
        if state.free.len() <= class.index {
            state.free.resize_with(class.index + 1, Vec::new);
        }
        state.free[class.index].push(memory);
    }
}

/// A cache line: the unit, and so the alignment, of small blocks.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

enum Memory {
    Lines(Vec<Line>),
    Piece(Piece),
    Map { map: MmapMut, start: usize, bytes: usize },
}

impl Memory {
    const EMPTY: Self = Self::Lines(Vec::new());

    /// Memory new to the pool, and whether every byte of it is zero.
    fn fresh(bytes: usize) -> (Self, bool) {
        if bytes < SHARED_FROM {
            return (Self::Lines(bytemuck::zeroed_vec(bytes / size_of::<Line>())), true);
        }
        if bytes < HUGE_PAGE {
            let (piece, zeroed) = Piece::take(bytes);
            return (Self::Piece(piece), zeroed);
        }
        let (map, start) = map_huge_pages(bytes);
        (Self::Map { map, start, bytes }, true)
    }
}

/// A map of zeros, and where in it `bytes` bytes start that lie on huge pages as far as they fill
/// them.
///
/// # Panics
/// When the system has no such amount of memory, as `Vec` does.
fn map_huge_pages(bytes: usize) -> (MmapMut, usize) {
    // Room to move the start up to a huge page's boundary; what is never touched costs nothing.
    let map = MmapOptions::new()
        .len(bytes.saturating_add(HUGE_PAGE))
        .map_anon()
        .unwrap_or_else(|error| panic!("no memory for a tensor of {bytes} bytes: {error}"));
    let start = map.as_ptr().align_offset(HUGE_PAGE);
    // Advice may be refused (another system, huge pages switched off); small pages serve too.
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(Advice::HugePage, start, bytes);
    (map, start)
}

/// A size class: where its free list is, and the bytes of its blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Class {
    index: usize,
    bytes: usize,
}

impl Class {
    /// The smallest class whose blocks hold `bytes` bytes, which is at least one.
    fn of(bytes: usize) -> Self {
        // Up to 512 bytes the step stays at one line: an eighth would be less.
        let exponent = (bytes - 1).max(512).ilog2();
        let eighth = 1_usize << (exponent - 3);
        let eighths = bytes.div_ceil(eighth);
        let Some(rounded) = eighths.checked_mul(eighth) else {
            panic!("no memory for a tensor of {bytes} bytes");
        };
        Self { index: 8 * (exponent as usize - 9) + eighths, bytes: rounded }
    }
}

struct State {
    /// Free blocks, by [`Class::index`].
    free: Vec<Vec<Memory>>,
    stats: Stats,
    /// The largest `live` ever, which bounds what is worth keeping.
    high_water: usize,
}

static STATE: Mutex<State> = Mutex::new(State {
    free: Vec::new(),
    stats: Stats { live: 0, cached: 0, peak: 0 },
    high_water: 0,
});

fn state() -> MutexGuard<'static, State> {
    // Nothing panics while the lock is held, except for want of memory.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn count_live(&mut self, bytes: usize) {
        self.stats.live += bytes;
        self.stats.peak = self.stats.peak.max(self.stats.live);
        self.high_water = self.high_water.max(self.stats.live);
    }

    /// Takes free blocks off their lists, largest first, until at most `keep` bytes are cached.
    fn evict(&mut self, keep: usize) -> Vec<Memory> {
        let mut freed = Vec::new();
        for list in self.free.iter_mut().rev() {
            while self.stats.cached > keep
                && let Some(memory) = list.pop()
            {
                self.stats.cached -= match &memory {
                    Memory::Lines(lines) => size_of_val(&**lines),
                    Memory::Piece(piece) => piece.bytes().len(),
                    Memory::Map { bytes, .. } => *bytes,
                };
                freed.push(memory);
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_powers_of_two_in_eighths() {
        let sizes: Vec<usize> = (1..=4096).map(|n| Class::of(n).bytes).collect();
        let mut distinct = sizes.clone();
        distinct.dedup();
        assert_eq!(distinct[..10], [64, 128, 192, 256, 320, 384, 448, 512, 576, 640]);
        for (n, &size) in (1..).zip(&sizes) {
            assert!(size >= n && size % 64 == 0 && (n <= 512 || 9 * n >= 8 * size), "{n}: {size}");
            assert_eq!(Class::of(size), Class::of(n), "{n}");
        }
        let mut indices: Vec<usize> = distinct.iter().map(|&n| Class::of(n).index).collect();
        indices.dedup();
        assert_eq!(indices.len(), distinct.len());
        assert!(indices.is_sorted());
    }

    // What the lists hold depends on the tests running beside this one: see tests/pool.rs.
    #[test]
    fn blocks_are_aligned_and_know_when_they_are_fresh() {
        let (some, many) = (SHARED_FROM, HUGE_PAGE);
        for bytes in [1, 63, 64, 65, 1000, some - 1, some, some + 1, many - 1, many, 5 * many + 13]
        {
            let mut block = Block::take(bytes);
            let alignment = if Class::of(bytes).bytes < HUGE_PAGE { 64 } else { HUGE_PAGE };
            assert_eq!(block.bytes().as_ptr().align_offset(alignment), 0);
            assert!(block.bytes().len() >= bytes);
            assert!(!block.is_zeroed() || block.bytes().iter().all(|&byte| byte == 0));
            block.bytes_mut()[0] = 1;
            assert!(!block.is_zeroed());
        }
    }
}
