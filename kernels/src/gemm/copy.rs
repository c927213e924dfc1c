//! Packing of what lies side by side: rows on their way to panels.

use super::storage::Stored;
use super::tile::GROUP;
use crate::elementwise::{Pointwise, each_vector, together};
use crate::lane::LANES;
use crate::num::Num;
use crate::{Real, Simd, Task};

/// y = x.
pub(super) struct AsItIs;

impl Pointwise<1> for AsItIs {
    #[inline(always)]
    fn at<N: Num>(&self, [x]: [N; 1]) -> N {
        x
    }
}

/// Rows of adjacent elements on their way, through `f`, to panels of at most sixteen columns; where
/// one panel follows the other, to rows again.
pub(super) struct Copy<'a, T, E, F> {
    pub x: &'a [E],
    pub by: usize,
    pub size: [usize; 2],
    pub out: &'a mut [T],
    /// Elements of `out` from a row to the next.
    pub row_step: usize,
    /// Columns of a panel, and elements of `out` from a panel to the next.
    pub panel: [usize; 2],
    pub f: F,
}

/// How many elements before its turn a row is fetched, of rows as short as those of a tile. The next
/// one mostly lies on another page, where the processor does not look by itself: with this, packing
/// takes half the time.
const AHEAD: usize = 2048;

/// Rows of a panel of [`GROUP`] columns that are whole vectors together.
const ROWS: usize = 4;
const _: () = assert!(ROWS * GROUP == 3 * LANES);

impl<T: Real, E: Stored<T>, F: Pointwise<1>> Task<T> for Copy<'_, T, E, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        let ([rows, cols], [width, _]) = (self.size, self.panel);
        let ahead = AHEAD.div_ceil(cols.max(1)).wrapping_mul(self.by);
        let mut done = 0;
        if (width, self.row_step) == (GROUP, GROUP)
            && let Some(x) = E::as_real(self.x)
        {
            done = rows - rows % ROWS;
            for i in (0..done).step_by(ROWS) {
                self.four_rows(isa, x, i, ahead);
            }
        }
        for i in done..rows {
            self.part(isa, i, 0, ahead);
        }
    }
}

impl<T: Real, E: Stored<T>, F: Pointwise<1>> Copy<'_, T, E, F> {
    /// A row, from a column on.
    #[inline(always)]
    fn part<S: Simd<T = T>>(&mut self, isa: S, i: usize, first: usize, ahead: usize) {
        let [width, panel_step] = self.panel;
        let x = &self.x[i * self.by + first..][..self.size[1] - first];
        let out = &mut self.out[first / width * panel_step + i * self.row_step..];
        let mut done = 0;
        if let (LANES, Some(x)) = (width, E::as_real(x)) {
            let (x, _) = x.as_chunks();
            done = x.len();
            let load = |j: usize| {
                isa.prefetch(&x[j], ahead);
                [isa.load(&x[j])]
            };
            let store = |j: usize, v| isa.store_head(v, &mut out[j * panel_step..][..LANES]);
            each_vector(isa, &self.f, done, load, store);
        }
        for (x, out) in x.chunks(width).zip(out.chunks_mut(panel_step)).skip(done) {
            isa.prefetch(x, ahead);
            let out = &mut out[..x.len()];
            if let Some(x) = E::as_real(x) {
                isa.store_head(self.f.at([isa.load_head(x, T::ZERO)]), out);
            } else {
                x.iter().zip(out).for_each(|(x, out)| *out = self.f.at([x.widen()]));
            }
        }
    }

    /// Four rows from row `i` on, in panels of [`GROUP`] columns: three whole vectors of each.
    #[inline(always)]
    fn four_rows<S: Simd<T = T>>(&mut self, isa: S, x: &[T], i: usize, ahead: usize) {
        let (cols, panel_step) = (self.size[1], self.panel[1]);
        let whole = cols - cols % GROUP;
        let mut rows = [[].as_slice(); ROWS];
        for (n, row) in rows.iter_mut().enumerate() {
            *row = x[(i + n) * self.by..][..whole].as_chunks::<GROUP>().0;
        }
        for j in 0..whole / GROUP {
            let [a, b, c, d] = [&rows[0][j], &rows[1][j], &rows[2][j], &rows[3][j]];
            for row in [a, b, c, d] {
                isa.prefetch(row, ahead);
            }
            let sixteens = [
                isa.load_joined(a, &b[..4]),
                isa.load_joined(&b[4..], &c[..8]),
                isa.load_joined(&c[8..], d),
            ];
            let (out, _) = self.out[j * panel_step + i * GROUP..].as_chunks_mut();
            let out: &mut [[T; LANES]; 3] = out.first_chunk_mut().expect("four rows of a panel");
            for (sixteen, out) in together(isa, &self.f, [sixteens]).into_iter().zip(out) {
                isa.store(sixteen, out);
            }
        }
        if whole < cols {
            (i..i + ROWS).for_each(|i| self.part(isa, i, whole, ahead));
        }
    }
}
