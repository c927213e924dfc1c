//! PTX that another compiler wrote: Triton knew nothing of this machine, so where its kernels give
//! the right numbers, the fragment maps, shuffles and copies are those of the manual.

mod common;

use common::{random, random_bf16, relative_l2, run, shared};
use ptx_vm::{Launch, Machine, Statistics};

/// Triton's matrix product: 64×64 tiles, `mma.sync` on bf16, `ldmatrix`, three stages of `cp.async`.
fn triton_matmul(machine: &mut Machine, text: &str) -> (f64, Statistics) {
    let (m, n, k) = (128usize, 192usize, 160usize);
    let (a, b) = (random_bf16(m * k, 1), random_bf16(k * n, 2));
    let (pa, pb) = (machine.upload(&a), machine.upload(&b));
    let c = machine.alloc::<f32>(m * n);
    let launch = Launch { grid: [2, 3, 1], block: [128, 1, 1], shared: 48 * 1024 };
    let size = |x: usize| (x as u32).into();
    let args =
        [pa.into(), pb.into(), c.into(), size(m), size(n), size(k), 0u64.into(), 0u64.into()];
    let statistics = run(machine, text, launch, &args).unwrap_or_else(|e| panic!("{e}"));
    let mut exact = vec![0f64; m * n];
    for i in 0..m {
        for j in 0..n {
            let term = |x: usize| a[i * k + x].to_f64() * b[x * n + j].to_f64();
            exact[i * n + j] = (0..k).map(term).sum();
        }
    }
    (relative_l2(&machine.download(c).unwrap(), &exact), statistics)
}

#[test]
fn triton_matmul_agrees_with_f64() {
    let Some(text) = shared("reference/ptx/tri_mm_80.ptx") else { return };
    let (error, statistics) = triton_matmul(&mut Machine::new(), &text);
    assert!(error < 1e-6, "{error:e}");
    // 128·192·160 products, 2048 an instruction.
    assert_eq!(statistics.of("mma.sync").issued, 128 * 192 * 160 / 2048);
}

#[test]
fn triton_softmax_agrees_with_f64() {
    let Some(text) = shared("reference/ptx/tri_softmax_80.ptx") else { return };
    for perturb in [None, Some(1)] {
        let mut machine = Machine::new();
        machine.perturb = perturb;
        // Triton's tile has 512 columns; the last ones are masked off.
        let (rows, columns) = (5usize, 500usize);
        let x = random(rows * columns, 3);
        let (px, y) = (machine.upload(&x), machine.alloc::<f32>(rows * columns));
        let launch = Launch { grid: [rows as u32, 1, 1], block: [128, 1, 1], shared: 64 };
        let args = [px.into(), y.into(), (columns as u32).into(), 0u64.into(), 0u64.into()];
        run(&mut machine, &text, launch, &args).unwrap_or_else(|e| panic!("{e}"));
        let mut exact = Vec::new();
        for row in x.chunks(columns) {
            let e: Vec<f64> = row.iter().map(|v| f64::from(*v).exp()).collect();
            let sum: f64 = e.iter().sum();
            exact.extend(e.iter().map(|e| e / sum));
        }
        let error = relative_l2(&machine.download(y).unwrap(), &exact);
        let allowed = if perturb.is_some() { 5e-7 } else { 1e-7 };
        assert!(error < allowed, "{error:e}");
    }
}

/// Every barrier and wait of that kernel but the last is needed: without one, a check fires or the
/// numbers are wrong.
#[test]
fn triton_matmul_misses_every_barrier_and_wait() {
    let Some(text) = shared("reference/ptx/tri_mm_80.ptx") else { return };
    let needed = |line: &str| line.contains("bar.sync") || line.contains("cp.async.wait_group");
    let lines: Vec<&str> = text.lines().collect();
    let mut caught = 0;
    let all: Vec<usize> = (0..lines.len()).filter(|i| needed(lines[*i])).collect();
    for &gone in &all {
        let mutated: Vec<&str> =
            lines.iter().enumerate().map(|(i, l)| if i == gone { "" } else { l }).collect();
        let (mutated, mut machine) = (mutated.join("\n"), Machine::new());
        let attempt = std::panic::AssertUnwindSafe(|| triton_matmul(&mut machine, &mutated).0);
        let survived = std::panic::catch_unwind(attempt).is_ok_and(|error| error < 1e-6);
        eprintln!("without line {}: {}", gone + 1, if survived { "right" } else { "caught" });
        caught += usize::from(!survived);
    }
    assert!(caught + 1 >= all.len(), "{caught} of {}", all.len());
}
