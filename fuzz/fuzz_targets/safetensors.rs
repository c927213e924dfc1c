//! `cargo fuzz run safetensors`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::safetensors(data));

#[cfg(not(fuzzing))]
fn main() {}
