//! The micro-kernel: sums in registers.

use std::ops::Range;

use crate::lane::LANES;
use crate::num::Num;
use crate::par::Cell;
use crate::{Real, Simd, Task};

use super::ends::Ends;
use super::feed::{Tall, Wide};
use super::tile::GROUP;

/// TILES times MR rows of A, from `row` on, against panels of B, which are those from `panel` on in
/// `out`.
///
/// It is a task of its own, and so a function of its own, because the compiler is to give its loop
/// all registers. It makes many micro-tiles, because a call and what goes with it, as looking at
/// the lengths of rows, takes as long as ten fused steps.
struct MicroTiles<'a, 'o, T, A, B, const MR: usize, const NV: usize, const TILES: usize> {
    a: A,
    b: &'a mut B,
    out: &'a mut Out<'o, T>,
    row: usize,
    panel: usize,
}

/// Where the sums of a chunk of rows and a strip go.
pub(super) struct Out<'a, T> {
    pub cell: Cell<'a, T>,
    /// What becomes of them; a bias has a number for each column of the cell.
    pub ends: Ends<'a, T>,
    /// Is told of rows whose sums come next; without it, the cell's own rows are fetched,
    /// but for a few that are made at once.
    pub expect: Option<&'a mut dyn FnMut(Range<usize>)>,
}

impl<T: Real> Out<'_, T> {
    /// Begins to fetch what the sums of these rows will go to.
    #[inline(always)]
    pub fn fetch<S: Simd<T = T>>(&mut self, isa: S, rows: Range<usize>) {
        match &mut self.expect {
            Some(expect) => expect(rows),
            None => {
                for i in rows {
                    isa.prefetch_row(self.cell.row(i));
                }
            }
        }
    }
}

/// `Σₖ a(i, k) · b(k, j)` by fused multiply-add in order of k, for `rows`, which are a group or the
/// last part of one, and the panels from `panel` on.
#[inline(always)]
pub(super) fn micro_tiles<S: Simd, A: Tall<S::T>, B: Wide<S::T, NV>, const NV: usize>(
    isa: S,
    a: A,
    mut b: B,
    out: &mut Out<S::T>,
    rows: Range<usize>,
    panel: usize,
) {
    let most = const { tile_rows::<S>(NV) };
    // A part is shared out evenly: a micro-tile of one or two rows would wait for its own
    // multiply-adds, so that eight rows are 4 + 4 and not 6 + 2.
    let calls = if rows.len() == GROUP { 1 } else { rows.len().div_ceil(most) };
    let (least, taller) = (rows.len() / calls, rows.len() % calls);
    let mut row = rows.start;
    for call in 0..calls {
        let (height, b) = (least + usize::from(call < taller), &mut b);
        // Registers need constants; those that do not exist are not even compiled.
        macro_rules! of_rows {
            ($($rows:literal)*) => {
                match height {
                    $(GROUP if const { B::READY && $rows == tile_rows::<S>(NV) } => {
                        const TILES: usize = GROUP / $rows;
                        isa.call(MicroTiles::<_, _, _, $rows, NV, TILES> { a, b, out, row, panel });
                    })*
                    $($rows if const { is_tile(B::READY, $rows, tile_rows::<S>(NV)) } => {
                        isa.call(MicroTiles::<_, _, _, $rows, NV, 1> { a, b, out, row, panel });
                    })*
                    _ => unreachable!("{height} rows in tiles of {most}"),
                }
            };
        }
        of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
        row += height;
    }
}

impl<T: Real, A: Tall<T>, B: Wide<T, NV>, const MR: usize, const NV: usize, const TILES: usize>
    Task<T> for MicroTiles<'_, '_, T, A, B, MR, NV, TILES>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let MicroTiles { a, b, out, row, panel } = self;
        for i in 0..b.len() {
            for tile in 0..TILES {
                let place = [row + tile * MR, panel + i * NV];
                micro_tile::<S, A, B, MR, NV>(isa, a, (b, [i, i * TILES + tile]), out, place);
            }
        }
    }
}

/// A micro-tile: MR rows from a row on against the `i[0]`th NV panels, which are those from a panel
/// on in `out`; it is the `i[1]`th of its call.
///
/// Everything but the depth is known to the compiler: the sums live in registers.
#[inline(always)]
fn micro_tile<S, A, B, const MR: usize, const NV: usize>(
    isa: S,
    a: A,
    (b, i): (&mut B, [usize; 2]),
    out: &mut Out<S::T>,
    [row, panel]: [usize; 2],
) where
    S: Simd,
    A: Tall<S::T>,
    B: Wide<S::T, NV>,
{
    let mut sums = [[isa.splat(S::T::ZERO); NV]; MR];
    let depth = b.depth();
    let at_once = const { at_once(B::READY, MR * NV) };
    let whole = depth - depth % at_once;
    match at_once {
        4 => steps::<S, A, B, MR, NV, 4>(isa, a, row, (b, i), 0..whole, &mut sums),
        8 => steps::<S, A, B, MR, NV, 8>(isa, a, row, (b, i), 0..whole, &mut sums),
        _ => unreachable!("{at_once} steps at once"),
    }
    for k in whole..depth {
        steps::<S, A, B, MR, NV, 1>(isa, a, row, (b, i), k..k + 1, &mut sums);
    }
    let places = out.cell.arrays::<MR, NV, LANES>(row, panel * LANES);
    let bias = match out.ends {
        Ends::Bias(bias) => {
            let bias = bias[panel * LANES..].as_chunks().0.first_chunk::<NV>();
            Some(bias.expect("a number for each column"))
        }
        _ => None,
    };
    for (sums, places) in sums.iter().zip(places) {
        for (v, (&sum, place)) in sums.iter().zip(places).enumerate() {
            let total = match (out.ends, bias) {
                (Ends::Add, _) => isa.load(place) + sum,
                (_, Some(bias)) => sum + isa.load(&bias[v]),
                (_, None) => sum,
            };
            isa.store(total, place);
        }
    }
}

/// Most rows of a micro-tile of so many panels: it has no more sums than the instruction set's own
/// tile, and as many rows as share out a group evenly.
pub(super) const fn tile_rows<S: Simd>(vectors: usize) -> usize {
    let mut rows = GROUP;
    while rows * vectors > S::TILE_ROWS * S::TILE_VECS || !GROUP.is_multiple_of(rows) {
        rows -= 1;
    }
    rows
}

/// Whether there is a micro-tile of so many rows: of fewer than most only where panels are ready.
const fn is_tile(is_ready: bool, rows: usize, most: usize) -> bool {
    rows == most || (is_ready && rows < most)
}

/// Steps along K that are taken at once, for a tile of so many vectors: as many as the compiler
/// unrolls, for what it leaves a loop finds the place of each row anew at every step, a third of
/// all instructions. A large tile that packs on the way stays one: unrolled, it would have to save
/// addresses to memory, and that costs more.
const fn at_once(is_ready: bool, vectors: usize) -> usize {
    if is_ready && vectors > 18 { 4 } else { 8 }
}

/// Steps `depth` along K, N at a time.
#[inline(always)]
fn steps<S, A, B, const MR: usize, const NV: usize, const N: usize>(
    isa: S,
    a: A,
    row: usize,
    (b, i): (&mut B, [usize; 2]),
    depth: Range<usize>,
    sums: &mut [[S::V; NV]; MR],
) where
    S: Simd,
    A: Tall<S::T>,
    B: Wide<S::T, NV>,
{
    let (a, mut b) = (a.steps::<MR, N>(row, depth.clone()), b.steps::<N>(i, depth.clone()));
    for j in 0..depth.len() / N {
        B::fetch::<S, N>(&b, isa, j);
        for n in 0..N {
            let b = B::load::<S, N>(&mut b, isa, [j, n]);
            for i in 0..MR {
                let x = isa.splat(A::at::<MR, N>(a, i, [j, n]));
                for v in 0..NV {
                    sums[i][v] = x.mul_add(b[v], sums[i][v]);
                }
            }
        }
    }
}
