//! `cargo fuzz run tokenizer`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tokenizer(data));

#[cfg(not(fuzzing))]
fn main() {}
