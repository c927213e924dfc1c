//! A `libcuda.so` for machines without a GPU: the CUDA driver's C functions over [`ptx_vm`].
//!
//! A program that opens the driver at run time, as cudarc does, runs unmodified: contexts, streams,
//! events, pools, modules, launches, graphs. Kernels are checked as the virtual machine checks
//! them, launches against the limits of a chosen [card](card::Card), handles and pointers against
//! what was created and destroyed, copies to the host against what was ever written. An error is a
//! `CUresult` like the driver's; the text behind the last one is what `cuGetErrorString` gives, so
//! it appears in the caller's own error messages.
//!
//! # Putting it in place
//!
//! [`install`] before the first call of cudarc: the library's SONAME is `libcuda.so`, so glibc
//! answers the later `dlopen("libcuda.so")` with it. Cargo leaves it beside a test's executable
//! when this crate is a dev-dependency. (The crate's name in Rust is `cuda`, for the file's sake.)
//! Tests that make sense on hardware too call [`unless_gpu`] instead: `DDIT_GPU=1` has them run on
//! it.
//!
//! # Beyond the driver
//!
//! [`extra`] has the C functions of this library's own, [`Installed`] the same for tests in Rust.
//!
//! # What differs from a real driver
//!
//! Everything happens in the order of the calls, and at once, or, if a test asks for it, when it is
//! waited for ([`Installed::set_late`]); that streams are ordered where they have to be is checked
//! apart, in `order.rs`. Addresses are given once, except to a graph that is launched again. How
//! many registers a kernel takes is ptxas's decision, so their limit is enforced only for kernels
//! that state `.maxnreg`. The number and types of a launch's arguments are, as with any driver, the
//! caller's word.
//!
//! # Safety
//!
//! These are C functions, so their callers promise what C promises: every pointer is null or valid
//! for what the driver's manual says is read or written through it, until the call (for operations
//! in a capture: the last launch of the graph; for work that is late: the wait for it) has ended.
//! Rust code touches those pointers in `raw.rs` alone; everything else works on integers, which are
//! looked up before they are believed. `installed.rs` is such a caller.

#![allow(unsafe_code, non_snake_case, clippy::missing_safety_doc)]

pub mod api;
pub mod card;
mod driver;
pub mod extra;
mod installed;
mod operation;
mod order;
mod raw;
pub mod status;

pub use installed::{Installed, install, unless_gpu};
