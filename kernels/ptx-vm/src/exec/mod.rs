//! Running a kernel: one block, its warps in turn from barrier to barrier.

mod alu;
mod collective;
mod copies;
mod memory;
mod mma;
mod place;
mod step;
mod warp;

use crate::fault::{Fault, FaultKind, Trap};
use crate::footprint::Footprint;
use crate::machine::{Checks, Launch, Limits, MmaSums};
use crate::memory::Memory;
use crate::race::{Now, Stamp};
use crate::shared::{Shared, SharedChecks};
use crate::statistics::Counters;
use crate::syntax::Kernel;
use warp::Warp;

/// What the blocks of a launch have in common.
pub(crate) struct Env<'a> {
    pub kernel: &'a Kernel,
    pub launch: Launch,
    pub parameters: &'a [u8],
    pub memory: &'a Memory,
    pub checks: Checks,
    pub limits: Limits,
    /// Which launch of the machine this is.
    pub number: u32,
    /// Seed of the errors of approximate instructions, if any.
    pub perturb: Option<u64>,
    pub mma_sums: MmaSums,
}

/// A place to run blocks in, one after another.
pub(crate) struct Block<'a> {
    env: &'a Env<'a>,
    shared: Shared,
    footprint: Footprint,
    warps: Vec<Warp>,
    pub counters: Counters,
    id: [u32; 3],
    linear: u32,
    /// Instructions left before [`FaultKind::Timeout`].
    left: u64,
}

impl<'a> Block<'a> {
    pub fn new(env: &'a Env<'a>) -> Self {
        let (kernel, checks) = (env.kernel, env.checks);
        let shared_checks = SharedChecks {
            races: checks.races,
            asynchronous: checks.async_copies,
            uninitialised: checks.uninitialised,
        };
        let size = kernel.dynamic_shared_offset + env.launch.shared as usize;
        let warps = env.launch.threads().div_ceil(32) as usize;
        let warp = |i| Warp::new(i, kernel.registers, &env.launch, checks.uninitialised);
        Self {
            env,
            shared: Shared::new(size, shared_checks),
            footprint: Footprint::new(env.memory.count()),
            warps: (0..warps).map(warp).collect(),
            counters: Counters::new(kernel, env.memory),
            id: [0; 3],
            linear: 0,
            left: 0,
        }
    }

    /// Runs the block of this linear index to its end.
    pub fn run(&mut self, linear: u32) -> Result<(), Fault> {
        let [x, y, _] = self.env.launch.grid;
        self.id = [linear % x, linear / x % y, linear / x / y];
        self.linear = linear;
        self.left = self.env.limits.instructions;
        self.counters.blocks += 1;
        self.shared.reset();
        self.footprint.reset();
        let mut warps = std::mem::take(&mut self.warps);
        let threads = self.env.launch.threads();
        warps.iter_mut().for_each(|w| w.restart(self.id, threads));
        let result = self.until_all_end(&mut warps);
        self.warps = warps;
        result
    }

    fn until_all_end(&mut self, warps: &mut [Warp]) -> Result<(), Fault> {
        loop {
            for warp in warps.iter_mut() {
                self.until_barrier(warp)?;
            }
            let Some(waiting) = warps.iter().find(|w| w.at_barrier) else { return Ok(()) };
            if let Some(gone) = warps.iter().find(|w| !w.at_barrier && self.env.checks.divergence) {
                let text = format!(
                    "warp {} waits here, but warp {} ended without reaching a barrier",
                    waiting.index, gone.index
                );
                let trap = Trap::new(FaultKind::MissingBarrier, 0, text);
                return Err(self.fault(trap, waiting, waiting.pc - 1));
            }
            self.shared.barrier();
            warps.iter_mut().for_each(|w| w.at_barrier = false);
        }
    }

    fn until_barrier(&mut self, warp: &mut Warp) -> Result<(), Fault> {
        while !warp.at_barrier && warp.select() {
            let pc = warp.pc;
            self.step(warp).map_err(|trap| self.fault(trap, warp, pc))?;
        }
        Ok(())
    }

    /// When and by whom: for the shadows of shared and global memory.
    fn now(&self, warp: &Warp, lane: usize) -> Now {
        let (epoch, issue) = (self.shared.epoch(), warp.issue);
        let stamp = Stamp { epoch, issue, warp: warp.index as u16, lane: lane as u8 };
        Now { stamp, ordered: warp.ordered }
    }

    #[cold]
    fn fault(&self, trap: Trap, warp: &Warp, pc: usize) -> Fault {
        let kernel = self.env.kernel;
        let line = kernel.code[pc].line;
        Fault {
            kind: trap.kind,
            kernel: kernel.name.clone(),
            pc,
            line,
            source: kernel.line(line).to_owned(),
            block: self.id,
            thread: warp.index as u32 * 32 + trap.lane,
            other: trap.other,
            message: trap.message,
        }
    }
}
