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
    Groups(SideBySide<'a, T>),
}

/// Rows of A, each adjacent along K, `stride` numbers from one to the next.
#[derive(Clone, Copy)]
pub(super) struct AlongK<'a, T> {
    pub x: &'a [T],
    pub stride: usize,
}

/// Groups of [`GROUP`] rows of A, `stride` steps along K from one to the next; the last group may
/// be partly unused.
#[derive(Clone, Copy)]
pub(super) struct SideBySide<'a, T> {
    pub x: &'a [[T; GROUP]],
    pub stride: usize,
}

/// What the micro-kernel reads of A.
pub(super) trait Tall<T>: Copy {
    /// N steps of MR rows.
    type Steps<const MR: usize, const N: usize>: Copy;
    /// Rows from `row` on, from step `k` on.
    fn steps<const MR: usize, const N: usize>(self, row: usize, k: usize) -> Self::Steps<MR, N>;
    /// Row `i` of them at step `k`.
    fn at<const MR: usize, const N: usize>(steps: Self::Steps<MR, N>, i: usize, k: usize) -> T;
}

impl<'a, T: Real> Tall<T> for AlongK<'a, T> {
    type Steps<const MR: usize, const N: usize> = [&'a [T; N]; MR];
    #[inline(always)]
    fn steps<const MR: usize, const N: usize>(self, row: usize, k: usize) -> [&'a [T; N]; MR] {
        let row = |i| self.x[(row + i) * self.stride + k..].first_chunk();
        std::array::from_fn(|i| row(i).expect("steps of a row"))
    }
    #[inline(always)]
    fn at<const MR: usize, const N: usize>(rows: [&'a [T; N]; MR], i: usize, k: usize) -> T {
        rows[i][k]
    }
}

impl<'a, T: Real> Tall<T> for SideBySide<'a, T> {
    type Steps<const MR: usize, const N: usize> = (&'a [[T; GROUP]; N], usize);
    #[inline(always)]
    fn steps<const MR: usize, const N: usize>(self, row: usize, k: usize) -> Self::Steps<MR, N> {
        let first = row % GROUP;
        assert!(first + MR <= GROUP);
        let steps = self.x[row / GROUP * self.stride + k..].first_chunk();
        (steps.expect("steps of a group"), first)
    }
    #[inline(always)]
    fn at<const MR: usize, const N: usize>(
        (group, first): Self::Steps<MR, N>,
        i: usize,
        k: usize,
    ) -> T {
        group[k][first + i]
    }
}

/// What the micro-kernel reads of B: NV vectors a step.
pub(super) trait Wide<T, const NV: usize> {
    /// Whether a micro-tile may have fewer rows than the registers have room for.
    const ANY_ROWS: bool;
    /// N steps.
    type Steps<'s, const N: usize>
    where
        Self: 's;
    /// How many there are in all.
    fn depth(&self) -> usize;
    /// Those from `k` on.
    fn steps<S: Simd<T = T>, const N: usize>(&mut self, isa: S, k: usize) -> Self::Steps<'_, N>;
    /// The vectors of one of them.
    fn load<'s, S: Simd<T = T>, const N: usize>(
        steps: &mut Self::Steps<'s, N>,
        isa: S,
        n: usize,
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
    const ANY_ROWS: bool = true;
    type Steps<'s, const N: usize>
        = [&'a [[T; LANES]; N]; NV]
    where
        Self: 's;
    #[inline(always)]
    fn depth(&self) -> usize {
        self.panels[0].len()
    }
    #[inline(always)]
    fn steps<S: Simd<T = T>, const N: usize>(&mut self, isa: S, k: usize) -> Self::Steps<'_, N> {
        for n in 0..N {
            isa.prefetch(self.next, k + n);
        }
        self.panels.map(|panel| panel[k..].first_chunk().expect("steps of a panel"))
    }
    #[inline(always)]
    fn load<'s, S: Simd<T = T>, const N: usize>(
        steps: &mut Self::Steps<'s, N>,
        isa: S,
        n: usize,
    ) -> [S::V; NV]
    where
        Self: 's,
    {
        steps.map(|panel| isa.load(&panel[n]))
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
    const ANY_ROWS: bool = false;
    type Steps<'s, const N: usize>
        = (&'s [T], usize, [&'s mut [[T; LANES]; N]; NV])
    where
        Self: 's;
    #[inline(always)]
    fn depth(&self) -> usize {
        self.panels[0].len()
    }
    #[inline(always)]
    fn steps<S: Simd<T = T>, const N: usize>(&mut self, isa: S, k: usize) -> Self::Steps<'_, N> {
        for n in 0..N {
            for v in 0..NV {
                let step = (k + n + AHEAD).wrapping_mul(self.stride);
                isa.prefetch(self.x, step.wrapping_add(v * LANES));
            }
        }
        let panels = self.panels.each_mut();
        let panels = panels.map(|p| p[k..].first_chunk_mut().expect("steps of a panel"));
        (&self.x[k * self.stride..], self.stride, panels)
    }
    #[inline(always)]
    fn load<'s, S: Simd<T = T>, const N: usize>(
        (x, stride, panels): &mut Self::Steps<'s, N>,
        isa: S,
        n: usize,
    ) -> [S::V; NV]
    where
        Self: 's,
    {
        let (columns, _) = x[n * *stride..].as_chunks();
        let columns = columns.first_chunk::<NV>().expect("columns of the strip");
        let vectors = std::array::from_fn(|v| isa.load(&columns[v]));
        for v in 0..NV {
            isa.store(vectors[v], &mut panels[v][n]);
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
                $($rows if const { exists($rows, S::TILE_ROWS, B::ANY_ROWS) } => {
                    isa.call(MicroTile::<_, _, _, $rows, NV> { a, b, out, row: rows.start, panel });
                })*
                rows => unreachable!("{rows} rows in a tile of {}", S::TILE_ROWS),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Whether there are micro-tiles of so many rows.
const fn exists(rows: usize, most: usize, any: bool) -> bool {
    rows == most || any && rows < most
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
        let whole = depth - depth % STEPS;
        for k in (0..whole).step_by(STEPS) {
            steps::<S, A, B, MR, NV, STEPS>(isa, a, row, &mut b, k, &mut sums);
        }
        for k in whole..depth {
            steps::<S, A, B, MR, NV, 1>(isa, a, row, &mut b, k, &mut sums);
        }
        let columns = panel * LANES..(panel + NV) * LANES;
        let (first, mut cell) = (out.first, out.cell.part([row..row + MR, columns]));
        for (i, sums) in sums.iter().enumerate() {
            let places = cell.row(i).as_chunks_mut().0.first_chunk_mut::<NV>();
            for (&sum, place) in sums.iter().zip(places.expect("panels of the strip")) {
                let total = if first { sum } else { isa.load(place) + sum };
                isa.store(total, place);
            }
        }
    }
}

/// Steps along K that are taken without looking at any length.
const STEPS: usize = 8;

/// N steps, from step `k` on.
#[inline(always)]
fn steps<S, A, B, const MR: usize, const NV: usize, const N: usize>(
    isa: S,
    a: A,
    row: usize,
    b: &mut B,
    k: usize,
    sums: &mut [[S::V; NV]; MR],
) where
    S: Simd,
    A: Tall<S::T>,
    B: Wide<S::T, NV>,
{
    let a = a.steps::<MR, N>(row, k);
    let mut b = b.steps::<S, N>(isa, k);
    for n in 0..N {
        let b = B::load::<S, N>(&mut b, isa, n);
        for i in 0..MR {
            let x = isa.splat(A::at::<MR, N>(a, i, n));
            for v in 0..NV {
                sums[i][v] = x.mul_add(b[v], sums[i][v]);
            }
        }
    }
}
