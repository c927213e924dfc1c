//! The library as a test has it: put in the driver's place, and asked what it saw.

use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

use libloading::{Library, Symbol};

/// This library, loaded where a program looks for the CUDA driver.
pub struct Installed(Library);

/// Puts the library in the driver's place, unless the environment variable `DDIT_GPU` is `1`: then
/// tests run on the machine's own GPU, and there is `None` to ask what it saw.
///
/// # Panics
/// If it does not lie beside the program, where cargo leaves it for the tests of a crate that has
/// this one as a dev-dependency.
pub fn unless_gpu() -> Option<&'static Installed> {
    let is_wanted = std::env::var_os("DDIT_GPU").is_some_and(|value| value == "1");
    (!is_wanted).then(install)
}

/// Puts the library in the driver's place, once for the whole process. What opens `libcuda.so` from
/// then on finds it, on a machine with a driver too.
///
/// # Panics
/// As [`unless_gpu`].
pub fn install() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let program = std::env::current_exe().expect("a running program has a path");
        let beside = program.with_file_name("libcuda.so");
        // SAFETY: this very library; loading it runs nothing.
        let library = unsafe { Library::new(&beside) };
        Installed(library.unwrap_or_else(|error| panic!("{}: {error}", beside.display())))
    })
}

impl Installed {
    /// Everything that was made and not destroyed, a line each.
    pub fn leaks(&self) -> Vec<String> {
        let mut count = 0;
        let text = filled(|text, capacity| {
            // SAFETY: the function has this signature; `filled` passes a buffer and its capacity.
            unsafe {
                let leaks: Symbol<'_, unsafe extern "C" fn(*mut usize, *mut c_char, usize) -> i32> =
                    self.symbol(b"fakecuda_leaks");
                leaks(&mut count, text, capacity)
            }
        });
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), count, "the text of the leaks was cut");
        lines
    }

    /// The text of the last error, which is forgotten; empty if there was none.
    pub fn last_fault(&self) -> String {
        self.text(b"fakecuda_last_fault")
    }

    /// What kernels did, as [`fakecuda_statistics`](crate::extra::fakecuda_statistics) has it.
    pub fn statistics(&self) -> String {
        self.text(b"fakecuda_statistics")
    }

    /// The names of the kernels that were launched.
    pub fn launched(&self) -> Vec<String> {
        let statistics = self.statistics();
        statistics.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
    }

    /// Forgets what kernels did.
    pub fn reset_statistics(&self) {
        // SAFETY: the function has this signature.
        let status = unsafe {
            let reset: Symbol<'_, unsafe extern "C" fn() -> i32> =
                self.symbol(b"fakecuda_reset_statistics");
            reset()
        };
        assert_eq!(status, 0);
    }

    /// Whether work is done when it is waited for, as [`fakecuda_set_late`] has it.
    ///
    /// [`fakecuda_set_late`]: crate::extra::fakecuda_set_late
    pub fn set_late(&self, late: bool) {
        self.number(b"fakecuda_set_late", u32::from(late));
    }

    /// Destroys everything on the device: after what a kernel did wrong nothing else can be done.
    pub fn reset_device(&self) {
        self.number(b"cuDevicePrimaryCtxReset_v2", 0);
    }

    /// Becomes another card, one that [`card`](crate::card) knows.
    pub fn set_card(&self, name: &str) {
        let name = CString::new(name).expect("a name without null");
        // SAFETY: the function has this signature, and the text is null-terminated.
        let status = unsafe {
            let set: Symbol<'_, unsafe extern "C" fn(*const c_char) -> i32> =
                self.symbol(b"fakecuda_set_card");
            set(name.as_ptr())
        };
        assert_eq!(status, 0, "no such card");
    }

    /// Calls a function that takes a number.
    fn number(&self, function: &[u8], number: u32) {
        // SAFETY: the functions passed here have this signature, but for the sign of the number,
        // which is 0 or 1.
        let status = unsafe {
            let call: Symbol<'_, unsafe extern "C" fn(u32) -> i32> = self.symbol(function);
            call(number)
        };
        assert_eq!(status, 0);
    }

    /// The text that a function of ours gives.
    fn text(&self, function: &[u8]) -> String {
        filled(|text, capacity| {
            // SAFETY: the functions passed here have this signature; `filled` passes a buffer and
            // its capacity.
            unsafe {
                let give: Symbol<'_, unsafe extern "C" fn(*mut c_char, usize) -> i32> =
                    self.symbol(function);
                give(text, capacity)
            }
        })
    }

    /// A function of ours.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn symbol<F>(&self, name: &[u8]) -> Symbol<'_, F> {
        // SAFETY: the caller's promise.
        unsafe { self.0.get(name) }.expect("the library has its own functions")
    }
}

/// The text that `fill` writes to a buffer of so many bytes.
fn filled(fill: impl FnOnce(*mut c_char, usize) -> i32) -> String {
    let mut buffer = vec![0u8; 1 << 20];
    assert_eq!(fill(buffer.as_mut_ptr().cast(), buffer.len()), 0);
    let text = CStr::from_bytes_until_nul(&buffer).expect("texts end within the buffer");
    text.to_string_lossy().into_owned()
}
