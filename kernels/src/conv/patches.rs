//! The patches of an image as a matrix: one row for each tap, one column for each pixel.

use std::ops::Range;

use crate::Real;
use crate::gemm::Reader;
use crate::lane::LANES;

/// Along one axis: which source pixel a destination pixel meets at a tap.
///
/// It is `u / divide` for `u = pixel·step + number of the tap·tap + offset`, where that is whole
/// and inside; else there is none and the element is zero. A convolution has `step` = stride,
/// `tap` = 1, `offset` = −padding; solved for the other pixel, as its gradient needs, `step` = 1,
/// `tap` = −1, `offset` = padding, `divide` = stride.
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
    /// Divisor of the sum.
    pub divide: isize,
}

impl AxisMap {
    /// Each pixel meets itself.
    fn identity(length: usize) -> Self {
        AxisMap { from: length, to: length, taps: 1, step: 1, tap: 1, offset: 0, divide: 1 }
    }

    /// The source pixel that destination `pixel` meets at `tap`.
    #[inline(always)]
    fn source(&self, pixel: usize, tap: usize) -> Option<usize> {
        let u = pixel as isize * self.step + tap as isize * self.tap + self.offset;
        let inside = u >= 0 && u % self.divide == 0 && u / self.divide < self.from as isize;
        inside.then_some((u / self.divide) as usize)
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

/// Neighbouring pixels of one row of one image.
struct Run {
    image: usize,
    row: usize,
    columns: Range<usize>,
}

impl<'a, T: Real> Patches<'a, T> {
    /// The images themselves: \[channel, pixel\].
    pub fn pixels(x: &'a [T], channels: usize, [rows, columns]: [usize; 2]) -> Self {
        Patches { x, channels, axes: [AxisMap::identity(rows), AxisMap::identity(columns)] }
    }

    /// The longest run that begins at `pixel` and ends before `end`.
    fn run(&self, pixel: usize, end: usize) -> Run {
        let [rows, columns] = [self.axes[0].to, self.axes[1].to];
        let (line, column) = (pixel / columns, pixel % columns);
        let end = columns.min(column + end - pixel);
        Run { image: line / rows, row: line % rows, columns: column..end }
    }

    /// What a run meets at one tap of one channel.
    #[inline(always)]
    fn read_run(&self, run: &Run, channel: usize, tap: [usize; 2], out: &mut [T]) {
        let [rows, columns] = self.axes;
        let Some(row) = rows.source(run.row, tap[0]) else { return out.fill(T::ZERO) };
        let line = ((run.image * self.channels + channel) * rows.from + row) * columns.from;
        let x = &self.x[line..][..columns.from];
        let first = run.columns.start as isize + columns.offset + tap[1] as isize * columns.tap;
        if columns.step != 1 || columns.divide != 1 {
            for (out, column) in out.iter_mut().zip(run.columns.clone()) {
                *out = columns.source(column, tap[1]).map_or(T::ZERO, |column| x[column]);
            }
        } else if let Ok(first) = usize::try_from(first)
            && let Some(x) = x.get(first..first + out.len())
        {
            copy(x, out);
        } else {
            // Part of the run lies beside the image.
            for (out, column) in out.iter_mut().zip(first..) {
                *out =
                    usize::try_from(column).ok().and_then(|c| x.get(c)).copied().unwrap_or(T::ZERO);
            }
        }
    }
}

/// Copies equally long slices; a run of one panel's width without calling `memcpy`.
#[inline(always)]
fn copy<T: Real>(x: &[T], out: &mut [T]) {
    match (<&[T; LANES]>::try_from(x), <&mut [T; LANES]>::try_from(&mut *out)) {
        (Ok(x), Ok(out)) => *out = *x,
        _ => out.copy_from_slice(x),
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
        let [taps_y, taps_x] = self.axes.map(|axis| axis.taps);
        let pixels = self.axes[0].to * self.axes[1].to;
        let cols = batch * pixels + cols.start..batch * pixels + cols.end;
        let mut pixel = cols.start;
        while pixel < cols.end {
            let run = self.run(pixel, cols.end);
            let place = pixel - cols.start..pixel - cols.start + run.columns.len();
            let mut tap = [rows.start / taps_x % taps_y, rows.start % taps_x];
            let mut channel = rows.start / (taps_x * taps_y);
            for out in out.chunks_mut(stride).take(rows.len()) {
                self.read_run(&run, channel, tap, &mut out[place.clone()]);
                tap[1] += 1;
                if tap[1] == taps_x {
                    tap = [tap[0] + 1, 0];
                    if tap[0] == taps_y {
                        tap[0] = 0;
                        channel += 1;
                    }
                }
            }
            pixel += run.columns.len();
        }
    }
}
