//! PTX that another compiler wrote: Triton knew nothing of this machine, so where its kernels give
//! the right numbers, the fragment maps, shuffles and copies are those of the manual.

mod common;

use common::{random, random_bf16, relative_l2, run, shared};
use ptx_vm::{Fault, Launch, Machine, Statistics};

/// Triton's matrix product: 64×64 tiles, `mma.sync` on bf16, `ldmatrix`, three stages of `cp.async`.
fn triton_matmul(text: &str) -> Result<(f64, Statistics), Fault> {
    let mut machine = Machine::new();
    let (m, n, k) = (128usize, 192usize, 160usize);
    let (a, b) = (random_bf16(m * k, 1), random_bf16(k * n, 2));
    let (pa, pb) = (machine.upload(&a), machine.upload(&b));
    let c = machine.alloc::<f32>(m * n);
    let launch = Launch { grid: [2, 3, 1], block: [128, 1, 1], shared: 48 * 1024 };
    let size = |x: usize| (x as u32).into();
    let args =
        [pa.into(), pb.into(), c.into(), size(m), size(n), size(k), 0u64.into(), 0u64.into()];
    let statistics = run(&mut machine, text, launch, &args)?;
    let mut exact = vec![0f64; m * n];
    for i in 0..m {
        for j in 0..n {
            let term = |x: usize| a[i * k + x].to_f64() * b[x * n + j].to_f64();
            exact[i * n + j] = (0..k).map(term).sum();
        }
    }
    Ok((relative_l2(&machine.download(c).unwrap(), &exact), statistics))
}

#[test]
fn triton_matmul_agrees_with_f64() {
    let Some(text) = shared("reference/ptx/tri_mm_80.ptx") else { return };
    let (error, statistics) = triton_matmul(&text).unwrap_or_else(|e| panic!("{e}"));
    assert!(error < 1e-6, "{error:e}");
    // 128·192·160 products, 2048 an instruction.
    assert_eq!(statistics.of("mma.sync").issued, 128 * 192 * 160 / 2048);
}

/// Triton's softmax of 5 rows of 500 numbers (its tile has 512 columns, the last are masked off), and
/// the relative error against f64.
fn triton_softmax(text: &str, perturb: Option<u64>) -> (Vec<f32>, f64) {
    let mut machine = Machine::new();
    machine.perturb = perturb;
    let (rows, columns) = (5usize, 500usize);
    let x = random(rows * columns, 3);
    let (px, y) = (machine.upload(&x), machine.alloc::<f32>(rows * columns));
    let launch = Launch { grid: [rows as u32, 1, 1], block: [128, 1, 1], shared: 64 };
    let args = [px.into(), y.into(), (columns as u32).into(), 0u64.into(), 0u64.into()];
    run(&mut machine, text, launch, &args).unwrap_or_else(|e| panic!("{e}"));
    let mut exact = Vec::new();
    for row in x.chunks(columns) {
        let e: Vec<f64> = row.iter().map(|v| f64::from(*v).exp()).collect();
        let sum: f64 = e.iter().sum();
        exact.extend(e.iter().map(|e| e / sum));
    }
    let y = machine.download(y).unwrap();
    let error = relative_l2(&y, &exact);
    (y, error)
}

#[test]
fn triton_softmax_agrees_with_f64() {
    let Some(text) = shared("reference/ptx/tri_softmax_80.ptx") else { return };
    let (exact, error) = triton_softmax(&text, None);
    assert!(error < 1e-7, "{error:e}");
    // Every `.approx` off by its bound: visible, and within a few ulps of f32.
    let (perturbed, error) = triton_softmax(&text, Some(1));
    assert!(perturbed != exact && error < 5e-7, "{error:e}");
    assert_eq!(perturbed, triton_softmax(&text, Some(1)).0);
}

/// Blocks run on any number of threads: same numbers, same counts.
#[test]
fn threads_change_nothing() {
    let Some(text) = shared("reference/ptx/tri_mm_80.ptx") else { return };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| triton_matmul(&text).unwrap_or_else(|e| panic!("{e}")))
    };
    let one = on(1);
    for threads in [2, 5] {
        assert_eq!(on(threads), one);
    }
}

/// Every barrier and wait of that kernel is needed, or its numbers are wrong or a check fires, but for
/// four: the waits of lines 424 and 425 are one instruction twice, and those of 295 and 296, at the
/// head of the loop, repeat what every way there has just done.
#[test]
fn triton_matmul_misses_every_barrier_and_wait() {
    let Some(text) = shared("reference/ptx/tri_mm_80.ptx") else { return };
    let needed = |line: &str| line.contains("bar.sync") || line.contains("cp.async.wait_group");
    let lines: Vec<&str> = text.lines().collect();
    let (mut removed, mut survived) = (0, Vec::new());
    for gone in (0..lines.len()).filter(|i| needed(lines[*i])) {
        let keep =
            |(i, line): (usize, &&str)| if i == gone { String::new() } else { (*line).to_owned() };
        let mutated: Vec<String> = lines.iter().enumerate().map(keep).collect();
        removed += 1;
        match triton_matmul(&mutated.join("\n")) {
            Ok((error, _)) if error < 1e-6 => survived.push(gone + 1),
            Ok((error, _)) => eprintln!("without line {}: wrong by {error:.1e}", gone + 1),
            Err(fault) => eprintln!("without line {}: {fault}", gone + 1),
        }
    }
    assert_eq!((removed, survived), (13, vec![295, 296, 424, 425]));
}
