//! What a launch did: instructions, memory transactions, bank conflicts.
//!
//! These are counts, exact and reproducible; they are not times.

use crate::isa::LANES;
use crate::memory::Memory;
use crate::syntax::Kernel;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Bytes of a sector, the unit of global memory traffic.
const SECTOR: u64 = 32;
/// Banks of shared memory, each four bytes wide.
const BANKS: usize = 32;

/// Counts of one instruction of a kernel, over all warps of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times a warp issued it.
    pub issued: u64,
    /// Lanes that executed it.
    pub lanes: u64,
    /// Global memory: sectors of 32 bytes moved.
    pub sectors: u64,
    /// Global memory: the fewest sectors that could hold the bytes asked for.
    pub ideal_sectors: u64,
    /// Shared memory: passes over the banks.
    pub wavefronts: u64,
    /// Shared memory: passes without any bank conflict.
    pub ideal_wavefronts: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.issued += other.issued;
        self.lanes += other.lanes;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
        self.wavefronts += other.wavefronts;
        self.ideal_wavefronts += other.ideal_wavefronts;
    }
}

/// Bytes that loads and stores asked for, of one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read, counting every lane.
    pub read: u64,
    /// Written, counting every lane.
    pub written: u64,
}

/// One instruction and its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstructionStatistics {
    /// Line of the PTX text.
    pub line: u32,
    /// Its mnemonic: `ld.global.v4.f32`.
    pub mnemonic: String,
    /// The text of the line.
    pub source: String,
    /// What it did.
    pub counts: Counts,
}

/// What a launch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Name of the kernel.
    pub kernel: String,
    /// Blocks that ran.
    pub blocks: u64,
    /// Every instruction, in the order of the text.
    pub instructions: Vec<InstructionStatistics>,
    /// Global traffic by address of the buffer; buffers never touched are absent.
    pub traffic: BTreeMap<u64, Traffic>,
}

impl Statistics {
    /// Sums of all instructions.
    pub fn total(&self) -> Counts {
        self.sum(|_| true)
    }

    /// Sums of the instructions whose mnemonic begins so: `"mma.sync"`, `"ld.global"`.
    pub fn of(&self, mnemonic: &str) -> Counts {
        self.sum(|i| i.mnemonic.starts_with(mnemonic))
    }

    /// Times warps issued each mnemonic.
    pub fn opcodes(&self) -> BTreeMap<&str, u64> {
        let mut out = BTreeMap::new();
        for i in &self.instructions {
            *out.entry(i.mnemonic.as_str()).or_default() += i.counts.issued;
        }
        out
    }

    fn sum(&self, take: impl Fn(&InstructionStatistics) -> bool) -> Counts {
        let mut sum = Counts::default();
        self.instructions.iter().filter(|i| take(i)).for_each(|i| sum += i.counts);
        sum
    }
}

/// A table of the memory instructions, the costly ones marked.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        writeln!(f, "{}: {} blocks, {} warp instructions", self.kernel, self.blocks, total.issued)?;
        writeln!(
            f,
            "{:>6} {:>8} {:>17} {:>20}  text",
            "line", "issued", "sectors/ideal", "wavefronts/ideal"
        )?;
        for i in &self.instructions {
            let c = &i.counts;
            let pair = |actual: u64, ideal: u64| match (actual, actual > ideal) {
                (0, _) => String::new(),
                (_, false) => format!("{actual}/{ideal}  "),
                (_, true) => format!("{actual}/{ideal} !"),
            };
            if c.sectors + c.wavefronts > 0 {
                let mut row = String::new();
                write!(row, "{:>6} {:>8}", i.line, c.issued)?;
                write!(row, " {:>17}", pair(c.sectors, c.ideal_sectors))?;
                write!(row, " {:>20}", pair(c.wavefronts, c.ideal_wavefronts))?;
                writeln!(f, "{row}  {}", i.source)?;
            }
        }
        Ok(())
    }
}

/// Counts being made.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    pub blocks: u64,
    instructions: Vec<Counts>,
    traffic: Vec<Traffic>,
}

impl Counters {
    pub fn new(kernel: &Kernel, memory: &Memory) -> Self {
        Self {
            blocks: 0,
            instructions: vec![Counts::default(); kernel.code.len()],
            traffic: vec![Traffic::default(); memory.count()],
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.instructions.iter_mut().zip(&other.instructions).for_each(|(a, b)| *a += *b);
        for (a, b) in self.traffic.iter_mut().zip(&other.traffic) {
            a.read += b.read;
            a.written += b.written;
        }
    }

    #[inline]
    pub fn issue(&mut self, pc: usize, lanes: u32) {
        let counts = &mut self.instructions[pc];
        counts.issued += 1;
        counts.lanes += u64::from(lanes.count_ones());
    }

    #[inline]
    pub fn read(&mut self, buffer: usize, bytes: usize) {
        self.traffic[buffer].read += bytes as u64;
    }

    #[inline]
    pub fn written(&mut self, buffer: usize, bytes: usize) {
        self.traffic[buffer].written += bytes as u64;
    }

    /// Lanes access so many bytes each of global memory.
    pub fn global(&mut self, pc: usize, addresses: impl Iterator<Item = u64>, bytes: usize) {
        let mut first = Distinct::new();
        let mut sectors = Distinct::new();
        for address in addresses {
            first.push(address);
            sectors.push(address / SECTOR);
            sectors.push((address + bytes as u64 - 1) / SECTOR);
        }
        let counts = &mut self.instructions[pc];
        counts.sectors += sectors.finish().len() as u64;
        counts.ideal_sectors += (first.finish().len() as u64 * bytes as u64).div_ceil(SECTOR);
    }

    /// Lanes access so many bytes each of shared memory. Hardware serves 128 bytes a pass: 8-byte
    /// accesses go by half-warps, 16-byte ones by quarters, and words of one bank take turns.
    pub fn shared(
        &mut self,
        pc: usize,
        addresses: impl Iterator<Item = (usize, u64)>,
        bytes: usize,
    ) {
        let group = match bytes {
            16 => 8,
            8 => 16,
            _ => 32,
        };
        let counts = &mut self.instructions[pc];
        let mut words: [Distinct; 4] = [Distinct::new(); 4];
        for (lane, address) in addresses {
            for k in 0..bytes.div_ceil(4) as u64 {
                words[lane / group].push(address / 4 + k);
            }
        }
        for words in words.iter_mut().filter(|w| w.length > 0) {
            let mut banks = [0u8; BANKS];
            words.finish().iter().for_each(|word| banks[*word as usize % BANKS] += 1);
            counts.wavefronts += u64::from(banks.into_iter().max().unwrap_or(0));
            counts.ideal_wavefronts += 1;
        }
    }

    pub fn finish(self, kernel: &Kernel, memory: &Memory) -> Statistics {
        let instructions = kernel.code.iter().zip(self.instructions).filter(|(i, _)| i.line > 0);
        let touched = |t: &Traffic| t.read + t.written > 0;
        Statistics {
            kernel: kernel.name.clone(),
            blocks: self.blocks,
            instructions: instructions
                .map(|(i, counts)| InstructionStatistics {
                    line: i.line,
                    mnemonic: kernel.mnemonics[i.opcode as usize].clone(),
                    source: kernel.line(i.line).to_owned(),
                    counts,
                })
                .collect(),
            traffic: (memory.live().map(|b| b.0).zip(self.traffic))
                .filter(|b| touched(&b.1))
                .collect(),
        }
    }
}

/// The distinct ones of at most 64 numbers; cheap when they come in order.
#[derive(Clone, Copy)]
struct Distinct {
    items: [u64; 2 * LANES],
    length: usize,
    ordered: bool,
}

impl Distinct {
    fn new() -> Self {
        Self { items: [0; 2 * LANES], length: 0, ordered: true }
    }

    #[inline]
    fn push(&mut self, item: u64) {
        if let Some(last) = self.length.checked_sub(1).map(|i| self.items[i]) {
            if last == item {
                return;
            }
            self.ordered &= last < item;
        }
        self.items[self.length] = item;
        self.length += 1;
    }

    fn finish(&mut self) -> &[u64] {
        if !self.ordered {
            let items = &mut self.items[..self.length];
            items.sort_unstable();
            let mut kept = 0;
            for i in 0..items.len() {
                if i == 0 || items[i] != items[kept - 1] {
                    items[kept] = items[i];
                    kept += 1;
                }
            }
            self.length = kept;
        }
        &self.items[..self.length]
    }
}
