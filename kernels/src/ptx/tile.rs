//! Tiles in shared memory, as tensor cores take them.

use super::body::{Body, WARP};
use super::memory::Shared;
use super::types::{Bf16, Element, U32};
use super::value::Reg;

/// bf16 elements of a chunk: 16 bytes, which copies and `ldmatrix` move at once.
pub const CHUNK: u32 = chunk::<Bf16>();

/// Elements of a chunk.
pub const fn chunk<E: Element>() -> u32 {
    16 / E::BYTES
}

/// Chunks that all banks together give at once.
const BANK_CHUNKS: u32 = 8;

/// Rows of elements, their chunks permuted: a chunk of eight neighbouring rows, what `ldmatrix`
/// reads at once, lies in eight different sixteenths of the banks' width, and so do eight
/// neighbouring chunks of a row. No access has to wait for a bank.
#[derive(Clone, Copy)]
pub struct Tile<'k, E = Bf16> {
    k: &'k Body,
    at: Shared<'k, E>,
    /// Chunks of a row,
    chunks: u32,
    /// and by how many more each row is permuted than the one before.
    twist: u32,
}

/// Which operand of a product a fragment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// 16 rows by 16 along the sum.
    Left,
    /// 16 columns by 16 along the sum: two fragments of 8 columns.
    Right,
}

/// Which way the rows of a tile go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Along the sum, as in x·wᵀ both operands' do.
    AlongSum,
    /// Across it: `ldmatrix.trans` turns the fragments.
    AcrossSum,
}

impl<'k, E: Element> Tile<'k, E> {
    /// Tiles of `rows` rows of `width` elements, a power of two and two chunks at least: `slots` of
    /// them, one after another.
    pub fn new(k: &'k Body, size: [u32; 3]) -> Self {
        Tile::twisted(k, size, 1)
    }

    /// Tiles of elements of 4 bytes that are read one by one, by [`elements`](Self::elements).
    pub fn of_elements(k: &'k Body, size: [u32; 3]) -> Self {
        assert!(E::BYTES == 4 && size[2] >= BANK_CHUNKS * chunk::<E>(), "{size:?}");
        Tile::twisted(k, size, 2)
    }

    fn twisted(k: &'k Body, [slots, rows, width]: [u32; 3], twist: u32) -> Self {
        assert!(width.is_power_of_two() && width >= 2 * chunk::<E>(), "rows of {width}");
        Tile { k, at: k.shared(slots * rows * width), chunks: width / chunk::<E>(), twist }
    }

    /// Where chunk `c` of row `r` is.
    ///
    /// Rows as long as the banks are wide, or longer, are permuted by r mod 8; of shorter ones
    /// several share the banks' width, and are permuted alike.
    pub fn chunk(&self, r: Reg<'k, U32>, c: Reg<'k, U32>) -> Shared<'k, E> {
        let sharing = (BANK_CHUNKS / self.chunks).max(1);
        let by = ((r >> sharing.ilog2()) * self.twist) & (BANK_CHUNKS.min(self.chunks) - 1);
        self.at.at(r.mad(self.chunks, c ^ by) * chunk::<E>())
    }

    /// Where this lane points `ldmatrix` to, for the fragment whose first row (or column) is
    /// `place` and that begins `depth` along the sum: multiples of 16 and of two chunks.
    ///
    /// `ldmatrix` moves pairs of 16 bits. An element of 4 bytes is such a pair, and arrives where
    /// tensor cores want it too, unless its rows lie across the sum.
    pub fn fragment(
        &self,
        side: Side,
        rows: Rows,
        place: Reg<'k, U32>,
        depth: Reg<'k, U32>,
    ) -> Shared<'k, E> {
        debug_assert!(E::BYTES == 2 || rows == Rows::AlongSum, "turned, elements fall apart");
        // Eight lanes each point to the rows of four 8 × 8 matrices. On the left the second is
        // eight rows further down, and the third eight further along the sum; on the right it is
        // the other way round, so that both matrices of 8 columns are adjacent.
        let lane = self.k.thread() % WARP;
        let (low, second, third) = (lane % 8, lane / 8 % 2, lane / 16);
        let (across, deep) = match side {
            Side::Left => (second, third),
            Side::Right => (third, second),
        };
        match rows {
            Rows::AlongSum => self.chunk(place + across * 8 + low, depth / chunk::<E>() + deep),
            Rows::AcrossSum => self.chunk(depth + deep * 8 + low, place / chunk::<E>() + across),
        }
    }

    /// Where this lane's elements of fragments of 8 along the sum are, in rows that lie across it:
    /// of rows (or columns) `place` + 0, 8, 16 and 24, the first of the sum's. Those of depth 4·d
    /// are d·4 rows further on, those of `place` + 32·i as many elements.
    ///
    /// A lane wants row l / 4 of those eight, at depth l mod 4: four rows of the tile, permuted by
    /// two chunks each, of which two neighbouring chunks make a warp's access.
    pub fn elements(&self, place: Reg<'k, U32>) -> [Shared<'k, E>; 4] {
        let lane = self.k.thread() % WARP;
        let (row, depth) = (lane / 4, lane % 4);
        [0, 8, 16, 24].map(|further| {
            let at = place + further + row;
            self.chunk(depth, at / chunk::<E>()).at(at % chunk::<E>())
        })
    }
}
