//! GPU kernels in PTX, written in Rust: a typed builder and what it prints.
//!
//! There is no other source: the text that a [`Kernel`] prints goes to a driver, which translates
//! it for its card; to NVIDIA's assembler, which checks it for every architecture (`.ci/ptxas`);
//! and to the virtual machine `kernels/ptx-vm`, which executes it in tests.
//!
//! A kernel is a function over a [`Body`]. Values are [`Reg`]s, and operators on them emit
//! instructions; what loops carry is a [`Var`]; memory is reached by typed [`Pointer`]s; branches
//! and loops are closures. Loops of Rust unroll.
//!
//! ```
//! use kernels::ptx::{F32, Kernel};
//! // y = a·x + y
//! let axpy = Kernel::new("axpy", 256, [256, 1, 1], |k| {
//!     let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
//!     let (a, n) = (k.f32("a"), k.u32("n"));
//!     let i = k.block(0).mad(256, k.thread());
//!     k.if_(i.lt(n), || {
//!         let y = y.at(i);
//!         y.store(a * x.at(i).load() + y.load());
//!     });
//! });
//! assert!(axpy.ptx().contains("mul.rn.f32"));
//! assert_eq!(axpy.spec().grid([1000, 1, 1]), Ok([4, 1, 1]));
//!
//! // The virtual machine reads the text and runs it.
//! use ptx_vm::{Launch, Machine, Module};
//! let module = Module::parse(&axpy.ptx())?;
//! let mut gpu = Machine::new();
//! let (x, y) = (gpu.upload(&[1.0f32; 1000]), gpu.upload(&[0.5f32; 1000]));
//! let args = [x.into(), y.into(), 3.0f32.into(), 1000u32.into()];
//! let counts = gpu.launch(&module.kernels[0], Launch::linear(4, 256), &args)?;
//! assert_eq!(gpu.download(y).unwrap(), [3.5; 1000]);
//! // Neighbours read neighbours: no sector of 32 bytes but those that hold the operands.
//! assert_eq!(counts.of("ld.global").sectors, 2 * 1000 * 4 / 32);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `cargo run --release -p kernels --example bank_conflicts` is the next step: a kernel with shared
//! memory, what its bank conflicts cost and how they go away, and what a forgotten barrier looks
//! like. `kernels/tests/ptx` has the machine run every kernel there is; a tensor's GPU runs one by
//! `tensor::Cuda::kernel`.
//!
//! The generators lie beside the CPU's kernels, as `ptx.rs` or `ptx/`; [`registry`] lists what they
//! make, and [`counterparts`] says which of them do what a function of the CPU does.
//!
//! # What holds
//!
//! * An elementwise formula is the CPU's ([`num`](crate::num)), and so are its bits: instructions
//!   round to nearest and are not fused by the assembler, denormals stay, elementary functions are
//!   the same polynomials.
//! * Sums are made in one order, that of the CPU where a kernel says so; no float atomics.
//! * Indices are of 32 bits: extents and operands have at most [`MOST`] elements, which launches
//!   check.
//! * Blocks do not wait for each other.

mod body;
pub mod counterparts;
mod kernel;
mod memory;
pub mod mma;
mod num;
pub mod registry;
pub(crate) mod rows;
pub(crate) mod teams;
pub mod tile;
mod types;
mod value;
mod var;

pub use body::{Body, WARP};
pub use kernel::{Kernel, KernelSpec, Kind, MOST, Parameter, TARGET, VERSION, module};
pub use memory::{Global, GlobalSpace, Pointer, Shared, SharedSpace, Space};
pub use teams::Team;
pub(crate) use types::with_stored;
pub use types::{B16, B32, Bf16, Element, F16, F32, F64, Pred, Storage, Stored, Type, U32, U64};
pub use value::{Reg, Source};
pub use var::Var;
