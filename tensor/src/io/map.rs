//! Mapping files into memory.
//!
//! **Invariant: a mapped file's bytes do not change while the map lives.** The map hands out
//! `&[u8]`, which the compiler takes for constant. Nobody can enforce this against other programs;
//! so, as with every program that maps its data, a file that is cut short under a running process
//! ends it with `SIGBUS`. This crate keeps its part: maps are read-only, and files are written only
//! by [`atomic_write`](super::atomic_write), which puts a new file in the old one's place and lets
//! the old one's maps live on undisturbed.

#![expect(unsafe_code, reason = "the one place that maps files; see the invariant above")]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use crate::{Error, Result};

/// Maps a file. Nothing is read until it is touched.
///
/// Errors: the file cannot be opened or mapped.
#[track_caller]
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Err(Error::io("open", path, error)),
    };
    // SAFETY: the map is read-only, and by this file's invariant nothing writes to the file.
    match unsafe { Mmap::map(&file) } {
        Ok(map) => Ok(map),
        Err(error) => Err(Error::io("map", path, error)),
    }
}

/// Lets the operating system take back the memory that holds the pages of `range`; they are read
/// from the file again when they are next touched. Does nothing where that cannot be asked for.
pub(crate) fn unload(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: the map is shared with its file and never written to, so pages that are read
        // again hold, by this file's invariant, what they held before.
        let advised = unsafe {
            map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        // It is advice: one that is not taken changes nothing but the memory in use.
        let _ = advised;
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_reports() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(map(file.path()).unwrap().is_empty());
        std::fs::write(file.path(), b"abc").unwrap();
        let abc = map(file.path()).unwrap();
        unload(&abc, 0..3);
        assert_eq!(&*abc, b"abc");
        let error = map(Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().starts_with("open: "), "{error}");
    }
}
