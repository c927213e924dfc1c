//! The callers' pointers: the only place where they are followed. See the crate's safety section for
//! what callers promise.

use crate::status::{Error, Status};
use std::ffi::{CStr, c_char, c_void};

/// A pointer through which a result is returned.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result; null is an error.
    pub(crate) fn put(self, value: T) -> Status {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, so valid for a write of T by the caller's promise.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

impl Out<c_char> {
    /// Writes as much of a text as fits, and a null byte.
    pub(crate) fn put_text(self, text: &str, capacity: usize) -> Status {
        if self.0.is_null() || capacity == 0 {
            return Err(Error::InvalidValue);
        }
        let length = text.len().min(capacity - 1);
        // SAFETY: not null, so valid for `capacity` bytes by the caller's promise; at most
        // length + 1 ≤ capacity are written.
        unsafe {
            self.0.copy_from_nonoverlapping(text.as_ptr().cast(), length);
            self.0.add(length).write(0);
        }
        Ok(())
    }
}

/// A null-terminated text of the caller.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    pub(crate) fn get(self) -> Result<String, Error> {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, so a null-terminated text by the caller's promise.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Error::InvalidValue)
    }
}

/// Host memory of the caller.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Host(*mut c_void);

// SAFETY: the pointer is only followed in the calls of the thread that passed it or, in a graph, by
// one that launches it: the caller's promise covers both.
unsafe impl Send for Host {}

impl Host {
    pub(crate) fn address(self) -> usize {
        self.0.addr()
    }

    /// A copy of so many bytes.
    pub(crate) fn read(self, bytes: usize) -> Result<Vec<u8>, Error> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        let mut out = Vec::with_capacity(bytes);
        // SAFETY: not null, so valid for reads of `bytes` by the caller's promise; the vector has
        // room for them. Copying raw bytes asks nothing of their values, not even to be initialised.
        unsafe {
            std::ptr::copy_nonoverlapping(self.0.cast::<u8>(), out.as_mut_ptr(), bytes);
            out.set_len(bytes);
        }
        Ok(out)
    }

    /// Writes bytes there.
    pub(crate) fn write(self, data: &[u8]) -> Status {
        if data.is_empty() {
            return Ok(());
        }
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, so valid for writes of as many bytes by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.0.cast(), data.len()) };
        Ok(())
    }

    /// Pinned memory: ordinary memory, zeroed, that [`Self::release`] gives back.
    pub(crate) fn pinned(bytes: usize) -> Self {
        let memory: Box<[u128]> = vec![0; bytes.div_ceil(16)].into();
        Self(Box::into_raw(memory).cast())
    }

    /// Gives back what [`Self::pinned`] made with the same size. The caller of this checks that.
    pub(crate) fn release(self, bytes: usize) {
        let memory = std::ptr::slice_from_raw_parts_mut(self.0.cast::<u128>(), bytes.div_ceil(16));
        // SAFETY: `Driver::free_host` passes only what `pinned` made, once, with its size.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// The `kernelParams` of a launch: a pointer to each argument.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Arguments(*const Host);

impl Arguments {
    /// The pointer to argument `i`, which the kernel has.
    pub(crate) fn get(self, i: usize) -> Result<Host, Error> {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null, so an array of one pointer for each of the kernel's parameters by the
        // caller's promise.
        Ok(unsafe { self.0.add(i).read() })
    }
}

/// A host function and what to call it with.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub function: unsafe extern "C" fn(Host),
    pub data: Host,
}

impl Callback {
    pub fn call(self) {
        // SAFETY: the caller gave both together, to be called so.
        unsafe { (self.function)(self.data) };
    }
}
