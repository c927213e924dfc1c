//! Instructions by their results: one warp, one store.

mod common;

use common::{module, one_warp, run};
use ptx_vm::{Launch, Machine};

/// Lane 0's and lane 3's result of instructions that leave it in %r9; %r0 is the lane.
fn eval(body: &str) -> [u32; 2] {
    let out = one_warp(&format!("{body}\nst.global.b32 [%rd0], %r9; ret;"));
    let out = out.unwrap_or_else(|e| panic!("{body}: {e}"));
    [out[0], out[3]]
}

/// An instruction of f32 operands given by value.
fn float(instruction: &str, operands: &[f32]) -> f32 {
    let list: Vec<String> = operands.iter().map(|x| format!("0f{:08X}", x.to_bits())).collect();
    f32::from_bits(eval(&format!("{instruction} %r9, {};", list.join(", ")))[0])
}

#[test]
fn integers() {
    for (body, expected) in [
        ("sub.u32 %r9, 0, 1;", u32::MAX),
        ("mul.hi.u32 %r9, 0xffffffff, 0xffffffff;", 0xFFFF_FFFE),
        ("mul.hi.s32 %r9, -1, 5;", u32::MAX),
        ("div.s32 %r9, -7, 2;", -3i32 as u32),
        ("rem.s32 %r9, -7, 2;", u32::MAX),
        ("div.u32 %r9, -7, 2;", (u32::MAX - 6) / 2),
        ("shr.s32 %r9, -8, 40;", u32::MAX),
        ("shr.u32 %r9, -8, 40;", 0),
        ("shl.b32 %r9, 1, 32;", 0),
        ("min.s32 %r9, -1, 1;", u32::MAX),
        ("min.u32 %r9, -1, 1;", 1),
        ("abs.s32 %r9, -5;", 5),
        ("popc.b32 %r9, 0xff;", 8),
        ("clz.b32 %r9, 1;", 31),
        ("brev.b32 %r9, 1;", 1 << 31),
        ("not.b32 %r9, 0;", u32::MAX),
        ("bfe.u32 %r9, 0xabcd, 4, 8;", 0xBC),
        ("bfi.b32 %r9, 0xf, 0, 8, 4;", 0xF00),
        ("prmt.b32 %r9, 0x33221100, 0x77665544, 0x7531;", 0x7755_3311),
        ("lop3.b32 %r9, 12, 10, 6, 0x96;", 12 ^ 10 ^ 6),
        ("shf.l.wrap.b32 %r9, 0x80000000, 1, 33;", 3),
        ("shf.r.clamp.b32 %r9, 1, 3, 40;", 3),
        ("mov.u64 %rd1, 0x100000005; cvt.u32.u64 %r9, %rd1;", 5),
        ("mov.s64 %rd1, -3; shr.s64 %rd1, %rd1, 1; cvt.u32.u64 %r9, %rd1;", -2i32 as u32),
        ("mul.wide.s32 %rd1, -2, 3; shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r9, %rd1;", u32::MAX),
        ("mov.b64 %rd1, {7, 9}; mov.b64 {%r1, %r9}, %rd1;", 9),
        ("mov.u16 %h0, 0xfffe; cvt.s32.s16 %r9, %h0;", -2i32 as u32),
        ("mov.u16 %h0, 0xfffe; mov.u16 %h1, 3; add.u16 %h2, %h0, %h1; cvt.u32.u16 %r9, %h2;", 1),
        ("mov.u16 %h0, 1; mov.u16 %h1, 2; mov.b32 %r9, {%h0, %h1};", 0x2_0001),
    ] {
        assert_eq!(eval(body)[0], expected, "{body}");
    }
}

#[test]
fn lanes_see_themselves() {
    assert_eq!(eval("mov.u32 %r9, %laneid;"), [0, 3]);
    assert_eq!(eval("mov.u32 %r9, %lanemask_lt;"), [0, 7]);
    assert_eq!(eval("setp.gt.u32 %p0, %r0, 2; selp.u32 %r9, 8, 9, %p0;"), [9, 8]);
    assert_eq!(eval("setp.gt.u32 %p0|%p1, %r0, 2; selp.u32 %r9, 8, 9, %p1;"), [8, 9]);
    let both =
        "setp.gt.u32 %p0, %r0, 2; setp.lt.and.u32 %p1, %r0, 9, %p0; selp.u32 %r9, 1, 0, %p1;";
    assert_eq!(eval(both), [0, 1]);
    let logic = "setp.gt.u32 %p0, %r0, 2; not.pred %p1, %p0; or.pred %p2, %p1, !%p0; \
                 selp.u32 %r9, 1, 0, %p2;";
    assert_eq!(eval(logic), [1, 0]);
    // Odd lanes loop longer; all meet again before the shuffle.
    let apart = "mov.u32 %r9, 0; and.b32 %r1, %r0, 1; mad.lo.u32 %r1, %r1, 3, 2;
         $L: add.u32 %r9, %r9, 1; sub.u32 %r1, %r1, 1; setp.ne.u32 %p0, %r1, 0; @%p0 bra $L;
         shfl.sync.down.b32 %r9, %r9, 1, 31, -1;";
    assert_eq!(eval(apart), [5, 2]);
}

#[test]
fn lanes_talk() {
    assert_eq!(eval("shfl.sync.bfly.b32 %r9, %r0, 5, 31, -1;"), [5, 6]);
    assert_eq!(eval("shfl.sync.up.b32 %r9, %r0, 1, 0, -1;"), [0, 2]);
    assert_eq!(eval("shfl.sync.idx.b32 %r9, %r0, 7, 31, -1;"), [7, 7]);
    // Segments of four lanes.
    assert_eq!(eval("shfl.sync.idx.b32 %r9|%p0, %r0, 2, 0x1c1f, -1;"), [2, 2]);
    assert_eq!(
        eval("shfl.sync.down.b32 %r9|%p0, %r0, 1, 0x1c03, -1; @!%p0 mov.u32 %r9, 99;"),
        [1, 99]
    );
    assert_eq!(eval("setp.lt.u32 %p0, %r0, 4; vote.sync.ballot.b32 %r9, %p0, -1;"), [15, 15]);
    let any = "setp.eq.u32 %p0, %r0, 4; vote.sync.any.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;";
    assert_eq!(eval(any), [1, 1]);
    assert_eq!(eval("redux.sync.add.u32 %r9, %r0, -1;"), [496, 496]);
    assert_eq!(eval("sub.s32 %r1, 3, %r0; redux.sync.min.s32 %r9, %r1, -1;"), [-28i32 as u32; 2]);
    assert_eq!(eval("activemask.b32 %r9;"), [u32::MAX; 2]);
}

#[test]
fn floats_round_once_and_as_told() {
    let (a, b) = (1.0 + f32::EPSILON, 1.0 - f32::EPSILON);
    assert_eq!(float("fma.rn.f32", &[a, b, -1.0]), -f32::EPSILON * f32::EPSILON);
    assert_eq!(float("mul.rn.f32", &[a, b]), 1.0);
    assert_eq!(float("mul.rz.f32", &[a, b]), 1f32.next_down());
    assert_eq!(float("add.rp.f32", &[1.0, 1e-30]), 1f32.next_up());
    assert_eq!(float("div.rn.f32", &[1.0, 3.0]), 1.0 / 3.0);
    assert_eq!(float("sqrt.rn.f32", &[2.0]), 2f32.sqrt());
    assert_eq!(float("max.f32", &[f32::NAN, -1.0]), -1.0);
    assert!(float("max.NaN.f32", &[f32::NAN, -1.0]).is_nan());
    assert_eq!(float("add.sat.f32", &[0.75, 0.75]), 1.0);
    let tiny = f32::from_bits(3);
    assert_eq!(float("add.f32", &[tiny, tiny]), f32::from_bits(6));
    assert_eq!(float("add.ftz.f32", &[tiny, tiny]).to_bits(), 0);
    assert_eq!(float("ex2.approx.f32", &[3.0]), 8.0);
    assert_eq!(float("lg2.approx.f32", &[8.0]), 3.0);
    assert_eq!(float("neg.f32", &[0.0]).to_bits(), 1 << 31);
    let nan = float("sub.f32", &[f32::INFINITY, f32::INFINITY]);
    assert_eq!(nan.to_bits(), 0x7FFF_FFFF);
}

#[test]
fn conversions() {
    let bits = |x: f32| format!("0f{:08X}", x.to_bits());
    for (instruction, x, expected) in [
        ("cvt.rni.s32.f32", 2.5, 2),
        ("cvt.rzi.s32.f32", -2.5, -2i32 as u32),
        ("cvt.rmi.s32.f32", -2.5, -3i32 as u32),
        ("cvt.rpi.u32.f32", 2.25, 3),
        ("cvt.rzi.u32.f32", -5.0, 0),
        ("cvt.rzi.s32.f32", 1e20, i32::MAX as u32),
        ("cvt.rzi.s32.f32", f32::NAN, 0),
        ("cvt.rzi.ftz.s32.f32", 5.5, 5),
        ("cvt.rzi.ftz.s32.f32", 1e-40, 0),
        ("cvt.rn.bf16.f32", 1.0, 0x3F80),
        ("cvt.rn.f16.f32", 1.0, 0x3C00),
        ("cvt.rna.tf32.f32", 1.000_5, 0x3F80_2000),
        ("cvt.rmi.f32.f32", -1.5, (-2f32).to_bits()),
    ] {
        assert_eq!(
            eval(&format!("{instruction} %r9, {};", bits(x)))[0],
            expected,
            "{instruction} {x}"
        );
    }
    let pair = format!("cvt.rn.bf16x2.f32 %r9, {}, {};", bits(1.0), bits(-2.0));
    assert_eq!(eval(&pair)[0], 0x3F80_C000);
    assert_eq!(f32::from_bits(eval("cvt.rn.f32.s32 %r9, -3;")[0]), -3.0);
    // 2²⁴ + 1 is a tie.
    assert_eq!(f32::from_bits(eval("cvt.rn.f32.u32 %r9, 0x1000001;")[0]), 16_777_216.0);
    assert_eq!(f32::from_bits(eval("mov.u16 %h0, 0x3C00; cvt.f32.f16 %r9, %h0;")[0]), 1.0);
    let nan = "mov.f64 %d0, 0d7FF8000000000000; cvt.rzi.s32.f64 %r9, %d0;";
    assert_eq!(eval(nan)[0], 1 << 31);
}

#[test]
fn doubles() {
    let body = "mov.f64 %d0, 0d3FF0000000000000; mov.f64 %d1, 0d4008000000000000;
         div.rn.f64 %d2, %d0, %d1; fma.rn.f64 %d3, %d2, %d1, %d0; setp.eq.f64 %p0, %d3, %d0;
         add.f64 %d4, %d0, %d0; max.f64 %d5, %d4, %d3; sqrt.rn.f64 %d5, %d5;
         cvt.rn.f32.f64 %f0, %d5; mov.b32 %r9, %f0;";
    assert_eq!(f32::from_bits(eval(body)[0]), 2f32.sqrt());
    let back = "cvt.f64.f32 %d0, 0f40490FDB; cvt.rn.f32.f64 %r9, %d0;";
    assert_eq!(eval(back)[0], 0x4049_0FDB);
}

#[test]
fn pairs_of_halves() {
    // 1.5 and −2 with 0.5 and 3, as bf16 and f16, low element first.
    for (ty, a, b, sum, product) in [
        ("bf16x2", 0xC000_3FC0u32, 0x4040_3F00u32, 0x3F80_4000u32, 0xC0C0_3F40u32),
        ("f16x2", 0xC000_3E00, 0x4200_3800, 0x3C00_4000, 0xC600_3A00),
    ] {
        let eval = |op: &str| eval(&format!("{op}.{ty} %r9, {a:#x}, {b:#x};"))[0];
        assert_eq!((eval("add"), eval("mul.rn")), (sum, product), "{ty}");
        assert_eq!(
            (eval("min"), eval("max")),
            (a & 0xFFFF_0000 | b & 0xFFFF, b & 0xFFFF_0000 | a & 0xFFFF)
        );
    }
    // bf16: 1·(1 + 2⁻⁷) + 2⁻⁸ is a tie, to the even 1 + 2⁻⁶; a little less is not one.
    let fma = |c: u32| eval(&format!("fma.rn.bf16x2 %r9, 0x3F80, 0x3F81, {c:#x};"))[0] & 0xFFFF;
    assert_eq!((fma(0x3B80), fma(0x3B7F)), (0x3F82, 0x3F81));
    // f16: 1 + 2⁻¹⁰ + 2⁻¹¹·(1 ± 2⁻¹⁰): on either side of a tie, beyond f16's own bits.
    let fma = |b: u32| eval(&format!("fma.rn.f16x2 %r9, 0x1000, {b:#x}, 0x3C01;"))[0] & 0xFFFF;
    assert_eq!((fma(0x3BFF), fma(0x3C00), fma(0x3C01)), (0x3C01, 0x3C02, 0x3C02));
}

#[test]
fn comparisons_with_nan() {
    for (name, held) in [
        ("lt", 0),
        ("ge", 0),
        ("eq", 0),
        ("ne", 0),
        ("ltu", 1),
        ("equ", 1),
        ("neu", 1),
        ("nan", 1),
        ("num", 0),
    ] {
        let body = format!("setp.{name}.f32 %p0, 0f7FC00000, 0f00000000; selp.u32 %r9, 1, 0, %p0;");
        assert_eq!(eval(&body)[0], held, "{name}");
    }
}

#[test]
fn atomics_return_what_was_there_and_run_in_order() {
    let mut machine = Machine::new();
    let (sum, seen) = (machine.upload(&[0u32, 0, 7, 100]), machine.alloc::<u32>(64));
    let text = module(
        ".param .u64 sum, .param .u64 seen",
        "ld.param.u64 %rd0, [sum]; ld.param.u64 %rd1, [seen];
         mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.u32 %r0, %r1, 32, %r0;
         atom.global.add.u32 %r2, [%rd0], 1;
         red.global.add.f32 [%rd0+4], 0f3F800000;
         atom.global.cas.b32 %r3, [%rd0+8], 7, 9;
         red.global.min.u32 [%rd0+12], %r0;
         mad.wide.u32 %rd1, %r0, 4, %rd1; st.global.u32 [%rd1], %r2; ret;",
    );
    run(&mut machine, &text, Launch::linear(2, 32), &[sum.into(), seen.into()]).unwrap();
    assert_eq!(machine.download(sum).unwrap(), [64, 64f32.to_bits(), 9, 0]);
    assert_eq!(machine.download(seen).unwrap(), (0..64).collect::<Vec<u32>>());
}

/// One `mma` of every supported shape against f64, with fragments laid out here, from the manual:
/// element (row, column) of A in the order the registers of a lane hold them.
#[test]
fn tensor_cores_multiply_every_type_and_depth() {
    for (shape, ty, k, packed) in [
        ("m16n8k16", "bf16", 16usize, 2usize),
        ("m16n8k8", "bf16", 8, 2),
        ("m16n8k16", "f16", 16, 2),
        ("m16n8k8", "f16", 8, 2),
        ("m16n8k8", "tf32", 8, 1),
        ("m16n8k4", "tf32", 4, 1),
    ] {
        // Small integers are exact in every type, and so are their sums.
        let a = |i: usize, j: usize| ((i * 7 + j * 3) % 11) as f32 - 5.0;
        let b = |i: usize, j: usize| ((i * 5 + j * 2) % 7) as f32 - 3.0;
        let bits = |x: f32| match ty {
            "bf16" => u32::from(half::bf16::from_f32(x).to_bits()),
            "f16" => u32::from(half::f16::from_f32(x).to_bits()),
            _ => x.to_bits(),
        };
        let pack =
            |at: &dyn Fn(usize) -> f32| (0..packed).map(|i| bits(at(i)) << (16 * i)).sum::<u32>();
        let (na, nb) = (k / 2 / packed, k / 4 / packed);
        let mut input = Vec::new();
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4 * packed);
            for q in 0..na {
                input.push(pack(&|i| a(g + 8 * (q % 2), t + i + 4 * packed * (q / 2))));
            }
            for q in 0..nb {
                input.push(pack(&|i| b(t + i + 4 * packed * q, g)));
            }
        }
        let mut machine = Machine::new();
        let (from, to) = (machine.upload(&input), machine.alloc::<f32>(128));
        let registers = |first: usize, n: usize| {
            (first..first + n).map(|i| format!("%b{i}")).collect::<Vec<_>>().join(", ")
        };
        let loads: String =
            (0..na + nb).map(|i| format!("ld.global.b32 %b{i}, [%rd0+{}];\n", 4 * i)).collect();
        let text = module(
            ".param .u64 from, .param .u64 to",
            &format!(
                "ld.param.u64 %rd0, [from]; ld.param.u64 %rd1, [to]; mov.u32 %r0, %tid.x;
                 mad.wide.u32 %rd0, %r0, {}, %rd0; mad.wide.u32 %rd1, %r0, 16, %rd1;
                 {loads} mov.f32 %f0, 0f3F800000;
                 mma.sync.aligned.{shape}.row.col.f32.{ty}.{ty}.f32
                     {{%f1, %f2, %f3, %f4}}, {{{}}}, {{{}}}, {{%f0, %f0, %f0, %f0}};
                 st.global.v4.f32 [%rd1], {{%f1, %f2, %f3, %f4}}; ret;",
                4 * (na + nb),
                registers(0, na),
                registers(na, nb),
            ),
        );
        run(&mut machine, &text, Launch::linear(1, 32), &[from.into(), to.into()]).unwrap();
        let d = machine.download(to).unwrap();
        for lane in 0..32 {
            for q in 0..4 {
                let (row, column) = (lane / 4 + 8 * (q / 2), lane % 4 * 2 + q % 2);
                let exact = 1.0 + (0..k).map(|x| a(row, x) * b(x, column)).sum::<f32>();
                assert_eq!(d[4 * lane + q], exact, "{shape} {ty} ({row}, {column})");
            }
        }
    }
}
