//! What the suites in `tests/` share: nothing yet but the crate they belong to.
