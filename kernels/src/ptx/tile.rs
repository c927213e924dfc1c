//! Tiles of bf16 in shared memory, as tensor cores take them.

use super::body::{Body, WARP};
use super::memory::Shared;
use super::types::{Bf16, U32};
use super::value::Reg;

/// bf16 elements of 16 bytes, which copies and `ldmatrix` move at once.
pub const CHUNK: u32 = 8;

/// Chunks that all banks together give at once.
const BANK_CHUNKS: u32 = 8;

/// Rows of bf16, their chunks permuted: a chunk of eight neighbouring rows, what `ldmatrix` reads
/// at once, lies in eight different sixteenths of the banks' width, and so do eight neighbouring
/// chunks of a row. No access has to wait for a bank.
pub struct Tile<'k> {
    k: &'k Body,
    at: Shared<'k, Bf16>,
    /// Chunks of a row.
    chunks: u32,
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

impl<'k> Tile<'k> {
    /// Tiles of `rows` rows of `width` elements, a power of two from 16 on: `slots` of them, one
    /// after another.
    pub fn new(k: &'k Body, [slots, rows, width]: [u32; 3]) -> Self {
        assert!(width.is_power_of_two() && width >= 2 * CHUNK, "rows of {width}");
        Tile { k, at: k.shared(slots * rows * width), chunks: width / CHUNK }
    }

    /// Where chunk `c` of row `r` is.
    ///
    /// Rows as long as the banks are wide, or longer, are permuted by r mod 8; of shorter ones
    /// several share the banks' width, and are permuted alike.
    pub fn chunk(&self, r: Reg<'k, U32>, c: Reg<'k, U32>) -> Shared<'k, Bf16> {
        let sharing = (BANK_CHUNKS / self.chunks).max(1);
        let by = r >> sharing.ilog2() & (BANK_CHUNKS.min(self.chunks) - 1);
        self.at.at(r.mad(self.chunks, c ^ by) * CHUNK)
    }

    /// Where this lane points `ldmatrix` to, for the fragment whose first row (or column) is
    /// `place` and that begins `depth` along the sum; multiples of 16 both.
    pub fn fragment(
        &self,
        side: Side,
        rows: Rows,
        place: Reg<'k, U32>,
        depth: Reg<'k, U32>,
    ) -> Shared<'k, Bf16> {
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
            Rows::AlongSum => self.chunk(place + across * 8 + low, depth / CHUNK + deep),
            Rows::AcrossSum => self.chunk(depth + deep * 8 + low, place / CHUNK + across),
        }
    }
}
