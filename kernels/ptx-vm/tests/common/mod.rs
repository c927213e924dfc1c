//! Helpers of the integration tests.
#![allow(dead_code)]

use ptx_vm::{Arg, Fault, FaultKind, Launch, Machine, Module, Statistics};
use std::io::Write as _;
use std::path::PathBuf;

/// A whole module around a body: registers %p, %r, %f, %rd, %d, %h of every class.
pub fn module(parameters: &str, body: &str) -> String {
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k({parameters}) {{\n\
         .reg .pred %p<8>; .reg .u32 %r<32>; .reg .f32 %f<32>; .reg .u64 %rd<16>; .reg .f64 %d<8>; \
         .reg .b16 %h<8>; .reg .b32 %b<16>;\n{body}\n}}\n"
    )
}

/// Runs the only kernel of a text.
pub fn run(
    machine: &mut Machine,
    text: &str,
    launch: Launch,
    args: &[Arg],
) -> Result<Statistics, Fault> {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    machine.launch(&module.kernels[0], launch, args)
}

/// Runs a body on one warp that stores to `[%rd0]`; returns what it stored there by lane.
pub fn one_warp(body: &str) -> Result<Vec<u32>, Fault> {
    let mut machine = Machine::new();
    let out = machine.alloc::<u32>(32);
    let head = "ld.param.u64 %rd0, [out];\nmov.u32 %r0, %tid.x;\nmad.wide.u32 %rd0, %r0, 4, %rd0;";
    let text = module(".param .u64 out", &format!("{head}\n{body}"));
    run(&mut machine, &text, Launch::linear(1, 32), &[out.into()])?;
    Ok(machine.download(out).unwrap())
}

/// The fault a body of one warp stops with.
pub fn fault(body: &str) -> Fault {
    one_warp(body).expect_err("this has to stop")
}

/// Asserts the kind of fault and that it says where.
pub fn assert_kind(fault: &Fault, kind: FaultKind) {
    assert_eq!(fault.kind, kind, "{fault}");
    assert!(fault.line > 0 && !fault.source.is_empty(), "{fault}");
}

/// Numbers in [−1, 1), the same for the same seed.
pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The same, as bf16.
pub fn random_bf16(n: usize, seed: u64) -> Vec<half::bf16> {
    random(n, seed).into_iter().map(half::bf16::from_f32).collect()
}

/// ‖x − y‖ / ‖y‖.
pub fn relative_l2(x: &[f32], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    let square =
        |f: &dyn Fn((&f32, &f64)) -> f64| x.iter().zip(y).map(f).map(|d| d * d).sum::<f64>();
    let norm = square(&|(_, y)| *y);
    (square(&|(x, y)| f64::from(*x) - y) / norm).sqrt()
}

/// A file of the shared folder; `None`, said loudly, where there is none.
pub fn shared(file: &str) -> Option<String> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("DDIT_SHARED").map_or(beside, PathBuf::from);
    let path = root.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(_) if std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|v| v == "1") => {
            panic!("{} is not there", path.display())
        }
        Err(_) => {
            // Past the capture of output, which would hide it.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not there", path.display());
            None
        }
    }
}
