//! Convolution for the GPU: the matrix product that gathers its patches on the way, with the CPU's
//! bits.

use super::{AxisMap, Conv};
use crate::gemm::ptx::exact::{self, Reader};
use crate::gemm::ptx::{Gemm, Problem, Writing};
use crate::ptx::{Body, F32, Global, Kernel, Pred, Reg, Storage, Stored, U32, with_stored};

/// A family of convolutions: what is known when its kernel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// How images and weights are stored.
    pub operands: Storage,
    /// How the output and the bias are stored.
    pub output: Storage,
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
    /// [`Writing::RowBias`] (or `Store`), where m is filters, n output pixels, k channels·taps;
    /// then [`map_numbers`]. The extent of the grid is output pixels by filters by images.
    pub fn exact(&self) -> Kernel {
        let [down, across] = self.taps;
        let bias = if self.bias { "_bias" } else { "" };
        let (operands, output) = (self.operands.name(), self.output.name());
        let name = format!("conv_exact_{down}x{across}_{operands}_{output}{bias}");
        let per_block = [exact::COLUMNS, exact::ROWS, 1];
        with_stored!(self.operands, S => with_stored!(self.output, D => {
            Kernel::new(&name, exact::THREADS, per_block, |k| self.write::<S, D>(k))
        }))
    }

    fn write<S: Stored, D: Stored>(&self, k: &Body) {
        let writing = if self.bias { Writing::RowBias } else { Writing::Store };
        let (operands, output) = (self.operands, self.output);
        let gemm = Gemm { operands, output, transposed: [false; 2], writing };
        let problem = Problem::<S, D>::parameters(k, &gemm);
        let weights = exact::Strided {
            from: problem.a,
            row_stride: problem.row_strides[0],
            along_depth: true,
        };
        let axis = |name: &str, taps| Axis {
            from: k.u32(&format!("{name}_from")),
            to: k.u32(&format!("{name}_to")),
            step: k.u32(&format!("{name}_step")),
            tap: k.u32(&format!("{name}_tap")),
            offset: k.u32(&format!("{name}_offset")),
            taps,
        };
        let axes = [axis("rows", self.taps[0]), axis("columns", self.taps[1])];
        exact::multiply(k, &problem, &weights, &Patches { x: problem.b, axes });
    }
}

/// The last arguments of a convolution: of rows, then columns, an [`AxisMap`] without its taps;
/// negative numbers in two's complement.
pub fn map_numbers(conv: &Conv) -> [u32; 10] {
    let [rows, columns] = conv.patches::<f32>(&[]).axes.map(|axis| {
        let AxisMap { from, to, step, tap, offset, .. } = axis;
        [from as u32, to as u32, step as u32, tap as u32, offset as u32]
    });
    std::array::from_fn(|i| if i < 5 { rows[i] } else { columns[i - 5] })
}

/// An [`AxisMap`] in registers.
struct Axis<'k> {
    from: Reg<'k, U32>,
    to: Reg<'k, U32>,
    step: Reg<'k, U32>,
    tap: Reg<'k, U32>,
    offset: Reg<'k, U32>,
    taps: u32,
}

impl<'k> Axis<'k> {
    /// The source pixel that a destination pixel meets at a tap, and whether there is one: what
    /// lies before the first is a huge number.
    fn source(&self, pixel: Reg<'k, U32>, tap: Reg<'k, U32>) -> (Reg<'k, U32>, Reg<'k, Pred>) {
        let u = pixel.mad(self.step, tap.mad(self.tap, self.offset));
        (u, u.lt(self.from))
    }
}

/// The patches of one image as a matrix: [`Patches`](super::Patches).
struct Patches<'k, S> {
    x: Global<'k, S>,
    axes: [Axis<'k>; 2],
}

impl<'k, S: Stored> Reader<'k> for Patches<'k, S> {
    fn along_depth(&self) -> bool {
        false
    }

    fn element(
        &self,
        pixel: Reg<'k, U32>,
        tap: Reg<'k, U32>,
        inside: Reg<'k, Pred>,
    ) -> Reg<'k, F32> {
        let [down, across] = &self.axes;
        let (line, tap_x) = (tap / across.taps, tap % across.taps);
        let (channel, tap_y) = (line / down.taps, line % down.taps);
        let (row, in_rows) = down.source(pixel / across.to, tap_y);
        let (column, in_columns) = across.source(pixel % across.to, tap_x);
        let at = channel.mad(down.from, row).mad(across.from, column);
        self.x.at(at).load_where(inside & in_rows & in_columns, 0.0)
    }
}
