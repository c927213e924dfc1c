//! What the parser accepts, and how it refuses the rest: with a line and a reason.

mod common;

use common::module;
use ptx_vm::Module;

fn refused(body: &str) -> String {
    let text = module(".param .u64 x", body);
    let error = Module::parse(&text).err().unwrap_or_else(|| panic!("accepted: {body}"));
    // The body begins on line 6.
    assert_eq!(error.line, 6, "{error}");
    error.message
}

#[test]
fn refusals_name_the_culprit() {
    for (body, culprit) in [
        ("add.u32 %r0, %r99, 1;", "`%r99` was never declared"),
        ("add.u32 %r0, %r1;", "3 operands were expected"),
        ("frobnicate.u32 %r0, %r1;", "not supported"),
        ("add.rz.f16 %h0, %h1, %h2;", "not supported"),
        ("fma.rn.relu.bf16x2 %b0, %b1, %b2, %b3;", "only conversions"),
        ("add.cc.u32 %r0, %r1, %r2;", "`.cc` is not supported"),
        ("add.sat.s32 %r0, %r1, %r2;", "only f32 saturates"),
        ("max.xorsign.abs.f32 %f0, %f1, %f2;", "`.xorsign` is not supported"),
        ("bra $NOWHERE;", "`$NOWHERE` does not exist"),
        ("mov.f32 %f0, 1.0;", "0fXXXXXXXX"),
        ("@%r0 ret;", "`%r0` is not a predicate"),
        ("bar.sync 1;", "only barrier 0"),
        ("ld.local.u32 %r0, [%r1];", "`.local` is not supported"),
        ("ld.global.v2.u32 {%r0}, [%rd0];", "2 registers"),
        ("cp.async.cg.shared.global [%r0], [%rd0], 8;", "8 bytes"),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%b0,%b1}, {%b2,%b3}, {%f0,%f1,%f2,%f3};",
            "wrong number of registers",
        ),
        (
            "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0}, {%d1}, {%d2}, {%d3};",
            "not supported",
        ),
        ("setp.lt.u32 %r0, %r1, %r2;", "must be a predicate"),
        ("selp.u32 %r0, %r1, %r2, %r3;", "must be a predicate"),
        ("st.global.u32 [%p0], %r0;", "cannot be an address"),
        ("add.u32 5, %r0, %r1;", "cannot be written to"),
        (".shared .b64 x[4000000000][4000000000];", "too much shared memory"),
        ("$A: $A: ret;", "stands twice"),
    ] {
        let message = refused(body);
        assert!(message.contains(culprit), "{body}: {message}");
    }
}

#[test]
fn broken_texts_are_errors_and_never_panics() {
    let good = module(".param .u64 x", "ld.param.u64 %rd0, [x];\n@%p0 add.u32 %r0, %r1, -1;\nret;");
    Module::parse(&good).unwrap();
    for cut in 0..good.len() {
        let _ = Module::parse(&good[..cut]);
        let mut changed = good.clone().into_bytes();
        for replacement in [b' ', b';', b'}', b'[', b'<', b'9', b'.', b'%'] {
            changed[cut] = replacement;
            let _ = Module::parse(std::str::from_utf8(&changed).unwrap());
        }
    }
}

#[test]
fn declarations_are_laid_out() {
    let text = "
.version 8.0
.target sm_80, debug
.address_size 64
.extern .shared .align 128 .b8 dynamic[];
.visible .entry first(.param .u32 n, .param .u64 .ptr .global .align 16 x, .param .align 8 .b8 s[12], .param .u8 c)
.reqntid 64, 2, 1
.minnctapersm 2
.maxnreg 96
{
    .shared .align 16 .b8 a[20];
    .shared .f64 b[4][2];
    .reg .pred %p;
    .reg .b32 %r<3>, %x;
    .reg .f64 %d<2>;
    ret;
}
.entry second() { ret; }
";
    let module = Module::parse(text).unwrap();
    assert_eq!((module.version.as_str(), module.target.as_str()), ("8.0", "sm_80 debug"));
    let first = module.kernel("first").unwrap();
    let layout: Vec<_> = first.parameters.iter().map(|p| (p.offset, p.size)).collect();
    assert_eq!(layout, [(0, 4), (8, 8), (16, 12), (28, 1)]);
    // 20 bytes, aligned to 24 for f64, and 64 more; dynamic memory at the next multiple of 128.
    assert_eq!((first.static_shared, first.dynamic_shared_offset), (88, 128));
    assert_eq!((first.max_threads, first.exact_threads), (Some(128), true));
    assert_eq!(first.max_registers, Some(96));
    let registers = first.registers;
    assert_eq!((registers.narrow, registers.wide, registers.predicates), (4, 2, 1));
    assert_eq!(module.kernel("second").unwrap().static_shared, 0);
    assert!(module.kernel("third").is_none());
}
