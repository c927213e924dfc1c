//! Streams that are captured, and graphs.

use cuda::install;
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, DevicePtr, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::{context, load, shape, vector_add};

#[test]
fn a_captured_graph_runs_when_launched() {
    let (_turn, context) = context();
    // SAFETY: one stream at a time is used, so no events are needed between them.
    unsafe { context.disable_event_tracking() };
    let before = install().leaks();
    let (stream, function) = (context.new_stream().unwrap(), load(&context));
    let x = stream.clone_htod(&[1f32; 64]).unwrap();
    let mut sum = stream.alloc_zeros::<f32>(64).unwrap();
    let n = 64u32;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert!(format!("{:?}", stream.synchronize().unwrap_err()).contains("CAPTURE_UNSUPPORTED"));
    let load_late = || context.load_module(Ptx::from_src(vector_add("sm_80"))).map(drop);
    let late = load_late().unwrap_err();
    assert!(
        format!("{late:?}").contains("loading a module while a stream is captured"),
        "{late:?}"
    );
    // Another thread may: the capture is this one's.
    std::thread::scope(|scope| scope.spawn(load_late).join().expect("no panic")).unwrap();
    // A buffer of the graph's own, between two launches.
    {
        let mut twice = stream.alloc_zeros::<f32>(64).unwrap();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&x).arg(&x).arg(&mut twice).arg(&n);
        // SAFETY: these are the kernel's parameters.
        unsafe { launch.launch(shape(1, 64)) }.unwrap();
        let mut launch = stream.launch_builder(&function);
        let sum_in = sum.as_view().device_ptr(&stream).0;
        launch.arg(&twice).arg(&sum_in).arg(&mut sum).arg(&n);
        // SAFETY: these are the kernel's parameters; it reads each element before it writes it.
        unsafe { launch.launch(shape(1, 64)) }.unwrap();
    }
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("a graph");
    assert_eq!(stream.clone_dtoh(&sum).unwrap(), [0.0; 64], "recorded, not done");
    for times in 1..4 {
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&sum).unwrap(), [2.0 * times as f32; 64]);
    }
    // With memory of its own it cannot be part of another one.
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    let error = format!("{:?}", graph.launch().unwrap_err());
    assert!(error.contains("cannot be part of another one"), "{error}");
    assert!(std::thread::scope(|scope| scope.spawn(load_late).join().expect("no panic")).is_err());
    drop(stream.end_capture(flags).unwrap());
    drop((graph, x, sum, function, stream));
    assert_eq!(install().leaks(), before);
}

/// A graph's buffer holds nothing when it is launched again, and is there from its allocation to its
/// free.
#[test]
fn memory_of_a_graph_begins_and_ends_in_it() {
    let (_turn, context) = context();
    // SAFETY: one stream at a time is used, so no events are needed between them.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let mut seen = stream.alloc_zeros::<u8>(64).unwrap();
    let mut captured = |work: &mut dyn FnMut(&mut CudaSlice<u8>)| {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        work(&mut seen);
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph");
        let launched = [graph.launch(), graph.launch()].map(|r| r.map_err(|e| format!("{e:?}")));
        (launched, stream.clone_dtoh(&seen).map_err(|e| format!("{e:?}")))
    };
    // Read before it is written: what the launch before left there is gone, freed or not.
    for is_freed in [true, false] {
        let (launched, told) = captured(&mut |seen| {
            // SAFETY: that it is read before it is written is what the driver has to catch.
            let mut own = unsafe { stream.alloc::<u8>(64) }.unwrap();
            stream.memcpy_dtod(&own, seen).unwrap();
            stream.memset_zeros(&mut own).unwrap();
            if !is_freed {
                own.leak();
            }
        });
        assert_eq!(launched, [Ok(()), Ok(())]);
        assert!(told.unwrap_err().contains("nothing wrote byte 0"));
    }
    // Read after it is freed.
    let (launched, _) = captured(&mut |seen| {
        let own = stream.alloc_zeros::<u8>(64).unwrap();
        let address = own.as_view().device_ptr(&stream).0;
        drop(own);
        let to = seen.as_view().device_ptr(&stream).0;
        // SAFETY: that the source is freed by then is what the driver has to catch.
        let copied = unsafe { sys::cuMemcpyDtoDAsync_v2(to, address, 64, stream.cu_stream()) };
        copied.result().unwrap();
    });
    assert!(launched.iter().all(|r| r.as_ref().is_err_and(|e| e.contains("already freed"))));
}
