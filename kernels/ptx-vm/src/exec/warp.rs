//! A warp: its registers, and which of its lanes are where.
//!
//! Lanes that part at a branch each keep a program counter; the lanes with the lowest run first. For
//! code laid out in the order of its structure (`if`, loops) that brings them together again at the
//! first instruction all of them reach, as hardware's reconvergence does.

use crate::fault::{FaultKind, Trap};
use crate::isa::{Dst, FULL, LANES, Order, Special, Src, W32, W64};
use crate::machine::Launch;
use crate::syntax::Registers;

/// One asynchronous copy in flight: the bytes it will write.
#[derive(Clone, Copy)]
pub(crate) struct Copy {
    pub lane: u8,
    /// Groups that its lane had committed before.
    pub group: u32,
    pub at: u32,
    pub size: u8,
    pub data: [u8; 16],
}

/// A warp of a running block.
pub(crate) struct Warp {
    pub index: usize,
    narrow: Vec<W32>,
    wide: Vec<W64>,
    predicates: Vec<u32>,
    /// For each register, the lanes that have written it.
    narrow_set: Vec<u32>,
    wide_set: Vec<u32>,
    predicates_set: Vec<u32>,
    tid: [W32; 3],
    block: [u32; 3],
    grid: [u32; 3],
    shape: [u32; 3],
    warps: u32,
    /// Whether to check that registers are written before they are read.
    check: bool,
    /// Where the running lanes are.
    pub pc: usize,
    /// The running lanes.
    pub mask: u32,
    /// Lanes it began with.
    pub all: u32,
    /// Lanes that have not ended.
    pub live: u32,
    /// Where each lane is, while they are not all in one place.
    lane_pc: [u32; LANES],
    diverged: bool,
    pub at_barrier: bool,
    /// Instructions so far.
    pub issue: u32,
    /// Which of them was the last warp barrier; 0 before the first.
    pub ordered: u32,
    /// Copies in flight, oldest first, and how many groups of them each lane has committed.
    pub copies: Vec<Copy>,
    pub committed: [u32; LANES],
    /// The buffer last touched.
    pub hint: usize,
}

impl Warp {
    pub fn new(index: usize, registers: Registers, launch: &Launch, check: bool) -> Self {
        let shape = launch.block;
        let thread = |lane: usize| (index * LANES + lane) as u32;
        let axis = |f: fn(u32, [u32; 3]) -> u32| std::array::from_fn(|lane| f(thread(lane), shape));
        Self {
            index,
            narrow: vec![[0xCDCD_CDCD; LANES]; registers.narrow],
            wide: vec![[0xCDCD_CDCD_CDCD_CDCD; LANES]; registers.wide],
            predicates: vec![0; registers.predicates],
            narrow_set: vec![0; registers.narrow],
            wide_set: vec![0; registers.wide],
            predicates_set: vec![0; registers.predicates],
            tid: [
                axis(|t, s| t % s[0]),
                axis(|t, s| t / s[0] % s[1]),
                axis(|t, s| t / s[0] / s[1]),
            ],
            block: [0; 3],
            grid: launch.grid,
            shape,
            warps: launch.threads().div_ceil(LANES as u32),
            check,
            pc: 0,
            mask: 0,
            all: 0,
            live: 0,
            lane_pc: [0; LANES],
            diverged: false,
            at_barrier: false,
            issue: 0,
            ordered: 0,
            copies: Vec::new(),
            committed: [0; LANES],
            hint: 0,
        }
    }

    /// Back to the first instruction, as a warp of another block.
    pub fn restart(&mut self, block: [u32; 3], threads: u32) {
        self.block = block;
        for set in [&mut self.narrow_set, &mut self.wide_set, &mut self.predicates_set] {
            set.fill(0);
        }
        let lanes = (threads as usize - self.index * LANES).min(LANES);
        self.all = if lanes == LANES { FULL } else { (1 << lanes) - 1 };
        (self.live, self.mask) = (self.all, self.all);
        (self.pc, self.diverged, self.at_barrier) = (0, false, false);
        (self.issue, self.ordered) = (0, 0);
        self.copies.clear();
        self.committed = [0; LANES];
    }

    /// Picks the lanes to run next: those furthest behind. False when none is left.
    pub fn select(&mut self) -> bool {
        if self.diverged {
            let behind = lanes(self.live).map(|lane| self.lane_pc[lane]).min();
            let Some(pc) = behind else { return false };
            let here = |lane: &usize| self.lane_pc[*lane] == pc;
            self.mask = lanes(self.live).filter(here).fold(0, |mask, lane| mask | 1 << lane);
            self.pc = pc as usize;
            self.diverged = self.mask != self.live;
        } else {
            self.mask = self.live;
        }
        self.live != 0
    }

    /// Moves the running lanes past the current instruction.
    pub fn advance(&mut self) {
        self.pc += 1;
        if self.diverged {
            for lane in lanes(self.mask) {
                self.lane_pc[lane] = self.pc as u32;
            }
        }
    }

    /// After [`Self::advance`]: these of the running lanes jump.
    pub fn jump(&mut self, taken: u32, target: usize) {
        if taken == 0 {
            return;
        }
        if taken == self.live {
            self.pc = target;
            return;
        }
        self.part();
        for lane in lanes(taken) {
            self.lane_pc[lane] = target as u32;
        }
    }

    /// After [`Self::advance`]: these of the running lanes end.
    pub fn exit(&mut self, gone: u32) {
        if gone != self.live {
            self.part();
        }
        self.live &= !gone;
    }

    fn part(&mut self) {
        if !self.diverged {
            self.diverged = true;
            self.lane_pc = [self.pc as u32; LANES];
        }
    }

    /// The lanes of the running ones for which a guard holds.
    pub fn guarded(&self, guard: Option<(u16, bool)>) -> Result<u32, Trap> {
        match guard {
            None => Ok(self.mask),
            Some((p, negated)) => Ok(self.mask & self.predicate(Src::Pred(p, negated), self.mask)?),
        }
    }

    /// A predicate operand: a bit for each lane. `lanes` are those that read it.
    pub fn predicate(&self, src: Src, lanes: u32) -> Result<u32, Trap> {
        match src {
            Src::Pred(p, negated) => {
                self.written("predicate", self.predicates_set[p as usize], lanes)?;
                let value = self.predicates[p as usize];
                Ok(if negated { !value } else { value })
            }
            Src::Imm(value) => Ok(if value == 0 { 0 } else { FULL }),
            _ => Err(Trap::of_lanes(FaultKind::BadLaunch, lanes, "not a predicate")),
        }
    }

    /// A 32-bit operand; of a 64-bit register the low half.
    #[inline]
    pub fn narrow(&self, src: Src, lanes: u32) -> Result<W32, Trap> {
        Ok(match src {
            Src::R32(r) => {
                self.written("32-bit register", self.narrow_set[r as usize], lanes)?;
                self.narrow[r as usize]
            }
            Src::Imm(value) => [value as u32; LANES],
            Src::Special(special) => self.special(special),
            Src::R64(_) => self.wide(src, lanes)?.map(|x| x as u32),
            Src::Pred(..) => {
                self.predicate(src, lanes).map(|p| std::array::from_fn(|i| p >> i & 1))?
            }
        })
    }

    /// A 64-bit operand; a 32-bit register is extended by zeros.
    #[inline]
    pub fn wide(&self, src: Src, lanes: u32) -> Result<W64, Trap> {
        match src {
            Src::R64(r) => {
                self.written("64-bit register", self.wide_set[r as usize], lanes)?;
                Ok(self.wide[r as usize])
            }
            Src::Imm(value) => Ok([value; LANES]),
            _ => Ok(self.narrow(src, lanes)?.map(u64::from)),
        }
    }

    #[inline]
    fn written(&self, what: &str, set: u32, lanes: u32) -> Result<(), Trap> {
        let missing = lanes & !set;
        if !self.check || missing == 0 {
            return Ok(());
        }
        let text = format!("nothing was written to this {what} (lanes {missing:08x})");
        Err(Trap::of_lanes(FaultKind::UninitialisedRegister, missing, text))
    }

    fn special(&self, special: Special) -> W32 {
        let lane_mask = |order: Order| {
            std::array::from_fn(|lane| {
                let bit = 1u32 << lane;
                match order {
                    Order::Eq => bit,
                    Order::Lt => bit - 1,
                    Order::Le => bit | (bit - 1),
                    Order::Gt => !(bit | (bit - 1)),
                    Order::Ge => !(bit - 1),
                }
            })
        };
        match special {
            Special::Tid(axis) => self.tid[axis as usize],
            Special::Ntid(axis) => [self.shape[axis as usize]; LANES],
            Special::Ctaid(axis) => [self.block[axis as usize]; LANES],
            Special::Nctaid(axis) => [self.grid[axis as usize]; LANES],
            Special::LaneId => std::array::from_fn(|lane| lane as u32),
            Special::WarpId => [self.index as u32; LANES],
            Special::NWarpId => [self.warps; LANES],
            Special::LaneMask(order) => lane_mask(order),
        }
    }

    /// Writes the given lanes; a 64-bit destination is extended by zeros.
    #[inline]
    pub fn set_narrow(&mut self, dst: Dst, value: &W32, lanes: u32) {
        match dst {
            Dst::R32(r) => {
                blend(&mut self.narrow[r as usize], value, lanes);
                self.narrow_set[r as usize] |= lanes;
            }
            Dst::R64(_) => self.set_wide(dst, &value.map(u64::from), lanes),
            Dst::Pred(_) | Dst::Sink => {}
        }
    }

    /// Writes the given lanes; a 32-bit destination takes the low half.
    #[inline]
    pub fn set_wide(&mut self, dst: Dst, value: &W64, lanes: u32) {
        match dst {
            Dst::R64(r) => {
                blend(&mut self.wide[r as usize], value, lanes);
                self.wide_set[r as usize] |= lanes;
            }
            Dst::R32(_) => self.set_narrow(dst, &value.map(|x| x as u32), lanes),
            Dst::Pred(_) | Dst::Sink => {}
        }
    }

    pub fn set_predicate(&mut self, dst: Dst, value: u32, lanes: u32) {
        if let Dst::Pred(p) = dst {
            let old = &mut self.predicates[p as usize];
            *old = *old & !lanes | value & lanes;
            self.predicates_set[p as usize] |= lanes;
        }
    }
}

#[inline]
fn blend<T: std::marker::Copy>(old: &mut [T; LANES], new: &[T; LANES], mask: u32) {
    if mask == FULL {
        *old = *new;
    } else {
        lanes(mask).for_each(|lane| old[lane] = new[lane]);
    }
}

/// The set bits of a mask, lowest first.
#[inline]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}
