//! Products of few results: how a card is kept busy with them.

use super::{Arrays, Gemm, Squares, Tiles, Way, Writer, Writing};
use crate::gemm::block_depth;
use crate::ptx::{F32, Kernel};

/// Multiprocessors of a large card, about. The same for every card: how sums are cut decides their
/// bits.
const PROCESSORS: usize = 128;

/// Blocks that a multiprocessor is busy with: of small tiles, of large squares and of small ones.
const SMALL: usize = 8;
const LARGE_SQUARES: usize = 2;
const SMALL_SQUARES: usize = 4;

/// The shortest part for tensor cores: what a part costs besides is not more than its products.
const LEAST: usize = 256;

/// Sums of parts, at most: 256 MiB of them.
const MOST: usize = 64 << 20;

/// Threads of a block that finishes, the rows that it takes, and the columns of a thread.
const THREADS: u32 = 128;
const ROWS: u32 = 4;
const EACH: u32 = 4;

impl Tiles {
    /// Those for so many results: large ones if there is one for each multiprocessor, and there are
    /// more rows than a small one has.
    pub fn of(batch: usize, m: usize, n: usize) -> Self {
        let has_rows = m > Tiles::SMALL.rows() as usize;
        match has_rows && count(Tiles::LARGE.per_block(), batch, m, n) > PROCESSORS {
            true => Tiles::LARGE,
            false => Tiles::SMALL,
        }
    }
}

impl Gemm {
    /// Those for so many results on tensor cores: large ones if there is one for each
    /// multiprocessor, counting the parts that [sums may be cut into](Self::part), and there are
    /// more rows and columns than a small one has.
    ///
    /// What else is in the batch has a say in this, but none in the bits of a sum that is not cut:
    /// they are the same with either.
    pub fn squares(&self, batch: usize, [m, n, k]: [usize; 3]) -> Squares {
        let parts = if self.transposed[0] { k.div_ceil(LEAST) } else { 1 };
        let has_sides = m.min(n) > Squares::SMALL.side() as usize;
        match has_sides && count(Squares::LARGE.per_block(), batch * parts, m, n) > PROCESSORS {
            true => Squares::LARGE,
            false => Squares::SMALL,
        }
    }

    /// How long the parts of k are best: k itself where it is not cut.
    ///
    /// An [exact](Self::exact) product of these tiles is cut into the CPU's [blocks](block_depth),
    /// whose sums that adds in order too: the bits stay. On [tensor cores](Self::tensor_cores) they
    /// do not, so that only sums along A's rows are cut there: those of gradients, mostly of
    /// weights. No model transposes A on the way forward: a sample's results are the same in any
    /// batch.
    pub fn part(&self, way: Way, batch: usize, [m, n, k]: [usize; 3]) -> usize {
        let part = match way {
            Way::Exact(Tiles::LARGE) => k,
            Way::Exact(tiles) => {
                match SMALL * PROCESSORS >= 2 * count(tiles.per_block(), batch, m, n) {
                    true => k.min(block_depth(k)),
                    false => k,
                }
            }
            Way::TensorCores(squares) if self.transposed[0] => {
                let blocks = count(squares.per_block(), batch, m, n);
                let large = squares == Squares::LARGE;
                let each = if large { LARGE_SQUARES } else { SMALL_SQUARES };
                let wanted = each * PROCESSORS / blocks.max(1);
                k.min(k.div_ceil(wanted.max(1)).next_multiple_of(LEAST))
            }
            Way::TensorCores(_) => k,
        };
        let parts = batch * k.div_ceil(part.max(1));
        let fits = parts <= usize::from(u16::MAX) && parts * m * n <= MOST;
        if fits { part } else { k }
    }
}

fn count([columns, rows, _]: [u32; 3], batch: usize, m: usize, n: usize) -> usize {
    batch * m.div_ceil(rows as usize) * n.div_ceil(columns as usize)
}

impl Writing {
    /// Adds sums of parts and writes. Parameters: sums \[batch, parts, m, n\], out, those of the
    /// writer, then m, n, parts. The extent of the grid is n by m by the batch.
    pub fn finish(self) -> Kernel {
        let name = format!("gemm_finish_{}", self.name());
        let across = THREADS / ROWS;
        Kernel::new(&name, THREADS, [across * EACH, ROWS, 1], |k| {
            let sums = k.global::<F32>("sums");
            let arrays = Arrays::parameters(k, self);
            let [m, n, parts] = ["m", "n", "parts"].map(|name| k.u32(name));
            let writer = Writer::new(k, self, arrays, [k.block(2), m, n]);
            let row = k.block(1).mad(ROWS, k.thread() / across);
            let column = k.block(0).mad(across, k.thread() % across) * EACH;
            let inside: Vec<_> = (0..EACH).map(|i| row.lt(m) & (column + i).lt(n)).collect();
            let first = sums.at((k.block(2) * parts).mad(m, row).mad(n, column));
            // −0 + x is x, whatever x is.
            let totals = k.vars(EACH as usize, -0.0);
            k.for_(0, parts, 1, |part| {
                let sums = first.at(part * m * n);
                for (i, (total, inside)) in totals.iter().zip(&inside).enumerate() {
                    total.add(sums.plus(i).load_where(*inside, 0.0));
                }
            });
            let totals: Vec<_> = totals.iter().map(|total| total.get()).collect();
            writer.write(row, column, &totals, false);
        })
    }
}
