//! The gradient of a convolution's weights.

use super::{Axis, Conv, Patches, TILES, map_numbers};
use crate::gemm::ROUND;
use crate::gemm::ptx::exact::{self, Strided};
use crate::gemm::ptx::{Arrays, Writer, Writing};
use crate::ptx::{Body, F32, Kernel};

/// Pixels of a part at least.
const SHORTEST: usize = 1024;

/// A family of weight gradients: what is known when its kernel is made.
///
/// `dw[o, tap] = Σ over pixels of dy[o, p]·patches(x)[tap, p]`: one product, whose result is small
/// and whose sums are long. To keep a card busy they are cut into parts, each of one image, which
/// are added by [`columns`](crate::reduce::ptx::columns), always in one order. A single part is all
/// of the sum and has the CPU's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightGradient {
    /// Rows and columns of a filter.
    pub taps: [u32; 2],
}

/// What a launch needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightLaunch {
    /// Parts of each element: the kernel writes \[parts, filters, channels, rows, columns\].
    pub parts: usize,
    /// The extent of its grid: weights of a filter by filters by parts.
    pub extent: [usize; 3],
    /// Its last arguments.
    pub numbers: Vec<u32>,
}

impl WeightLaunch {
    /// Cuts sums so that there are `blocks` blocks if possible: a few for each multiprocessor.
    ///
    /// # Panics
    /// If there is no output ([`Conv::output`]).
    pub fn new(conv: &Conv, blocks: usize) -> Self {
        let [x, _, y] = conv.lens().map(|len| len / conv.batch.max(1));
        let (taps, pixels) = (conv.taps(), y / conv.filters.max(1));
        let tiles =
            taps.div_ceil(TILES.columns() as usize) * conv.filters.div_ceil(TILES.rows() as usize);
        let wanted = blocks.div_ceil((tiles * conv.batch).max(1));
        let part = pixels.div_ceil(wanted.max(1)).max(SHORTEST).next_multiple_of(ROUND);
        let each = pixels.div_ceil(part);
        let numbers = [conv.filters, taps, pixels, part, each, x, y].map(|n| n as u32);
        let numbers = [&numbers[..], &map_numbers(conv)].concat();
        let parts = each * conv.batch;
        WeightLaunch { parts, extent: [taps, conv.filters, parts], numbers }
    }
}

impl WeightGradient {
    /// The kernel, for float32. Parameters: x, dy, out, and the numbers of a [`WeightLaunch`].
    pub fn kernel(&self) -> Kernel {
        let [down, across] = self.taps;
        let name = format!("conv_weight_gradient_{down}x{across}");
        Kernel::new(&name, TILES.threads(), TILES.per_block(), |k| self.write(k))
    }

    fn write(&self, k: &Body) {
        let (x, dy) = (k.global::<F32>("x"), k.global::<F32>("dy"));
        let arrays = Arrays::parameters(k, Writing::Store);
        let [filters, taps, pixels] = ["filters", "taps", "pixels"].map(|name| k.u32(name));
        let [part, each] = ["part", "parts_of_image"].map(|name| k.u32(name));
        let [next_x, next_dy] = ["next_x", "next_dy"].map(|name| k.u32(name));
        let axes = Axis::parameters(k, self.taps);
        let number = k.block(2);
        let image = number / each;
        let start = number % each * part;
        let range = [start, (start + part).min(pixels)];
        let slopes =
            Strided { from: dy.at(image * next_dy), row_stride: pixels, along_depth: true };
        let patches = Patches { x: x.at(image * next_x), axes, pixels_along_depth: true };
        let writer = Writer::new(k, Writing::Store, arrays, [number, filters, taps]);
        exact::multiply(
            k,
            TILES,
            [filters, taps],
            range,
            [&slopes, &patches],
            |row, column, sums| {
                writer.write(row, column, sums, false);
            },
        );
    }
}
