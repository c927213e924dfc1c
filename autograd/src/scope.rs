//! What is true for a stretch of code: whether it records, and in which module it is.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::thread::LocalKey;

use tensor::Result;

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
    static AUTOCAST: Cell<bool> = const { Cell::new(false) };
    static PATH: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Runs `f` without recording: results are constants whatever they are made of.
///
/// The switch is the thread's. A thread that waits for a kernel may meanwhile be given another
/// task of the call that this one is part of, and would run it with the switch as it stands: passes
/// that record belong on threads of their own, not into tasks of `kernels::par`.
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

/// Runs `f` with recording on or off.
pub(crate) fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    with(&RECORDING, on, f)
}

/// Runs `f` with a switch on or off, and leaves it as before, also after a panic.
pub(crate) fn with<R>(switch: &'static LocalKey<Cell<bool>>, on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(switch, switch.replace(on));
    f()
}

/// Whether operations on tracked variables give tracked variables here.
pub(crate) fn is_recording() -> bool {
    RECORDING.get()
}

/// Runs `f` with a GPU's products on its tensor cores: operands of matrix products, linear layers
/// and attention are rounded to bf16, whatever they are stored as. Sums are float32, and so are
/// results and all other operations; what kernels for tensor cores cannot take (rows that are no
/// multiple of 8 elements, odd widths of heads) is computed in float32.
///
/// A backward pass does as the switch stands when it runs: call it in here too. The switch is the
/// thread's. On the CPU nothing changes: there bf16 is storage alone.
/// Source: Micikevicius et al. 2018, "Mixed precision training"; bf16 needs no scaling of losses.
///
/// ```
/// use autograd::{Var, autocast};
/// use tensor::{DType, Tensor};
/// let x = Var::parameter(Tensor::ones([8, 8], DType::F32));
/// let loss = autocast(|| x.matmul(&x)?.sum_all()?.backward());
/// assert!(loss.is_ok());
/// ```
pub fn autocast<R>(f: impl FnOnce() -> R) -> R {
    with(&AUTOCAST, true, f)
}

/// Whether this is run by [`autocast`].
pub fn is_autocast() -> bool {
    AUTOCAST.get()
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
    let inner = match path() {
        Some(outer) => format!("{outer}.{name}").into(),
        None => name.into(),
    };
    within(Some(inner), f).map_err(|error| error.scope(name))
}

/// Runs `f` as code of the modules on this path, and is where it was after it.
pub(crate) fn within<R>(path: Option<Arc<str>>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<str>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            PATH.set(self.0.take());
        }
    }
    let _restore = Restore(PATH.replace(path));
    f()
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
