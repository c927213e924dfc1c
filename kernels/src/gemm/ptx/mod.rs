//! Matrix products for the GPU: `C = writer(A · B)`.
//!
//! | kernel | operands | arithmetic |
//! |---|---|---|
//! | [`Gemm::exact`] | any | float32 in the CPU's order: its bits |
//! | [`Gemm::tensor_cores`] | bf16, rows a multiple of 8, n even | `mma.sync`, float32 sums |
//! | the same | float32, rows a multiple of 4, n even | rounded to tf32, float32 sums |
//!
//! Operands are plain or transposed; results leave through the CPU's writers ([`Writing`]). These,
//! and what they read and keep, are float32.
//!
//! Parameters: a, b, out, those of the writer, then m, n, k, the elements from row to row of a and
//! of b, and from matrix to matrix of each (0: one for all), then how many parts k is cut into and
//! how long each is, but the last: a multiple of 32, if there are several. The extent of the grid is
//! n by m by the batch times the parts. k is at least one.
//!
//! Where results are few, blocks that make one tile each would leave most of a card idle. There
//! [tiles](Tiles::of) and [squares](Gemm::squares) are small, and if sums are long [`Gemm::part`]
//! cuts k: the product stores sums of parts, \[batch, parts, m, n\], and [`Writing::finish`] adds
//! them in order and writes.

pub(crate) mod exact;
mod panel;
mod parts;
mod tensor_cores;
mod write;

pub use exact::Tiles;
pub use tensor_cores::Squares;
pub use write::Writing;

use super::{KC, ROUND};
use crate::ptx::{Bf16, Body, F32, Global, Kernel, Reg, Storage, Stored, U32, with_stored};
pub(crate) use write::{Arrays, Writer};

/// A family of products: what is known when its kernel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// How A and B are stored.
    pub operands: Storage,
    /// Whether A is stored as \[k, m\], and B as \[n, k\].
    pub transposed: [bool; 2],
    /// What becomes of finished sums.
    pub writing: Writing,
}

/// Which of a family's kernels makes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// [`Gemm::exact`].
    Exact(Tiles),
    /// [`Gemm::tensor_cores`].
    TensorCores(Squares),
}

impl Gemm {
    /// The kernel that goes this way.
    pub fn kernel(&self, way: Way) -> Kernel {
        match way {
            Way::Exact(tiles) => self.exact(tiles),
            Way::TensorCores(squares) => self.tensor_cores(squares),
        }
    }

    /// The product in float32, with the CPU's bits.
    ///
    /// A block makes a tile from panels along k in shared memory, of which the next is filled
    /// meanwhile; the sums of the CPU's [blocks](super::block_depth) are added in order.
    pub fn exact(&self, tiles: Tiles) -> Kernel {
        let how = if tiles == Tiles::SMALL { "exact_small" } else { "exact" };
        let name = self.name(how, self.operands.name());
        with_stored!(self.operands, S => {
            Kernel::new(&name, tiles.threads(), tiles.per_block(), |k| {
                exact::write::<S>(k, self, tiles);
            })
        })
    }

    /// The product on tensor cores, summed in float32, of bf16 operands as they are, or of float32
    /// ones rounded to tf32: 8 bits of exponent and 10 of mantissa.
    ///
    /// Rows of both operands, as they are stored, begin at multiples of 16 bytes, and n is even. A
    /// block makes a square, of four warps' two by two, from panels of 64 bytes along k that are
    /// copied asynchronously into a ring in shared memory. Bits are the same with any squares.
    ///
    /// # Panics
    /// If operands are stored as f16: no model of ours computes in it.
    pub fn tensor_cores(&self, squares: Squares) -> Kernel {
        let is_small = squares == Squares::SMALL;
        let how = if is_small { "tensor_cores_small" } else { "tensor_cores" };
        let name = self.name(how, self.operands.name());
        let (threads, per_block) = (tensor_cores::THREADS, squares.per_block());
        Kernel::new(&name, threads, per_block, |k| match self.operands {
            Storage::Bf16 => tensor_cores::write::<Bf16>(k, self, squares),
            Storage::F32 => tensor_cores::write::<F32>(k, self, squares),
            Storage::F16 => panic!("{name}: tensor cores are given bf16 or float32"),
        })
    }

    fn name(&self, how: &str, operands: &str) -> String {
        let sides = self.transposed.map(|t| if t { "t" } else { "n" }).concat();
        format!("gemm_{how}_{sides}_{operands}_f32_{}", self.writing.name())
    }
}

/// The size of a problem and where its matrices are, as a kernel knows them.
pub(crate) struct Problem<'k, S> {
    /// This block's matrices,
    pub a: Global<'k, S>,
    pub b: Global<'k, S>,
    /// and the elements from row to row of each.
    pub row_strides: [Reg<'k, U32>; 2],
    pub writer: Writer<'k>,
    pub m: Reg<'k, U32>,
    pub n: Reg<'k, U32>,
    /// This block's part of the sums, along k.
    pub range: [Reg<'k, U32>; 2],
}

impl<'k, S: Stored> Problem<'k, S> {
    /// Declares all parameters.
    pub fn parameters(k: &'k Body, gemm: &Gemm) -> Self {
        let (a, b) = (k.global("a"), k.global("b"));
        let arrays = Arrays::parameters(k, gemm.writing);
        let [m, n, depth] = ["m", "n", "k"].map(|name| k.u32(name));
        let row_strides = ["row_stride_a", "row_stride_b"].map(|name| k.u32(name));
        let [next_a, next_b] = ["next_a", "next_b"].map(|name| k.u32(name));
        let [parts, part] = ["parts", "part"].map(|name| k.u32(name));
        let (number, batch) = (k.block(2), k.block(2) / parts);
        let start = (number - batch * parts) * part;
        let range = [start, (start + part).min(depth)];
        let writer = Writer::new(k, gemm.writing, arrays, [number, m, n]);
        let (a, b) = (a.at(batch * next_a), b.at(batch * next_b));
        Problem { a, b, writer, m, n, range, row_strides }
    }
}
