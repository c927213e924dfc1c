//! Capture of a stream's work into a graph, and its launch.

use super::device::bound;
use super::driver_api;
use crate::driver::{CaptureMode, Driver, Graph, Object};
use crate::raw::Out;
use crate::status::{Error, Status};
use std::ffi::{c_int, c_uint, c_ulonglong};
use std::thread;

fn begin(driver: &mut Driver, stream: usize, mode: c_uint) -> Status {
    driver.not_captured(stream, "a second capture")?;
    let mode = match mode {
        0 => CaptureMode::Global,
        1 => CaptureMode::ThreadLocal(thread::current().id()),
        2 => CaptureMode::Relaxed,
        _ => return Err(Error::InvalidValue),
    };
    let graph = Graph { mode, operations: Vec::new(), buffers: Vec::new(), owners: 1 };
    let graph = driver.create(Object::Graph(graph));
    driver.set_captured(stream, Some(graph)).or_else(|error| {
        driver.destroy(graph)?;
        Err(error)
    })
}

/// Does what was recorded, or makes it part of what is being recorded: a graph with memory of its own
/// cannot be that.
fn launch(driver: &mut Driver, executable: usize, stream: usize) -> Status {
    let Object::Executable(graph) = *driver.get(executable)? else {
        return Err(Error::InvalidHandle);
    };
    let graph = driver.capture_mut(graph)?;
    let (operations, has_memory) = (graph.operations.clone(), !graph.buffers.is_empty());
    if has_memory && driver.captured(stream)?.is_some() {
        let text = "a graph that allocates memory cannot be part of another one".to_owned();
        return Err(driver.fail(Error::StreamCaptureUnsupported, text));
    }
    operations.into_iter().try_for_each(|operation| driver.submit(stream, operation))
}

driver_api! {
    /// From now on a stream's work is recorded instead of done.
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_uint) |driver| {
        bound(driver)?;
        begin(driver, stream, mode)
    };

    /// Ends it; what was recorded is a graph.
    fn cuStreamEndCapture(stream: usize, graph: Out<usize>) |driver| {
        bound(driver)?;
        let capture = driver.captured(stream)?.ok_or(Error::StreamCaptureInvalidated)?;
        driver.release_streams(capture);
        graph.put(capture)
    };

    /// 1 while a stream is being captured.
    fn cuStreamIsCapturing(stream: usize, status: Out<c_int>) |driver| {
        let capture = driver.captured(stream)?;
        status.put(c_int::from(capture.is_some()))
    };

    /// Makes a graph executable.
    fn cuGraphInstantiateWithFlags(executable: Out<usize>, graph: usize, _flags: c_ulonglong) |driver| {
        driver.capture_mut(graph)?.owners += 1;
        executable.put(driver.create(Object::Executable(graph)))
    };

    /// Does everything that was recorded, in the order it was recorded in.
    fn cuGraphLaunch(executable: usize, stream: usize) |driver| {
        bound(driver)?;
        launch(driver, executable, stream)
    };

    /// Nothing needs to be prepared.
    fn cuGraphUpload(executable: usize, stream: usize) |driver| {
        driver.captured(stream)?;
        driver.get(executable).map(drop)
    };

    /// Destroys a graph; executables made of it stay.
    fn cuGraphDestroy(graph: usize) |driver| driver.release_graph(graph);

    /// Destroys an executable.
    fn cuGraphExecDestroy(executable: usize) |driver| {
        match driver.destroy(executable)? {
            Object::Executable(graph) => driver.release_graph(graph),
            _ => Err(Error::InvalidHandle),
        }
    };
}
