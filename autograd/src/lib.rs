//! Reverse-mode automatic differentiation over [`tensor::Tensor`].
//!
//! Read in this order: [`Var`], a tensor that remembers; [`op`], what an operation is;
//! [`backward`], the pass; then any file of [`ops`]. [`spec`] checks every registered operation
//! against float64 and against its own finite differences; [`gradcheck()`] does so for any function.
//! Where a run goes wrong, [`detect_anomaly`] says where NaNs come from, and [`SavedReport`] what
//! memory went into, and [`profile()`] what time did.
//!
//! ```
//! use autograd::Var;
//! use tensor::{DType, Tensor};
//! # fn main() -> tensor::Result<()> {
//! let w = Var::parameter(Tensor::full([3], 0.5, DType::F32));
//! let x = Var::constant(Tensor::arange(3, DType::F32));
//! let loss = w.mul(&x)?.tanh()?.mse(&x)?;
//! let grads = loss.backward()?;
//! assert_eq!(*grads.get(&w).expect("w is a parameter").shape(), [3]);
//! # Ok(())
//! # }
//! ```

pub mod backward;
pub mod gradcheck;
pub mod op;
pub mod ops;
pub mod optim;
pub mod params;
pub mod spec;
#[cfg(feature = "testing")]
pub mod strategies;

mod anomaly;
mod apply;
mod checkpoint;
mod draw;
mod node;
mod profile;
mod recorded;
mod rows;
mod saved;
mod scope;
mod targets;
mod var;

pub use anomaly::detect_anomaly;
pub use apply::{apply, apply_many};
pub use backward::{Backward, Gradient, Grads, Product, backward_with, compute_dtype};
pub use checkpoint::checkpoint;
pub use gradcheck::{gradcheck, gradcheck_dense};
pub use op::{Keep, Kept, Op, OpMany};
pub use ops::attention::{Segment, attention};
pub use ops::conv2d::Conv;
pub use params::Params;
pub use profile::{Pass, Profile, ProfileEvent, ProfileRow, profile};
pub use rows::Rows;
pub use saved::{Aux, Role, SavedReport, SavedRow};
pub use scope::{autocast, is_autocast, no_grad, scope};
pub use spec::Spec;
pub use targets::Targets;
pub use var::Var;
