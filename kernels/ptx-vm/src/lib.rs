//! A virtual machine for PTX kernels: the GPU of those who have none.
//!
//! It reads the text a GPU driver would assemble and runs it on the CPU, a warp of 32 lanes at a time.
//! Arithmetic follows the PTX manual to the bit (where the manual leaves room, as in `.approx`
//! instructions and the sums inside tensor cores, the machine takes the most accurate result, or, if a
//! test asks for it, one as bad as can be: [`Machine::perturb`], [`Machine::mma_sums`]). What
//! hardware lets pass in silence stops the kernel with a [`Fault`] that names line and thread: data
//! races, asynchronous copies not waited for, reads of what nobody wrote, accesses out of bounds,
//! barriers some threads miss. What a profiler would show comes as exact counts in [`Statistics`].
//!
//! ```
//! use ptx_vm::{Launch, Machine, Module};
//!
//! let module = Module::parse(
//!     "
//! .version 7.0
//! .target sm_80
//! .address_size 64
//! .visible .entry double(.param .u64 data) {
//!     .reg .u64 %rd<3>;
//!     .reg .u32 %r<2>;
//!     .reg .f32 %f<3>;
//!     ld.param.u64 %rd0, [data];
//!     mov.u32 %r0, %tid.x;
//!     mad.wide.u32 %rd1, %r0, 4, %rd0;
//!     ld.global.f32 %f0, [%rd1];
//!     add.rn.f32 %f1, %f0, %f0;
//!     st.global.f32 [%rd1], %f1;
//!     ret;
//! }",
//! )?;
//! let kernel = module.kernel("double").expect("it is there");
//! let mut machine = Machine::new();
//! let data = machine.upload(&[1.0f32; 32]);
//! let statistics = machine.launch(kernel, Launch::linear(1, 32), &[data.into()])?;
//! assert_eq!(machine.download(data).unwrap(), [2.0; 32]);
//! assert_eq!(statistics.of("ld.global").sectors, 4);
//!
//! // One thread more than there is data: on a GPU, anything might happen.
//! let fault = machine.launch(kernel, Launch::linear(1, 33), &[data.into()]).unwrap_err();
//! assert_eq!((fault.line, fault.thread), (12, 32));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Printed, the statistics are a table of the memory instructions, with a `!` where sectors or bank
//! conflicts cost more than they need; `kernels/examples/bank_conflicts.rs` writes a kernel in Rust,
//! finds some, and removes them.
//!
//! # What is simplified
//!
//! Memory is sequentially consistent and warps of a block run one after another between barriers, so
//! what depends on weak ordering or on the scheduler is not explored: races are found by *whether*
//! a barrier stands between two accesses, not by their outcome. Threads must not wait for one another
//! except at barriers. Single bytes are not checked for races. A block's shared memory is one range:
//! arrays in it are the kernel's own affair, and running over from one into the next is no fault by
//! itself. Times are not modelled at all.
//!
//! Where the manual leaves room, the machine says too much rather than too little: threads that have
//! ended are missed at barriers, which a GPU releases; `bar.warp.sync` orders memory only where the
//! whole warp takes part; fences and atomics order nothing but atomics.
//!
//! # Reading on
//!
//! `syntax` turns text into statements, `decode` statements into `isa`'s operations, `exec` runs them;
//! `shared` and `memory` hold the data; `race` has the rules of who may touch it when, within a block,
//! `visit` those between blocks, and `footprint` is what a block touched of global memory; `float` is
//! the arithmetic Rust lacks.

mod decode;
mod exec;
mod fault;
mod float;
mod footprint;
mod isa;
mod lanes;
mod machine;
mod memory;
mod race;
mod shared;
mod statistics;
mod syntax;
mod visit;

pub use fault::{Fault, FaultKind, ParseError};
pub use machine::{Arg, Buffer, Checks, Launch, Limits, Machine, MmaSums};
pub use memory::Memory;
pub use statistics::{Counts, InstructionStatistics, Statistics, Traffic};
pub use syntax::{Kernel, Module, Parameter, Registers};
