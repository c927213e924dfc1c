//! Asynchronous copies: waited for, by the threads that began them, and met at a barrier.

mod common;

use common::{assert_kind, fault, module, one_warp, run};
use ptx_vm::{Fault, FaultKind, Launch, Machine};

/// One warp copies 512 bytes into shared memory, then does `then` and reads 16 of them.
fn copies(then: &str) -> Result<Vec<u32>, Fault> {
    let mut machine = Machine::new();
    let source: Vec<u32> = (0..128).collect();
    let (from, out) = (machine.upload(&source), machine.alloc::<u32>(32));
    let text = module(
        ".param .u64 from, .param .u64 out",
        &format!(
            ".shared .align 16 .b8 tile[512];
             ld.param.u64 %rd0, [from]; ld.param.u64 %rd1, [out];
             mov.u32 %r0, %tid.x;
             mov.u32 %r1, tile;
             mad.wide.u32 %rd2, %r0, 16, %rd0;
             mad.lo.u32 %r2, %r0, 16, %r1;
             cp.async.cg.shared.global [%r2], [%rd2], 16;
             cp.async.commit_group;
             xor.b32 %r3, %r0, 31;
             mad.lo.u32 %r3, %r3, 16, %r1;
             {then}
             ld.shared.u32 %r4, [%r3+4];
             mad.wide.u32 %rd1, %r0, 4, %rd1;
             st.global.u32 [%rd1], %r4;
             ret;"
        ),
    );
    run(&mut machine, &text, Launch::linear(1, 32), &[from.into(), out.into()])?;
    Ok(machine.download(out).unwrap())
}

#[test]
fn copies_must_be_waited_for_and_then_met_at_a_barrier() {
    let reversed: Vec<u32> = (0..32).map(|t| 4 * (31 - t) + 1).collect();
    let wait = "cp.async.wait_group 0;";
    assert_eq!(copies(&format!("{wait} bar.sync 0;")).unwrap(), reversed);
    assert_eq!(copies("cp.async.wait_all; bar.sync 0;").unwrap(), reversed);
    let kind = |then: &str| copies(then).unwrap_err().kind;
    assert_eq!(kind("bar.sync 0;"), FaultKind::AsyncInFlight, "no wait");
    assert_eq!(kind("cp.async.wait_group 1; bar.sync 0;"), FaultKind::AsyncInFlight);
    assert_eq!(kind(wait), FaultKind::SharedRace, "no barrier");
    let overwrite = format!("st.shared.u32 [%r2], %r0; {wait} bar.sync 0;");
    assert_eq!(kind(&overwrite), FaultKind::AsyncInFlight, "written while in flight");
}

#[test]
fn copies_fill_with_zeros_beyond_what_is_valid() {
    let body = ".shared .align 16 .b8 tile[16];
         mov.u32 %r1, tile; sub.u32 %r2, %r0, %r0;
         setp.ne.u32 %p0, %r0, 0; @%p0 bra $END;
         cp.async.ca.shared.global [%r1], [%rd0], 4, %r2;
         cp.async.wait_all;
         ld.shared.u32 %r3, [%r1]; st.global.u32 [%rd0], %r3;
         $END: ret;";
    assert_eq!(one_warp(body).unwrap()[0], 0);
}

#[test]
fn no_more_is_valid_than_is_copied() {
    let body = ".shared .align 16 .b8 tile[16];
         mov.u32 %r1, tile; mov.u32 %r2, 5; st.global.u32 [%rd0], %r2; bar.sync 0;
         cp.async.ca.shared.global [%r1], [%rd0], 4, %r2; ret;";
    assert_kind(&fault(body), FaultKind::OutOfBounds);
}

/// Groups are a thread's own: what some lanes commit and wait for is theirs alone.
#[test]
fn lanes_wait_for_their_own_groups() {
    let half = "setp.lt.u32 %p0, %r0, 16;";
    let in_flight = |then: &str, lane: u32| {
        let fault = copies(&format!("{half} {then} bar.sync 0; xor.b32 %r3, %r2, 0;")).unwrap_err();
        assert_kind(&fault, FaultKind::AsyncInFlight);
        assert_eq!(fault.lane(), lane, "{fault}");
    };
    // Of the lower lanes nothing is in flight but an empty group; of the others, their copies are.
    in_flight("@%p0 cp.async.commit_group; cp.async.wait_group 1;", 16);
    in_flight("@%p0 cp.async.wait_group 0;", 16);
    in_flight("@!%p0 cp.async.wait_all;", 0);
    // Both halves wait, one after the other.
    let apart = "@%p0 cp.async.wait_group 0; @!%p0 cp.async.commit_group;
         @!%p0 cp.async.wait_group 1; bar.sync 0;";
    let reversed: Vec<u32> = (0..32).map(|t| 4 * (31 - t) + 1).collect();
    assert_eq!(copies(&format!("{half} {apart}")).unwrap(), reversed);
}
