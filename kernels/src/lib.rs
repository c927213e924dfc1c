//! Arithmetic on slices: the kernels of the engine. This crate knows no tensor and allocates
//! nothing but scratch and what parallel calls count in.
//!
//! Start with [`num`] (the vocabulary formulas are written in), then [`lane`] (the same vocabulary
//! sixteen at a time, and how an instruction set is chosen), then any kernel.

pub mod adamw;
pub mod attention;
pub mod conv;
pub mod count;
pub mod elementwise;
pub mod gather;
pub mod gemm;
pub mod lane;
pub mod norm;
pub mod num;
pub mod par;
pub mod ptx;
pub mod random;
pub mod reduce;
pub mod scratch;
pub mod softmax;
pub mod xent;

pub use lane::{Real, Simd, Task};
