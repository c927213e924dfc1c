//! The machine: memory, settings, and launches.

use crate::exec::{Block, Env};
use crate::fault::{Fault, FaultKind};
use crate::memory::Memory;
use crate::statistics::{Counters, Statistics};
use crate::syntax::Kernel;
use crate::visit::LAUNCHES;
use bytemuck::{NoUninit, Pod};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks, by axis.
    pub grid: [u32; 3],
    /// Threads of a block, by axis.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Launch {
    /// A one-dimensional launch without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

/// Which checks run. With one off the machine does what hardware might: it carries on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Data races, in shared memory and in global memory.
    pub races: bool,
    /// Shared memory touched while a `cp.async` into it is in flight.
    pub async_copies: bool,
    /// Accesses out of bounds; off, reads give zero and writes vanish.
    pub bounds: bool,
    /// Misaligned accesses.
    pub alignment: bool,
    /// Reads of registers and memory that nothing was written to.
    pub uninitialised: bool,
    /// Divergent `.sync` and `.aligned` instructions, and barriers that some warps never reach.
    pub divergence: bool,
}

impl Checks {
    /// Everything is checked: the default.
    pub const ALL: Self = Self {
        races: true,
        async_copies: true,
        bounds: true,
        alignment: true,
        uninitialised: true,
        divergence: true,
    };
    /// Nothing is checked.
    pub const NONE: Self = Self {
        races: false,
        async_copies: false,
        bounds: false,
        alignment: false,
        uninitialised: false,
        divergence: false,
    };
}

impl Default for Checks {
    fn default() -> Self {
        Self::ALL
    }
}

/// Bounds on what a launch may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Warp instructions a block may run before it counts as an endless loop.
    pub instructions: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block, static and dynamic.
    pub shared: usize,
}

impl Default for Limits {
    /// Those of an A100, and 2³² instructions.
    fn default() -> Self {
        Self { instructions: 1 << 32, threads: 1024, shared: 163 * 1024 }
    }
}

/// How sums inside tensor cores are made, which the manual leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MmaSums {
    /// Rounded to the nearest f32 after each product, in ascending k.
    #[default]
    Nearest,
    /// As an A100 was found to make them, in descending order: eight products and what they are added
    /// to are aligned to the largest, and bits cut off behind the 25th; so is the sum, to f32.
    /// Source: Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores".
    Truncated,
}

/// A GPU of one's own: global memory, and settings for launches.
#[derive(Default)]
pub struct Machine {
    /// Global memory.
    pub memory: Memory,
    /// Which checks run.
    pub checks: Checks,
    /// What a launch may use.
    pub limits: Limits,
    /// Moves every `.approx` result by the whole of its documented error, up or down as this seed
    /// and the result decide: what a kernel computes must not depend on those last bits. A seed with
    /// its highest bit changed moves every result the other way.
    pub perturb: Option<u64>,
    /// How sums inside tensor cores are made.
    pub mma_sums: MmaSums,
    launches: u32,
}

/// A typed buffer in a machine's global memory; a plain handle.
#[derive(Debug)]
pub struct Buffer<T> {
    /// Its address.
    pub address: u64,
    /// Elements.
    pub len: usize,
    ty: PhantomData<T>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Buffer<T> {}

/// A kernel argument, by its bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arg {
    bits: [u8; 8],
    size: usize,
}

impl<T> From<Buffer<T>> for Arg {
    fn from(buffer: Buffer<T>) -> Self {
        buffer.address.into()
    }
}

macro_rules! arg {
    ($($ty:ty),*) => {
        $(impl From<$ty> for Arg {
            fn from(value: $ty) -> Self {
                let bytes = value.to_le_bytes();
                let mut bits = [0; 8];
                bits[..bytes.len()].copy_from_slice(&bytes);
                Self { bits, size: bytes.len() }
            }
        })*
    };
}

arg!(u8, u16, u32, i32, f32, u64, i64, f64);

impl Machine {
    /// A machine with empty memory and all checks on.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new buffer of `len` elements, uninitialised.
    pub fn alloc<T>(&mut self, len: usize) -> Buffer<T> {
        let address = self.memory.alloc(len * size_of::<T>());
        Buffer { address, len, ty: PhantomData }
    }

    /// A new buffer with these elements.
    pub fn upload<T: NoUninit>(&mut self, data: &[T]) -> Buffer<T> {
        let buffer = self.alloc(data.len());
        // A buffer just made is live and large enough.
        self.memory.write(buffer.address, bytemuck::cast_slice(data)).expect("a live buffer");
        buffer
    }

    /// The elements of a buffer. Those nothing was written to come as they are.
    ///
    /// # Errors
    /// If it was freed, or belongs to another machine.
    pub fn download<T: Pod>(&self, buffer: Buffer<T>) -> Result<Vec<T>, FaultKind> {
        let mut out = vec![T::zeroed(); buffer.len];
        self.memory.read(buffer.address, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// Frees a buffer.
    ///
    /// # Errors
    /// If it was freed before, or belongs to another machine.
    pub fn free<T>(&mut self, buffer: Buffer<T>) -> Result<(), FaultKind> {
        self.memory.free(buffer.address)
    }

    /// Runs a kernel to its end and says what it did.
    ///
    /// # Errors
    /// The first fault, in the order of the blocks; memory is then left as it was at some moment
    /// of the launch. [`FaultKind::BadLaunch`] if shape or arguments do not fit the kernel.
    pub fn launch(
        &mut self,
        kernel: &Kernel,
        launch: Launch,
        args: &[Arg],
    ) -> Result<Statistics, Fault> {
        let parameters = pack(kernel, args).map_err(|text| bad_launch(kernel, text))?;
        self.launch_packed(kernel, launch, &parameters)
    }

    /// The same with the parameter block laid out already.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub fn launch_packed(
        &mut self,
        kernel: &Kernel,
        launch: Launch,
        parameters: &[u8],
    ) -> Result<Statistics, Fault> {
        self.check_shape(kernel, launch).map_err(|text| bad_launch(kernel, text))?;
        if self.launches == LAUNCHES {
            self.memory.forget_launches();
            self.launches = 0;
        }
        self.launches += 1;
        let env = Env {
            kernel,
            launch,
            parameters,
            memory: &self.memory,
            checks: self.checks,
            limits: self.limits,
            number: self.launches,
            perturb: self.perturb,
            mma_sums: self.mma_sums,
        };
        let counters = run(&env)?;
        Ok(counters.finish(kernel, &self.memory))
    }

    fn check_shape(&self, kernel: &Kernel, launch: Launch) -> Result<(), String> {
        let threads =
            launch.block.iter().try_fold(1u32, |n, b| n.checked_mul(*b)).unwrap_or(u32::MAX);
        let blocks = launch.grid.iter().try_fold(1u32, |n, b| n.checked_mul(*b));
        if threads == 0 || blocks.is_none_or(|n| n == 0) {
            return Err(format!("grid {:?} of blocks {:?}", launch.grid, launch.block));
        }
        if threads > self.limits.threads {
            return Err(format!("{threads} threads a block, {} allowed", self.limits.threads));
        }
        match kernel.max_threads {
            Some(max) if threads > max => {
                return Err(format!("{threads} threads a block, the kernel is made for {max}"));
            }
            Some(exact) if kernel.exact_threads && threads != exact => {
                return Err(format!("{threads} threads a block, the kernel needs {exact}"));
            }
            _ => {}
        }
        let shared = kernel.dynamic_shared_offset + launch.shared as usize;
        if shared > self.limits.shared {
            return Err(format!("{shared} bytes of shared memory, {} allowed", self.limits.shared));
        }
        Ok(())
    }
}

/// Lays out arguments as the kernel's parameters; their number and sizes must agree.
fn pack(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u8>, String> {
    if args.len() != kernel.parameters.len() {
        return Err(format!("{} arguments, {} needed", args.len(), kernel.parameters.len()));
    }
    let mut out = vec![0; kernel.parameter_bytes()];
    for (parameter, arg) in kernel.parameters.iter().zip(args) {
        if parameter.size != arg.size {
            let (name, size) = (&parameter.name, parameter.size);
            return Err(format!("{name} is of {size} bytes, the argument of {}", arg.size));
        }
        out[parameter.offset..][..arg.size].copy_from_slice(&arg.bits[..arg.size]);
    }
    Ok(out)
}

fn bad_launch(kernel: &Kernel, message: String) -> Fault {
    Fault {
        kind: FaultKind::BadLaunch,
        kernel: kernel.name.clone(),
        pc: 0,
        line: 0,
        source: String::new(),
        block: [0; 3],
        thread: 0,
        other: None,
        message,
    }
}

/// Runs all blocks: side by side, or, where atomics make their order matter, one after another. The
/// fault reported is the one of the lowest block, so that it does not depend on the scheduling.
fn run<'a>(env: &'a Env<'a>) -> Result<Counters, Fault> {
    let blocks = env.launch.grid.iter().product::<u32>();
    let first_bad = AtomicU32::new(u32::MAX);
    let one = |(mut block, bad): (Block<'a>, Option<(u32, Fault)>), i: u32| {
        if i > first_bad.load(Relaxed) {
            return (block, bad);
        }
        match block.run(i) {
            Ok(()) => (block, bad),
            Err(fault) => {
                first_bad.fetch_min(i, Relaxed);
                let lower = bad.filter(|(j, _)| *j < i);
                (block, Some(lower.unwrap_or((i, fault))))
            }
        }
    };
    let start = || (Block::new(env), None);
    let parts: Vec<_> = if env.kernel.has_atomics() || blocks == 1 {
        vec![(0..blocks).fold(start(), one)]
    } else {
        (0..blocks).into_par_iter().fold(start, one).collect()
    };
    let mut counters = Counters::new(env.kernel, env.memory);
    let mut worst: Option<(u32, Fault)> = None;
    for (block, bad) in parts {
        counters.add(&block.counters);
        worst = match (worst, bad) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
            (a, b) => a.or(b),
        };
    }
    worst.map_or(Ok(counters), |(_, fault)| Err(fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::Module;

    /// When numbers of launches begin anew, what was touched under them is forgotten.
    #[test]
    fn launches_are_told_apart_for_ever() {
        let module = Module::parse(
            ".version 7.0
.target sm_80
.address_size 64
.visible .entry swap(.param .u64 x, .param .u32 first) {
    .reg .u64 %rd<2>; .reg .u32 %r<3>;
    ld.param.u64 %rd0, [x]; ld.param.u32 %r0, [first];
    mov.u32 %r1, %ctaid.x; xor.b32 %r2, %r0, %r1;
    mad.wide.u32 %rd1, %r2, 4, %rd0;
    st.global.u32 [%rd1], %r1;
    ret;
}",
        );
        let module = module.unwrap();
        let mut machine = Machine::new();
        let x = machine.alloc::<u32>(2);
        for (number, first) in [(0, 0u32), (LAUNCHES - 1, 1), (LAUNCHES, 1), (1, 0)] {
            machine.launches = number;
            let args = [x.into(), first.into()];
            machine.launch(&module.kernels[0], Launch::linear(2, 1), &args).unwrap();
        }
        assert_eq!(machine.launches, 2);
    }
}
