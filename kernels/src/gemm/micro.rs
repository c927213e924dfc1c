//! The micro-kernel, and what it reads.

use std::ops::Range;

use crate::lane::LANES;
use crate::num::Num;
use crate::par::Cell;
use crate::{Real, Simd, Task};

use super::tile::GROUP;

/// Some rows of A in a block of K.
pub(super) enum Left<'a, T> {
    /// Rows that are adjacent along K.
    Rows(AlongK<'a, T>),
    /// Groups of rows, the rows of a group side by side.
    Groups(SideBySide<'a, T, GROUP>),
}

/// Rows of A, each adjacent along K, `stride` numbers from one to the next.
#[derive(Clone, Copy)]
pub(super) struct AlongK<'a, T> {
    pub x: &'a [T],
    pub stride: usize,
}

/// Groups of G rows of A, side by side in each, `stride` steps along K from one group to the next;
/// the last one may be partly unused.
#[derive(Clone, Copy)]
pub(super) struct SideBySide<'a, T, const G: usize> {
    pub x: &'a [[T; G]],
    pub stride: usize,
}

/// What the micro-kernel reads of A.
pub(super) trait Tall<T>: Copy {
    /// MR rows, N steps along K at a time.
    type Steps<const MR: usize, const N: usize>: Copy;
    /// Rows from `row` on, steps `depth` of them. All lengths are looked at here, none at each
    /// step.
    fn steps<const MR: usize, const N: usize>(
        self,
        row: usize,
        depth: Range<usize>,
    ) -> Self::Steps<MR, N>;
    /// Row `i` at `step` = \[j, n\]: number n of the `j`th N.
    fn at<const MR: usize, const N: usize>(
        steps: Self::Steps<MR, N>,
        i: usize,
        step: [usize; 2],
    ) -> T;
}

impl<'a, T: Real> Tall<T> for AlongK<'a, T> {
    type Steps<const MR: usize, const N: usize> = [&'a [[T; N]]; MR];
    #[inline(always)]
    fn steps<const MR: usize, const N: usize>(
        self,
        row: usize,
        depth: Range<usize>,
    ) -> Self::Steps<MR, N> {
        // Not by `from_fn`, which may stay a call: then lengths are unknown again.
        let mut rows = [[].as_slice(); MR];
        for i in 0..MR {
            let row = &self.x[(row + i) * self.stride + depth.start..];
            rows[i] = row[..depth.len()].as_chunks().0;
        }
        rows
    }
    #[inline(always)]
    fn at<const MR: usize, const N: usize>(
        rows: Self::Steps<MR, N>,
        i: usize,
        [j, n]: [usize; 2],
    ) -> T {
        rows[i][j][n]
    }
}

impl<'a, T: Real, const G: usize> Tall<T> for SideBySide<'a, T, G> {
    type Steps<const MR: usize, const N: usize> = (&'a [[[T; G]; N]], usize);
    #[inline(always)]
    fn steps<const MR: usize, const N: usize>(
        self,
        row: usize,
        depth: Range<usize>,
    ) -> Self::Steps<MR, N> {
        let first = row % G;
        assert!(first + MR <= G);
        let group = &self.x[row / G * self.stride + depth.start..];
        (group[..depth.len()].as_chunks().0, first)
    }
    #[inline(always)]
    fn at<const MR: usize, const N: usize>(
        (group, first): Self::Steps<MR, N>,
        i: usize,
        [j, n]: [usize; 2],
    ) -> T {
        group[j][n][first + i]
    }
}

/// What the micro-kernel reads of B: NV vectors a step.
pub(super) trait Wide<T, const NV: usize> {
    /// Whether panels are there already: then a micro-tile may have fewer rows than the registers
    /// have room for.
    const READY: bool;
    /// N steps along K at a time.
    type Steps<'s, const N: usize>
    where
        Self: 's;
    /// How many there are in all.
    fn depth(&self) -> usize;
    /// Those of `depth`.
    fn steps<const N: usize>(&mut self, depth: Range<usize>) -> Self::Steps<'_, N>;
    /// Begins to fetch what has its turn a while after the `j`th N.
    fn fetch<'s, S: Simd<T = T>, const N: usize>(steps: &Self::Steps<'s, N>, isa: S, j: usize)
    where
        Self: 's;
    /// The vectors at `step` = \[j, n\].
    fn load<'s, S: Simd<T = T>, const N: usize>(
        steps: &mut Self::Steps<'s, N>,
        isa: S,
        step: [usize; 2],
    ) -> [S::V; NV]
    where
        Self: 's;
}

/// Packed panels, and what to fetch meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Ready<'a, T, const NV: usize> {
    pub panels: [&'a [[T; LANES]]; NV],
    pub next: &'a [[T; LANES]],
}

impl<'a, T: Real, const NV: usize> Wide<T, NV> for Ready<'a, T, NV> {
    const READY: bool = true;
    type Steps<'s, const N: usize>
        = ([&'a [[[T; LANES]; N]]; NV], &'a [[T; LANES]], usize)
    where
        Self: 's;
    #[inline(always)]
    fn depth(&self) -> usize {
        self.panels[0].len()
    }
    #[inline(always)]
    fn steps<const N: usize>(&mut self, depth: Range<usize>) -> Self::Steps<'_, N> {
        (self.panels.map(|panel| panel[depth.clone()].as_chunks().0), self.next, depth.start)
    }
    #[inline(always)]
    fn fetch<'s, S: Simd<T = T>, const N: usize>(
        &(_, next, first): &Self::Steps<'s, N>,
        isa: S,
        j: usize,
    ) where
        Self: 's,
    {
        if !next.is_empty() {
            for n in 0..N {
                isa.prefetch(next, first + j * N + n);
            }
        }
    }
    #[inline(always)]
    fn load<'s, S: Simd<T = T>, const N: usize>(
        (panels, ..): &mut Self::Steps<'s, N>,
        isa: S,
        [j, n]: [usize; 2],
    ) -> [S::V; NV]
    where
        Self: 's,
    {
        panels.map(|panel| isa.load(&panel[j][n]))
    }
}

/// Columns where they lie in memory, which are packed on the way.
pub(super) struct Fresh<'a, T, const NV: usize> {
    pub x: &'a [T],
    /// Numbers from a step along K to the next.
    pub stride: usize,
    /// Where to pack them.
    pub panels: [&'a mut [[T; LANES]]; NV],
}

/// How many steps before their turn columns are fetched: each step mostly lies on another page,
/// where the processor does not look by itself.
const AHEAD: usize = 32;

impl<T: Real, const NV: usize> Wide<T, NV> for Fresh<'_, T, NV> {
    const READY: bool = false;
    type Steps<'s, const N: usize>
        = (&'s [T], usize, [&'s mut [[[T; LANES]; N]]; NV])
    where
        Self: 's;
    #[inline(always)]
    fn depth(&self) -> usize {
        self.panels[0].len()
    }
    #[inline(always)]
    fn steps<const N: usize>(&mut self, depth: Range<usize>) -> Self::Steps<'_, N> {
        let panels = self.panels.each_mut();
        let panels = panels.map(|panel| panel[depth.clone()].as_chunks_mut().0);
        (&self.x[depth.start * self.stride..], self.stride, panels)
    }
    #[inline(always)]
    fn fetch<'s, S: Simd<T = T>, const N: usize>(
        &(x, stride, _): &Self::Steps<'s, N>,
        isa: S,
        j: usize,
    ) where
        Self: 's,
    {
        for n in 0..N {
            for v in 0..NV {
                let step = (j * N + n + AHEAD).wrapping_mul(stride);
                isa.prefetch(x, step.wrapping_add(v * LANES));
            }
        }
    }
    #[inline(always)]
    fn load<'s, S: Simd<T = T>, const N: usize>(
        (x, stride, panels): &mut Self::Steps<'s, N>,
        isa: S,
        [j, n]: [usize; 2],
    ) -> [S::V; NV]
    where
        Self: 's,
    {
        let (columns, _) = x[(j * N + n) * *stride..].as_chunks();
        let columns = columns.first_chunk::<NV>().expect("columns of the strip");
        let vectors = std::array::from_fn(|v| isa.load(&columns[v]));
        for v in 0..NV {
            isa.store(vectors[v], &mut panels[v][j][n]);
        }
        vectors
    }
}

/// A micro-tile: MR rows of A, from `row` on, against NV panels of B, from `panel` on in `out`.
///
/// It is a task of its own, and so a function of its own, because the compiler is to give its loop
/// all registers.
struct MicroTile<'a, 'o, T, A, B, const MR: usize, const NV: usize> {
    a: A,
    b: B,
    out: &'a mut Out<'o, T>,
    row: usize,
    panel: usize,
}

/// Where the sums of a chunk of rows and a strip go.
pub(super) struct Out<'a, T> {
    pub cell: Cell<'a, T>,
    /// Whether this is the first block of K: sums are stored, not added.
    pub first: bool,
    /// Is told of rows whose sums come next, if the cell is not where they stay.
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

/// `Σₖ a(i, k) · b(k, j)` by fused multiply-add in order of k, for at most TILE_ROWS `rows` and the
/// panels from `panel` on.
#[inline(always)]
pub(super) fn micro_tile<S: Simd, A: Tall<S::T>, B: Wide<S::T, NV>, const NV: usize>(
    isa: S,
    a: A,
    b: B,
    out: &mut Out<S::T>,
    rows: Range<usize>,
    panel: usize,
) {
    // Registers need constants; those that do not exist are not even compiled.
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match rows.len() {
                $($rows if const { exists($rows, S::TILE_ROWS, B::READY) } => {
                    isa.call(MicroTile::<_, _, _, $rows, NV> { a, b, out, row: rows.start, panel });
                })*
                rows => unreachable!("{rows} rows in a tile of {}", S::TILE_ROWS),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Whether there are micro-tiles of so many rows.
const fn exists(rows: usize, most: usize, is_ready: bool) -> bool {
    rows == most || is_ready && rows < most
}

impl<T: Real, A: Tall<T>, B: Wide<T, NV>, const MR: usize, const NV: usize> Task<T>
    for MicroTile<'_, '_, T, A, B, MR, NV>
{
    type Output = ();
    /// Everything but the depth is known to the compiler: the sums live in registers.
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let MicroTile { a, mut b, out, row, panel } = self;
        let mut sums = [[isa.splat(T::ZERO); NV]; MR];
        let depth = b.depth();
        let at_once = const { at_once(B::READY, MR * NV) };
        let whole = depth - depth % at_once;
        match at_once {
            4 => steps::<S, A, B, MR, NV, 4>(isa, a, row, &mut b, 0..whole, &mut sums),
            8 => steps::<S, A, B, MR, NV, 8>(isa, a, row, &mut b, 0..whole, &mut sums),
            _ => unreachable!("{at_once} steps at once"),
        }
        for k in whole..depth {
            steps::<S, A, B, MR, NV, 1>(isa, a, row, &mut b, k..k + 1, &mut sums);
        }
        let places = out.cell.arrays::<MR, NV, LANES>(row, panel * LANES);
        for (sums, places) in sums.iter().zip(places) {
            for (&sum, place) in sums.iter().zip(places) {
                let total = if out.first { sum } else { isa.load(place) + sum };
                isa.store(total, place);
            }
        }
    }
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
    b: &mut B,
    depth: Range<usize>,
    sums: &mut [[S::V; NV]; MR],
) where
    S: Simd,
    A: Tall<S::T>,
    B: Wide<S::T, NV>,
{
    let (a, mut b) = (a.steps::<MR, N>(row, depth.clone()), b.steps::<N>(depth.clone()));
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
