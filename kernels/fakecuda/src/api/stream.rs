//! Streams and events. Work happens when it is submitted, or, where it is late, before anything that
//! waits or marks a point; so waiting only tells the order of the work to `order.rs`, and checks that
//! no stream being captured is waited for.

use super::device::bound;
use super::driver_api;
use crate::driver::{Driver, Event, Object};
use crate::operation::Operation;
use crate::raw::{Callback, Host, Out};
use crate::status::{Error, Status};
use std::ffi::{c_int, c_uint};
use std::time::Instant;

/// Flag 1: the stream does not wait for the default stream, nor that for it.
fn create(driver: &mut Driver, flags: c_uint) -> usize {
    let stream = driver.create(Object::Stream(None));
    driver.order.created(stream, flags & 1 == 0);
    stream
}

/// Milliseconds between two recorded events.
fn elapsed(driver: &mut Driver, start: usize, end: usize) -> Result<f32, Error> {
    let (start, end) = (driver.event(start)?.at, driver.event(end)?.at);
    match (start, end) {
        (Some(start), Some(end)) => Ok(end.saturating_duration_since(start).as_secs_f32() * 1e3),
        _ => Err(driver.fail(Error::InvalidHandle, "an event was never recorded".to_owned())),
    }
}

fn record(driver: &mut Driver, event: usize, stream: usize) -> Status {
    driver.catch_up()?;
    let capture = driver.captured(stream)?;
    let at = if capture.is_none() { Some(Instant::now()) } else { None };
    *driver.event(event)? = Event { at, capture };
    driver.order.recorded(event, stream);
    Ok(())
}

/// Waiting for an event of a capture makes the stream take part in it.
fn wait(driver: &mut Driver, stream: usize, event: usize) -> Status {
    driver.catch_up()?;
    let own = driver.captured(stream)?;
    driver.order.waits(stream, event);
    match driver.event(event)?.capture {
        Some(capture) if own.is_none() => driver.set_captured(stream, Some(capture)),
        other if own.is_some() && other != own => {
            let text = "a stream being captured waits for an event outside the capture";
            Err(driver.fail(Error::StreamCaptureUnsupported, text.to_owned()))
        }
        _ => Ok(()),
    }
}

driver_api! {
    /// A new stream.
    fn cuStreamCreate(stream: Out<usize>, flags: c_uint) |driver| {
        bound(driver)?;
        stream.put(create(driver, flags))
    };

    /// A new stream; priorities do not matter here.
    fn cuStreamCreateWithPriority(stream: Out<usize>, flags: c_uint, _priority: c_int) |driver| {
        bound(driver)?;
        stream.put(create(driver, flags))
    };

    /// Destroys a stream.
    fn cuStreamDestroy_v2(stream: usize) |driver| {
        driver.captured(stream)?;
        driver.catch_up()?;
        driver.order.destroyed(stream);
        driver.destroy(stream).map(drop)
    };

    /// Waits for a stream.
    fn cuStreamSynchronize(stream: usize) |driver| {
        bound(driver)?;
        driver.not_captured(stream, "waiting")?;
        driver.catch_up()?;
        driver.order.synchronised(stream);
        Ok(())
    };

    /// Whether a stream has nothing left to do.
    fn cuStreamQuery(stream: usize) |driver| {
        bound(driver)?;
        driver.not_captured(stream, "asking")
    };

    /// Makes a stream wait for an event.
    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) |driver| {
        bound(driver)?;
        wait(driver, stream, event)
    };

    /// Calls a function of the host's when the stream comes to it.
    fn cuLaunchHostFunc(stream: usize, function: Option<unsafe extern "C" fn(Host)>, data: Host) |driver| {
        bound(driver)?;
        let function = function.ok_or(Error::InvalidValue)?;
        driver.submit(stream, Operation::Call(Callback { function, data }))
    };

    /// A new event.
    fn cuEventCreate(event: Out<usize>, _flags: c_uint) |driver| {
        bound(driver)?;
        event.put(driver.create(Object::Event(Event::default())))
    };

    /// Destroys an event.
    fn cuEventDestroy_v2(event: usize) |driver| {
        driver.event(event)?;
        driver.order.destroyed(event);
        driver.destroy(event).map(drop)
    };

    /// Marks the present point of a stream.
    fn cuEventRecord(event: usize, stream: usize) |driver| {
        bound(driver)?;
        record(driver, event, stream)
    };

    /// Waits for an event.
    fn cuEventSynchronize(event: usize) |driver| {
        if driver.event(event)?.capture.is_some() {
            let text = "waiting for an event of a capture".to_owned();
            return Err(driver.fail(Error::StreamCaptureUnsupported, text));
        }
        driver.order.host_waits(event);
        Ok(())
    };

    /// Whether an event has happened.
    fn cuEventQuery(event: usize) |driver| driver.event(event).map(drop);

    /// Time between two events: the virtual machine's, not a GPU's.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) |driver| {
        milliseconds.put(elapsed(driver, start, end)?)
    };

    /// The same, under its later name.
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: usize, end: usize) |driver| {
        milliseconds.put(elapsed(driver, start, end)?)
    };
}
