//! What tests of a GPU launch is what the assembler's check walks over.

use kernels::ptx::registry;

/// Every kernel that was launched so far is in the registry, or has an example there. Hardware does
/// not tell.
pub fn assert_listed() {
    let Some(stand_in) = cuda::unless_gpu() else { return };
    let launched = stand_in.launched();
    assert!(!launched.is_empty(), "nothing was launched");
    let unlisted = registry::unlisted(launched.iter().map(String::as_str));
    assert!(unlisted.is_empty(), "not in the registry: {unlisted:?}");
}
