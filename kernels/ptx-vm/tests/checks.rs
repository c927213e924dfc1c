//! Every check fires on the bug it is for, says where, and can be switched off; the same code without
//! the bug passes.

mod common;

use common::{assert_kind, fault, module, one_warp, run};
use ptx_vm::{Arg, Checks, Fault, FaultKind, Launch, Machine};

/// Two warps: each thread writes its slot of shared memory and reads the slot of the thread `away`.
fn neighbours(barrier: &str, away: u32) -> String {
    module(
        ".param .u64 out",
        &format!(
            ".shared .align 4 .b8 tile[512];
             ld.param.u64 %rd0, [out];
             mov.u32 %r0, %tid.x;
             mad.wide.u32 %rd0, %r0, 4, %rd0;
             mov.u32 %r1, tile;
             mad.lo.u32 %r2, %r0, 4, %r1;
             st.shared.u32 [%r2], %r0;
             {barrier}
             xor.b32 %r3, %r0, {away};
             mad.lo.u32 %r3, %r3, 4, %r1;
             ld.shared.u32 %r4, [%r3];
             st.global.u32 [%rd0], %r4;
             ret;"
        ),
    )
}

fn run_neighbours(barrier: &str, away: u32, checks: Checks) -> Result<Vec<u32>, Fault> {
    let mut machine = Machine::new();
    machine.checks = checks;
    let out = machine.alloc::<u32>(64);
    run(&mut machine, &neighbours(barrier, away), Launch::linear(1, 64), &[out.into()])?;
    Ok(machine.download(out).unwrap())
}

#[test]
fn a_missing_barrier_is_a_race_that_names_both_threads() {
    let crossed: Vec<u32> = (0..64).map(|t| t ^ 32).collect();
    assert_eq!(run_neighbours("bar.sync 0;", 32, Checks::ALL).unwrap(), crossed);
    let checks = Checks { uninitialised: false, ..Checks::ALL };
    // The first warp runs alone: it reads what nobody wrote yet, and the second then writes it.
    let race = run_neighbours("", 32, checks).unwrap_err();
    assert_kind(&race, FaultKind::SharedRace);
    assert_eq!((race.thread, race.other), (32, Some(0)));
    assert!(race.source.starts_with("st.shared"), "{race}");
    // Without the check it runs to its end, wrongly, as hardware would.
    let unseen = run_neighbours("", 32, Checks { races: false, ..checks }).unwrap();
    assert_ne!(unseen, crossed);
}

#[test]
fn within_a_warp_the_warp_barrier_orders() {
    let race = run_neighbours("", 1, Checks::ALL).unwrap_err();
    assert_kind(&race, FaultKind::SharedRace);
    assert_eq!((race.thread, race.other), (0, Some(1)));
    let swapped: Vec<u32> = (0..64).map(|t| t ^ 1).collect();
    let whole = "bar.warp.sync 0xffffffff;";
    assert_eq!(run_neighbours(whole, 1, Checks::ALL).unwrap(), swapped);
    // But not between warps.
    assert!(run_neighbours(whole, 32, Checks { uninitialised: false, ..Checks::ALL }).is_err());
}

#[test]
fn lanes_of_one_store_may_agree_but_not_differ() {
    let store = |value: &str| {
        format!(
            ".shared .align 4 .b8 tile[4]; mov.u32 %r1, tile;
             st.shared.u32 [%r1], {value}; st.global.u32 [%rd0], 1; ret;"
        )
    };
    assert_eq!(one_warp(&store("7")).unwrap(), [1; 32]);
    let race = fault(&store("%r0"));
    assert_kind(&race, FaultKind::SharedRace);
    assert_eq!((race.thread, race.other), (1, Some(0)));
}

/// Two blocks; `body` runs with %rd0 the buffer and %r1 the block.
fn two_blocks(body: &str) -> Result<Vec<u32>, Fault> {
    let mut machine = Machine::new();
    let out = machine.upload(&[5u32; 64]);
    let head = "ld.param.u64 %rd0, [out]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;";
    let text = module(".param .u64 out", &format!("{head}\n{body}\nret;"));
    run(&mut machine, &text, Launch::linear(2, 1), &[out.into()])?;
    Ok(machine.download(out).unwrap())
}

#[test]
fn blocks_must_not_share_what_one_of_them_writes() {
    let write = "mad.wide.u32 %rd1, %r1, 2, %rd0; st.global.u16 [%rd1], %h0;";
    let apart = format!("mov.u16 %h0, 9;\n{write}");
    assert_eq!(two_blocks(&apart).unwrap()[0], 9 << 16 | 9);
    let race = two_blocks("st.global.u32 [%rd0], %r1;").unwrap_err();
    assert_kind(&race, FaultKind::BlockRace);
    assert!(race.other.is_some_and(|o| o != race.block[0]), "{race}");
    let read_write = "setp.eq.u32 %p0, %r1, 0;
         @%p0 ld.global.u32 %r2, [%rd0+8];
         @!%p0 st.global.u32 [%rd0+8], 1;";
    assert_kind(&two_blocks(read_write).unwrap_err(), FaultKind::BlockRace);
    // All may read, and all may update atomically, but not both.
    two_blocks("ld.global.u32 %r2, [%rd0];").unwrap();
    assert_eq!(two_blocks("red.global.add.u32 [%rd0], 2;").unwrap()[0], 9);
    for access in ["ld.global.u32 %r2, [%rd0];", "st.global.u32 [%rd0], 1;"] {
        let mixed =
            format!("setp.eq.u32 %p0, %r1, 0; @%p0 red.global.add.u32 [%rd0], 2; @!%p0 {access}");
        assert_kind(&two_blocks(&mixed).unwrap_err(), FaultKind::BlockRace);
    }
}

/// However many blocks there are, one never passes for another.
#[test]
fn blocks_far_apart_race_too() {
    let body = "ld.param.u64 %rd0, [x]; mov.u32 %r0, %ctaid.x;
         and.b32 %r1, %r0, 0x3fffff; setp.eq.u32 %p0, %r1, 0;
         @%p0 st.global.u32 [%rd0], %r0; ret;";
    let text = module(".param .u64 x", body);
    let mut machine = Machine::new();
    let x = machine.alloc::<u32>(1);
    let launch = Launch::linear((1 << 22) + 1, 1);
    let race = run(&mut machine, &text, launch, &[x.into()]).unwrap_err();
    assert_kind(&race, FaultKind::BlockRace);
    assert_eq!(race.block[0].abs_diff(race.other.unwrap()), 1 << 22);
}

#[test]
fn out_of_bounds_misaligned_and_freed() {
    let over = fault("ld.global.u32 %r1, [%rd0+4]; ret;");
    // That read is of what nobody wrote, for lanes inside the buffer.
    assert_kind(&over, FaultKind::UninitialisedMemory);
    let over = fault("st.global.u32 [%rd0+4], 1; ret;");
    assert_kind(&over, FaultKind::OutOfBounds);
    assert_eq!(over.lane(), 31);
    assert!(over.message.contains("byte 128 of a buffer of 128"), "{over}");
    assert_kind(&fault("st.global.u32 [%rd0+2], 1; ret;"), FaultKind::Misaligned);
    let vector = "mov.u32 %r1, 0; st.global.v4.u32 [%rd0], {%r1, %r1, %r1, %r1}; ret;";
    let odd = fault(vector);
    assert_kind(&odd, FaultKind::Misaligned);
    assert_eq!(odd.lane(), 1);
    let shared =
        ".shared .align 4 .b8 tile[64]; mov.u32 %r1, tile; st.shared.u32 [%r1+64], 1; ret;";
    assert_kind(&fault(shared), FaultKind::OutOfBounds);

    let mut machine = Machine::new();
    let gone = machine.upload(&[0u32; 4]);
    machine.free(gone).unwrap();
    assert_eq!(machine.free(gone), Err(FaultKind::UseAfterFree));
    let text = module(".param .u64 x", "ld.param.u64 %rd0, [x]; ld.global.u32 %r0, [%rd0]; ret;");
    let stale = run(&mut machine, &text, Launch::linear(1, 1), &[gone.into()]).unwrap_err();
    assert_kind(&stale, FaultKind::UseAfterFree);
    machine.checks.bounds = false;
    run(&mut machine, &text, Launch::linear(1, 1), &[gone.into()]).unwrap();
}

#[test]
fn reads_of_what_nobody_wrote() {
    let register = fault("add.u32 %r2, %r1, 1; ret;");
    assert_kind(&register, FaultKind::UninitialisedRegister);
    let some = "setp.lt.u32 %p0, %r0, 5; @%p0 mov.u32 %r1, 1; add.u32 %r2, %r1, 1; ret;";
    let some = fault(some);
    assert_kind(&some, FaultKind::UninitialisedRegister);
    assert_eq!(some.lane(), 5);
    assert_kind(&fault("@%p1 ret; ret;"), FaultKind::UninitialisedRegister);
    assert_kind(&fault("ld.global.u32 %r1, [%rd0]; ret;"), FaultKind::UninitialisedMemory);
    let shared =
        ".shared .align 4 .b8 tile[128]; mov.u32 %r1, tile; ld.shared.u32 %r2, [%r1]; ret;";
    assert_kind(&fault(shared), FaultKind::UninitialisedMemory);
    // A lane that does not choose an operand does not read it.
    let select = "setp.lt.u32 %p0, %r0, 5; @%p0 mov.u32 %r1, 1;
         selp.u32 %r2, %r1, 7, %p0; st.global.u32 [%rd0], %r2; ret;";
    assert_eq!(one_warp(select).unwrap()[4..6], [1, 7]);
}

#[test]
fn synchronising_while_apart() {
    let apart = |inside: &str| {
        format!(
            ".shared .align 16 .b8 tile[512]; mov.f32 %f0, 0f00000000; mov.u32 %r1, tile;
             setp.lt.u32 %p0, %r0, 5; @!%p0 bra $END; {inside} $END: ret;"
        )
    };
    for inside in [
        "bar.sync 0;",
        "bar.warp.sync 0xffffffff;",
        "shfl.sync.bfly.b32 %f1, %f0, 1, 31, 0xffffffff;",
        "vote.sync.ballot.b32 %b0, %p0, 0xffffffff;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%b0}, [%r1];",
    ] {
        assert_kind(&fault(&apart(inside)), FaultKind::DivergentSync);
    }
    // A mask of exactly those lanes is fine, but not one that a lane of it does not name.
    one_warp(&apart("shfl.sync.down.b32 %f1, %f0, 0, 31, 0x1f;")).unwrap();
    assert_kind(
        &fault(&apart("shfl.sync.down.b32 %f1, %f0, 1, 31, 0x1f;")),
        FaultKind::DivergentSync,
    );
}

/// Registers for a matrix product, and the product.
const MMA: [&str; 2] = [
    "mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
     mov.b32 %b1, 0; mov.b32 %b2, 0; mov.b32 %b3, 0;",
    "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32
         {%f0, %f1, %f2, %f3}, {%b1, %b2}, {%b3}, {%f0, %f1, %f2, %f3};",
];
const MATRIX: &str = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%b0}, [%r1];";

/// `.aligned` means all threads of the warp: one that has ended does not count as there.
#[test]
fn synchronising_with_lanes_that_ended() {
    let [registers, product] = MMA;
    let ended = |inside: &str| {
        format!(
            ".shared .align 16 .b8 tile[512]; {registers} mov.u32 %r1, tile;
             shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %r0;
             setp.ge.u32 %p0, %r0, 5; @%p0 ret; {inside} ret;"
        )
    };
    for inside in ["bar.sync 0;", "barrier.sync.aligned 0;", product, MATRIX] {
        let fault = fault(&ended(inside));
        assert_kind(&fault, FaultKind::DivergentSync);
        assert!(fault.message.contains("0000001f of ffffffff"), "{fault}");
    }
    // Shuffles and votes wait for those that have not ended.
    one_warp(&ended("shfl.sync.down.b32 %f1, %f0, 0, 31, 0xffffffff;")).unwrap();
}

/// The last warp of a block may be a part of one. It has barriers, but no tensor cores.
#[test]
fn part_of_a_warp() {
    let [registers, product] = MMA;
    let run = |inside: &str| {
        let text = module("", &format!("{registers} {inside} ret;"));
        run(&mut Machine::new(), &text, Launch::linear(1, 40), &[])
    };
    run("bar.sync 0;").unwrap();
    let fault = run(product).unwrap_err();
    assert_kind(&fault, FaultKind::DivergentSync);
    assert_eq!(fault.thread, 32);
}

#[test]
fn a_warp_that_leaves_before_the_barrier() {
    let text =
        module("", "mov.u32 %r0, %tid.x; setp.ge.u32 %p0, %r0, 32; @%p0 ret; bar.sync 0; ret;");
    let mut machine = Machine::new();
    let missing = run(&mut machine, &text, Launch::linear(1, 64), &[]).unwrap_err();
    assert_kind(&missing, FaultKind::MissingBarrier);
    assert!(missing.source.contains("bar.sync"), "{missing}");
    run(&mut machine, &text, Launch::linear(1, 32), &[]).unwrap();
}

#[test]
fn endless_loops_and_bad_launches_end() {
    let mut machine = Machine::new();
    machine.limits.instructions = 1000;
    let endless = module("", "$L: bra $L;");
    let stop = run(&mut machine, &endless, Launch::linear(1, 32), &[]).unwrap_err();
    assert_eq!(stop.kind, FaultKind::Timeout);
    let text = ".version 7.0 .target sm_80 .entry k(.param .u32 n) .maxntid 64, 1, 1 { ret; }";
    let text = text.replace(" .target", "\n.target").replace(" .entry", "\n.entry");
    let mut bad = |launch: Launch, args: &[Arg]| {
        let fault = run(&mut machine, &text, launch, args).unwrap_err();
        assert_eq!(fault.kind, FaultKind::BadLaunch);
        fault.message
    };
    assert!(bad(Launch::linear(1, 65), &[1u32.into()]).contains("made for 64"));
    assert!(bad(Launch::linear(1, 64), &[]).contains("0 arguments"));
    assert!(bad(Launch::linear(1, 64), &[1u64.into()]).contains("of 4 bytes"));
    assert!(bad(Launch::linear(0, 64), &[1u32.into()]).contains("grid"));
    let shared = Launch { shared: 1 << 20, ..Launch::linear(1, 64) };
    assert!(bad(shared, &[1u32.into()]).contains("shared memory"));
}

/// The lowest block's fault is reported, whatever the threads do.
#[test]
fn the_fault_does_not_depend_on_scheduling() {
    let body = "ld.param.u64 %rd0, [x]; mov.u32 %r0, %ctaid.x;
         setp.ge.u32 %p0, %r0, 37; @%p0 st.global.u32 [%rd0+4], %r0; ret;";
    let text = module(".param .u64 x", body);
    for _ in 0..5 {
        let mut machine = Machine::new();
        let x = machine.upload(&[0u32]);
        let fault = run(&mut machine, &text, Launch::linear(500, 32), &[x.into()]).unwrap_err();
        assert_eq!((fault.kind, fault.block), (FaultKind::OutOfBounds, [37, 0, 0]));
    }
}

/// Bytes that were never written stay so when they are copied, and the copy is exact at any offset.
#[test]
fn copies_between_buffers_keep_what_is_unwritten() {
    let mut machine = Machine::new();
    let (from, to) = (machine.alloc::<u8>(16).address, machine.upload(&[9u8; 16]).address);
    machine.memory.write(from + 4, &[1, 2, 3, 4, 5]).unwrap();
    machine.memory.copy(to, from, 16).unwrap();
    let mut bytes = [0; 16];
    machine.memory.read(to, &mut bytes).unwrap();
    assert_eq!(bytes[4..9], [1, 2, 3, 4, 5]);
    assert_eq!(machine.memory.first_unwritten(to, 16), Ok(Some(0)));
    assert_eq!(machine.memory.first_unwritten(to + 4, 12), Ok(Some(5)));
    machine.memory.copy(to + 1, from + 5, 3).unwrap();
    machine.memory.read(to, &mut bytes).unwrap();
    assert_eq!(bytes[1..4], [2, 3, 4]);
    // Overlapping, within one buffer.
    machine.memory.copy(to + 2, to + 1, 3).unwrap();
    machine.memory.read(to, &mut bytes).unwrap();
    assert_eq!(bytes[1..5], [2, 2, 3, 4]);
    assert_eq!(machine.memory.copy(to + 10, from, 7), Err(FaultKind::OutOfBounds));
    machine.memory.fill(to, 7, 16).unwrap();
    assert_eq!(machine.memory.first_unwritten(to, 16), Ok(None));
}
