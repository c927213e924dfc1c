//! The product on tensor cores, of bf16 matrices, or of float32 ones rounded to tf32.
//!
//! ```text
//! ring of STAGES panels in shared memory           [128][64 bytes] of A and of B
//! for each panel of 64 bytes along k                32 bf16 or 16 float32
//!     wait until it has arrived; barrier            and the one computed last is free again
//!     begin to copy the panel STAGES − 1 further on
//!     for each half of it: fragments of A and B, 4 × 8 mma.sync
//! ```
//!
//! An operand that lies along k keeps its rows: a panel is \[128\] rows of 64 bytes, and fragments
//! come by `ldmatrix`. One that lies across keeps its rows too, of 128 elements, and
//! `ldmatrix.trans` turns its fragments; elements of 4 bytes would fall apart, and are loaded one
//! by one. All are [`Tile`]s: no access has bank conflicts.

use super::{Gemm, Problem};
use crate::ptx::mma::{self, Sums};
use crate::ptx::tile::{Rows, Side, Tile, chunk};
use crate::ptx::{B32, Bf16, Body, F32, Global, Pred, Reg, Shared, Stored, U32, WARP};

/// Threads of a block: four warps, two by two.
pub(super) const THREADS: u32 = 128;
/// Rows and columns of a block's tile,
const ROWS: u32 = 128;
const COLUMNS: u32 = 128;
/// What a block makes.
pub(super) const PER_BLOCK: [u32; 3] = [COLUMNS, ROWS, 1];
/// and of a warp's.
const WARP_TILE: u32 = 64;
/// Panels in shared memory: one in use, the others on their way.
pub(super) const STAGES: u32 = 3;

/// Steps in a panel's depth, each of two chunks, and tiles of 16 rows (or columns) in a warp's.
const STEPS: usize = 2;
const TILES: usize = WARP_TILE as usize / 16;

/// Depth of a panel.
const fn depth<S: Stored>() -> u32 {
    2 * STEPS as u32 * chunk::<S>()
}

/// Elements of a panel of either operand.
const fn panel<S: Stored>() -> u32 {
    128 * depth::<S>()
}

/// What tensor cores multiply.
pub(super) trait Multiplied: Stored {
    /// sums += left · right, of fragments as they come from memory.
    fn multiply<'k>(sums: &Sums<'k>, left: [Reg<'k, B32>; 4], right: [Reg<'k, B32>; 2]);

    /// Fragments for [`multiply`](Self::multiply) of what is in memory.
    fn prepared(fragment: [Reg<'_, B32>; 4]) -> [Reg<'_, B32>; 4];
}

impl Multiplied for Bf16 {
    fn multiply<'k>(sums: &Sums<'k>, left: [Reg<'k, B32>; 4], right: [Reg<'k, B32>; 2]) {
        mma::bf16(sums, left, right);
    }
    fn prepared(fragment: [Reg<'_, B32>; 4]) -> [Reg<'_, B32>; 4] {
        fragment
    }
}

impl Multiplied for F32 {
    fn multiply<'k>(sums: &Sums<'k>, left: [Reg<'k, B32>; 4], right: [Reg<'k, B32>; 2]) {
        mma::tf32(sums, left, right);
    }
    fn prepared(fragment: [Reg<'_, B32>; 4]) -> [Reg<'_, B32>; 4] {
        fragment.map(|x| x.bits::<F32>().to_tf32())
    }
}

pub(super) fn write<S: Multiplied>(k: &Body, gemm: &Gemm) {
    let problem = Problem::<S>::parameters(k, gemm);
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
        depth: problem.range[1],
    };
    let b = Operand {
        from: problem.b,
        row_stride: stride_b,
        along_depth: gemm.transposed[1],
        first: column,
        end: problem.n,
        depth: problem.range[1],
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

    let [start, end] = problem.range;
    for stage in 0..STAGES - 1 {
        copy(k.value(stage), start + stage * depth::<S>());
    }
    let (slot, next) = (k.var::<U32>(0), k.var::<U32>(STAGES - 1));
    k.for_(start, end, depth::<S>(), |first| {
        k.wait_copies(STAGES - 2);
        k.barrier();
        copy(next.get(), first + (STAGES - 1) * depth::<S>());
        let now = slot.get();
        for step in 0..STEPS {
            let left: Vec<_> = (0..TILES).map(|i| a.fragment(now, i, step)).collect();
            for j in 0..TILES {
                let [upper, lower] = b.right_fragments(now, j, step);
                for (left, sums) in left.iter().zip(&sums) {
                    S::multiply(&sums[2 * j], *left, upper);
                    S::multiply(&sums[2 * j + 1], *left, lower);
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
struct Operand<'k, S> {
    from: Global<'k, S>,
    /// Elements from row to row as it is stored,
    row_stride: Reg<'k, U32>,
    /// and whether those rows go along k.
    along_depth: bool,
    /// The block's first row (of A) or column (of B), and the end of all.
    first: Reg<'k, U32>,
    end: Reg<'k, U32>,
    /// The end of the block's part of k.
    depth: Reg<'k, U32>,
}

/// The panels of one operand, 128 rows (of A) or columns (of B) by [`depth`], and this thread's
/// part in moving them. All addresses are made before the loop.
struct Panels<'k, S> {
    operand: Operand<'k, S>,
    side: Side,
    copies: Vec<Copy<'k, S>>,
    fragments: Fragments<'k, S>,
}

/// A chunk that a thread copies of every panel.
struct Copy<'k, S> {
    from: Global<'k, S>,
    to: Shared<'k, S>,
    /// Its k within the panel.
    depth: Reg<'k, U32>,
    /// Whether its row (or column) is within the matrix.
    inside: Reg<'k, Pred>,
}

/// Where fragments come from, in the first slot.
enum Fragments<'k, S> {
    /// This lane's row for `ldmatrix`, by tile, then step; and whether it turns them.
    Matrices(Vec<[Shared<'k, S>; STEPS]>, bool),
    /// This lane's elements: [`Tile::elements`].
    Elements([Shared<'k, S>; 4]),
}

impl<'k, S: Multiplied> Panels<'k, S> {
    /// `place` is the warp's first row (or column) within the block's.
    fn new(k: &'k Body, side: Side, operand: Operand<'k, S>, place: Reg<'k, U32>) -> Self {
        let (rows, [lines, width]) = match operand.along_depth {
            true => (Rows::AlongSum, [128, depth::<S>()]),
            false => (Rows::AcrossSum, [depth::<S>(), 128]),
        };
        let one_by_one = !operand.along_depth && S::BYTES == 4;
        let size = [STAGES, lines, width];
        let ring = if one_by_one { Tile::of_elements(k, size) } else { Tile::new(k, size) };
        let chunks = width / chunk::<S>();
        let (r, c) = (k.thread() / chunks, k.thread() % chunks);
        let copies = (0..panel::<S>() / chunk::<S>() / THREADS).map(|i| {
            let (r, column) = (r + i * (THREADS / chunks), c * chunk::<S>());
            let (line, column, depth, place) = if operand.along_depth {
                (operand.first + r, column, column, operand.first + r)
            } else {
                (r, operand.first + column, r, operand.first + column)
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
            let depth = k.value::<U32>(2 * chunk::<S>() * step as u32);
            ring.fragment(side, rows, place + 16 * tile as u32, depth)
        };
        let of_tile = |tile: usize| std::array::from_fn(|step| fragment(tile, step));
        let fragments = match one_by_one {
            true => Fragments::Elements(ring.elements(place)),
            false => Fragments::Matrices((0..TILES).map(of_tile).collect(), !operand.along_depth),
        };
        Panels { operand, side, copies, fragments }
    }

    /// Begins to copy the panel of k from `first` on into a slot of the ring. Chunks beyond the
    /// matrix become zeros.
    fn copy(&self, slot: Reg<'k, U32>, first: Reg<'k, U32>) {
        let Operand { along_depth, row_stride, depth, .. } = self.operand;
        let skipped = if along_depth { first } else { first * row_stride };
        let slot = slot * panel::<S>();
        for copy in &self.copies {
            let inside = copy.inside & (first + copy.depth).lt(depth);
            copy.to.at(slot).copy_async(copy.from.at(skipped), inside);
        }
    }

    /// The four 8 × 8 matrices of a tile: a left fragment.
    fn fragment(&self, slot: Reg<'k, U32>, tile: usize, step: usize) -> [Reg<'k, B32>; 4] {
        let slot = slot * panel::<S>();
        S::prepared(match &self.fragments {
            Fragments::Matrices(places, turned) => {
                places[tile][step].at(slot).load_matrices(*turned)
            }
            Fragments::Elements(places) => {
                let at = |[across, deep]: [usize; 2]| {
                    // Eight of the sum's rows make a step, four half of it.
                    let further = (8 * step + 4 * deep) * 128 + tile / 2 * 32;
                    let place = places[tile % 2 * 2 + across].at(slot).plus(further);
                    place.load().bits::<B32>()
                };
                match self.side {
                    Side::Left => [[0, 0], [1, 0], [0, 1], [1, 1]].map(at),
                    Side::Right => [[0, 0], [0, 1], [1, 0], [1, 1]].map(at),
                }
            }
        })
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
