//! Device and host memory. The asynchronous functions do their work at once, unless captured.

use super::device::bound;
use super::driver_api;
use crate::driver::Driver;
use crate::operation::Operation;
use crate::raw::{Host, Out};
use crate::status::{Error, Status};
use std::ffi::{c_uchar, c_uint};

/// In a capture the graph owns what is allocated: the buffer is there from the allocation to the free,
/// each time that it is launched.
fn alloc_on(driver: &mut Driver, stream: usize, bytes: usize) -> Result<u64, Error> {
    let capture = driver.captured(stream)?;
    let address = driver.alloc(bytes)?;
    match capture {
        Some(capture) => {
            driver.free(address)?;
            driver.capture_mut(capture)?.buffers.push(address);
            driver.submit(stream, Operation::Alloc { address })?;
        }
        None => {
            driver.order.begin(stream);
            driver.used(stream, address, true)?;
        }
    }
    Ok(address)
}

/// In a capture only what was allocated in it may be freed, once: anything else would be freed at each
/// launch.
fn free_on(driver: &mut Driver, stream: usize, address: u64) -> Status {
    if let Some(capture) = driver.captured(stream)? {
        let graph = driver.capture_mut(capture)?;
        let frees = |o: &Operation| matches!(o, Operation::Free { address: a } if *a == address);
        let wrong = match graph.buffers.contains(&address) {
            false => "in a capture that did not allocate it",
            true if graph.operations.iter().any(frees) => "a second time in a capture",
            true => return driver.submit(stream, Operation::Free { address }),
        };
        let text = format!("free of {address:#x} {wrong}");
        return Err(driver.fail(Error::StreamCaptureUnsupported, text));
    }
    driver.submit(stream, Operation::Free { address })
}

driver_api! {
    /// A new buffer, uninitialised.
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) |driver| {
        bound(driver)?;
        driver.no_capture("an allocation outside the order of streams")?;
        address.put(driver.alloc(bytes)?)
    };

    /// The same, in the order of a stream.
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) |driver| {
        bound(driver)?;
        address.put(alloc_on(driver, stream, bytes)?)
    };

    /// The same, from a pool.
    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, _pool: usize, stream: usize) |driver| {
        bound(driver)?;
        address.put(alloc_on(driver, stream, bytes)?)
    };

    /// Frees a buffer, once everything is done.
    fn cuMemFree_v2(address: u64) |driver| {
        bound(driver)?;
        driver.no_capture("a free outside the order of streams")?;
        driver.catch_up()?;
        driver.order.all_synchronised();
        driver.free(address)
    };

    /// The same, in the order of a stream.
    fn cuMemFreeAsync(address: u64, stream: usize) |driver| {
        bound(driver)?;
        free_on(driver, stream, address)
    };

    /// Bytes free, and in all.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |driver| {
        bound(driver)?;
        free.put((driver.card.memory - driver.allocated()) as usize)?;
        total.put(driver.card.memory as usize)
    };

    /// Pinned host memory.
    fn cuMemHostAlloc(memory: Out<Host>, bytes: usize, _flags: c_uint) |driver| {
        bound(driver)?;
        memory.put(driver.alloc_host(bytes)?)
    };

    /// Frees pinned host memory.
    fn cuMemFreeHost(memory: Host) |driver| {
        bound(driver)?;
        driver.free_host(memory)
    };

    /// Host to device.
    fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) |driver| {
        bound(driver)?;
        driver.perform_and_wait(&Operation::Upload { to, from, bytes })
    };

    /// Host to device.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: usize) |driver| {
        bound(driver)?;
        driver.submit(stream, Operation::Upload { to, from, bytes })
    };

    /// Device to host.
    fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) |driver| {
        bound(driver)?;
        driver.perform_and_wait(&Operation::Download { to, from, bytes })
    };

    /// Device to host.
    fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: usize) |driver| {
        bound(driver)?;
        driver.submit(stream, Operation::Download { to, from, bytes })?;
        // Into pageable memory the driver copies by itself, and returns when it has.
        if driver.is_pinned(to) { Ok(()) } else { driver.catch_up() }
    };

    /// Device to device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |driver| {
        bound(driver)?;
        driver.perform_and_wait(&Operation::Copy { to, from, bytes })
    };

    /// Device to device.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) |driver| {
        bound(driver)?;
        driver.submit(stream, Operation::Copy { to, from, bytes })
    };

    /// Fills bytes.
    fn cuMemsetD8_v2(to: u64, value: c_uchar, bytes: usize) |driver| {
        bound(driver)?;
        driver.perform_and_wait(&Operation::Fill { to, value, bytes })
    };

    /// Fills bytes.
    fn cuMemsetD8Async(to: u64, value: c_uchar, bytes: usize, stream: usize) |driver| {
        bound(driver)?;
        driver.submit(stream, Operation::Fill { to, value, bytes })
    };
}
