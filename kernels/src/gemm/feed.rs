//! What the micro-kernel reads: rows of A and panels of B, whose lengths are looked at before a loop
//! along K, not in it; or columns of B that are no panels yet, which are looked at step by step.

use std::ops::Range;

use crate::lane::LANES;
use crate::{Real, Simd};

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

/// What the micro-kernel reads of B: panels, NV at once.
pub(super) trait Wide<T, const NV: usize> {
    /// Whether panels are there already: then a micro-tile may have fewer rows than the registers
    /// have room for.
    const READY: bool;
    /// N steps along K at a time.
    type Steps<'s, const N: usize>
    where
        Self: 's;
    /// How many times NV panels there are.
    fn len(&self) -> usize;
    /// How many steps.
    fn depth(&self) -> usize;
    /// Steps `depth` of the `place[0]`th NV panels, for the `place[1]`th micro-tile of a call.
    fn steps<const N: usize>(
        &mut self,
        place: [usize; 2],
        depth: Range<usize>,
    ) -> Self::Steps<'_, N>;
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
pub(super) struct Ready<'a, T, const NV: usize> {
    pub panels: &'a [[&'a [[T; LANES]]; NV]],
    /// For each micro-tile of a call a panel to fetch meanwhile; empty or missing for none.
    pub next: &'a [&'a [[T; LANES]]],
}

impl<'a, T: Real, const NV: usize> Wide<T, NV> for Ready<'a, T, NV> {
    const READY: bool = true;
    type Steps<'s, const N: usize>
        = ([&'a [[[T; LANES]; N]]; NV], &'a [[T; LANES]], usize)
    where
        Self: 's;
    #[inline(always)]
    fn len(&self) -> usize {
        self.panels.len()
    }
    #[inline(always)]
    fn depth(&self) -> usize {
        self.panels[0][0].len()
    }
    #[inline(always)]
    fn steps<const N: usize>(
        &mut self,
        [i, turn]: [usize; 2],
        depth: Range<usize>,
    ) -> Self::Steps<'_, N> {
        let next = self.next.get(turn).copied().unwrap_or_default();
        (self.panels[i].map(|panel| panel[depth.clone()].as_chunks().0), next, depth.start)
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
pub(super) struct Fresh<'a, 'b, T, const NV: usize> {
    pub x: &'a [T],
    /// Numbers from a step along K to the next.
    pub stride: usize,
    /// Where to pack them.
    pub panels: &'a mut [[&'b mut [[T; LANES]]; NV]],
}

/// How many steps before their turn columns are fetched: each step mostly lies on another page,
/// where the processor does not look by itself.
const AHEAD: usize = 32;

impl<T: Real, const NV: usize> Wide<T, NV> for Fresh<'_, '_, T, NV> {
    const READY: bool = false;
    type Steps<'s, const N: usize>
        = (&'s [T], usize, [&'s mut [[[T; LANES]; N]]; NV])
    where
        Self: 's;
    #[inline(always)]
    fn len(&self) -> usize {
        self.panels.len()
    }
    #[inline(always)]
    fn depth(&self) -> usize {
        self.panels[0][0].len()
    }
    #[inline(always)]
    fn steps<const N: usize>(
        &mut self,
        [i, _]: [usize; 2],
        depth: Range<usize>,
    ) -> Self::Steps<'_, N> {
        let panels = self.panels[i].each_mut();
        let panels = panels.map(|panel| panel[depth.clone()].as_chunks_mut().0);
        (&self.x[depth.start * self.stride + i * NV * LANES..], self.stride, panels)
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
        let vectors = columns(isa, &x[(j * N + n) * *stride..]);
        for v in 0..NV {
            isa.store(vectors[v], &mut panels[v][j][n]);
        }
        vectors
    }
}

/// The first vectors of a row.
#[inline(always)]
fn columns<S: Simd, const NV: usize>(isa: S, row: &[S::T]) -> [S::V; NV] {
    let columns = row.as_chunks().0.first_chunk::<NV>().expect("columns of the strip");
    std::array::from_fn(|v| isa.load(&columns[v]))
}

/// Columns where they lie in memory, few enough to stay in the first cache: `panels` of them, steps
/// along K `stride` numbers apart.
#[derive(Clone, Copy)]
pub(super) struct InPlace<'a, T> {
    pub x: &'a [T],
    pub stride: usize,
    pub panels: usize,
    pub depth: usize,
}

impl<'a, T: Real, const NV: usize> Wide<T, NV> for InPlace<'a, T> {
    const READY: bool = true;
    type Steps<'s, const N: usize>
        = (&'a [T], usize)
    where
        Self: 's;
    #[inline(always)]
    fn len(&self) -> usize {
        self.panels / NV
    }
    #[inline(always)]
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    fn steps<const N: usize>(
        &mut self,
        [i, _]: [usize; 2],
        depth: Range<usize>,
    ) -> Self::Steps<'_, N> {
        (&self.x[depth.start * self.stride + i * NV * LANES..], self.stride)
    }
    #[inline(always)]
    fn fetch<'s, S: Simd<T = T>, const N: usize>(_: &Self::Steps<'s, N>, _: S, _: usize)
    where
        Self: 's,
    {
    }
    #[inline(always)]
    fn load<'s, S: Simd<T = T>, const N: usize>(
        (x, stride): &mut Self::Steps<'s, N>,
        isa: S,
        [j, n]: [usize; 2],
    ) -> [S::V; NV]
    where
        Self: 's,
    {
        columns(isa, &x[(j * N + n) * *stride..])
    }
}
