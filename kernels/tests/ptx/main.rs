//! Every GPU kernel, run on the virtual machine with all checks on, beside its CPU kernel.
//!
//! Where the order of operations is the same, so are the bits. What approximate instructions and tensor
//! cores make is checked with them as exact as can be, and as far off as a card may be: see
//! [`perturbed`].

mod adamw;
mod attention;
mod bounds;
mod builder;
mod conv;
mod elementwise;
mod gemm;
mod norms;
mod parts;
mod random;
mod registry;
mod rows;
mod sums;
mod table;

use std::cell::Cell;

use kernels::ptx::Kernel;
use kernels::random::philox4x32;
use ptx_vm::{Arg, Fault, Launch, Machine, MmaSums, Module, Statistics};

/// Runs a kernel on a problem of this extent.
fn launch(
    gpu: &mut Machine,
    kernel: &Kernel,
    extent: [usize; 3],
    args: &[Arg],
) -> Result<Statistics, Fault> {
    let spec = kernel.spec();
    let module = Module::parse(&kernel.ptx()).expect("the machine reads what we print");
    let shared = if spec.shared_is_dynamic() { spec.shared } else { 0 };
    let grid = spec.grid(extent).expect("a grid");
    let launch = Launch { grid, block: [spec.threads, 1, 1], shared };
    (gpu.perturb, gpu.mma_sums) = ARITHMETIC.get();
    gpu.launch(module.kernel(&spec.name).expect("the kernel"), launch, args)
}

thread_local! {
    /// What this thread's launches do to the results of approximate instructions, and to sums inside
    /// tensor cores.
    static ARITHMETIC: Cell<(Option<u64>, MmaSums)> =
        const { Cell::new((None, MmaSums::Nearest)) };
}

/// What a check answers in one arithmetic.
fn bits_in(arithmetic: (Option<u64>, MmaSums), check: &impl Fn() -> Vec<f32>) -> Vec<u32> {
    let before = ARITHMETIC.replace(arithmetic);
    let answer = check().into_iter().map(f32::to_bits).collect();
    ARITHMETIC.set(before);
    answer
}

/// Runs a check as it is, and with sums inside tensor cores cut off as a card does it. Whether that
/// showed in what `check` answers, which is what it was given.
fn truncated(check: impl Fn() -> Vec<f32>) -> bool {
    let [nearest, truncated] =
        [MmaSums::Nearest, MmaSums::Truncated].map(|sums| bits_in((None, sums), &check));
    nearest != truncated
}

/// The same, and with the result of every approximate instruction off by as much as its manual
/// allows, in one direction or the other by chance, and then each in the opposite one. Whether the
/// direction showed.
fn perturbed(check: impl Fn() -> Vec<f32>) -> bool {
    let seed = 11;
    let exact = bits_in((None, MmaSums::Nearest), &check);
    let [one, other] =
        [seed, seed | 1 << 63].map(|seed| bits_in((Some(seed), MmaSums::Truncated), &check));
    exact != one && exact != other && one != other
}

/// [`launch`] of what has no fault.
fn run(gpu: &mut Machine, kernel: &Kernel, extent: [usize; 3], args: &[Arg]) -> Statistics {
    launch(gpu, kernel, extent, args).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Numbers between −`scale` and `scale`.
fn numbers(n: usize, scale: f32, seed: u32) -> Vec<f32> {
    let word = |i: usize| philox4x32([seed, 1], [i as u32, 0, 0, 0])[0];
    (0..n).map(|i| scale * (word(i) as f32 / 2f32.powi(31) - 1.0)).collect()
}

/// Asserts equal bits; one NaN is like another.
fn assert_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}: element {i} is {got:e}, not {want:e}");
    }
}
