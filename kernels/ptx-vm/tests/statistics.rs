//! Counts by hand: sectors, bank conflicts, traffic, instructions.

mod common;

use common::{module, run};
use ptx_vm::{Counts, Launch, Machine, Statistics};

/// One warp loads words `stride` apart from global or shared memory.
fn strided(space: &str, stride: u32, width: u32) -> Statistics {
    let mut machine = Machine::new();
    let data = machine.upload(&vec![0u32; 32 * 64]);
    let vector = match width {
        4 => ("", "%r8".to_owned()),
        8 => (".v2", "{%r8, %r9}".to_owned()),
        _ => (".v4", "{%r8, %r9, %r10, %r11}".to_owned()),
    };
    let (v, registers) = (vector.0, vector.1);
    let text = module(
        ".param .u64 x",
        &format!(
            ".shared .align 16 .b8 tile[8192];
             ld.param.u64 %rd0, [x]; mov.u32 %r0, %tid.x; mov.u32 %r1, tile;
             mad.wide.u32 %rd1, %r0, {bytes}, %rd0;
             mad.lo.u32 %r2, %r0, {bytes}, %r1;
             {}",
            if space == "global" {
                format!("ld.global{v}.u32 {registers}, [%rd1]; ret;")
            } else {
                format!("ld.shared{v}.u32 {registers}, [%r2]; ret;")
            },
            bytes = 4 * stride,
        ),
    );
    machine.checks.uninitialised = false;
    run(&mut machine, &text, Launch::linear(1, 32), &[data.into()]).unwrap()
}

#[test]
fn sectors_of_global_loads() {
    let of = |stride, width| {
        let Counts { sectors, ideal_sectors, .. } =
            strided("global", stride, width).of("ld.global");
        (sectors, ideal_sectors)
    };
    assert_eq!(of(1, 4), (4, 4), "coalesced");
    assert_eq!(of(8, 4), (32, 4), "a sector for each lane");
    assert_eq!(of(2, 4), (8, 4), "every other word");
    assert_eq!(of(0, 4), (1, 1), "one word for all");
    assert_eq!(of(4, 16), (16, 16), "whole vectors");
}

#[test]
fn wavefronts_of_shared_loads() {
    let of = |stride, width| {
        let counts = strided("shared", stride, width).of("ld.shared");
        (counts.wavefronts, counts.ideal_wavefronts)
    };
    assert_eq!(of(1, 4), (1, 1));
    assert_eq!(of(2, 4), (2, 1), "two words a bank");
    assert_eq!(of(32, 4), (32, 1), "one bank for all");
    assert_eq!(of(33, 4), (1, 1), "padding helps");
    assert_eq!(of(0, 4), (1, 1), "a broadcast");
    assert_eq!(of(2, 8), (2, 2), "half-warps");
    assert_eq!(of(4, 16), (4, 4), "quarter-warps");
    assert_eq!(of(8, 16), (8, 4), "quarter-warps, every other vector");
}

#[test]
fn traffic_and_instructions_add_up_over_blocks() {
    let mut machine = Machine::new();
    let (x, y) = (machine.upload(&[1f32; 256]), machine.alloc::<f32>(256));
    let unused = machine.upload(&[0u8]);
    let text = module(
        ".param .u64 x, .param .u64 y",
        "ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y];
         mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;
         mad.lo.u32 %r0, %r1, 64, %r0;
         mad.wide.u32 %rd0, %r0, 4, %rd0; mad.wide.u32 %rd1, %r0, 4, %rd1;
         ld.global.f32 %f0, [%rd0]; setp.lt.u32 %p0, %r0, 200;
         @%p0 st.global.f32 [%rd1], %f0; ret;",
    );
    let launch = Launch::linear(4, 64);
    let statistics = run(&mut machine, &text, launch, &[x.into(), y.into()]).unwrap();
    assert_eq!(statistics.blocks, 4);
    assert_eq!(statistics.traffic[&x.address].read, 1024);
    assert_eq!(statistics.traffic[&y.address].written, 800);
    assert!(!statistics.traffic.contains_key(&unused.address));
    assert_eq!(statistics.opcodes()["mad.wide.u32"], 2 * 8);
    assert_eq!(statistics.of("st.global").lanes, 200);
    assert_eq!(statistics.total().issued, 11 * 8);
    // 200 floats are 25 sectors.
    assert_eq!(statistics.of("st.global").sectors, 25);
    assert!(statistics.to_string().contains("ld.global.f32"));
}
