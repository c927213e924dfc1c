//! What a block does to global memory: the shadow in which its threads' races show.
//!
//! A block touches little of a large memory, so cells come by pages, from a store that the next
//! block uses again: nothing is cleared, since stamps of earlier epochs mean nothing to it.

use crate::race::{Access, Cell, Conflict, Now};

/// Cells of a page.
const PAGE: usize = 256;

/// Where the cells of a page are, for one block.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// Which block put them there, from 1.
    block: u32,
    index: u32,
}

/// The cells of global memory that a block has touched.
pub(crate) struct Footprint {
    /// By buffer and page.
    tables: Vec<Vec<Entry>>,
    cells: Vec<Cell>,
    /// Pages this block uses.
    used: usize,
    /// Blocks so far.
    block: u32,
}

impl Footprint {
    /// Of a memory with so many buffers.
    pub fn new(buffers: usize) -> Self {
        Self { tables: vec![Vec::new(); buffers], cells: Vec::new(), used: 0, block: 0 }
    }

    /// Forgets everything, for the next block.
    pub fn reset(&mut self) {
        self.block += 1;
        self.used = 0;
    }

    /// Notes an access of bytes of a buffer, or says which byte is part of a race, and with what.
    #[inline]
    pub fn touch(
        &mut self,
        buffer: usize,
        at: usize,
        size: usize,
        now: Now,
        access: Access,
    ) -> Result<(), (usize, Conflict)> {
        if size < 2 {
            return Ok(());
        }
        let (mut first, end) = (at / 2, (at + size).div_ceil(2));
        while first < end {
            let within = first % PAGE;
            let count = (end - first).min(PAGE - within);
            let page = &mut self.page(buffer, first / PAGE)[within..within + count];
            for (cell, place) in page.iter_mut().zip(first..) {
                cell.touch(now, access).map_err(|conflict| (2 * place, conflict))?;
            }
            first += count;
        }
        Ok(())
    }

    /// Whether a lane of this very instruction wrote here.
    pub fn written_with(&mut self, buffer: usize, at: usize, now: Now) -> bool {
        self.page(buffer, at / 2 / PAGE)[at / 2 % PAGE].written_with(now)
    }

    #[inline]
    fn page(&mut self, buffer: usize, page: usize) -> &mut [Cell] {
        let table = &mut self.tables[buffer];
        if table.len() <= page {
            table.resize(page + 1, Entry::default());
        }
        let entry = &mut table[page];
        if entry.block != self.block {
            *entry = Entry { block: self.block, index: self.used as u32 };
            self.used += 1;
            if self.cells.len() < self.used * PAGE {
                self.cells.resize(self.used * PAGE, Cell::default());
            }
        }
        &mut self.cells[entry.index as usize * PAGE..][..PAGE]
    }
}
