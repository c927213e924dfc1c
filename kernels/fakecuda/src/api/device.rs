//! Initialisation, the device, contexts, errors.

use super::driver_api;
use crate::card;
use crate::driver::Driver;
use crate::raw::Out;
use crate::status::{Error, Status};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// The handle of the only context.
const CONTEXT: usize = 1;
/// The handle of its default memory pool.
const POOL: usize = 1;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// An error unless this thread has a context, and no kernel has ruined it.
pub(crate) fn bound(driver: &mut Driver) -> Status {
    match driver.dead {
        _ if CURRENT.get() != CONTEXT => {
            let text = "no context is current on this thread".to_owned();
            Err(driver.fail(Error::InvalidContext, text))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn known(device: c_int) -> Status {
    if device == 0 { Ok(()) } else { Err(Error::InvalidDevice) }
}

driver_api! {
    /// Starts the driver.
    fn cuInit(flags: c_uint) |driver| {
        driver.initialised = true;
        if flags == 0 { Ok(()) } else { Err(Error::InvalidValue) }
    };

    /// The version of CUDA this driver is of.
    fn cuDriverGetVersion(version: Out<c_int>) |_| version.put(card::DRIVER);

    /// One device.
    fn cuDeviceGetCount(count: Out<c_int>) |driver| {
        if driver.initialised { count.put(1) } else { Err(Error::NotInitialized) }
    };

    /// The device of an ordinal.
    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) |driver| {
        if !driver.initialised {
            return Err(Error::NotInitialized);
        }
        known(ordinal)?;
        device.put(ordinal)
    };

    /// Its name.
    fn cuDeviceGetName(name: Out<c_char>, length: c_int, device: c_int) |driver| {
        known(device)?;
        let text = format!("{} (PTX virtual machine)", driver.card.name);
        name.put_text(&text, usize::try_from(length).unwrap_or(0))
    };

    /// A UUID that says it is none.
    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) |_| {
        known(device)?;
        uuid.put(*b"fakecuda ptx vm.")
    };

    /// Bytes of its memory.
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) |driver| {
        known(device)?;
        bytes.put(driver.card.memory as usize)
    };

    /// One of its attributes.
    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_uint, device: c_int) |driver| {
        known(device)?;
        value.put(driver.card.attribute(attribute))
    };

    /// Its memory pool.
    fn cuDeviceGetDefaultMemPool(pool: Out<usize>, device: c_int) |_| {
        known(device)?;
        pool.put(POOL)
    };

    /// Its memory pool.
    fn cuDeviceGetMemPool(pool: Out<usize>, device: c_int) |_| {
        known(device)?;
        pool.put(POOL)
    };

    /// Settings of the pool change nothing here.
    fn cuMemPoolSetAttribute(pool: usize, _attribute: c_uint, _value: usize) |_| {
        if pool == POOL { Ok(()) } else { Err(Error::InvalidHandle) }
    };

    /// Bytes reserved and used (attributes 5 to 8), now and at most; settings read as 0.
    fn cuMemPoolGetAttribute(pool: usize, attribute: c_uint, value: Out<u64>) |driver| {
        match attribute {
            _ if pool != POOL => Err(Error::InvalidHandle),
            5..=8 => value.put(driver.allocated()),
            4 => value.put(0),
            _ => Err(Error::InvalidValue),
        }
    };

    /// Nothing is held back, so nothing is given back.
    fn cuMemPoolTrimTo(pool: usize, _keep: usize) |_| {
        if pool == POOL { Ok(()) } else { Err(Error::InvalidHandle) }
    };

    /// The device's context.
    fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: c_int) |_| {
        known(device)?;
        context.put(CONTEXT)
    };

    /// It stays: another test of the process may use it.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) |_| known(device);

    /// Destroys everything that was made in it, the only way out of what a kernel did wrong.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) |driver| {
        known(device)?;
        driver.reset();
        Ok(())
    };

    /// Binds it to this thread.
    fn cuCtxSetCurrent(context: usize) |_| {
        if context > CONTEXT {
            return Err(Error::InvalidContext);
        }
        CURRENT.set(context);
        Ok(())
    };

    /// The context of this thread, or null.
    fn cuCtxGetCurrent(context: Out<usize>) |_| context.put(CURRENT.get());

    /// Waits for everything.
    fn cuCtxSynchronize() |driver| {
        bound(driver)?;
        driver.catch_up()?;
        driver.order.all_synchronised();
        Ok(())
    };

    /// The name of an error.
    fn cuGetErrorName(error: c_int, name: Out<*const c_char>) |_| {
        let (found, _) = Error::describe(error).ok_or(Error::InvalidValue)?;
        name.put(found.as_ptr())
    };

    /// What went wrong: for the last error the whole story, else what the code says. The text is
    /// never freed, as callers may keep it.
    fn cuGetErrorString(error: c_int, text: Out<*const c_char>) |driver| {
        let (_, plain) = Error::describe(error).ok_or(Error::InvalidValue)?;
        let told: &'static CStr = match &driver.last {
            Some((last, told)) if *last as i32 == error => Box::leak(told.clone().into_boxed_c_str()),
            _ => plain,
        };
        text.put(told.as_ptr())
    };
}
