//! `cargo fuzz run npy`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::npy(data));

#[cfg(not(fuzzing))]
fn main() {}
