//! The patches of an image as a matrix: one row for each tap, one column for each pixel.

use std::ops::Range;

use crate::gemm::Reader;
use crate::lane::LANES;
use crate::{Real, Simd, Task};

/// Along one axis: which source pixel a destination pixel meets at a tap.
///
/// It is `u / divide` for `u = pixel·step + number of the tap·tap + offset`, where that is whole
/// and inside; else there is none and the element is zero. A convolution has `step` = stride,
/// `tap` = 1, `offset` = −padding; solved for the other pixel, as its gradient needs, `step` = 1,
/// `tap` = −1, `offset` = padding, `divide` = stride. Of `step` and `divide`, one is 1.
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

    /// `u` of destination `pixel` at `tap`.
    #[inline(always)]
    fn at(&self, pixel: usize, tap: usize) -> isize {
        pixel as isize * self.step + tap as isize * self.tap + self.offset
    }

    /// The source pixel that destination `pixel` meets at `tap`.
    #[inline(always)]
    fn source(&self, pixel: usize, tap: usize) -> Option<usize> {
        let u = self.at(pixel, tap);
        // A division costs more than the copy that it is for.
        let (whole, u) = match self.divide {
            1 => (true, u),
            divide => (u % divide == 0, u.div_euclid(divide)),
        };
        (whole && u >= 0 && u < self.from as isize).then_some(u as usize)
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

/// Neighbouring pixels of one row of one image, at most sixteen.
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

    /// Columns of matrix `batch` as pixels of the whole batch.
    fn in_batch(&self, batch: usize, cols: Range<usize>) -> Range<usize> {
        let pixels = self.axes[0].to * self.axes[1].to;
        batch * pixels + cols.start..batch * pixels + cols.end
    }

    /// The longest run that begins at `pixel` and ends before `end`.
    fn run(&self, pixel: usize, end: usize) -> Run {
        let [rows, columns] = [self.axes[0].to, self.axes[1].to];
        let (line, column) = (pixel / columns, pixel % columns);
        let end = columns.min(column + end - pixel);
        Run { image: line / rows, row: line % rows, columns: column..end }
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
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Block { patches, rows, pixels, out, row_step, panel: [width, panel_step] } = self;
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let column = pixel - pixels.start;
            let (panel, lane) = (column / width, column % width);
            let run = patches.run(pixel, pixels.end.min(pixel + width - lane));
            let out = &mut out[panel * panel_step + lane..];
            read_run(isa, &patches, &run, rows.clone(), out, row_step);
            pixel += run.columns.len();
        }
    }
}

/// What a run meets at each of `rows`, taps of one channel after another.
#[inline(always)]
fn read_run<S: Simd>(
    isa: S,
    patches: &Patches<S::T>,
    run: &Run,
    rows: Range<usize>,
    out: &mut [S::T],
    row_step: usize,
) {
    let [down, across] = patches.axes;
    let taps = [down.taps, across.taps];
    let mut tap = [rows.start / taps[1] % taps[0], rows.start % taps[1]];
    let mut channel = rows.start / (taps[0] * taps[1]);
    for i in 0..rows.len() {
        let out = &mut out[i * row_step..][..run.columns.len()];
        if let Some(row) = down.source(run.row, tap[0]) {
            let plane = run.image * patches.channels + channel;
            let x = &patches.x[(plane * down.from + row) * across.from..][..across.from];
            let first = across.at(run.columns.start, tap[1]);
            if across.step == 1 && across.divide == 1 {
                isa.store_head(isa.load_around(x, first), out);
            } else {
                gather(x, &across, first, out);
            }
        } else {
            isa.store_head(isa.splat(S::T::ZERO), out);
        }
        tap[1] += 1;
        if tap[1] == taps[1] {
            tap = [tap[0] + 1, 0];
            if tap[0] == taps[0] {
                tap[0] = 0;
                channel += 1;
            }
        }
    }
}

/// Every `step`-th element of x from `first` on, or with zeros between them.
#[inline(always)]
fn gather<T: Real>(x: &[T], axis: &AxisMap, first: isize, out: &mut [T]) {
    // A negative index is a huge one.
    let get = |u: isize| x.get(u as usize).copied().unwrap_or(T::ZERO);
    if axis.divide == 1 {
        for (i, out) in out.iter_mut().enumerate() {
            *out = get(first + i as isize * axis.step);
        }
        return;
    }
    out.fill(T::ZERO);
    let skip = (-first).rem_euclid(axis.divide);
    let whole = out.iter_mut().skip(skip as usize).step_by(axis.divide as usize);
    for (out, u) in whole.zip((first + skip) / axis.divide..) {
        *out = get(u);
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
