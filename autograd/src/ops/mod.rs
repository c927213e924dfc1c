//! The operations, and the registry of all of them.
//!
//! A file holds an operation's equation, its [`Op`](crate::Op) impl, the method of
//! [`Var`](crate::Var) that applies it, and its [`Spec`]: random cases, a float64 reference and a
//! cost. To add one:
//!
//! 1. the kernel, with its `reference` in plain float64 loops, in the crate `kernels`;
//! 2. a file here, after the pattern of [`reduce`];
//! 3. one line in [`OPS`].
//!
//! Elementwise operations are a formula in `kernels::elementwise::exprs` and one line in
//! [`elementwise`]. Gradient checks, comparisons with the reference, benchmark and table rows follow
//! from the registry, and so do the tests that it is documented, that it saves what it says (in words
//! that `tests/registry/savings.rs` reads), and that it is tried strided and empty.

pub mod attention;
pub mod conv2d;
mod convolution;
pub mod cross_entropy;
pub mod elementwise;
pub mod group_norm;
pub mod index_rows;
pub mod linear;
pub mod matmul;
pub mod norm;
mod product;
pub mod reduce;
pub mod shape;
pub mod softmax;
mod to_device;
pub mod upsample_conv2d;

use crate::Spec;

/// Every structured operation, one line each; see [`all`] for the elementwise ones as well.
pub static OPS: &[&dyn Spec] = &[
    &reduce::Sum,
    &reduce::Max,
    &shape::Reshape,
    &shape::Permute,
    &shape::BroadcastTo,
    &shape::Narrow,
    &shape::Cat,
    &shape::ToDType,
    &index_rows::Index,
    &cross_entropy::FromScores,
    &cross_entropy::FromRows,
    &softmax::Softmax,
    &softmax::LogSoftmax,
    &norm::LayerNorm,
    &norm::AdaLayerNorm,
    &norm::RmsNorm,
    &group_norm::GroupNorm,
    &attention::JointAttention,
    &matmul::Matmul,
    &linear::Linear,
    &linear::LinearGateResidual,
    &linear::MlpGateResidual,
    &conv2d::Conv2d,
    &upsample_conv2d::UpsampleConv2d,
];

/// Every operation there is.
pub fn all() -> impl Iterator<Item = &'static dyn Spec> {
    let lists = [elementwise::UNARY, elementwise::BINARY, OPS];
    lists.into_iter().flat_map(|list| list.iter().copied())
}

/// The operation of that name.
pub fn find(name: &str) -> Option<&'static dyn Spec> {
    all().find(|op| op.name() == name)
}
