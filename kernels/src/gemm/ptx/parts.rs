//! Products of few results: how a card is kept busy with them.

use super::{Arrays, Gemm, Tiles, Writer, Writing, tensor_cores};
use crate::gemm::KC;
use crate::ptx::{F32, Kernel};

/// Blocks that keep a card busy, two for each multiprocessor of a large one. The same for every card:
/// how sums are cut decides their bits.
const BUSY: usize = 256;

/// The shortest part for tensor cores: what a part costs besides is not more than its products.
const LEAST: usize = 256;

/// Threads of a block that finishes, the rows that it takes, and the columns of a thread.
const THREADS: u32 = 128;
const ROWS: u32 = 4;
const EACH: u32 = 4;

impl Tiles {
    /// Those for so many results: large ones if there are enough, and more rows than small ones have.
    pub fn of(batch: usize, m: usize, n: usize) -> Self {
        let has_rows = m > Tiles::SMALL.rows() as usize;
        match has_rows && is_busy(count(Tiles::LARGE.per_block(), batch, m, n)) {
            true => Tiles::LARGE,
            false => Tiles::SMALL,
        }
    }
}

impl Gemm {
    /// How long the parts of k are best: k itself where it is not cut.
    ///
    /// The [exact](Self::exact) product, which is one of `tiles`, is cut into the CPU's blocks of
    /// [`KC`], whose sums that adds in order too: the bits stay. For [tensor cores](Self::tensor_cores)
    /// parts are of any length.
    pub fn part(tiles: Option<Tiles>, batch: usize, [m, n, k]: [usize; 3]) -> usize {
        let per_block = tiles.map_or(tensor_cores::PER_BLOCK, Tiles::per_block);
        let blocks = count(per_block, batch, m, n);
        if is_busy(blocks) {
            return k;
        }
        let part = match tiles {
            Some(_) => KC,
            None => k.div_ceil(BUSY / blocks.max(1)).next_multiple_of(LEAST),
        };
        part.min(k)
    }
}

fn count([columns, rows, _]: [u32; 3], batch: usize, m: usize, n: usize) -> usize {
    batch * m.div_ceil(rows as usize) * n.div_ceil(columns as usize)
}

fn is_busy(blocks: usize) -> bool {
    2 * blocks > BUSY
}

impl Writing {
    /// Adds sums of parts and writes. Parameters: sums \[batch, parts, m, n\], out, those of the writer,
    /// then m, n, parts. The extent of the grid is n by m by the batch.
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
