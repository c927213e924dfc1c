//! The builder by itself: text, control flow, memory.

use half::{bf16, f16};
use kernels::ptx::{Bf16, Body, F16, F32, Kernel, Kind, Stored, U32, Var};
use ptx_vm::{Arg, Buffer, FaultKind, Machine};

use crate::{launch, run};

/// What is printed for a small kernel, in full.
#[test]
fn the_text_of_a_kernel() {
    let kernel = Kernel::new("scale", 32, [32, 1, 1], |k| {
        let (y, a) = (k.global::<F32>("y"), k.f32("a"));
        k.note("one element a thread");
        let y = y.at(k.block(0).mad(32, k.thread()));
        y.store(y.load() * a);
    });
    let want = "\
.version 7.0
.target sm_80
.address_size 64

.visible .entry scale(
    .param .u64 y,
    .param .f32 a
)
.maxntid 32, 1, 1
{
    .reg .f32 %f<3>;
    .reg .u32 %r<3>;
    .reg .u64 %l<3>;
    ld.param.u64 %l0, [y];
    cvta.to.global.u64 %l1, %l0;
    ld.param.f32 %f0, [a];
    // one element a thread
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %tid.x;
    mad.lo.u32 %r2, %r0, 32, %r1;
    mad.wide.u32 %l2, %r2, 4, %l1;
    ld.global.f32 %f1, [%l2+0];
    mul.rn.f32 %f2, %f1, %f0;
    st.global.f32 [%l2+0], %f2;
    ret;
}
";
    assert_eq!(kernel.ptx(), want);
    let kinds: Vec<Kind> = kernel.spec().parameters.iter().map(|p| p.kind).collect();
    assert_eq!(kinds, [Kind::Pointer("f32"), Kind::F32]);
    assert_eq!(kernel.spec().parameters[0].align, 4);
    assert_eq!(kernel.spec().grid([65, 2, 1]), Ok([3, 2, 1]));
    assert!(kernel.spec().grid([1, 70_000, 1]).is_err(), "65535 blocks along y at most");
    assert!(kernel.spec().grid([1 << 32, 1, 1]).is_err(), "indices of 32 bits");
}

/// What a pointer has to be a multiple of is the widest access through it, however it was moved.
#[test]
fn parameters_know_their_widest_access() {
    let kernel = Kernel::new("widths", 32, [32, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<Bf16>("y"));
        let (z, unused) = (k.global::<F16>("z"), k.global::<F32>("unused"));
        let own = k.global::<F32>("own");
        let tile = k.shared::<F32>(4);
        tile.copy_async(x.at(k.thread() * 4).plus(4), k.thread().lt(1));
        y.at(k.thread() * 2).store_n(&z.load_n(4)[..2]);
        x.plus(1).load();
        let _ = unused;
        k.if_(own.is_multiple_of(16), || drop(own.of_any_alignment().load_n(4)));
    });
    let aligns: Vec<u32> = kernel.spec().parameters.iter().map(|p| p.align).collect();
    assert_eq!(aligns, [16, 4, 8, 1, 4]);
}

/// Runs one thread of a kernel that writes `n` numbers.
fn written(n: usize, write: impl FnOnce(&Body)) -> Vec<u32> {
    let kernel = Kernel::new("one", 1, [1, 1, 1], write);
    let mut gpu = Machine::new();
    let y: Buffer<u32> = gpu.alloc(n);
    run(&mut gpu, &kernel, [1, 1, 1], &[y.into()]);
    gpu.download(y).expect("a buffer")
}

#[test]
fn loops_and_branches_run_as_they_read() {
    let got = written(5, |k| {
        let y = k.global::<U32>("y");
        let count = |first: u32, end: u32, step: u32| {
            let turns: Var<U32> = k.var(0);
            k.for_(first, end, step, |_| turns.advance(1));
            turns.get()
        };
        y.store(count(3, 3, 1));
        y.plus(1).store(count(5, 3, 1));
        y.plus(2).store(count(0, 7, 3));
        let sum: Var<U32> = k.var(0);
        k.for_(0, 10, 1, |i| {
            k.if_else(i.lt(4), || sum.advance(1), || k.if_(i.ne(7), || sum.advance(i)));
            sum.set_where(i.eq(9), sum.get() * 10);
        });
        y.plus(3).store(sum.get());
        // A value is what the variable held when it was asked.
        let before = sum.get();
        sum.set(1);
        y.plus(4).store(before + sum.get());
    });
    let sum = 10 * (4 + 4 + 5 + 6 + 8 + 9);
    assert_eq!(got, [0, 0, 3, sum, sum + 1]);
}

#[test]
fn constants_are_folded_and_neutral_operands_cost_nothing() {
    let kernel = Kernel::new("constants", 1, [1, 1, 1], |k| {
        let y = k.global::<U32>("y");
        let n = k.u32("n");
        let seven = (k.value::<U32>(5) * 3 - 1) / 2;
        y.store((n + 0) * 1 + seven);
    });
    assert_eq!(kernel.ptx().matches("add.u32").count(), 1);
    assert!(kernel.ptx().contains("add.u32 %r1, %r0, 7;"), "{}", kernel.ptx());
}

/// Copies `n` elements at once by the widest loads and stores.
fn copied<S: Stored, T: bytemuck::Pod + PartialEq + std::fmt::Debug>(values: &[T]) {
    for n in [1, 2, 4, 8] {
        let kernel = Kernel::new("copy", 1, [1, 1, 1], |k| {
            let (x, y) = (k.global::<S>("x"), k.global::<S>("y"));
            y.store_n(&x.load_n(n));
        });
        let mut gpu = Machine::new();
        let x = gpu.upload(values);
        let y: Buffer<T> = gpu.alloc(n);
        let counts = run(&mut gpu, &kernel, [1, 1, 1], &[x.into(), y.into()]);
        assert_eq!(gpu.download(y).expect("a buffer"), values[..n], "{n} of {}", S::NAME);
        let bytes = n as u64 * u64::from(S::BYTES);
        assert_eq!(counts.of("ld.global").issued, bytes.div_ceil(16));
    }
}

#[test]
fn elements_are_stored_as_they_were_loaded() {
    let values = [1.0f32, -2.5, 0.0, 3.25, -0.5, 65504.0, 1e-3, 7.0];
    copied::<F32, f32>(&values);
    copied::<Bf16, u16>(&values.map(|x| bf16::from_f32(x).to_bits()));
    copied::<F16, u16>(&values.map(|x| f16::from_f32(x).to_bits()));
}

/// Shared memory beyond 48 KiB is asked for at launch; a missing barrier is found.
#[test]
fn much_shared_memory_is_dynamic() {
    let kernel = Kernel::new("mirror", 64, [64, 1, 1], |k| {
        let y = k.global::<U32>("y");
        let (_, far) = (k.shared::<U32>(12 << 10), k.shared::<U32>(64));
        far.at(k.thread()).store(k.thread());
        k.barrier();
        y.at(k.thread()).store(far.at(k.value::<U32>(63) - k.thread()).load());
    });
    assert!(kernel.spec().shared_is_dynamic());
    let mut gpu = Machine::new();
    let y: Buffer<u32> = gpu.alloc(64);
    run(&mut gpu, &kernel, [64, 1, 1], &[y.into()]);
    let mirrored: Vec<u32> = (0..64).rev().collect();
    assert_eq!(gpu.download(y).expect("a buffer"), mirrored);
    let [broken] = &kernel.weakened()[..] else { panic!("one barrier") };
    let fault = launch(&mut gpu, broken, [64, 1, 1], &[Arg::from(y)]).expect_err("a race");
    assert!(matches!(fault.kind, FaultKind::SharedRace | FaultKind::UninitialisedMemory));
}
