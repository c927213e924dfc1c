//! `cargo fuzz run caption`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::caption(data));

#[cfg(not(fuzzing))]
fn main() {}
