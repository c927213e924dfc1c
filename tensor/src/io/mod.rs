//! Files: [`safetensors`], [`npy`], and writing that leaves no half-written file behind.
//!
//! Readers trust nothing: every length, offset and product is checked before use, and an error
//! names the file, the entry and the byte.

pub mod npy;
pub mod safetensors;

mod atomic;
pub(crate) mod map;

pub use atomic::{atomic_write, atomic_write_with, check_writable};

#[cfg(target_endian = "big")]
compile_error!("files are little-endian and are mapped into memory as they are");
