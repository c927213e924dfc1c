//! Convolution for the GPU: the matrix product that gathers its patches on the way, with the CPU's
//! bits, and its gradients.
//!
//! | of | kernels |
//! |---|---|
//! | output | [`Convolution`] |
//! | gradient of the input | [`Transposed`], once for each of [`phases`] |
//! | gradient of the weights | [`WeightGradient`], and the sum of its parts |
//! | enlarged images, and their gradients | the same of [`sum_filters`]; [`fold_filters`] |

mod transposed;
mod upsample;
mod weights;

pub use transposed::{PhaseLaunch, Transposed, phases};
pub use upsample::{fold_filters, sum_filters};
pub use weights::{WeightGradient, WeightLaunch};

use super::{AxisMap, Conv};
use crate::gemm::ptx::exact::{self, Line, Reader};
use crate::gemm::ptx::{Gemm, Problem, Tiles, Writing};
use crate::ptx::{Body, F32, Global, Kernel, Reg, Storage, U32};

/// The tiles of all products here.
const TILES: Tiles = Tiles::LARGE;

/// A family of convolutions of float32: what is known when its kernel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Rows and columns of a filter.
    pub taps: [u32; 2],
    /// Whether a number for each filter is added.
    pub bias: bool,
}

impl Convolution {
    /// `y = x ⋆ w + bias`, each image a product of the weights \[filters, channels·taps\] and its
    /// patches.
    ///
    /// Parameters: those of [`Gemm::exact`] with weights as a, images as b and the writer
    /// [`Writing::RowBias`] (or `Store`), where m is filters, n output pixels, k channels·taps, in
    /// one part; then [`map_numbers`]. The extent of the grid is output pixels by filters by
    /// images.
    pub fn exact(&self) -> Kernel {
        let [down, across] = self.taps;
        let bias = if self.bias { "_bias" } else { "" };
        let name = format!("conv_exact_{down}x{across}_f32_f32{bias}");
        Kernel::new(&name, TILES.threads(), TILES.per_block(), |k| self.write(k))
    }

    fn write(&self, k: &Body) {
        let writing = if self.bias { Writing::RowBias } else { Writing::Store };
        let gemm = Gemm { operands: Storage::F32, transposed: [false; 2], writing };
        let problem = Problem::<F32>::parameters(k, &gemm);
        let weights = exact::Strided {
            from: problem.a,
            row_stride: problem.row_strides[0],
            along_depth: true,
        };
        let axes = Axis::parameters(k, self.taps);
        let patches = Patches { x: problem.b, axes, pixels_along_depth: false };
        let size = [problem.m, problem.n];
        exact::multiply(
            k,
            TILES,
            size,
            problem.range,
            [&weights, &patches],
            |row, column, sums| {
                problem.writer.write(row, column, sums, false);
            },
        );
    }
}

/// The last arguments of a convolution: of rows, then columns, an [`AxisMap`] without its taps;
/// negative numbers in two's complement.
pub fn map_numbers(conv: &Conv) -> [u32; 10] {
    axis_numbers(conv.patches::<f32>(&[]).axes)
}

fn axis_numbers(axes: [AxisMap; 2]) -> [u32; 10] {
    let [rows, columns] = axes.map(|axis| {
        let AxisMap { from, to, step, tap, offset, .. } = axis;
        [from as u32, to as u32, step as u32, tap as u32, offset as u32]
    });
    std::array::from_fn(|i| if i < 5 { rows[i] } else { columns[i - 5] })
}

/// An [`AxisMap`] in registers.
#[derive(Clone, Copy)]
struct Axis<'k> {
    from: Reg<'k, U32>,
    to: Reg<'k, U32>,
    step: Reg<'k, U32>,
    tap: Reg<'k, U32>,
    offset: Reg<'k, U32>,
    taps: u32,
}

impl<'k> Axis<'k> {
    /// Those of rows and of columns.
    fn parameters(k: &'k Body, taps: [u32; 2]) -> [Self; 2] {
        let axis = |name: &str, taps| Axis {
            from: k.u32(&format!("{name}_from")),
            to: k.u32(&format!("{name}_to")),
            step: k.u32(&format!("{name}_step")),
            tap: k.u32(&format!("{name}_tap")),
            offset: k.u32(&format!("{name}_offset")),
            taps,
        };
        [axis("rows", taps[0]), axis("columns", taps[1])]
    }
}

/// The patches of one image as a matrix: [`Patches`](super::Patches).
#[derive(Clone, Copy)]
struct Patches<'k> {
    x: Global<'k, F32>,
    axes: [Axis<'k>; 2],
    /// Whether sums are over pixels, and each line is a tap; else the other way round.
    pixels_along_depth: bool,
}

impl<'k> Patches<'k> {
    /// The source row and column that a pixel meets at tap 0. What lies before the first one is a
    /// huge number.
    fn start(&self, pixel: Reg<'k, U32>) -> [Reg<'k, U32>; 2] {
        let across = self.axes[1];
        let place = [pixel / across.to, pixel % across.to];
        [0, 1].map(|i| place[i].mad(self.axes[i].step, self.axes[i].offset))
    }

    /// The channel of a tap, and how much further on its source is.
    fn tap(&self, tap: Reg<'k, U32>) -> [Reg<'k, U32>; 3] {
        let [down, across] = self.axes;
        let line = tap / across.taps;
        [line / down.taps, line % down.taps * down.tap, tap % across.taps * across.tap]
    }

    fn element(
        &self,
        [row, column]: [Reg<'k, U32>; 2],
        [channel, down, across]: [Reg<'k, U32>; 3],
    ) -> Reg<'k, F32> {
        let [rows, columns] = self.axes.map(|axis| axis.from);
        let (row, column) = (row + down, column + across);
        let at = channel.mad(rows, row).mad(columns, column);
        self.x.at(at).load_where(row.lt(rows) & column.lt(columns), 0.0)
    }
}

impl<'k> Reader<'k> for Patches<'k> {
    fn along_depth(&self) -> bool {
        self.pixels_along_depth
    }

    fn line(&self, place: Reg<'k, U32>) -> Line<'_, 'k> {
        if self.pixels_along_depth {
            let tap = self.tap(place);
            Box::new(move |pixel, _| vec![self.element(self.start(pixel), tap)])
        } else {
            let start = self.start(place);
            Box::new(move |tap, _| vec![self.element(start, self.tap(tap))])
        }
    }
}
