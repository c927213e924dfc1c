//! What is true for a stretch of code: whether it records, and in which module it is.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tensor::Result;

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
    static PATH: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Runs `f` without recording: results are constants whatever they are made of.
///
/// ```
/// use autograd::{Var, no_grad};
/// use tensor::{DType, Tensor};
/// let x = Var::parameter(Tensor::ones([2], DType::F32));
/// assert!(!no_grad(|| x.exp()).unwrap().is_tracked());
/// ```
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_recording(false, f)
}

/// Runs `f` with recording on or off, and then as before, also after a panic.
pub(crate) fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Whether operations on tracked variables give tracked variables here.
pub(crate) fn is_recording() -> bool {
    RECORDING.get()
}

/// Runs a module's forward pass under its name: errors from inside, and errors of the backward
/// pass through what is made inside, say which module they come from.
///
/// ```
/// use autograd::{Var, scope};
/// use tensor::{DType, Tensor};
/// let x = Var::constant(Tensor::ones([2, 3], DType::F32));
/// let error = scope("blocks.0", || scope("attn", || x.reshape([5]))).unwrap_err();
/// assert!(error.to_string().contains("blocks.0.attn"));
/// ```
pub fn scope<T>(name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    struct Restore(Option<Arc<str>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            PATH.set(self.0.take());
        }
    }
    let outer = path();
    let inner = match &outer {
        Some(outer) => format!("{outer}.{name}").into(),
        None => name.into(),
    };
    PATH.set(Some(inner));
    let _restore = Restore(outer);
    f().map_err(|error| error.scope(name))
}

/// The names of the modules that the current code is in, joined by dots.
pub(crate) fn path() -> Option<Arc<str>> {
    PATH.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_end_with_their_stretch() {
        assert!(is_recording());
        no_grad(|| {
            assert!(!is_recording());
            with_recording(true, || assert!(is_recording()));
            assert!(!is_recording());
        });
        let panicked = std::panic::catch_unwind(|| no_grad(|| panic!("on purpose")));
        assert!(panicked.is_err() && is_recording());
        let inside = scope("a", || scope("b", || Ok(path())));
        assert_eq!((inside.unwrap().as_deref(), path()), (Some("a.b"), None));
    }
}
