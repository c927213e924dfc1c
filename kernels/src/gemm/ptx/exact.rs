//! The product in float32, in the CPU's order.

pub(crate) use super::panel::{Line, Reader};
use super::panel::{PIECE, Panel};
use super::{Gemm, KC, Problem, ROUND};
use crate::ptx::{Body, F32, Global, Pred, Reg, Shared, Stored, U32, Var, WARP};

/// How large tiles are, one for each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    warps: u32,
    /// Pieces of a thread, each way, each of [`PIECE`] by [`PIECE`] elements.
    pieces: u32,
    /// The depth of a panel along k, which divides [`ROUND`].
    depth: u32,
}

impl Tiles {
    /// 128 × 64 elements, 8 × 8 a thread: most products for what is read.
    pub const LARGE: Tiles = Tiles { warps: 4, pieces: 2, depth: 8 };
    /// 32 × 32 elements, 4 × 4 a thread: eight times as many blocks, where the others would be few.
    /// A panel's products take a moment, and its elements as long to come as any: it is deep.
    pub const SMALL: Tiles = Tiles { warps: 2, pieces: 1, depth: ROUND as u32 };

    /// Threads of a block.
    pub(crate) const fn threads(self) -> u32 {
        self.warps * WARP
    }

    /// Rows of a tile,
    pub(crate) const fn rows(self) -> u32 {
        self.warps * self.warp_rows()
    }

    const fn warp_rows(self) -> u32 {
        self.pieces * ROW_STEP
    }

    /// and columns.
    pub(crate) const fn columns(self) -> u32 {
        self.pieces * COLUMN_STEP
    }

    /// How deep a panel is along k.
    pub(super) const fn depth(self) -> u32 {
        self.depth
    }

    /// What a block makes, along a grid of columns by rows.
    pub(crate) const fn per_block(self) -> [u32; 3] {
        [self.columns(), self.rows(), 1]
    }
}

/// A matrix as it is stored.
pub(crate) struct Strided<'k, S> {
    pub from: Global<'k, S>,
    pub row_stride: Reg<'k, U32>,
    /// Whether its rows go along k.
    pub along_depth: bool,
}

impl<'k, S: Stored> Reader<'k> for Strided<'k, S> {
    fn along_depth(&self) -> bool {
        self.along_depth
    }

    fn aligned(&self, len: Reg<'k, U32>) -> Option<Reg<'k, Pred>> {
        let whole = ((len | self.row_stride) & (PIECE - 1)).eq(0);
        Some(whole & self.from.is_multiple_of(PIECE * S::BYTES))
    }

    fn line(&self, place: Reg<'k, U32>) -> Line<'_, 'k> {
        // Launches need not see to the alignment: the kernel does.
        let (from, row_stride) = (self.from.of_any_alignment(), self.row_stride);
        let along_depth = self.along_depth;
        let place = if along_depth { place * row_stride } else { place };
        Box::new(move |depth, count| {
            let depth = if along_depth { depth } else { depth * row_stride };
            from.at(place + depth).load_n(count)
        })
    }
}

pub(super) fn write<S: Stored>(k: &Body, gemm: &Gemm, tiles: Tiles) {
    let problem = Problem::<S>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let [a, b] =
        [(problem.a, stride_a, !gemm.transposed[0]), (problem.b, stride_b, gemm.transposed[1])]
            .map(|(from, row_stride, along_depth)| Strided { from, row_stride, along_depth });
    let size = [problem.m, problem.n];
    multiply(k, tiles, size, problem.range, [&a, &b], |row, column, sums| {
        problem.writer.write(row, column, sums, false);
    });
}

/// The product of whatever A and B are read through, with `[m, n]` elements, over a range of k that
/// begins at a multiple of [`ROUND`], by the CPU's [blocks](crate::gemm::block_depth) of so many;
/// zeros, if it is empty. `write` is given adjacent sums of a row, whose number divides their first
/// column; some may be beyond the end.
///
/// While panels are multiplied the next ones are on their way in registers; then they take the
/// other half of the places in shared memory, and those after them are asked for.
pub(crate) fn multiply<'k>(
    k: &'k Body,
    tiles: Tiles,
    [m, n]: [Reg<'k, U32>; 2],
    [start, end]: [Reg<'k, U32>; 2],
    [a, b]: [&dyn Reader<'k>; 2],
    write: impl Fn(Reg<'k, U32>, Reg<'k, U32>, &[Reg<'k, F32>]),
) {
    // Asked for again at the end: between, registers are scarce.
    let corner = || (k.block(1) * tiles.rows(), k.block(0) * tiles.columns());
    let (row, column) = corner();
    let a = Panel::new(k, tiles, a, row, [m, end], tiles.rows());
    let b = Panel::new(k, tiles, b, column, [n, end], tiles.columns());
    let (panels, depth) = ([&a, &b], tiles.depth);
    let tile = Tile::new(k, tiles);
    k.if_(start.lt(end), || {
        let half = k.var::<U32>(0);
        // Puts what was fetched where it is multiplied next, and fetches what comes after it.
        let advance = |next: Reg<'k, U32>| {
            panels.iter().for_each(|panel| panel.put(half.get()));
            k.if_(next.lt(end), || panels.iter().for_each(|panel| panel.fetch(next)));
            k.barrier();
        };
        let at_hand = || [a.half(half.get()).at(tile.row), b.half(half.get()).at(tile.column)];
        let whole = || {
            let [from_a, from_b] = at_hand();
            for i in 0..depth {
                let from_a = from_a.plus((i * a.pitch) as usize);
                tile.add_products(from_a, from_b.plus((i * b.pitch) as usize));
            }
        };
        panels.iter().for_each(|panel| panel.fetch(start));
        advance(start + depth);
        let block = block_depth(end - start);
        let end_of_block = k.var::<U32>(start + block);
        let last = (end - 1) & !(depth - 1);
        k.for_(start, last, depth, |first| {
            whole();
            k.if_((first + depth).eq(end_of_block.get()), || {
                tile.end_block();
                end_of_block.advance(block);
            });
            half.set(half.get() ^ 1);
            advance(first + 2 * depth);
        });
        k.if_else((end - last).eq(depth), whole, || {
            k.note("what is left of k");
            let [from_a, from_b] = at_hand();
            k.for_(0, end - last, 1, |i| {
                tile.add_products(from_a.at(i * a.pitch), from_b.at(i * b.pitch));
            });
        });
    });
    let (row, column) = corner();
    for (i, j, totals) in tile.totals() {
        write(row + tile.row + i, column + tile.column + j, &totals);
    }
}

/// What [`block_depth`](crate::gemm::block_depth) says of a k that is not 0.
fn block_depth(k: Reg<'_, U32>) -> Reg<'_, U32> {
    let blocks = (k + (KC as u32 - 1)) / KC as u32;
    ((k + (blocks - 1)) / blocks + (ROUND as u32 - 1)) & !(ROUND as u32 - 1)
}

/// Between the rows and columns of a thread's pieces.
const ROW_STEP: u32 = 16;
const COLUMN_STEP: u32 = 32;

/// A thread's part of a tile.
///
/// A warp has some rows and all columns. Neighbours by the lowest bit of a lane's number read the
/// same rows, those by the next one the same columns: quarters of a warp, which is what shared
/// memory gives vectors to, can then be served by pairs.
struct Tile<'k> {
    tiles: Tiles,
    /// The first row and column of its first piece.
    row: Reg<'k, U32>,
    column: Reg<'k, U32>,
    /// Of the present block, row by row.
    sums: Vec<Var<'k, F32>>,
    /// Of the blocks before it. Nobody else comes here: they are in shared memory because they are
    /// needed too rarely for registers.
    totals: Shared<'k, F32>,
}

impl<'k> Tile<'k> {
    fn new(k: &'k Body, tiles: Tiles) -> Self {
        let thread = k.thread();
        let lane = thread % WARP;
        let across = (lane & 1) | ((lane >> 1) & 6);
        let down = ((lane >> 1) & 1) | ((lane >> 3) & 2);
        let tile = Tile {
            tiles,
            row: (thread / WARP * tiles.warp_rows()) + down * PIECE,
            column: across * PIECE,
            sums: k.vars((tiles.pieces * PIECE).pow(2) as usize, 0.0),
            totals: k.shared(tiles.rows() * tiles.columns()).at(thread * PIECE),
        };
        for (_, total) in tile.vectors() {
            // −0 + x is x, whatever x is.
            total.store_n(&[k.value(-0.0); PIECE as usize]);
        }
        tile
    }

    /// The sums by vectors, and where the totals of each are.
    fn vectors(&self) -> impl Iterator<Item = (&[Var<'k, F32>], Shared<'k, F32>)> {
        let place = |i| self.totals.plus(i * (self.tiles.threads() * PIECE) as usize);
        self.sums.chunks(PIECE as usize).enumerate().map(move |(i, sums)| (sums, place(i)))
    }

    /// The products of one k of a thread's rows and columns.
    fn add_products(&self, a: Shared<'k, F32>, b: Shared<'k, F32>) {
        let pieces = |from: Shared<'k, F32>, step: u32| {
            let piece = |i| from.plus((i * step) as usize).load_n(PIECE as usize);
            (0..self.tiles.pieces).flat_map(piece).collect::<Vec<_>>()
        };
        let (a, b) = (pieces(a, ROW_STEP), pieces(b, COLUMN_STEP));
        for (&a, sums) in a.iter().zip(self.sums.chunks(b.len())) {
            for (&b, sum) in b.iter().zip(sums) {
                sum.fma(a, b);
            }
        }
    }

    /// Adds the sums of a block to the totals, and begins those of the next.
    fn end_block(&self) {
        for (sums, total) in self.vectors() {
            total.store_n(&added(sums, total));
            sums.iter().for_each(|sum| sum.set(0.0));
        }
    }

    /// The totals with the sums of the last block, by vectors: how many rows and columns further on
    /// each begins.
    fn totals(&self) -> impl Iterator<Item = (u32, u32, Vec<Reg<'k, F32>>)> {
        (0..).zip(self.vectors()).map(|(i, (sums, total))| {
            let (row, column) = (i / self.tiles.pieces, i % self.tiles.pieces);
            let row = row / PIECE * ROW_STEP + row % PIECE;
            (row, column * COLUMN_STEP, added(sums, total))
        })
    }
}

fn added<'k>(sums: &[Var<'k, F32>], totals: Shared<'k, F32>) -> Vec<Reg<'k, F32>> {
    let totals = totals.load_n(sums.len());
    totals.into_iter().zip(sums).map(|(total, sum)| total + sum.get()).collect()
}
