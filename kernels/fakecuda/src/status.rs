//! `CUresult`: codes, names and texts.

use std::ffi::CStr;

/// An error of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Error {
    /// An argument no call of that kind can have.
    InvalidValue = 1,
    /// The card's memory is used up.
    OutOfMemory = 2,
    /// `cuInit` was not called.
    NotInitialized = 3,
    /// No such card.
    InvalidDevice = 101,
    /// No context is current on this thread.
    InvalidContext = 201,
    /// The kernel's `.target` is newer than the card, or is for another one.
    NoBinaryForGpu = 209,
    /// The PTX text does not parse.
    InvalidPtx = 218,
    /// The PTX text's `.version` is newer than the driver.
    UnsupportedPtxVersion = 222,
    /// A stream, event, module, function or graph that does not exist, or no longer.
    InvalidHandle = 400,
    /// No function of that name.
    NotFound = 500,
    /// An event that has not happened.
    NotReady = 600,
    /// An access out of bounds, or to freed memory.
    IllegalAddress = 700,
    /// More threads, shared memory or registers than the card has.
    LaunchOutOfResources = 701,
    /// A misaligned access.
    MisalignedAddress = 716,
    /// A kernel broke one of the virtual machine's other rules.
    LaunchFailed = 719,
    /// A call that a stream being captured does not allow.
    StreamCaptureUnsupported = 900,
    /// A capture that was never begun.
    StreamCaptureInvalidated = 901,
}

/// What a call gives: nothing, or an error.
pub type Status = Result<(), Error>;

impl Error {
    const ALL: [(Self, &'static CStr, &'static CStr); 17] = [
        (Self::InvalidValue, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        (Self::OutOfMemory, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        (Self::NotInitialized, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        (Self::InvalidDevice, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        (Self::InvalidContext, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        (Self::NoBinaryForGpu, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image for this device"),
        (Self::InvalidPtx, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        (
            Self::UnsupportedPtxVersion,
            c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            c"the PTX was compiled with an unsupported toolchain",
        ),
        (Self::InvalidHandle, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        (Self::NotFound, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        (Self::NotReady, c"CUDA_ERROR_NOT_READY", c"device not ready"),
        (Self::IllegalAddress, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access"),
        (
            Self::LaunchOutOfResources,
            c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            c"too many resources requested for launch",
        ),
        (Self::MisalignedAddress, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
        (Self::LaunchFailed, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        (
            Self::StreamCaptureUnsupported,
            c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            c"operation not permitted when stream is capturing",
        ),
        (
            Self::StreamCaptureInvalidated,
            c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
            c"operation failed due to a previous error during capture",
        ),
    ];

    /// The name and the usual text of a code.
    pub(crate) fn describe(code: i32) -> Option<(&'static CStr, &'static CStr)> {
        if code == 0 {
            return Some((c"CUDA_SUCCESS", c"no error"));
        }
        let found = Self::ALL.iter().find(|(error, ..)| *error as i32 == code)?;
        Some((found.1, found.2))
    }
}
