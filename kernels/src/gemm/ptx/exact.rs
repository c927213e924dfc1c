//! The product in float32, in the CPU's order.

use super::{Gemm, KC, Problem};
use crate::ptx::{Body, F32, Global, Pred, Reg, Shared, Stored, U32, Var, WARP};

/// Threads of a block.
pub(crate) const THREADS: u32 = 128;
/// Rows and columns of a block's tile,
pub(crate) const ROWS: u32 = 128;
pub(crate) const COLUMNS: u32 = 64;
/// and its panels' depth, which divides [`KC`].
const DEPTH: u32 = 8;

/// What A or B is read through.
pub(crate) trait Reader<'k> {
    /// Whether elements that follow each other along k are adjacent; else those of neighbouring
    /// lines are.
    fn along_depth(&self) -> bool;

    /// Whether [`PIECE`] adjacent elements can be read at once, from a multiple of it on, if `len`
    /// are adjacent; the same for all threads. None: of this operand they never can.
    fn aligned(&self, _len: Reg<'k, U32>) -> Option<Reg<'k, Pred>> {
        None
    }

    /// The row (of A) or column (of B) `place`, which is inside the matrix: what can be known of it
    /// before the loop over k is computed here.
    fn line(&self, place: Reg<'k, U32>) -> Line<'_, 'k>;
}

/// A row or column of an operand: from a depth along k on, which is inside the matrix, so many
/// adjacent elements. That is one where [`Reader::aligned`] does not hold.
pub(crate) type Line<'r, 'k> = Box<dyn Fn(Reg<'k, U32>, usize) -> Vec<Reg<'k, F32>> + 'r>;

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

pub(super) fn write<S: Stored>(k: &Body, gemm: &Gemm) {
    let problem = Problem::<S>::parameters(k, gemm);
    let [stride_a, stride_b] = problem.row_strides;
    let [a, b] =
        [(problem.a, stride_a, !gemm.transposed[0]), (problem.b, stride_b, gemm.transposed[1])]
            .map(|(from, row_stride, along_depth)| Strided { from, row_stride, along_depth });
    let size = [problem.m, problem.n];
    multiply(k, size, [k.value(0), problem.depth], [&a, &b], |row, column, sums| {
        problem.writer.write(row, column, sums, false);
    });
}

/// The product of whatever A and B are read through, with `[m, n]` elements, over a range of k that
/// begins at a multiple of [`KC`]; zeros, if it is empty. `write` is given adjacent sums of a row,
/// whose number divides their first column; some may be beyond the end.
///
/// The next panels are under way while those at hand are multiplied: they are asked for before, and
/// take the other half of their places after.
pub(crate) fn multiply<'k>(
    k: &'k Body,
    [m, n]: [Reg<'k, U32>; 2],
    [start, end]: [Reg<'k, U32>; 2],
    [a, b]: [&dyn Reader<'k>; 2],
    write: impl Fn(Reg<'k, U32>, Reg<'k, U32>, &[Reg<'k, F32>]),
) {
    let (row, column) = (k.block(1) * ROWS, k.block(0) * COLUMNS);
    let a = Panel::new(k, a, row, [m, end], ROWS);
    let b = Panel::new(k, b, column, [n, end], COLUMNS);
    let panels = [&a, &b];
    let tile = Tile::new(k);
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
            for i in 0..DEPTH {
                let from_a = from_a.plus((i * a.pitch) as usize);
                tile.add_products(from_a, from_b.plus((i * b.pitch) as usize));
            }
        };
        panels.iter().for_each(|panel| panel.fetch(start));
        advance(start + DEPTH);
        let last = (end - 1) & !(DEPTH - 1);
        k.for_(start, last, DEPTH, |first| {
            whole();
            k.if_(((first + DEPTH) & (KC as u32 - 1)).eq(0), || tile.end_block());
            half.set(half.get() ^ 1);
            advance(first + 2 * DEPTH);
        });
        k.if_else((end - last).eq(DEPTH), whole, || {
            k.note("what is left of k");
            let [from_a, from_b] = at_hand();
            k.for_(0, end - last, 1, |i| {
                tile.add_products(from_a.at(i * a.pitch), from_b.at(i * b.pitch));
            });
        });
    });
    for (i, j, totals) in tile.totals() {
        write(row + tile.row + i, column + tile.column + j, &totals);
    }
}

/// Elements of a vector in shared memory. A thread has pieces of so many rows and columns of the
/// tile,
const PIECE: u32 = 4;
/// two by two of them, so far apart.
const ROW_STEP: u32 = 16;
const COLUMN_STEP: u32 = 32;

/// A thread's part of a tile.
///
/// A warp has 32 rows and all columns. Neighbours by the lowest bit of a lane's number read the same
/// rows, those by the next one the same columns: quarters of a warp, which is what shared memory
/// gives vectors to, can then be served by pairs.
struct Tile<'k> {
    /// The first row and column of its first piece.
    row: Reg<'k, U32>,
    column: Reg<'k, U32>,
    /// Of the present block of [`KC`], row by row.
    sums: Vec<Var<'k, F32>>,
    /// Of the blocks before it. Nobody else comes here: they are in shared memory because they are
    /// needed too rarely for registers.
    totals: Shared<'k, F32>,
}

impl<'k> Tile<'k> {
    fn new(k: &'k Body) -> Self {
        let thread = k.thread();
        let lane = thread % WARP;
        let across = (lane & 1) | ((lane >> 1) & 6);
        let down = ((lane >> 1) & 1) | ((lane >> 3) & 2);
        let tile = Tile {
            row: (thread / WARP * (2 * ROW_STEP)) + down * PIECE,
            column: across * PIECE,
            sums: k.vars((2 * PIECE * 2 * PIECE) as usize, 0.0),
            totals: k.shared(ROWS * COLUMNS).at(thread * PIECE),
        };
        for (_, total) in tile.vectors() {
            // −0 + x is x, whatever x is.
            total.store_n(&[k.value(-0.0); PIECE as usize]);
        }
        tile
    }

    /// The sums by vectors, and where the totals of each are.
    fn vectors(&self) -> impl Iterator<Item = (&[Var<'k, F32>], Shared<'k, F32>)> {
        let place = |i| self.totals.plus(i * (THREADS * PIECE) as usize);
        self.sums.chunks(PIECE as usize).enumerate().map(move |(i, sums)| (sums, place(i)))
    }

    /// The products of one k of a thread's rows and columns.
    fn add_products(&self, a: Shared<'k, F32>, b: Shared<'k, F32>) {
        let two = |from: Shared<'k, F32>, step: u32| {
            let [first, second] = [0, step].map(|i| from.plus(i as usize).load_n(PIECE as usize));
            [first, second].concat()
        };
        let (a, b) = (two(a, ROW_STEP), two(b, COLUMN_STEP));
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
            let (row, column) = (i / 2, i % 2);
            let row = row / PIECE * ROW_STEP + row % PIECE;
            (row, column * COLUMN_STEP, added(sums, total))
        })
    }
}

fn added<'k>(sums: &[Var<'k, F32>], totals: Shared<'k, F32>) -> Vec<Reg<'k, F32>> {
    let totals = totals.load_n(sums.len());
    totals.into_iter().zip(sums).map(|(total, sum)| total + sum.get()).collect()
}

/// Panels of one operand on their way to shared memory: two halves of \[depth\]\[len + pad\], one at
/// hand and one that is being filled.
///
/// A thread takes pieces of [`PIECE`] adjacent elements, as vectors if possible. Across k they stay
/// vectors. Along k two neighbours read a sector of a row, and the elements are stored one by one: no
/// two of a warp to one bank, because 16 rows are neighbours and the second half of a sector goes
/// four rows of the panel further, which are 16 banks.
struct Panel<'k, 'r> {
    k: &'k Body,
    reader: &'r dyn Reader<'k>,
    /// Rows (of A) or columns (of B) of the matrix, and the length of the sums.
    end: [Reg<'k, U32>; 2],
    /// Line and depth of this thread's first piece,
    first: [Reg<'k, U32>; 2],
    /// how much further those of each are,
    pieces: Vec<[u32; 2]>,
    /// and where the first goes.
    mine: Reg<'k, U32>,
    way: Way<'k, 'r>,
    /// The pieces' elements, on their way.
    fetched: Vec<Var<'k, F32>>,
    to: Shared<'k, F32>,
    pitch: u32,
}

/// How the elements of an operand are read.
enum Way<'k, 'r> {
    /// By pieces where the predicate holds.
    Aligned(Reg<'k, Pred>),
    /// One by one: the lines of each piece.
    Singly(Vec<Vec<Line<'r, 'k>>>),
}

/// Elements between the rows of a panel: vectors stay aligned.
const PAD: u32 = PIECE;

impl<'k, 'r> Panel<'k, 'r> {
    /// The panel of `len` rows (of A) or columns (of B) from `first` on, of a matrix with `end` of
    /// them and sums of such a length.
    fn new(
        k: &'k Body,
        reader: &'r dyn Reader<'k>,
        first: Reg<'k, U32>,
        end: [Reg<'k, U32>; 2],
        len: u32,
    ) -> Self {
        let (thread, along, pitch) = (k.thread(), reader.along_depth(), len + PAD);
        // Rows as they are stored: along k, or across it.
        let (rows, width) = if along { (len, DEPTH) } else { (DEPTH, len) };
        let (row, place) = (thread / (width / PIECE), thread % (width / PIECE) * PIECE);
        let [line, depth] = if along { [row, place] } else { [place, row] };
        let abreast = THREADS / (width / PIECE);
        let pieces = (0..rows).step_by(abreast as usize);
        let mut panel = Panel {
            k,
            reader,
            end,
            first: [first + line, depth],
            pieces: pieces.map(|row| if along { [row, 0] } else { [0, row] }).collect(),
            mine: depth.mad(pitch, line),
            way: Way::Singly(Vec::new()),
            fetched: k.vars((DEPTH * len / THREADS) as usize, 0.0),
            to: k.shared(2 * DEPTH * pitch),
            pitch,
        };
        panel.way = match reader.aligned(end[usize::from(along)]) {
            Some(aligned) => Way::Aligned(aligned),
            None => Way::Singly((0..panel.pieces.len()).map(|i| panel.lines(i)).collect()),
        };
        panel
    }

    /// The lines of a piece. What is beyond the end is read as the last one: the sums are not
    /// looked at.
    fn lines(&self, piece: usize) -> Vec<Line<'r, 'k>> {
        let count = if self.reader.along_depth() { 1 } else { PIECE };
        let line = self.first[0] + self.pieces[piece][0];
        (0..count).map(|i| self.reader.line((line + i).min(self.end[0] - 1))).collect()
    }

    /// Asks for this thread's elements of the panel that begins at `first`. What is beyond the end
    /// of k is read as the last one, and not multiplied.
    fn fetch(&self, first: Reg<'k, U32>) {
        let along = self.reader.along_depth();
        let depth = |piece: usize| first + self.first[1] + self.pieces[piece][1];
        let set = |piece: usize, elements: Vec<Reg<'k, F32>>| {
            let fetched = &self.fetched[piece * PIECE as usize..];
            fetched.iter().zip(elements).for_each(|(fetched, element)| fetched.set(element));
        };
        let singly = |piece: usize, lines: &[Line<'r, 'k>]| {
            let depth = |i| (depth(piece) + if along { i } else { 0 }).min(self.end[1] - 1);
            let element = |i: u32| lines[i as usize % lines.len()](depth(i), 1)[0];
            set(piece, (0..PIECE).map(element).collect());
        };
        let together = |piece: usize| {
            let [of_line, of_depth] = if along { [1, PIECE] } else { [PIECE, 1] };
            let line = (self.first[0] + self.pieces[piece][0]).min(self.end[0] - of_line);
            let depth = depth(piece).min(self.end[1] - of_depth);
            set(piece, self.reader.line(line)(depth, PIECE as usize));
        };
        let pieces = 0..self.pieces.len();
        match &self.way {
            Way::Singly(lines) => pieces.for_each(|i| singly(i, &lines[i])),
            Way::Aligned(aligned) => {
                let otherwise = || pieces.clone().for_each(|i| singly(i, &self.lines(i)));
                self.k.if_else(*aligned, || pieces.clone().for_each(together), otherwise);
            }
        }
    }

    /// Puts them into a half.
    fn put(&self, half: Reg<'k, U32>) {
        let mine = self.half(half).at(self.mine);
        for (&[line, depth], piece) in self.pieces.iter().zip(self.fetched.chunks(PIECE as usize)) {
            let to = mine.plus((depth * self.pitch + line) as usize);
            let piece: Vec<_> = piece.iter().map(|element| element.get()).collect();
            if self.reader.along_depth() {
                for (i, element) in (0..).zip(piece) {
                    to.plus((i * self.pitch) as usize).store(element);
                }
            } else {
                to.store_n(&piece);
            }
        }
    }

    /// Where a half begins.
    fn half(&self, number: Reg<'k, U32>) -> Shared<'k, F32> {
        self.to.at(number * (DEPTH * self.pitch))
    }
}
