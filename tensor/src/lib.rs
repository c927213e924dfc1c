//! Tensors as plain values: a buffer, a layout and an element type; no graph, no type parameters.
//!
//! Read in this order: [`Shape`] and [`DType`] say what a tensor looks like, `layout` how its axes
//! lie in memory, `buffer` and [`pool`] where that memory comes from, [`cuda`] how it is a GPU's;
//! [`Tensor`] ties them together, `view` and `cast` look at it differently. [`Rng`](rng::Rng) makes random ones, [`io`]
//! reads and writes files. Every mistake is an [`Error`] that names operation, operands and source
//! line.
//!
//! Arithmetic is not here: kernels know slices and live in `kernels`; differentiable operations
//! live in `autograd`.

pub mod cuda;
pub mod io;
pub mod pool;
pub mod rng;
pub mod shape;
pub mod spelling;

mod buffer;
mod cast;
mod cat;
mod device;
mod display;
mod dtype;
mod error;
mod layout;
mod strided;
mod tensor;
mod view;

pub use cuda::Cuda;
pub use device::Device;
pub use dtype::{Bool, DType, Element};
pub use error::{Error, ErrorKind, Operand, Result};
pub use half::{bf16, f16};
pub use shape::{Axis, Shape};
pub use tensor::Tensor;
