//! The cards the driver can pretend to have.

/// A card, by what its kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its name, as `cuDeviceGetName` gives it.
    pub name: &'static str,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Threads a multiprocessor holds.
    pub threads_per_processor: u32,
    /// Blocks a multiprocessor holds.
    pub blocks_per_processor: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_processor: u32,
    /// Bytes of shared memory a block may opt in to.
    pub shared_opt_in: u32,
    /// Bytes of global memory. Small, so that a test that uses it up is affordable.
    pub memory: u64,
}

/// Bytes of shared memory a block has without opting in.
pub const SHARED_DEFAULT: u32 = 48 * 1024;
/// 32-bit registers of a multiprocessor, and of a block.
pub const REGISTERS: u32 = 65_536;
/// Threads of a block.
pub const THREADS: u32 = 1024;
/// Threads of a block, by axis.
pub const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid, by axis.
pub const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Bytes of a kernel's parameters.
pub const PARAMETERS: usize = 4096;
/// Driver version 12.4, which reads PTX up to 8.4.
pub const DRIVER: i32 = 12_040;
/// The newest PTX it reads.
pub const PTX: (u32, u32) = (8, 4);

const KIB: u32 = 1024;
const GIB: u64 = 1 << 30;

/// All of them; the first is the default. Source: CUDA C++ programming guide, table of technical
/// specifications per compute capability.
pub const CARDS: [Card; 4] = [
    Card {
        name: "A100",
        capability: (8, 0),
        processors: 108,
        threads_per_processor: 2048,
        blocks_per_processor: 32,
        shared_per_processor: 164 * KIB,
        shared_opt_in: 163 * KIB,
        memory: 2 * GIB,
    },
    Card {
        name: "RTX 3090",
        capability: (8, 6),
        processors: 82,
        threads_per_processor: 1536,
        blocks_per_processor: 16,
        shared_per_processor: 100 * KIB,
        shared_opt_in: 99 * KIB,
        memory: 2 * GIB,
    },
    Card {
        name: "RTX 4090",
        capability: (8, 9),
        processors: 128,
        threads_per_processor: 1536,
        blocks_per_processor: 24,
        shared_per_processor: 100 * KIB,
        shared_opt_in: 99 * KIB,
        memory: 2 * GIB,
    },
    Card {
        name: "H100",
        capability: (9, 0),
        processors: 132,
        threads_per_processor: 2048,
        blocks_per_processor: 32,
        shared_per_processor: 228 * KIB,
        shared_opt_in: 227 * KIB,
        memory: 2 * GIB,
    },
];

impl Card {
    /// The card of that name.
    pub fn named(name: &str) -> Option<Self> {
        CARDS.into_iter().find(|card| card.name == name)
    }

    /// The value of a `CUdevice_attribute`; 0 for those unknown here.
    pub fn attribute(&self, attribute: u32) -> i32 {
        let value = match attribute {
            1 => THREADS,
            2..=4 => BLOCK[attribute as usize - 2],
            5..=7 => GRID[attribute as usize - 5],
            8 => SHARED_DEFAULT,
            10 => 32,
            12 | 82 => REGISTERS,
            13 => 1_410_000,
            16 => self.processors,
            39 => self.threads_per_processor,
            41 | 115 => 1,
            75 => self.capability.0,
            76 => self.capability.1,
            81 => self.shared_per_processor,
            97 => self.shared_opt_in,
            106 => self.blocks_per_processor,
            111 => KIB,
            _ => 0,
        };
        value as i32
    }

    /// Whether kernels for this `.target` run on it: `sm_80` on it and every later card, `sm_90a`
    /// on compute capability 9.0 alone.
    pub fn runs(&self, target: &str) -> bool {
        let digits: String = target.chars().skip_while(|c| !c.is_ascii_digit()).collect();
        let exact = digits.contains('a');
        let number: String = digits.chars().take_while(char::is_ascii_digit).collect();
        let own = self.capability.0 * 10 + self.capability.1;
        number.parse().is_ok_and(|n: u32| if exact { n == own } else { n <= own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.ci/ptxas` has them too, for occupancies, and of more cards.
    #[test]
    fn limits_are_those_of_the_assemblers_check() {
        let check = include_str!("../../../.ci/ptxas");
        for card in CARDS {
            let (major, minor) = card.capability;
            let (warps, blocks) = (card.threads_per_processor / 32, card.blocks_per_processor);
            let shared = card.shared_per_processor / KIB;
            let row = format!("\"sm_{major}{minor}\": ({warps}, {blocks}, {shared} << 10),");
            assert!(check.contains(&row), "{}: {row}", card.name);
        }
    }

    #[test]
    fn targets_run_forward_only() {
        let [a100, .., h100] = CARDS;
        assert!(a100.runs("sm_80") && a100.runs("sm_75") && a100.runs("sm_80 debug"));
        assert!(!a100.runs("sm_86") && !a100.runs("sm_90a"));
        assert!(h100.runs("sm_90a") && h100.runs("sm_80") && !h100.runs("sm_80a"));
        assert!(!h100.runs("") && !h100.runs("sm_100"));
    }
}
