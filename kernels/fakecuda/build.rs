//! Gives the library the name a program looks for when it opens the CUDA driver. Under
//! AddressSanitizer (`.ci/sanitize`) it finds the sanitizer in the test that opens it.

fn main() {
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
        println!("cargo:rustc-link-arg-tests=-rdynamic");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
