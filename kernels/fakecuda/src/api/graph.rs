//! Capture of a stream's work into a graph, and its launch.

use super::device::bound;
use super::driver_api;
use crate::driver::{Graph, Object};
use crate::raw::Out;
use crate::status::Error;
use std::ffi::{c_int, c_uint, c_ulonglong};

driver_api! {
    /// From now on a stream's work is recorded instead of done.
    fn cuStreamBeginCapture_v2(stream: usize, _mode: c_uint) |driver| {
        bound(driver)?;
        driver.not_captured(stream, "a second capture")?;
        let graph = driver.create(Object::Graph(Graph { owners: 1, ..Graph::default() }));
        driver.set_captured(stream, Some(graph)).or_else(|error| {
            driver.destroy(graph)?;
            Err(error)
        })
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
        let Object::Executable(graph) = *driver.get(executable)? else {
            return Err(Error::InvalidHandle);
        };
        let operations = driver.capture_mut(graph)?.operations.clone();
        operations.into_iter().try_for_each(|operation| driver.submit(stream, operation))
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
