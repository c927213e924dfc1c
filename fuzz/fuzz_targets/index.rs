//! `cargo fuzz run index`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::index(data));

#[cfg(not(fuzzing))]
fn main() {}
