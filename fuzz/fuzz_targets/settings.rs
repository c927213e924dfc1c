//! `cargo fuzz run settings`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::settings(data));

#[cfg(not(fuzzing))]
fn main() {}
