//! How a product is cut into tiles, and who packs what.

use std::ops::Range;

use super::pack::{self, Columns, Packed, Rows};
use super::read::Operand;
use super::tile::{self, GROUP, SLOT, STRIP, SumTile, To, panel_rows};
use super::write::{At, Writer};
use super::writing::Writing;
use super::{Right, Size};
use crate::lane::LANES;
use crate::par::{self, Cells};
use crate::{Real, scratch};

/// Where a result goes.
pub(super) struct Target<'a, T, O> {
    pub writer: &'a dyn Writer<T, O>,
    /// Cells as large as a tile,
    pub out: &'a Cells<'a, O>,
    /// and as many for what the writer keeps.
    pub kept: Option<&'a Cells<'a, T>>,
}

/// How a product is cut. Tiles are a matter of the problem's size and of how A lies in memory,
/// never of the number of threads.
pub(super) struct Plan {
    size: Size,
    /// Rows and columns of a tile; the last ones may be smaller.
    pub tile: [usize; 2],
    /// How many, below each other, are made as one as long as there are many left.
    together: usize,
    /// Which tiles down a matrix.
    down: Range<usize>,
    /// Whether rows of A are packed before tiles are made,
    pub packs_rows: bool,
    /// and columns of B by each tile.
    packs_columns: bool,
}

/// Most rows of a tall tile: packing its columns of B takes a thousandth part of its time,
pub(super) const TALL: usize = 1536;
/// and fewest rows of one that is cut in two for want of tiles; half, where it has all.
const CUT: usize = 384;
/// Most rows and columns of a wide tile: its rows of A stay in the second cache for all of them.
const WIDE: [usize; 2] = [96, 1024];
/// Tiles that keep a machine's threads about equally busy,
pub(super) const TILES: usize = 12;
/// and how many wide ones are enough for that.
const MANY: usize = 8;
/// Multiply-adds below which a tile is not worth cutting: 40 µs.
const TILE_WORK: usize = 5 << 20;
/// Multiply-adds of a wide tile of one group of rows, 8 µs, from which it may be as small.
const LEAST: usize = 1 << 20;
/// Elements of B packed at a time where tiles share them,
const BAND: usize = 1 << 20;
/// and how many a tile reads at most if they are to stay in the second cache for the next one.
const CACHED: usize = 1 << 18;
/// Longest sums for which that is better than tall tiles: with longer ones these pass A by as often
/// and keep a strip of B at hand.
const SHORT: usize = 768;

/// Whether each block of K is to be a product of its own: where rows of A are packed, and a block of
/// B stays in the second cache for all tiles, but not all of B. Sums are then stored, and added.
pub(super) fn by_blocks<T: Real>(Size { batch, n, k, .. }: Size, a: &Operand<T>) -> bool {
    batch == 1 && (tile::block_depth(k) * n..k * n).contains(&CACHED) && !a.is_lent()
}

impl Plan {
    /// Where no tile has to pack rows of A, tiles are tall and pack columns of B, unless sums are
    /// short and wide tiles enough: then B, if it is not packed, is so once for all tiles.
    pub fn new<T: Real>(size: Size, a: &Operand<T>, b: &Right<T>) -> Self {
        if a.is_lent() {
            let shares = matches!(b, Right::Read(_)) && size.batch == 1 && size.k <= SHORT;
            if shares && size.m > (MANY - 1) * WIDE[0] {
                let wide = Self::wide(size, CACHED);
                if wide.tile[0] * wide.tile[1].min(size.n) * size.k >= TILE_WORK / 2 {
                    return wide.cut();
                }
            }
            return Self::tall(size, TALL);
        }
        let wide = Self::wide(size, BAND);
        // A tile that has all columns packs what no other one does.
        let is_good = wide.down.len() >= MANY && wide.tile[1] >= size.n;
        if size.batch > 1 || size.k == 0 || is_good {
            return if is_good { wide.cut() } else { wide };
        }
        let most = Packed::most(a, size.k);
        // A part of the rows has to be worth packing columns for, and enough tiles by itself.
        let by_parts = most >= 3 * WIDE[0] && size.n >= TILES * STRIP * LANES;
        if size.m <= most || (by_parts && !a.side_by_side()) {
            Plan { packs_rows: true, ..Self::tall(size, TALL.min(most)) }
        } else {
            wide
        }
    }

    /// Tiles of few columns and of all rows, as far as there are no more than `most`, and that
    /// leaves enough of them.
    fn tall(size: Size, most: usize) -> Self {
        let Size { batch, m, n, k } = size;
        let rows = |pieces: usize| m.div_ceil(pieces).next_multiple_of(GROUP);
        let tiles = |[rows, columns]: [usize; 2]| batch * m.div_ceil(rows) * n.div_ceil(columns);
        let mut pieces = m.div_ceil(most);
        let mut tile = [rows(pieces), STRIP * LANES];
        while tile[1] < n && tile[0] * tile[1] * k < TILE_WORK && tiles(tile) > TILES {
            tile[1] *= 2;
        }
        while tiles(tile) < TILES && tile[0].min(m) * tile[1].min(n) * k >= TILE_WORK {
            if tile[0] >= if pieces == 1 { CUT / 2 } else { CUT } {
                pieces *= 2;
                tile[0] = rows(pieces);
            } else if tile[1] == STRIP * LANES {
                tile[1] /= 2;
            } else {
                break;
            }
        }
        let down = 0..m.div_ceil(tile[0]);
        Plan { size, tile, together: 1, down, packs_rows: false, packs_columns: true }
    }

    /// Tiles of few rows and many columns, that read so many elements of B at most.
    fn wide(size: Size, most: usize) -> Self {
        let Size { batch, m, n, k } = size;
        let widest = (most / k.max(1)).clamp(STRIP * LANES, WIDE[1]);
        let mut pieces = n.div_ceil(widest);
        while batch * m.div_ceil(WIDE[0]) * pieces < TILES && n.div_ceil(pieces) > 256 {
            pieces *= 2;
        }
        let rows = m.div_ceil(m.div_ceil(WIDE[0])).next_multiple_of(GROUP);
        let tile = [rows, n.div_ceil(pieces).next_multiple_of(STRIP * LANES)];
        let down = 0..m.div_ceil(rows);
        Plan { size, tile, together: 1, down, packs_rows: false, packs_columns: false }
    }

    /// Tiles of fewer rows, made as one with those below them while there are many: threads end at
    /// about the same time.
    fn cut(mut self) -> Self {
        let work = GROUP * self.tile[1].min(self.size.n) * self.size.k;
        self.tile[0] = if work >= LEAST { GROUP } else { 2 * GROUP };
        self.together = WIDE[0] / self.tile[0];
        self.down = 0..self.size.m.div_ceil(self.tile[0]);
        self
    }

    /// Rows whose tiles are made together, all or, where they are packed, as many as there is room
    /// for, and the plan for those.
    pub fn parts<T: Real>(&self, a: &Operand<T>) -> impl Iterator<Item = (Range<usize>, Plan)> {
        let all = self.down.end;
        let at_once = match self.packs_rows {
            true => Packed::most(a, self.size.k) / self.tile[0],
            false => all,
        };
        (0..all).step_by(at_once).map(move |first| {
            let down = first..all.min(first + at_once);
            let rows = first * self.tile[0]..self.size.m.min(down.end * self.tile[0]);
            (rows, Plan { down, ..*self })
        })
    }

    /// All tiles. Columns of B are packed by each, or for all of them, unless they are packed.
    pub fn columns<T: Real, O: Send>(&self, a: Rows<T>, b: Right<T>, to: &Target<T, O>) {
        let Size { batch, n, k, .. } = self.size;
        match b {
            Right::Packed(b) => self.run(a, Columns::Packed(b), to, 0..batch, 0..n),
            Right::Read(b) if self.packs_columns => {
                self.run(a, Columns::Own { b, n }, to, 0..batch, 0..n)
            }
            Right::Read(b) => self.bands(|matrices, columns| {
                let panels = columns.start / LANES..columns.end.div_ceil(LANES);
                let len = matrices.len() * panels.len() * panel_rows(k) * LANES;
                scratch::with([len], |[shared]| {
                    pack::pack(b, matrices.clone(), [k, n], panels.clone(), shared);
                    let packed = Columns::Shared {
                        rows: shared.as_chunks().0,
                        k,
                        first: [matrices.start, panels.start],
                        panels: panels.len(),
                    };
                    self.run(a, packed, to, matrices, columns);
                });
            }),
        }
    }

    /// Calls `f` for matrices and columns, whole tiles of them, whose packed B is of bounded size.
    fn bands(&self, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let Size { batch, n, k, .. } = self.size;
        let tiles = (BAND / (panel_rows(k) * self.tile[1])).max(1);
        let columns_at_once = tiles * self.tile[1];
        let matrices_at_once = (columns_at_once / n.next_multiple_of(LANES)).max(1);
        for first in (0..batch).step_by(matrices_at_once) {
            let matrices = first..batch.min(first + matrices_at_once);
            for column in (0..n).step_by(columns_at_once) {
                f(matrices.clone(), column..n.min(column + columns_at_once));
            }
        }
    }

    /// The tiles of some matrices and columns, each by one thread.
    fn run<T: Real, O: Send>(
        &self,
        a: Rows<T>,
        b: Columns<T>,
        to: &Target<T, O>,
        matrices: Range<usize>,
        columns: Range<usize>,
    ) {
        let [down, across] = [self.down.len(), columns.len().div_ceil(self.tile[1])];
        let m = self.size.m.min(down * self.tile[0]);
        let ns = Size { batch: matrices.len(), m, n: columns.len(), ..self.size }.ns();
        // What a tile does not pack stays in a cache for the next one: columns, or else rows.
        let packs = self.packs_columns || a.room(self.tile[0], self.size.k) > 0;
        debug_assert!(!packs || self.together == 1 || across == 1, "rows packed more than once");
        par::for_ranges(matrices.len() * down * across, self.together, ns, |tiles| {
            // Several tiles lie below each other, as far as they have the same columns.
            let mut next = tiles.start;
            while next < tiles.end {
                let (matrix, at) = (next / (down * across), next % (down * across));
                let [row, column] =
                    if packs { [at / across, at % across] } else { [at % down, at / down] };
                let row = self.down.start + row;
                let rows = row..self.down.end.min(row + tiles.end - next);
                next += rows.len();
                let column = columns.start / self.tile[1] + column;
                self.tile(a, b, to, matrices.start + matrix, rows, column);
            }
        });
    }

    /// Some tiles of one matrix below each other, as one; `down` and `across` count tiles.
    fn tile<T: Real, O: Send>(
        &self,
        a: Rows<T>,
        b: Columns<T>,
        to: &Target<T, O>,
        batch: usize,
        down: Range<usize>,
        across: usize,
    ) {
        let Target { writer, out, kept } = *to;
        let (row, column) = (down.start * self.tile[0], across * self.tile[1]);
        let out = out.take_below(batch, down.clone(), across);
        let kept = kept.map(|kept| kept.take_below(batch, down, across));
        let (rows, columns) = (out.rows().len(), out.columns().len());
        let (panels, k) = (column / LANES..(column + columns).div_ceil(LANES), self.size.k);
        let make = |to: To<T>, a_block: &mut [T], slots: &mut [T]| {
            let (rows, panels, slots) = (row..row + rows, panels.clone(), slots.as_chunks_mut().0);
            T::multiply(SumTile { a, b, batch, k, rows, panels, a_block, slots, to });
        };
        let room = [a.room(rows, k), STRIP * SLOT * LANES];
        match writer.place(out, k) {
            Ok((out, ends)) => scratch::with(room, |[a_block, slots]| {
                let ends = ends.part(column..column + columns);
                make(To::Place { out, ends }, a_block, slots);
            }),
            Err(out) => {
                let sums: usize = tile::sums_size(rows, panels.len(), k).iter().product();
                scratch::with([room[0], room[1], sums * LANES], |[a_block, slots, sums]| {
                    let first = At { batch, row, col: column };
                    let mut writing = Writing { writer, first, out, kept };
                    make(To::Writer(&mut writing, sums.as_chunks_mut().0), a_block, slots);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::exprs::GeluTanh;
    use crate::elementwise::map;
    use crate::gemm::{
        GateResidual, KC, Mapped, PackedB, Reader, Sloped, Store, Strided, gemm, gemm_keeping,
    };

    fn plan(mapped: &Mapped<f32, GeluTanh>, [m, n, k]: [usize; 3]) -> (usize, Plan) {
        let (size, a) = (Size::new(m, n, k), mapped.plain());
        let plan = Plan::new(size, &a, &Right::Read(a));
        (plan.parts(&a).count(), plan)
    }

    /// Rows that come through a function, packed before or by each tile, beside the same rows in
    /// memory: every writer finds its place, whichever part and tile it is in.
    #[test]
    fn rows_packed_in_parts_have_the_bits_of_rows_in_memory() {
        let sizes = [[700, 770, 6000], [1100, 770, 2600], [40, 770, 6000], [800, 200, 70]];
        for (size, want) in sizes.into_iter().zip([3, 2, 1, 1]) {
            let [m, n, k] = size;
            let numbers = |seed: usize, len: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * 29 + seed * 7) % 113) as f32 / 50.0 - 1.1).collect()
            };
            let (x, w) = (numbers(1, m * k), numbers(2, n * k));
            let mapped = Mapped { f: GeluTanh, x: &x, cols: k };
            let (parts, plan) = plan(&mapped, size);
            assert_eq!((parts, plan.packs_rows), (want, n > 200), "{size:?}");
            let mut gelu = vec![0.0; m * k];
            map(&GeluTanh, &[m * k], [(&x, &[1])], &mut gelu);
            let (rows, weights) = (Strided::rows(&gelu, k), Strided::rows(&w, k));
            let (gate, residual) = (numbers(3, m.div_ceil(7) * n), numbers(4, m * n));
            let joins = GateResidual {
                bias: None,
                gate: &gate,
                gate_stride: n,
                rows_per_sample: 7,
                residual: &residual,
                cols: n,
            };
            let sloped = Sloped { f: GeluTanh, x: &residual, cols: n };
            for writer in [&joins as &dyn Writer<f32>, &sloped] {
                let product = |a: Operand<f32>| {
                    let (mut out, mut kept) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
                    let size = Size::new(m, n, k);
                    gemm_keeping(size, a, weights.transposed(), writer, &mut out, &mut kept);
                    [out, kept]
                };
                assert!(product(mapped.plain()) == product(rows.plain()), "{size:?}");
            }
        }
    }

    /// Many rows and short sums: unless B is packed, or tiles would be too small.
    #[test]
    fn short_sums_share_packed_columns() {
        let (rows, packed) = (Strided::rows(&[0.0], 1), PackedB::new(1, 1, &[0.0], [1, 1]));
        let a = rows.plain();
        let shares = |[m, n, k]: [usize; 3], b: Right<f32>| {
            !Plan::new(Size::new(m, n, k), &a, &b).packs_columns
        };
        for size in [[2048, 192, 192], [768, 768, 192], [1024, 384, 384], [1178, 3072, 768]] {
            assert!(shares(size, a.into()) && !shares(size, (&packed).into()), "{size:?}");
        }
        for size in [[672, 192, 192], [1024, 1024, 1024], [100_000, 16, 64], [2048, 16, 1]] {
            assert!(!shares(size, a.into()), "{size:?}");
        }
    }

    /// Few rows are cut once from 192 on, before columns are, and more often from 384 on.
    #[test]
    fn few_rows_are_cut_in_two() {
        let packed: Strided<f32> = Strided::rows(&[0.0], 1);
        let tile = |m: usize| {
            let (a, b) = (packed.transposed(), Right::Read(packed.plain()));
            Plan::new(Size::new(m, 192, 1024), &a, &b).tile
        };
        let tiles = [180, 192, 384, 768].map(tile);
        assert_eq!(tiles, [[180, 32], [96, 32], [192, 32], [192, 64]]);
    }

    /// Each block of K a product of its own, or not.
    #[test]
    fn rows_through_a_function_have_the_bits_of_rows_in_memory_in_every_block() {
        let [m, k] = [200, KC + 30];
        let x: Vec<f32> = (0..k * m).map(|i| (i * 29 % 113) as f32 / 50.0 - 1.1).collect();
        let (mapped, mut gelu) = (Mapped { f: GeluTanh, x: &x, cols: m }, vec![0.0; k * m]);
        map(&GeluTanh, &[k * m], [(&x, &[1])], &mut gelu);
        let (stored, b) = (Strided::<f32>::rows(&gelu, m), [&x[..], &x].concat());
        for (n, want) in [(320, true), (330, false)] {
            let (b, size) = (Strided::<f32>::rows(&b, n), Size::new(m, n, k));
            assert_eq!(by_blocks(size, &mapped.transposed()), want);
            let product = |a: Operand<f32>| {
                let mut c = vec![f32::NAN; m * n];
                gemm(size, a, b.plain(), &Store, &mut c);
                c
            };
            assert!(product(mapped.transposed()) == product(stored.transposed()), "{n} columns");
        }
    }

    /// As many rows at once as are left for it, across columns too: the bits of tall tiles.
    #[test]
    fn bits_of_short_sums_depend_on_neither_tiles_nor_threads() {
        let (n, k) = (900, 300);
        let numbers = |len: usize| (0..len).map(|i| (i * 29 % 113) as f32 / 50.0 - 1.1).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (numbers(1100 * k), numbers(n * k));
        let (a, b) = (Strided::<f32>::rows(&a, k), Strided::<f32>::rows(&b, n));
        let product = |m: usize| {
            let mut c = vec![0.0; m * n];
            gemm(Size::new(m, n, k), a.plain(), b.plain(), &Store, &mut c);
            c
        };
        let whole = par::with_threads(1, || product(1100));
        (2..5).for_each(|threads| assert!(par::with_threads(threads, || product(1100)) == whole));
        assert!(product(600) == whole[..600 * n]);
    }

    /// Long sums leave room for a few rows at a time: then columns are not packed for each few.
    #[test]
    fn a_few_rows_are_no_part() {
        let mapped = Mapped { f: GeluTanh, x: &[], cols: 0 };
        for size in [[1152, 128, 1 << 18], [1152, 900, 1 << 14], [700, 400, 6000]] {
            let (parts, plan) = plan(&mapped, size);
            assert_eq!((parts, plan.packs_rows), (1, false), "{size:?}");
        }
    }
}
