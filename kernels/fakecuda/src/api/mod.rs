//! The driver's C functions, by topic. Each has the signature and the meaning of the CUDA driver
//! API's function of its name.

pub mod device;
pub mod graph;
pub mod memory;
pub mod module;
pub mod stream;

/// Declares C functions whose bodies run with the driver locked and give a
/// [`Status`](crate::status::Status).
macro_rules! driver_api {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) |$driver:pat_param| $body:expr;)*) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> i32 {
                crate::driver::call(|$driver| $body)
            }
        )*
    };
}

pub(crate) use driver_api;
