//! The driver as cudarc, unmodified, sees it.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // Launches are unsafe: their arguments are not checked. Here they are those of the kernels.

use cuda::install;
use cudarc::driver::sys::{self, CUfunction_attribute};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[path = "driver/graphs.rs"]
mod graphs;

/// One test at a time, on a device with nothing on it: they share the one driver of the process, and
/// its leaks are counted.
fn context() -> (MutexGuard<'static, ()>, Arc<CudaContext>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    install().reset_device();
    (turn, CudaContext::new(0).unwrap())
}

/// z = x + y for the first n elements, 64 threads a block, as PTX 7.0 for `target`.
fn vector_add(target: &str) -> String {
    format!(
        "
.version 7.0
.target {target}
.address_size 64
.visible .entry add(.param .u64 x, .param .u64 y, .param .u64 z, .param .u32 n)
.maxntid 64, 1, 1
{{
    .reg .pred %p<1>;
    .reg .u32 %r<5>;
    .reg .u64 %rd<6>;
    .reg .f32 %f<3>;
    ld.param.u64 %rd0, [x];
    ld.param.u64 %rd1, [y];
    ld.param.u64 %rd2, [z];
    ld.param.u32 %r0, [n];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mad.lo.u32 %r3, %r2, 64, %r1;
    setp.ge.u32 %p0, %r3, %r0;
    @%p0 bra $END;
    mad.wide.u32 %rd3, %r3, 4, %rd0;
    mad.wide.u32 %rd4, %r3, 4, %rd1;
    mad.wide.u32 %rd5, %r3, 4, %rd2;
    ld.global.f32 %f0, [%rd3];
    ld.global.f32 %f1, [%rd4];
    add.rn.f32 %f2, %f0, %f1;
    st.global.f32 [%rd5], %f2;
$END:
    ret;
}}
"
    )
}

fn load(context: &Arc<CudaContext>) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(vector_add("sm_80"))).unwrap();
    module.load_function("add").unwrap()
}

fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// Adds on a stream, with n as told and buffers of 100.
fn add(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    n: u32,
    threads: u32,
) -> Result<Vec<f32>, String> {
    let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let (x, y) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&[0.5f32; 100]).unwrap());
    let mut z = stream.alloc_zeros::<f32>(100).unwrap();
    let mut launch = stream.launch_builder(function);
    launch.arg(&x).arg(&y).arg(&mut z).arg(&n);
    // SAFETY: these are the kernel's parameters.
    unsafe { launch.launch(shape(n.div_ceil(threads), threads)) }.map_err(|e| format!("{e:?}"))?;
    Ok(stream.clone_dtoh(&z).unwrap())
}

#[test]
fn vectors_are_added() {
    let (_turn, context) = context();
    assert!(context.name().unwrap().contains("PTX virtual machine"));
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    let function = load(&context);
    install().reset_statistics();
    for stream in [context.default_stream(), context.new_stream().unwrap()] {
        let z = add(&stream, &function, 90, 64).unwrap();
        stream.synchronize().unwrap();
        assert!((0..90).all(|i| z[i] == i as f32 + 0.5) && z[90..] == [0.0; 10]);
    }
    let statistics = install().statistics();
    let row = statistics.lines().find(|l| l.starts_with("add\t")).unwrap();
    assert_eq!(row.split('\t').nth(1), Some("2"), "{statistics}");
}

#[test]
fn a_faulting_launch_is_an_error_with_its_text_and_the_end_of_the_context() {
    let (_turn, context) = context();
    let (stream, function) = (context.default_stream(), load(&context));
    let error = add(&stream, &function, 101, 64).unwrap_err();
    for part in ["ILLEGAL_ADDRESS", "OutOfBounds", "line 24", "thread 36", "ld.global.f32 %f0"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    // Whatever is asked of the context now has that error.
    let error = stream.clone_htod(&[1f32]).map(drop).unwrap_err();
    assert!(format!("{error:?}").contains("OutOfBounds"), "{error:?}");
    assert!(install().last_fault().contains("OutOfBounds"));
    assert_eq!(install().last_fault(), "");
    assert!(stream.synchronize().is_err() && context.mem_get_info().is_err());
    drop((stream, function, context));
    install().reset_device();
    let context = CudaContext::new(0).unwrap();
    add(&context.default_stream(), &load(&context), 100, 64).unwrap();
}

/// A card reads a source and comes to a fault long after the calls have returned.
#[test]
fn late_work_is_done_when_it_is_waited_for() {
    let (_turn, context) = context();
    // SAFETY: one stream is used, so no events are needed; to record one would be to wait.
    unsafe { context.disable_event_tracking() };
    let (stream, function) = (context.new_stream().unwrap(), load(&context));
    install().set_late(true);
    let mut source = vec![1f32; 64];
    let mut x = stream.alloc_zeros::<f32>(64).unwrap();
    stream.memcpy_htod(&source, &mut x).unwrap();
    source.fill(2.0);
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [2.0; 64], "the source as it was at the wait");
    let pointer = x.as_view().device_ptr(&stream).0;
    let n = 65u32;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&pointer).arg(&pointer).arg(&pointer).arg(&n);
    // SAFETY: these are the kernel's parameters; that n is too large the machine has to catch.
    unsafe { launch.launch(shape(2, 64)) }.unwrap();
    assert!(format!("{:?}", stream.synchronize().unwrap_err()).contains("OutOfBounds"));
    install().set_late(false);
}

#[test]
fn launches_beyond_the_card_are_refused() {
    let (_turn, context) = context();
    let (stream, function) = (context.default_stream(), load(&context));
    let error = add(&stream, &function, 100, 128).unwrap_err();
    assert!(error.contains("128 threads a block, 64 allowed"), "{error}");
    // More than 48 KiB needs opting in, and no card has 200 KiB but the H100.
    let launch = |bytes: u32| {
        let mut builder = stream.launch_builder(&function);
        let (pointer, n) = (0u64, 0u32);
        builder.arg(&pointer).arg(&pointer).arg(&pointer).arg(&n);
        let config = LaunchConfig { shared_mem_bytes: bytes, ..shape(1, 64) };
        // SAFETY: these are the kernel's parameters; no element is touched.
        unsafe { builder.launch(config) }.map(drop).map_err(|e| format!("{e:?}"))
    };
    let opt_in = |bytes: i32| {
        let what = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(what, bytes).map_err(|e| format!("{e:?}"))
    };
    launch(48 * 1024).unwrap();
    assert!(launch(64 * 1024).unwrap_err().contains("49152 allowed"));
    opt_in(64 * 1024).unwrap();
    launch(64 * 1024).unwrap();
    assert!(opt_in(200 * 1024).unwrap_err().contains("at most"));
    install().set_card("H100");
    opt_in(200 * 1024).unwrap();
    launch(200 * 1024).unwrap();
    install().set_card("RTX 4090");
    assert!(opt_in(100 * 1024).is_err());
    install().set_card("A100");
    let grid = LaunchConfig { grid_dim: (1, 70_000, 1), ..shape(1, 64) };
    let mut builder = stream.launch_builder(&function);
    let (pointer, n) = (0u64, 0u32);
    builder.arg(&pointer).arg(&pointer).arg(&pointer).arg(&n);
    // SAFETY: these are the kernel's parameters.
    assert!(unsafe { builder.launch(grid) }.is_err());
    assert_eq!(function.num_regs().unwrap(), 255);
    // 80 registers for each of 1024 threads are more than there are.
    let wide = vector_add("sm_80").replace(".maxntid 64, 1, 1", ".maxntid 1024, 1, 1\n.maxnreg 80");
    let module = context.load_module(Ptx::from_src(wide)).unwrap();
    let wide = module.load_function("add").unwrap();
    assert_eq!(wide.num_regs().unwrap(), 80);
    add(&stream, &wide, 100, 512).unwrap();
    assert!(add(&stream, &wide, 100, 1024).unwrap_err().contains("OUT_OF_RESOURCES"));
}

#[test]
fn texts_for_other_cards_and_bad_ones_do_not_load() {
    let (_turn, context) = context();
    let refuse = |text: String| {
        let error = context.load_module(Ptx::from_src(text)).expect_err("it must not load");
        format!("{error:?}")
    };
    assert!(refuse(vector_add("sm_90")).contains("does not run on A100"));
    assert!(refuse(vector_add("sm_80").replace("7.0", "9.9")).contains("newer than this driver"));
    let wrong = refuse(vector_add("sm_80").replace("add.rn.f32", "frobnicate.f32"));
    assert!(wrong.contains("INVALID_PTX") && wrong.contains("line 26"), "{wrong}");
    let module = context.load_module(Ptx::from_src(vector_add("sm_80"))).unwrap();
    assert!(
        format!("{:?}", module.load_function("sub").err().unwrap()).contains("no kernel `sub`")
    );
}

#[test]
fn memory_is_accounted_for() {
    let (_turn, context) = context();
    let before = install().leaks();
    let (free, total) = context.mem_get_info().unwrap();
    let stream = context.new_stream().unwrap();
    let buffer = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (free - (1 << 20), total));
    let now: Vec<String> = install().leaks().into_iter().filter(|l| !before.contains(l)).collect();
    assert!(now.iter().any(|l| l.contains("1048576 bytes")), "{now:?}");
    assert!(now.iter().any(|l| l.starts_with("stream")), "{now:?}");
    let pointer = buffer.leak();
    // SAFETY: the pointer is of a live buffer, freed once by right and once by test.
    unsafe {
        sys::cuMemFree_v2(pointer).result().unwrap();
        let again = sys::cuMemFree_v2(pointer).result().unwrap_err();
        assert!(format!("{again:?}").contains("was freed before"), "{again:?}");
        let fill = sys::cuMemsetD8_v2(pointer, 0, 16).result().unwrap_err();
        assert!(format!("{fill:?}").contains("already freed"), "{fill:?}");
    }
    let huge = stream.alloc_zeros::<u8>(3 << 30).unwrap_err();
    assert!(format!("{huge:?}").contains("OUT_OF_MEMORY"), "{huge:?}");
    drop(stream);
    assert_eq!(install().leaks(), before);
}

#[test]
fn a_kernel_that_uses_freed_memory_faults() {
    let (_turn, context) = context();
    let (stream, function) = (context.default_stream(), load(&context));
    let gone = stream.clone_htod(&[1f32; 64]).unwrap().leak();
    // SAFETY: freed once; the launch after it is what the driver has to catch.
    let error = unsafe {
        sys::cuMemFree_v2(gone).result().unwrap();
        let n = 64u32;
        let mut launch = stream.launch_builder(&function);
        launch.arg(&gone).arg(&gone).arg(&gone).arg(&n);
        launch.launch(shape(1, 64)).unwrap_err()
    };
    assert!(format!("{error:?}").contains("UseAfterFree"), "{error:?}");
}

/// A host that looks at what no copy and no kernel wrote has made a mistake, though no call failed.
#[test]
fn memory_that_nobody_wrote_is_not_downloaded() {
    let (_turn, context) = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: that it is read before it is written is what the driver has to catch.
    let mut buffer = unsafe { stream.alloc::<u32>(16) }.unwrap();
    let error = format!("{:?}", stream.clone_dtoh(&buffer).unwrap_err());
    assert!(error.contains("nothing wrote byte 0"), "{error}");
    stream.memcpy_htod(&[7; 9], &mut buffer.slice_mut(..9)).unwrap();
    let error = format!("{:?}", stream.clone_dtoh(&buffer).unwrap_err());
    assert!(error.contains("nothing wrote byte 36"), "{error}");
    assert_eq!(stream.clone_dtoh(&buffer.slice(..9)).unwrap(), [7; 9]);
    // What is copied on the device is no more written than it was.
    let copy = stream.clone_dtod(&buffer).unwrap();
    assert!(stream.clone_dtoh(&copy).is_err());
    stream.memset_zeros(&mut buffer).unwrap();
    assert_eq!(stream.clone_dtoh(&buffer).unwrap(), [0; 16]);
}

#[test]
fn pinned_memory_events_and_copies() {
    let (_turn, context) = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(100) }.unwrap();
    pinned.as_mut_slice().unwrap().iter_mut().enumerate().for_each(|(i, x)| *x = i as u32);
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(flags).unwrap();
    let device = stream.clone_htod(&pinned).unwrap();
    let other = context.new_stream().unwrap();
    other.join(&stream).unwrap();
    let copy = other.clone_dtod(&device).unwrap();
    let end = other.record_event(flags).unwrap();
    end.synchronize().unwrap();
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert_eq!(other.clone_dtoh(&copy).unwrap(), (0..100).collect::<Vec<u32>>());
}

#[test]
fn streams_must_be_ordered_where_they_share_a_buffer() {
    let (_turn, context) = context();
    // SAFETY: without tracking, cudarc places no events; that is what is tested.
    unsafe { context.disable_event_tracking() };
    let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut buffer = one.clone_htod(&[1u8; 64]).unwrap();
    let error = two.clone_dtoh(&buffer).unwrap_err();
    assert!(format!("{error:?}").contains("no event or synchronisation between"), "{error:?}");
    two.join(&one).unwrap();
    assert_eq!(two.clone_dtoh(&buffer).unwrap(), [1; 64]);
    one.memset_zeros(&mut buffer).unwrap();
    assert!(two.memset_zeros(&mut buffer).is_err());
    one.synchronize().unwrap();
    two.memset_zeros(&mut buffer).unwrap();
    two.synchronize().unwrap();
}

/// With its event tracking on, cudarc orders the streams by itself.
#[test]
fn tracked_buffers_may_go_from_stream_to_stream() {
    let (_turn, context) = context();
    let function = load(&context);
    let streams =
        [context.default_stream(), context.new_stream().unwrap(), context.new_stream().unwrap()];
    let x = streams[1].clone_htod(&[1f32; 64]).unwrap();
    let mut sum = streams[2].alloc_zeros::<f32>(64).unwrap();
    for (i, stream) in streams.iter().cycle().take(7).enumerate() {
        let mut next = stream.alloc_zeros::<f32>(64).unwrap();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&x).arg(&sum).arg(&mut next).arg(&64u32);
        // SAFETY: these are the kernel's parameters.
        unsafe { launch.launch(shape(1, 64)) }.unwrap();
        sum = next;
        assert_eq!(streams[i % 2].clone_dtoh(&sum).unwrap(), [i as f32 + 1.0; 64]);
    }
}
