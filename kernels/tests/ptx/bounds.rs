//! How much of a card's tensor cores the main loops could use at best: `kernels/perf/bounds.md`.
//!
//! The machine counts what a turn of a loop asks of each unit of a multiprocessor, and a unit's
//! rate says how many clocks it needs for that; the slowest unit is the bound. It is a prediction
//! of what cannot be exceeded, not a measurement: latencies, and whether everything overlaps, are
//! not in it.

use kernels::attention::ptx::Attention;
use kernels::gemm::Size;
use kernels::gemm::ptx::{Gemm, Squares, Writing};
use kernels::ptx::{Kernel, Storage};
use ptx_vm::{InstructionStatistics, Statistics};
use std::fmt::Write;

use crate::{attention, gemm};

/// What a multiprocessor does in a clock.
struct Card {
    name: &'static str,
    arch: &'static str,
    /// Floating-point operations on bf16 that the data sheet comes to,
    tensor: f64,
    /// and the share of them that `mma.sync` reaches. Of H100's, which wgmma alone reaches, it is
    /// about 62 % (Luo et al. 2024, "Benchmarking and dissecting the NVIDIA Hopper GPU").
    mma: f64,
    /// Lanes of float32 arithmetic.
    fp32: f64,
    /// Its share of the bytes that the second cache gives: A100's is NVIDIA's figure, RTX 4090's
    /// what public microbenchmarks found, 5.0 TB/s. Those found 5.5 on an H100, and a product of
    /// ours reads 6.5 there: A100's bytes a clock are taken, for all its multiprocessors.
    l2: f64,
}

const CARDS: [Card; 3] = [
    Card { name: "A100", arch: "sm_80", tensor: 2048.0, mma: 1.0, fp32: 64.0, l2: 5120.0 / 108.0 },
    Card { name: "RTX 4090", arch: "sm_89", tensor: 512.0, mma: 1.0, fp32: 128.0, l2: 15.5 },
    Card {
        name: "H100",
        arch: "sm_90",
        tensor: 4096.0,
        mma: 0.62,
        fp32: 128.0,
        l2: 5120.0 / 132.0,
    },
];

/// What is the same on all of them: bytes of shared memory, warp instructions, lanes of special
/// functions.
const SHARED: f64 = 128.0;
const ISSUED: f64 = 4.0;
const SPECIAL: f64 = 16.0;
/// Floating-point operations of an `mma.sync`.
const FLOPS: f64 = 2.0 * 16.0 * 8.0 * 16.0;

/// What a loop asks of a block's multiprocessor from one length to a greater one.
struct Turns {
    kernel: Kernel,
    /// How many turns of all blocks it is longer by.
    turns: f64,
    more: Statistics,
    less: Statistics,
}

impl Turns {
    /// The difference in what instructions of some kind did.
    fn count(&self, of: impl Fn(&InstructionStatistics) -> u64) -> f64 {
        let sum = |s: &Statistics| s.instructions.iter().map(&of).sum::<u64>();
        (sum(&self.more) - sum(&self.less)) as f64 / self.turns
    }

    fn issued(&self, of: impl Fn(&str) -> bool) -> f64 {
        self.count(|i| if of(&i.mnemonic) { i.counts.issued } else { 0 })
    }

    /// Clocks that each unit needs: the columns of the table.
    fn clocks(&self, card: &Card) -> [f64; 6] {
        let float = ["add.", "sub.", "mul.", "fma.", "max.", "setp.", "selp."];
        let is_float = |m: &str| m.ends_with("f32") && float.iter().any(|name| m.starts_with(name));
        // Moves between registers are the builder's; the assembler leaves none of them.
        let is_work = |m: &str| !m.starts_with("mov.");
        [
            self.issued(|m| m.starts_with("mma.sync")) * FLOPS / (card.tensor * card.mma),
            self.count(|i| i.counts.wavefronts) * 128.0 / SHARED,
            self.count(|i| i.counts.sectors) * 32.0 / card.l2,
            self.issued(is_work) / ISSUED,
            self.issued(is_float) * 32.0 / card.fp32,
            self.issued(|m| m.starts_with("ex2.")) * 32.0 / SPECIAL,
        ]
    }
}

const UNITS: [&str; 6] = ["tensor cores", "shared memory", "L2", "issue", "float32", "exp2"];

fn product(squares: Squares) -> Turns {
    let (transposed, writing) = ([false, true], Writing::Store);
    let gemm = Gemm { operands: Storage::Bf16, transposed, writing };
    let kernel = gemm.tensor_cores(squares);
    let [less, more] = [128, 256].map(|k| {
        let case = gemm::Case::new(Size::new(128, 128, k), transposed);
        case.got(&kernel, Writing::Store).expect("no fault").1
    });
    // Panels of 32 along k.
    Turns { kernel, turns: 128.0 / 32.0, more, less }
}

fn attention(width: usize) -> Turns {
    let [(kernel, less), (_, more)] = [128, 256].map(|keys| {
        let segments = vec![(64, [64; 2]), (keys, [keys; 2])];
        let case = attention::Case { width, segments, bias: false, exact: false };
        let kernel = Attention { width: width as u32, segments: 2, bias: false };
        let kernel = kernel.forward();
        let (_, statistics) = case.got(&kernel).expect("no fault");
        (kernel, statistics)
    });
    // 64 keys each, of two samples and two heads.
    Turns { kernel, turns: 2.0 * 4.0, more, less }
}

/// Warps that a multiprocessor can hold, of the assembler's snapshot.
fn warps(name: &str, arch: &str) -> u32 {
    let snapshot = include_str!("../../perf/static.json");
    let row = snapshot.split(&format!("\"{name}\": ")).nth(1).expect("a row of the snapshot");
    let card = row.split(&format!("\"{arch}\": [")).nth(1).expect("the card");
    let numbers = card.split(']').next().unwrap_or_default();
    numbers.rsplit(", ").next().and_then(|warps| warps.parse().ok()).expect("warps come last")
}

#[test]
fn predicted_bounds_are_those_of_the_snapshot() {
    let loops = [product(Squares::LARGE), product(Squares::SMALL), attention(64), attention(128)];
    let mut table = "\
# Predicted bounds

Of the peak of `mma.sync`: what the main loops of the products and of attention cannot exceed, from \
counts of the virtual machine and rates of the cards. Clocks are those that each unit of a \
multiprocessor needs for the same work; the largest number is the bound, and the last column the \
same of the rate that the card's data sheet has. Instructions are counted before the assembler makes \
them fewer. **No measurements**: what an H100 comes to is in `docs/gpu.md`.

It is a ceiling of the main loop. Not in it are latencies, which so few warps hardly hide; prologue and \
epilogue; blocks that do not fill the card evenly (of 2048² there are 256 on an A100's 216 places); \
memory behind L2; and the rounding of float32 to bf16 that goes before a product under `--bf16`.

Written by `kernels/tests/ptx/bounds.rs`; registers and warps are in `static.json`.

| kernel | card | warps |"
        .to_owned();
    UNITS.iter().for_each(|unit| write!(table, " {unit} |").expect("a string"));
    table.push_str(" bound | of the data sheet |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for turns in &loops {
        let name = &turns.kernel.spec().name;
        for card in &CARDS {
            let clocks = turns.clocks(card);
            let share = 100.0 * clocks[0] / clocks.iter().fold(0.0, |most, &c| c.max(most));
            let warps = warps(name, card.arch);
            write!(table, "| `{name}` | {} | {warps} |", card.name).expect("a string");
            clocks.iter().for_each(|c| write!(table, " {c:.0} |").expect("a string"));
            writeln!(table, " {share:.0} % | {:.0} % |", share * card.mma).expect("a string");
            // Small squares read twice as much for as many products.
            let least = match name.strip_prefix("gemm_tensor_cores_") {
                Some(of) if of.starts_with("small") => 65.0,
                Some(_) => 85.0,
                None => 70.0,
            };
            assert!(card.name == "H100" || share >= least, "{name} on {}: {share} %", card.name);
        }
    }
    if table != include_str!("../../perf/bounds.md") {
        let found = concat!(env!("CARGO_TARGET_TMPDIR"), "/bounds.md");
        std::fs::write(found, &table).expect("a temporary file");
        panic!("kernels/perf/bounds.md is not what {found} is:\n{table}");
    }
}
