//! Elementwise operations: every formula once, every use derived from it.
//!
//! [`exprs`] holds the formulas, [`cpu`] the one loop that runs them, over one to four operands of
//! any strides, with broadcasting, sixteen lanes at a time (four times as many with the
//! registers of AVX-512) and in parallel; [`ptx`] makes the GPU's kernels of them.
//!
//! ```
//! use kernels::elementwise::{Unary, exprs::GeluTanh, map};
//!
//! let x = [-1.0_f32, 0.0, 2.0];
//! let mut y = [0.0; 3];
//! map(&GeluTanh, &[3], [(&x[..], &[1][..])], &mut y);
//! assert!((y[2] as f64 - GeluTanh.f(2.0_f64)).abs() < 1e-6);
//! ```

mod cpu;
pub mod exprs;
mod formula;
pub mod ptx;
mod together;
mod walk;

pub use cpu::{add_assign, add_region, map};
pub use formula::{
    Binary, Chain, ChainSlope, Domain, Partial, PartialSlope, Pointwise, SlopeOf, Unary,
};
pub(crate) use together::{each_vector, together};
