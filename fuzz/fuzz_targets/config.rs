//! `cargo fuzz run config`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::config(data));

#[cfg(not(fuzzing))]
fn main() {}
