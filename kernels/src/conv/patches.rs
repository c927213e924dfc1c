//! The patches of an image as a matrix: one row for each tap, one column for each pixel.

use std::ops::Range;

use crate::gemm::Reader;
use crate::lane::LANES;
use crate::{Real, Simd, Task};

/// Along one axis: which source pixel a destination pixel meets at a tap.
///
/// It is `pixel·step + number of the tap·tap + offset` where that is inside; else there is none and
/// the element is zero. A convolution has `step` = stride, `tap` = 1, `offset` = −padding; solved
/// for the other pixel ([`transposed`](super::transposed)), `step` = 1 and `tap` = −1.
#[derive(Clone, Copy, Debug)]
pub struct AxisMap {
    /// Source pixels.
    pub from: usize,
    /// Destination pixels.
    pub to: usize,
    /// Number of taps.
    pub taps: usize,
    /// Factor of the destination pixel.
    pub step: isize,
    /// Factor of the tap's number.
    pub tap: isize,
    /// Added to both.
    pub offset: isize,
}

impl AxisMap {
    /// Each pixel meets itself.
    fn identity(length: usize) -> Self {
        AxisMap { from: length, to: length, taps: 1, step: 1, tap: 1, offset: 0 }
    }

    /// Where destination `pixel` looks at `tap`, inside or not.
    #[inline(always)]
    fn at(&self, pixel: usize, tap: usize) -> isize {
        pixel as isize * self.step + tap as isize * self.tap + self.offset
    }

    /// The source pixel that destination `pixel` meets at `tap`.
    #[inline(always)]
    fn source(&self, pixel: usize, tap: usize) -> Option<usize> {
        let u = self.at(pixel, tap);
        (u >= 0 && u < self.from as isize).then_some(u as usize)
    }
}

/// A batch of images as matrices \[(channel, tap row, tap column), pixel\].
///
/// Columns count the pixels of one image after another, so that a product may run over the pixels
/// of all of them; matrix `b` of a batch begins at the b-th image.
#[derive(Clone, Copy, Debug)]
pub struct Patches<'a, T> {
    /// Images \[batch, channel, row, column\].
    pub x: &'a [T],
    /// Channels of x.
    pub channels: usize,
    /// Rows and columns.
    pub axes: [AxisMap; 2],
}

impl<'a, T: Real> Patches<'a, T> {
    /// The images themselves: \[channel, pixel\].
    pub fn pixels(x: &'a [T], channels: usize, [rows, columns]: [usize; 2]) -> Self {
        Patches { x, channels, axes: [AxisMap::identity(rows), AxisMap::identity(columns)] }
    }

    /// Columns of matrix `batch` as pixels of the whole batch.
    fn in_batch(&self, batch: usize, cols: Range<usize>) -> Range<usize> {
        let pixels = self.axes[0].to * self.axes[1].to;
        batch * pixels + cols.start..batch * pixels + cols.end
    }
}

/// A block of patches on its way to `out`.
struct Block<'a, T> {
    patches: Patches<'a, T>,
    rows: Range<usize>,
    /// Pixels of the whole batch.
    pixels: Range<usize>,
    out: &'a mut [T],
    /// Elements of `out` from a row to the next.
    row_step: usize,
    /// Columns of a panel, and elements of `out` from a panel to the next.
    panel: [usize; 2],
}

impl<T: Real> Task<T> for Block<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(mut self, isa: S) {
        let [taps_y, taps_x] = self.patches.axes.map(|axis| axis.taps);
        let [down, across] = self.patches.axes.map(|axis| axis.to);
        // The first pixel's image, row and column.
        let line = self.pixels.start / across;
        let first = [line / down, line % down, self.pixels.start % across];
        let tap = self.rows.start / taps_x;
        let (mut channel, mut tap_y, mut tap_x) =
            (tap / taps_y, tap % taps_y, self.rows.start % taps_x);
        let mut row = 0;
        while row < self.rows.len() {
            // Taps beside each other look at the same pixels, which are then in the first cache.
            let taps = tap_x..taps_x.min(tap_x + self.rows.len() - row);
            let next = row + taps.len();
            self.read(isa, first, channel, tap_y, taps, row);
            (row, tap_x, tap_y) = (next, 0, tap_y + 1);
            if tap_y == taps_y {
                (tap_y, channel) = (0, channel + 1);
            }
        }
    }
}

impl<T: Real> Block<'_, T> {
    /// What all pixels meet at neighbouring taps of one channel, in `out` from `out_row` on.
    #[inline(always)]
    fn read<S: Simd<T = T>>(
        &mut self,
        isa: S,
        [mut image, mut row, mut column]: [usize; 3],
        channel: usize,
        tap_y: usize,
        taps: Range<usize>,
        out_row: usize,
    ) {
        let Patches { x, channels, axes: [down, across] } = self.patches;
        let [width, panel_step] = self.panel;
        let (mut left, mut lane, mut out_at) = (self.pixels.len(), 0, out_row * self.row_step);
        while left > 0 {
            // Up to a panel's width of one row of an image.
            let run = left.min(width - lane).min(across.to - column);
            let x = down.source(row, tap_y).map(|row| {
                let line = (image * channels + channel) * down.from + row;
                &x[line * across.from..][..across.from]
            });
            for (i, tap) in taps.clone().enumerate() {
                let out = &mut self.out[out_at + lane + i * self.row_step..][..run];
                let first = across.at(column, tap);
                match x {
                    Some(x) if across.step == 1 => {
                        isa.store_head(isa.load_around(x, first), out);
                    }
                    Some(x) => gather(x, first, across.step, out),
                    None => isa.store_head(isa.splat(T::ZERO), out),
                }
            }
            (left, lane, column) = (left - run, lane + run, column + run);
            if lane == width {
                (lane, out_at) = (0, out_at + panel_step);
            }
            if column == across.to {
                (column, row) = (0, row + 1);
            }
            if row == down.to {
                (row, image) = (0, image + 1);
            }
        }
    }
}

/// Every `step`-th element of x from `first` on.
#[inline(always)]
fn gather<T: Real>(x: &[T], first: isize, step: isize, out: &mut [T]) {
    for (i, out) in out.iter_mut().enumerate() {
        // A negative index is a huge one.
        let u = first + i as isize * step;
        *out = x.get(u as usize).copied().unwrap_or(T::ZERO);
    }
}

impl<T: Real> Reader<T> for Patches<'_, T> {
    fn read(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        stride: usize,
    ) {
        let pixels = self.in_batch(batch, cols);
        let panel = [LANES, LANES];
        T::dispatch(Block { patches: *self, rows, pixels, out, row_step: stride, panel });
    }

    fn read_panels(
        &self,
        batch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [T],
        [panel_rows, width]: [usize; 2],
    ) {
        let pixels = self.in_batch(batch, cols);
        let panel = [width, panel_rows * width];
        T::dispatch(Block { patches: *self, rows, pixels, out, row_step: width, panel });
    }
}
