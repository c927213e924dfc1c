//! Speed: workloads and kernels timed, beside what the machine could do.
//!
//! | file | what it times |
//! |---|---|
//! | [`step`] | a training step and a forward pass of whole models |
//! | [`scaling`] | how both grow along one axis |
//! | [`workload`] | which models, and the arithmetic in them |
//! | [`parts`] | text encoder and autoencoder alone, and reading a model |
//! | [`ops`] | every operation of the registry |
//! | [`products`] | matrix products and attention, kernels alone |
//! | [`peak`] | the machine's ceilings, measured in the same process |
//! | [`gpu`] | a GPU: whether it computes what the CPU does, and times beside predicted bounds |
//! | [`clock`] | repeated runs by the clock |
//! | [`profile`] | where the time of any command went |
//!
//! Reading the clock is the business of this module and of [`autograd::profile()`] alone.

pub mod clock;
pub mod gpu;
pub mod ops;
pub mod parts;
pub mod peak;
pub mod products;
pub mod profile;
pub mod scaling;
pub mod step;
pub mod workload;
