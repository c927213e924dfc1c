//! The product on tensor cores, of bf16 matrices, or of float32 ones rounded to tf32.
//!
//! ```text
//! ring of panels in shared memory                   [side][64 bytes] of A and of B
//! for each panel of 64 bytes along k                32 bf16 or 16 float32
//!     wait until it has arrived; barrier            and the one computed last is free again
//!     begin to copy the panel that takes its place
//!     for each half of it: fragments of A and B, 4 × 8 mma.sync, or 2 × 4
//! ```
//!
//! An operand that lies along k keeps its rows: a panel is \[side\] rows of 64 bytes, and fragments
//! come by `ldmatrix`. One that lies across keeps its rows too, of as many elements, and
//! `ldmatrix.trans` turns its fragments; elements of 4 bytes would fall apart, and are loaded one
//! by one. All are [`Tile`]s: no access has bank conflicts.
//!
//! Whatever the [`Squares`], an element's products meet the same instructions in the same order.

use super::{Gemm, Problem};
use crate::ptx::mma::{self, Sums};
use crate::ptx::tile::{Rows, Side, Tile, chunk};
use crate::ptx::{B32, Bf16, Body, F32, Global, Pred, Reg, Shared, Stored, U32, WARP};

/// How large tiles are, one for each block: squares of four, one for each warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Squares {
    /// Rows and columns of a warp's square.
    warp: u32,
    /// Panels in shared memory: one in use, the others on their way.
    stages: u32,
}

impl Squares {
    /// 128 × 128 elements, 64 × 64 a warp: most products for what is read.
    pub const LARGE: Squares = Squares { warp: 64, stages: 3 };
    /// 64 × 64 elements, 32 × 32 a warp: four times as many blocks, where the others would be few.
    /// A panel is multiplied in a fourth of the time and takes as long to come: more are on their
    /// way.
    pub const SMALL: Squares = Squares { warp: 32, stages: 4 };

    /// Rows of a block's square, and columns.
    pub(super) const fn side(self) -> u32 {
        2 * self.warp
    }

    /// What a block makes.
    pub(super) const fn per_block(self) -> [u32; 3] {
        [self.side(), self.side(), 1]
    }

    /// Tiles of 16 rows (or columns) in a warp's square.
    const fn tiles(self) -> usize {
        self.warp as usize / 16
    }

    /// Elements of a panel of either operand.
    const fn panel<S: Stored>(self) -> u32 {
        self.side() * depth::<S>()
    }
}

/// Threads of a block: four warps, two by two.
pub(super) const THREADS: u32 = 4 * WARP;

/// Steps in a panel's depth, each of two chunks.
const STEPS: usize = 2;

/// Depth of a panel.
const fn depth<S: Stored>() -> u32 {
    2 * STEPS as u32 * chunk::<S>()
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

pub(super) fn write<S: Multiplied>(k: &Body, gemm: &Gemm, squares: Squares) {
    let problem = Problem::<S>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let (row, column) = (k.block(1) * squares.side(), k.block(0) * squares.side());
    let warp = k.thread() / WARP;
    let (warp_row, warp_column) = (warp % 2 * squares.warp, warp / 2 * squares.warp);
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
    let a = Panels::new(k, squares, Side::Left, a, warp_row);
    let b = Panels::new(k, squares, Side::Right, b, warp_column);
    let copy = |slot, first| {
        a.copy(slot, first);
        b.copy(slot, first);
        k.commit_copies();
    };
    // sums[i][j] is the 16 × 8 tile i down and j across.
    let line = || (0..2 * squares.tiles()).map(|_| Sums::new(k)).collect();
    let sums: Vec<Vec<Sums>> = (0..squares.tiles()).map(|_| line()).collect();

    let [start, end] = problem.range;
    for stage in 0..squares.stages - 1 {
        copy(k.value(stage), start + stage * depth::<S>());
    }
    let (slot, next) = (k.var::<U32>(0), k.var::<U32>(squares.stages - 1));
    k.for_(start, end, depth::<S>(), |first| {
        k.wait_copies(squares.stages - 2);
        k.barrier();
        copy(next.get(), first + (squares.stages - 1) * depth::<S>());
        let now = slot.get();
        for step in 0..STEPS {
            let left: Vec<_> = (0..squares.tiles()).map(|i| a.fragment(now, i, step)).collect();
            for j in 0..squares.tiles() {
                let [upper, lower] = b.right_fragments(now, j, step);
                for (left, sums) in left.iter().zip(&sums) {
                    S::multiply(&sums[2 * j], *left, upper);
                    S::multiply(&sums[2 * j + 1], *left, lower);
                }
            }
        }
        for place in [slot, next] {
            place.advance(1);
            place.set_where(place.get().eq(squares.stages), 0);
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

/// The panels of one operand, rows (of A) or columns (of B) of a square by [`depth`], and this
/// thread's part in moving them. All addresses are made before the loop.
struct Panels<'k, S> {
    squares: Squares,
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
    fn new(
        k: &'k Body,
        squares: Squares,
        side: Side,
        operand: Operand<'k, S>,
        place: Reg<'k, U32>,
    ) -> Self {
        let (rows, [lines, width]) = match operand.along_depth {
            true => (Rows::AlongSum, [squares.side(), depth::<S>()]),
            false => (Rows::AcrossSum, [depth::<S>(), squares.side()]),
        };
        let one_by_one = !operand.along_depth && S::BYTES == 4;
        let size = [squares.stages, lines, width];
        let ring = if one_by_one { Tile::of_elements(k, size) } else { Tile::new(k, size) };
        let chunks = width / chunk::<S>();
        let (r, c) = (k.thread() / chunks, k.thread() % chunks);
        let copies = (0..squares.panel::<S>() / chunk::<S>() / THREADS).map(|i| {
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
            false => {
                let places = (0..squares.tiles()).map(of_tile).collect();
                Fragments::Matrices(places, !operand.along_depth)
            }
        };
        Panels { squares, operand, side, copies, fragments }
    }

    /// Begins to copy the panel of k from `first` on into a slot of the ring. Chunks beyond the
    /// matrix become zeros.
    fn copy(&self, slot: Reg<'k, U32>, first: Reg<'k, U32>) {
        let Operand { along_depth, row_stride, depth, .. } = self.operand;
        let skipped = if along_depth { first } else { first * row_stride };
        let slot = slot * self.squares.panel::<S>();
        for copy in &self.copies {
            let inside = copy.inside & (first + copy.depth).lt(depth);
            copy.to.at(slot).copy_async(copy.from.at(skipped), inside);
        }
    }

    /// The four 8 × 8 matrices of a tile: a left fragment.
    fn fragment(&self, slot: Reg<'k, U32>, tile: usize, step: usize) -> [Reg<'k, B32>; 4] {
        let slot = slot * self.squares.panel::<S>();
        S::prepared(match &self.fragments {
            Fragments::Matrices(places, turned) => {
                places[tile][step].at(slot).load_matrices(*turned)
            }
            Fragments::Elements(places) => {
                let at = |[across, deep]: [usize; 2]| {
                    // Eight of the sum's rows make a step, four half of it.
                    let line = self.squares.side() as usize;
                    let further = (8 * step + 4 * deep) * line + tile / 2 * 32;
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
