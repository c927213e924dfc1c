//! Panels of an exact product's operands, on their way to shared memory.

use super::exact::Tiles;
use crate::ptx::{Body, F32, Pred, Reg, Shared, U32, Var};

/// Elements of a sector, which neighbours along k read together.
const SECTOR: u32 = 8;
/// Elements of a vector, which panels are read and, where possible, made by.
pub(super) const PIECE: u32 = 4;

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

/// Panels of one operand on their way to shared memory: two halves of \[depth\]\[len + pad\], one
/// at hand and one that is being filled.
///
/// A thread takes pieces of [`PIECE`] adjacent elements, as vectors if possible. Across k they stay
/// vectors. Along k two neighbours read a sector of a row, and the elements are stored one by one:
/// no two of a warp to one bank, because 16 rows are neighbours and the second half of a sector
/// goes four rows of the panel further, which are 16 banks.
pub(super) struct Panel<'k, 'r> {
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
    /// From half to half,
    half: u32,
    /// and from depth to depth.
    pub pitch: u32,
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
    pub fn new(
        k: &'k Body,
        tiles: Tiles,
        reader: &'r dyn Reader<'k>,
        first: Reg<'k, U32>,
        end: [Reg<'k, U32>; 2],
        len: u32,
    ) -> Self {
        let (thread, along, pitch) = (k.thread(), reader.along_depth(), len + PAD);
        // Rows as they are stored: along k, a sector of each at a time, or across it.
        let (rows, width) = if along { (len, SECTOR) } else { (tiles.depth(), len) };
        let (row, place) = (thread / (width / PIECE), thread % (width / PIECE) * PIECE);
        let [line, depth] = if along { [row, place] } else { [place, row] };
        let abreast = tiles.threads() / (width / PIECE);
        let rows = || (0..rows).step_by(abreast as usize);
        let pieces: Vec<[u32; 2]> = match along {
            true => (0..tiles.depth())
                .step_by(SECTOR as usize)
                .flat_map(|deep| rows().map(move |row| [row, deep]))
                .collect(),
            false => rows().map(|row| [0, row]).collect(),
        };
        let mut panel = Panel {
            k,
            reader,
            end,
            first: [first + line, depth],
            fetched: k.vars(pieces.len() * PIECE as usize, 0.0),
            pieces,
            mine: depth.mad(pitch, line),
            way: Way::Singly(Vec::new()),
            to: k.shared(2 * tiles.depth() * pitch),
            half: tiles.depth() * pitch,
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
    pub fn fetch(&self, first: Reg<'k, U32>) {
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
    pub fn put(&self, half: Reg<'k, U32>) {
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
    pub fn half(&self, number: Reg<'k, U32>) -> Shared<'k, F32> {
        self.to.at(number * self.half)
    }
}
