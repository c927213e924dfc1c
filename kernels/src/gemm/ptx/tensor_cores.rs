//! The product of bf16 matrices on tensor cores.
//!
//! ```text
//! ring of STAGES panels in shared memory           [128][32] of A and of B, bf16
//! for each panel of 32 along k
//!     wait until it has arrived; barrier            and the one computed last is free again
//!     begin to copy the panel STAGES − 1 further on
//!     for each 16 of the 32: ldmatrix fragments of A and B, 4 × 8 mma.sync
//! ```
//!
//! An operand that lies along k keeps its rows: a panel is \[128\]\[32\]. One that lies across
//! keeps its rows too, \[32\]\[128\], and `ldmatrix.trans` turns its fragments. Both are [`Tile`]s:
//! no access has bank conflicts.

use super::{Gemm, Problem};
use crate::ptx::mma::{self, Sums};
use crate::ptx::tile::{CHUNK, Rows, Side, Tile};
use crate::ptx::{B32, Bf16, Body, Global, Pred, Reg, Shared, Stored, U32, WARP};

/// Threads of a block: four warps, two by two.
pub(super) const THREADS: u32 = 128;
/// Rows and columns of a block's tile,
pub(super) const ROWS: u32 = 128;
pub(super) const COLUMNS: u32 = 128;
/// and of a warp's.
const WARP_TILE: u32 = 64;
/// Depth of a panel.
const DEPTH: u32 = 32;
/// Panels in shared memory: one in use, the others on their way.
pub(super) const STAGES: u32 = 3;

/// Steps of 16 in a panel's depth, and tiles of 16 rows (or columns) in a warp's.
const STEPS: usize = DEPTH as usize / 16;
const TILES: usize = WARP_TILE as usize / 16;

/// Elements of a panel of either operand.
const PANEL: u32 = 128 * DEPTH;

pub(super) fn write<D: Stored>(k: &Body, gemm: &Gemm) {
    let problem = Problem::<Bf16, D>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let (row, column) = (k.block(1) * ROWS, k.block(0) * COLUMNS);
    let warp = k.thread() / WARP;
    let (warp_row, warp_column) = (warp % 2 * WARP_TILE, warp / 2 * WARP_TILE);
    let a = Operand {
        from: problem.a,
        row_stride: stride_a,
        along_depth: !gemm.transposed[0],
        first: row,
        end: problem.m,
        depth: problem.depth,
    };
    let b = Operand {
        from: problem.b,
        row_stride: stride_b,
        along_depth: gemm.transposed[1],
        first: column,
        end: problem.n,
        depth: problem.depth,
    };
    let a = Panels::new(k, Side::Left, a, warp_row);
    let b = Panels::new(k, Side::Right, b, warp_column);
    let copy = |slot, first| {
        a.copy(slot, first);
        b.copy(slot, first);
        k.commit_copies();
    };
    // sums[i][j] is the 16 × 8 tile i down and j across.
    let line = || (0..WARP_TILE / 8).map(|_| Sums::new(k)).collect();
    let sums: Vec<Vec<Sums>> = (0..WARP_TILE / 16).map(|_| line()).collect();

    for stage in 0..STAGES - 1 {
        copy(k.value(stage), k.value(stage * DEPTH));
    }
    let (slot, next) = (k.var::<U32>(0), k.var::<U32>(STAGES - 1));
    k.for_(0, problem.depth, DEPTH, |first| {
        k.wait_copies(STAGES - 2);
        k.barrier();
        copy(next.get(), first + (STAGES - 1) * DEPTH);
        let now = slot.get();
        for step in 0..STEPS {
            let left: Vec<_> = (0..TILES).map(|i| a.fragment(now, i, step)).collect();
            for j in 0..TILES {
                let [upper, lower] = b.right_fragments(now, j, step);
                for (left, sums) in left.iter().zip(&sums) {
                    mma::bf16(&sums[2 * j], *left, upper);
                    mma::bf16(&sums[2 * j + 1], *left, lower);
                }
            }
        }
        for place in [slot, next] {
            place.advance(1);
            place.set_where(place.get().eq(STAGES), 0);
        }
    });
    let (warp_row, warp_column) = (row + warp_row, column + warp_column);
    for (i, line) in (0..).zip(&sums) {
        for (j, sums) in (0..).zip(line) {
            sums.each_pair(k, |r, c, pair| {
                let (r, c) = (warp_row + i * 16 + r, warp_column + j * 8 + c);
                problem.writer.write(r, c, &pair, true);
            });
        }
    }
}

/// One operand, and the part of it that a block needs.
struct Operand<'k> {
    from: Global<'k, Bf16>,
    /// Elements from row to row as it is stored,
    row_stride: Reg<'k, U32>,
    /// and whether those rows go along k.
    along_depth: bool,
    /// The block's first row (of A) or column (of B), and the end of all.
    first: Reg<'k, U32>,
    end: Reg<'k, U32>,
    /// The end of k.
    depth: Reg<'k, U32>,
}

/// The panels of one operand, 128 rows (of A) or columns (of B) by [`DEPTH`], and this thread's
/// part in moving them. All addresses are made before the loop.
struct Panels<'k> {
    operand: Operand<'k>,
    copies: Vec<Copy<'k>>,
    /// Where this lane's row of a fragment is, in the first slot: by tile, then step.
    fragments: Vec<[Shared<'k, Bf16>; STEPS]>,
}

/// A chunk that a thread copies of every panel.
struct Copy<'k> {
    from: Global<'k, Bf16>,
    to: Shared<'k, Bf16>,
    /// Its k within the panel.
    depth: Reg<'k, U32>,
    /// Whether its row (or column) is within the matrix.
    inside: Reg<'k, Pred>,
}

impl<'k> Panels<'k> {
    /// `place` is the warp's first row (or column) within the block's.
    fn new(k: &'k Body, side: Side, operand: Operand<'k>, place: Reg<'k, U32>) -> Self {
        let (rows, [lines, width]) = match operand.along_depth {
            true => (Rows::AlongSum, [128, DEPTH]),
            false => (Rows::AcrossSum, [DEPTH, 128]),
        };
        let ring = Tile::new(k, [STAGES, lines, width]);
        let chunks = width / CHUNK;
        let (r, c) = (k.thread() / chunks, k.thread() % chunks);
        let copies = (0..PANEL / CHUNK / THREADS).map(|i| {
            let r = r + i * (THREADS / chunks);
            let (line, column, depth, place) = if operand.along_depth {
                (operand.first + r, c * CHUNK, c * CHUNK, operand.first + r)
            } else {
                (r, operand.first + c * CHUNK, r, operand.first + c * CHUNK)
            };
            Copy {
                from: operand.from.at(line.mad(operand.row_stride, column)),
                to: ring.chunk(r, c),
                depth,
                inside: place.lt(operand.end),
            }
        });
        let copies = copies.collect();

        let fragment = |tile: usize, step: usize| {
            let (place, depth) = (place + 16 * tile as u32, k.value::<U32>(16 * step as u32));
            ring.fragment(side, rows, place, depth)
        };
        let fragments =
            (0..TILES).map(|tile| std::array::from_fn(|step| fragment(tile, step))).collect();
        Panels { operand, copies, fragments }
    }

    /// Begins to copy the panel of k from `first` on into a slot of the ring. Chunks beyond the
    /// matrix become zeros.
    fn copy(&self, slot: Reg<'k, U32>, first: Reg<'k, U32>) {
        let Operand { along_depth, row_stride, depth, .. } = self.operand;
        let skipped = if along_depth { first } else { first * row_stride };
        let slot = slot * PANEL;
        for copy in &self.copies {
            let inside = copy.inside & (first + copy.depth).lt(depth);
            copy.to.at(slot).copy_async(copy.from.at(skipped), inside);
        }
    }

    /// The four 8 × 8 matrices of a tile: a left fragment.
    fn fragment(&self, slot: Reg<'k, U32>, tile: usize, step: usize) -> [Reg<'k, B32>; 4] {
        let place = self.fragments[tile][step].at(slot * PANEL);
        place.load_matrices(!self.operand.along_depth)
    }

    /// The same as two right fragments, of 8 columns each.
    fn right_fragments(
        &self,
        slot: Reg<'k, U32>,
        tile: usize,
        step: usize,
    ) -> [[Reg<'k, B32>; 2]; 2] {
        let [a, b, c, d] = self.fragment(slot, tile, step);
        [[a, b], [c, d]]
    }
}
