//! Slabs: huge pages that several blocks share.
//!
//! A block smaller than a huge page would lie on small ones, and each of those takes an entry of
//! the TLB and a walk through the page tables whenever that entry is gone. So such blocks are pieces
//! of slabs: maps of [`SLAB`] bytes that start at a huge page's boundary and ask for huge pages.
//! What nobody has of a slab is listed and handed out again; the operating system gets back slabs
//! that nobody has anything of and, on Linux, such huge pages.
//!
//! **Invariant: no byte of a slab belongs to two pieces, and a slab with pieces stays mapped.** A
//! piece is cut off a free range, and its bytes are free again only when it is dropped;
//! `Slab::take` and `Slab::give` alone change that.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::MmapRaw;
#[cfg(target_os = "linux")]
use memmap2::UncheckedAdvice;

use super::HUGE_PAGE;

/// Bytes of a slab: few enough maps to look through, and huge pages are only taken when touched.
const SLAB: usize = 32 << 20;

/// A part of a slab, for the owner alone.
pub(super) struct Piece {
    first: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a piece is the only way to its bytes (see the invariant), as a `Box` is.
unsafe impl Send for Piece {}
// SAFETY: shared, it lends its bytes for reading only.
unsafe impl Sync for Piece {}

impl Piece {
    /// A piece of `bytes` bytes, at most [`HUGE_PAGE`], and whether they are all zero still, as the
    /// operating system handed them out. It starts where those before it end: give multiples of
    /// what blocks are to be aligned to.
    ///
    /// # Panics
    /// When there are no bytes or too many, or the system has no memory for another slab.
    pub fn take(bytes: usize) -> (Self, bool) {
        assert!(0 < bytes && bytes <= HUGE_PAGE, "{bytes} bytes are no piece of a slab");
        let mut slabs = slabs();
        if let Some(taken) = slabs.iter_mut().find_map(|slab| slab.take(bytes)) {
            return taken;
        }
        let mut slab = Slab::new();
        let taken = slab.take(bytes).expect("a new slab has room for a huge page");
        slabs.push(slab);
        taken
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes are the piece's own, in a map that lives until it is dropped.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed as long as the bytes are.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.bytes) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut slabs = slabs();
        let address = self.first.addr().get();
        let holds = |slab: &Slab| slab.addresses().contains(&address);
        let index = slabs.iter().position(holds).expect("slabs live as long as their pieces");
        if slabs[index].give(address, self.bytes) {
            let empty = slabs.swap_remove(index);
            drop(slabs);
            // Unmapping takes time: it happens here, where others can already have pieces.
            drop(empty);
        }
    }
}

struct Slab {
    map: MmapRaw,
    /// Where in the map the first huge page begins.
    start: usize,
    /// What belongs to no piece: each range's start and its end, counted from the map's `start`.
    /// None is empty, and no two touch.
    free: BTreeMap<usize, usize>,
    /// From here on no byte was ever handed out.
    fresh: usize,
}

static SLABS: Mutex<Vec<Slab>> = Mutex::new(Vec::new());

fn slabs() -> MutexGuard<'static, Vec<Slab>> {
    // What can panic while the lock is held, want of memory, leaves the slabs as they were.
    SLABS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slab {
    fn new() -> Self {
        let (map, start) = super::map_huge_pages(SLAB);
        Self { map: map.into(), start, free: BTreeMap::from([(0, SLAB)]), fresh: 0 }
    }

    fn addresses(&self) -> Range<usize> {
        let start = self.map.as_ptr().addr() + self.start;
        start..start + SLAB
    }

    /// Cuts a piece off the first range that is large enough.
    fn take(&mut self, bytes: usize) -> Option<(Piece, bool)> {
        let large_enough = |&(&start, &end): &(&usize, &usize)| end - start >= bytes;
        let (&at, &end) = self.free.iter().find(large_enough)?;
        self.free.remove(&at);
        if at + bytes < end {
            self.free.insert(at + bytes, end);
        }
        let zero = at >= self.fresh;
        self.fresh = self.fresh.max(at + bytes);
        // In bounds: the range ends at SLAB at most, and the map has as much from `start` on.
        let first = self.map.as_mut_ptr().wrapping_add(self.start + at);
        Some((Piece { first: NonNull::new(first)?, bytes }, zero))
    }

    /// Lists a piece's bytes as free, and says whether all of the slab is.
    fn give(&mut self, address: usize, bytes: usize) -> bool {
        let at = address - self.addresses().start;
        let (mut start, mut end) = (at, at + bytes);
        if let Some((&before, &its_end)) = self.free.range(..start).next_back()
            && its_end == start
        {
            start = before;
        }
        if let Some(its_end) = self.free.remove(&end) {
            end = its_end;
        }
        self.free.insert(start, end);
        let all = (start, end) == (0, SLAB);
        if !all {
            // Those that had bytes of the piece: others had their turn before.
            let first = start.div_ceil(HUGE_PAGE).max(at / HUGE_PAGE);
            let last = (end / HUGE_PAGE).min((at + bytes).div_ceil(HUGE_PAGE));
            self.give_back(first..last);
        }
        all
    }

    /// Gives huge pages back to the operating system. It may refuse, and take them later.
    fn give_back(&self, pages: Range<usize>) {
        #[cfg(target_os = "linux")]
        if !pages.is_empty() {
            let (at, len) = (self.start + pages.start * HUGE_PAGE, pages.len() * HUGE_PAGE);
            // SAFETY: the pages lie in the map, which is anonymous and this process's own. Their
            // bytes become zeros, and belong to no piece.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, at, len) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(slab: &mut Slab, bytes: usize) -> (usize, bool) {
        let (piece, zero) = slab.take(bytes).unwrap();
        let piece = std::mem::ManuallyDrop::new(piece); // Its slab is not one of the process's.
        (piece.first.addr().get(), zero)
    }

    fn free(slab: &Slab) -> Vec<(usize, usize)> {
        slab.free.iter().map(|(&start, &end)| (start, end)).collect()
    }

    #[test]
    fn what_is_given_back_is_one_with_its_neighbours() {
        let mut slab = Slab::new();
        let start = slab.addresses().start;
        assert_eq!(start % HUGE_PAGE, 0);
        let sizes = [4096, 64, 1 << 20, 4096];
        let pieces = sizes.map(|bytes| (take(&mut slab, bytes), bytes));
        let ends =
            sizes.iter().scan(start, |end, bytes| Some(std::mem::replace(end, *end + bytes)));
        assert!(pieces.iter().zip(ends).all(|(&((at, zero), _), end)| zero && at == end));
        let [a, b, c, d] = pieces.map(|((at, _), bytes)| (at, bytes));
        let rest = (sizes.iter().sum(), SLAB);

        assert!(!slab.give(b.0, b.1));
        assert_eq!(free(&slab), [(4096, 4160), rest]);
        assert!(!slab.give(d.0, d.1), "merged with what follows");
        assert_eq!(free(&slab), [(4096, 4160), (d.0 - start, SLAB)]);
        assert_eq!(take(&mut slab, 64), (b.0, false), "the first range that fits, touched before");
        assert_eq!(take(&mut slab, 8192), (d.0, false), "part of it was");
        assert!(!slab.give(b.0, b.1));
        assert!(!slab.give(d.0, 8192));
        assert!(!slab.give(a.0, a.1), "merged with what follows, not beyond");
        assert_eq!(free(&slab), [(0, 4160), (d.0 - start, SLAB)]);
        assert!(slab.give(c.0, c.1), "merged on both sides");
        assert_eq!(take(&mut slab, HUGE_PAGE), (start, false));
    }

    #[test]
    fn a_full_slab_has_nothing_left() {
        let mut slab = Slab::new();
        let pieces = (0..SLAB / HUGE_PAGE).map(|_| take(&mut slab, HUGE_PAGE)).collect::<Vec<_>>();
        assert!(slab.free.is_empty() && slab.take(64).is_none());
        let given = pieces.iter().rev().map(|piece| slab.give(piece.0, HUGE_PAGE));
        assert_eq!(given.filter(|&empty| empty).count(), 1, "the last one");
    }

    /// What is given back of a slab reads as zeros, and what is kept beside it is as it was.
    #[cfg(target_os = "linux")]
    #[test]
    fn huge_pages_that_nobody_has_are_given_back() {
        let mut slab = Slab::new();
        let sizes = [4096, HUGE_PAGE, HUGE_PAGE, 4096];
        let mut pieces = sizes.map(|bytes| slab.take(bytes).unwrap().0);
        pieces.iter_mut().for_each(|piece| piece.bytes_mut().fill(7));
        let pieces = pieces.map(std::mem::ManuallyDrop::new);
        let at = |i: usize| (pieces[i].first.addr().get(), sizes[i]);
        let sevens = |slab: &Slab| {
            let all = slab.map.as_ptr().wrapping_add(slab.start);
            // SAFETY: the map is as long as that, and nobody writes to it meanwhile.
            let all = unsafe { std::slice::from_raw_parts(all, 3 * HUGE_PAGE) };
            let count = |page: &[u8]| page.iter().filter(|&&byte| byte == 7).count();
            all.chunks(HUGE_PAGE).map(count).collect::<Vec<_>>()
        };
        let (first, last) = at(1);
        assert!(!slab.give(first, last), "of neither of its two pages all is free");
        assert_eq!(sevens(&slab), [HUGE_PAGE, HUGE_PAGE, 8192]);
        let (first, last) = at(2);
        assert!(!slab.give(first, last), "the page between is");
        assert_eq!(sevens(&slab), [HUGE_PAGE, 0, 8192]);
        let (first, last) = at(0);
        assert!(!slab.give(first, last), "and now the first");
        assert_eq!(sevens(&slab), [0, 0, 8192]);
    }

    #[test]
    fn pieces_of_many_threads_are_their_own() {
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for round in 0..100_u32 {
                        let bytes = 64 * (1 + (round as usize * 7919) % 20_000);
                        let (mut piece, zero) = Piece::take(bytes);
                        assert!(!zero || piece.bytes().iter().all(|&byte| byte == 0));
                        let mark = 100 * thread + round;
                        bytemuck::cast_slice_mut(piece.bytes_mut()).fill(mark);
                        kept.push((piece, mark));
                        if round % 3 == 0 {
                            kept.swap_remove(round as usize / 3);
                        }
                    }
                    for (piece, mark) in &kept {
                        let marks: &[u32] = bytemuck::cast_slice(piece.bytes());
                        assert!(marks.iter().all(|at| at == mark));
                    }
                });
            }
        });
    }
}
