//! Races of the threads of a block in global memory, and those of atomics in both memories.

mod common;

use common::{assert_kind, module, run};
use ptx_vm::{Checks, Fault, FaultKind, Launch, Machine};

/// A block of 64 threads and 65 numbers, all 5: `body` runs with the thread in %r0, a place in shared
/// memory in %r1, the numbers at %rd0, the thread's own at %rd1 and the one of the thread `away` at
/// %rd2.
fn block(away: u32, body: &str) -> Result<Vec<u32>, Fault> {
    let text = module(
        ".param .u64 x",
        &format!(
            ".shared .align 16 .b8 tile[256];
             ld.param.u64 %rd0, [x]; mov.u32 %r0, %tid.x; mov.u32 %r1, tile;
             mad.wide.u32 %rd1, %r0, 4, %rd0;
             xor.b32 %r2, %r0, {away}; mad.wide.u32 %rd2, %r2, 4, %rd0;
             setp.eq.u32 %p0, %r0, 0;
             {body}
             ret;"
        ),
    );
    let mut machine = Machine::new();
    let x = machine.upload(&[5u32; 65]);
    run(&mut machine, &text, Launch::linear(1, 64), &[x.into()])?;
    Ok(machine.download(x).unwrap())
}

/// The fault of a block.
fn race(away: u32, body: &str, kind: FaultKind) -> Fault {
    let fault = block(away, body).expect_err(body);
    assert_kind(&fault, kind);
    fault
}

#[test]
fn threads_meet_at_a_barrier_before_they_exchange_numbers() {
    let exchange = |sync: &str| {
        format!(
            "st.global.u32 [%rd1], %r0; {sync} ld.global.u32 %r3, [%rd2]; bar.sync 0;
             st.global.u32 [%rd1], %r3;"
        )
    };
    let crossed: Vec<u32> = (0..64).map(|t| t ^ 32).collect();
    assert_eq!(block(32, &exchange("bar.sync 0;")).unwrap()[..64], crossed);
    // A fence makes writes visible, but nobody waits for them.
    for sync in ["", "membar.gl;", "bar.warp.sync 0xffffffff;"] {
        let race = race(32, &exchange(sync), FaultKind::GlobalRace);
        assert_eq!((race.thread, race.other), (32, Some(0)), "{race}");
        assert!(race.message.contains("byte 128 of a buffer of 260"), "{race}");
    }
}

#[test]
fn within_a_warp_its_own_barrier_suffices() {
    let exchange =
        |sync: &str| format!("st.global.u32 [%rd1], %r0; {sync} ld.global.u32 %r3, [%rd2];");
    race(1, &exchange(""), FaultKind::GlobalRace);
    block(1, &exchange("bar.warp.sync 0xffffffff;")).unwrap();
    // Of half a warp it is no barrier for the other half.
    let half = "and.b32 %r4, %r0, 31; setp.lt.u32 %p1, %r4, 16; @%p1 bar.warp.sync 0xffff;";
    race(1, &exchange(half), FaultKind::GlobalRace);
}

#[test]
fn writes_of_one_place() {
    // All read it: no race.
    block(0, "ld.global.u32 %r3, [%rd0];").unwrap();
    let of_warp_0 =
        |value: &str| format!("setp.lt.u32 %p1, %r0, 32; @%p1 st.global.u32 [%rd0], {value};");
    // Lanes of one instruction may agree, but not differ.
    assert_eq!(block(0, &of_warp_0("7")).unwrap()[0], 7);
    let differ = race(0, &of_warp_0("%r0"), FaultKind::GlobalRace);
    assert_eq!((differ.thread, differ.other), (1, Some(0)));
    // Warps are not together, even if they agree.
    race(0, "st.global.u32 [%rd0], 7;", FaultKind::GlobalRace);
    let read_then_write = "ld.global.u32 %r3, [%rd0]; @%p0 st.global.u32 [%rd0], 1;";
    let found = race(0, read_then_write, FaultKind::GlobalRace);
    assert_eq!((found.thread, found.other), (0, None), "many have read: {found}");
    // Halves of a word are different places, and shared by no one.
    block(0, "mov.u16 %h0, 1; mad.wide.u32 %rd3, %r0, 2, %rd0; st.global.u16 [%rd3], %h0;")
        .unwrap();
}

/// What one block did is forgotten when the next runs in its place.
#[test]
fn blocks_do_not_race_with_the_past_of_others() {
    let body = "ld.param.u64 %rd0, [x]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;
         shl.b32 %r2, %r1, 6; add.u32 %r2, %r2, %r0; mad.wide.u32 %rd1, %r2, 4, %rd0;
         st.global.u32 [%rd1], %r0; bar.sync 0; xor.b32 %r2, %r2, 32;
         mad.wide.u32 %rd1, %r2, 4, %rd0; ld.global.u32 %r3, [%rd1]; ret;";
    let text = module(".param .u64 x", body);
    let mut machine = Machine::new();
    let x = machine.alloc::<u32>(64 * 300);
    for _ in 0..2 {
        run(&mut machine, &text, Launch::linear(300, 64), &[x.into()]).unwrap();
    }
    let broken = text.replace("bar.sync 0;", "");
    let found = run(&mut machine, &broken, Launch::linear(300, 64), &[x.into()]).unwrap_err();
    assert_eq!((found.kind, found.block), (FaultKind::GlobalRace, [0, 0, 0]));
    machine.checks = Checks { races: false, ..Checks::ALL };
    run(&mut machine, &broken, Launch::linear(300, 64), &[x.into()]).unwrap();
}

/// A counter in shared memory: made zero by one thread, counted up by all, read by one.
#[test]
fn a_counter_needs_a_barrier_before_and_after() {
    let count = |before: &str, after: &str| {
        format!(
            "@%p0 st.shared.u32 [%r1], 0; {before} atom.shared.add.u32 %r3, [%r1], 1;
             {after} @%p0 ld.shared.u32 %r4, [%r1]; @%p0 st.global.u32 [%rd0], %r4;"
        )
    };
    let sync = "bar.sync 0;";
    assert_eq!(block(0, &count(sync, sync)).unwrap()[0], 64);
    let early = race(0, &count("", sync), FaultKind::SharedRace);
    assert_eq!((early.thread, early.other), (1, Some(0)), "{early}");
    assert!(early.message.contains("updated atomically"), "{early}");
    // The first warp reads while the second still counts.
    race(0, &count(sync, ""), FaultKind::SharedRace);
}

#[test]
fn a_counter_in_global_memory_likewise() {
    let count = |before: &str, after: &str| {
        format!(
            "@%p0 st.global.u32 [%rd0], 0; {before} red.global.add.u32 [%rd0], 1;
             {after} @%p0 ld.global.u32 %r4, [%rd0]; @%p0 st.global.u32 [%rd0+4], %r4;"
        )
    };
    let sync = "bar.sync 0;";
    assert_eq!(block(0, &count(sync, sync)).unwrap()[1], 64);
    race(0, &count("", sync), FaultKind::GlobalRace);
    race(0, &count(sync, ""), FaultKind::GlobalRace);
    // A plain write after an update, and an update after a plain read.
    race(0, "red.global.add.u32 [%rd0], 1; @%p0 st.global.u32 [%rd0], 0;", FaultKind::GlobalRace);
    race(0, "ld.global.u32 %r3, [%rd0]; red.global.add.u32 [%rd0], 1;", FaultKind::GlobalRace);
}

#[test]
fn atomics_are_checked_as_other_accesses_are() {
    let shared = |update: &str, kind| race(0, update, kind);
    shared("atom.shared.add.u32 %r3, [%r1], 1;", FaultKind::UninitialisedMemory);
    shared("atom.shared.add.u32 %r3, [%r1+256], 1;", FaultKind::OutOfBounds);
    shared("atom.shared.add.u32 %r3, [%r1+2], 1;", FaultKind::Misaligned);
    race(0, "red.global.add.u32 [%rd0+260], 1;", FaultKind::OutOfBounds);
    race(0, "red.global.add.u32 [%rd0+2], 1;", FaultKind::Misaligned);
    let copied = "@%p0 cp.async.ca.shared.global [%r1], [%rd0], 4; bar.sync 0;";
    race(0, &format!("{copied} atom.shared.add.u32 %r3, [%r1], 1;"), FaultKind::AsyncInFlight);

    let mut machine = Machine::new();
    let x = machine.alloc::<u32>(1);
    let text =
        module(".param .u64 x", "ld.param.u64 %rd0, [x]; red.global.add.u32 [%rd0], 1; ret;");
    let unwritten = run(&mut machine, &text, Launch::linear(1, 1), &[x.into()]).unwrap_err();
    assert_kind(&unwritten, FaultKind::UninitialisedMemory);
    machine.checks.uninitialised = false;
    run(&mut machine, &text, Launch::linear(1, 1), &[x.into()]).unwrap();
}
