//! Files that appear whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Writes `bytes` to `path`, as [`atomic_write_with`] does.
///
/// Errors: the operating system's.
#[track_caller]
pub fn atomic_write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let bytes = bytes.as_ref();
    atomic_write_with(path, |file| file.write_all(bytes))
}

/// Writes a file so that, whatever fails and whenever, `path` is either the old file or the new
/// one: into a temporary file in the same directory, which is brought to disk, renamed over
/// `path`, and its new name brought to disk too.
///
/// Errors: the operating system's, from whichever step; the temporary file is then removed.
#[track_caller]
pub fn atomic_write_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let temporary = create_beside(path)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, temporary.as_file());
    step("write", path, write(&mut buffered).and_then(|()| buffered.flush()))?;
    drop(buffered);
    step("bring to disk", path, temporary.as_file().sync_all())?;
    step("rename onto", path, temporary.persist(path).map_err(|failed| failed.error))?;
    // Only Unix lets a directory be opened for this.
    if cfg!(unix) {
        let directory = directory_of(path);
        let sync = File::open(directory).and_then(|open| open.sync_all());
        step("bring to disk", directory, sync)?;
    }
    Ok(())
}

/// That [`atomic_write`] to `path` would not fail from the outset: known before the work that is to
/// be written there. Nothing is left, and a file of that name stays what it is.
///
/// Errors: the operating system's; what is there is no file.
#[track_caller]
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    if path.metadata().is_ok_and(|about| !about.is_file()) {
        let error = io::Error::new(io::ErrorKind::AlreadyExists, "it is no file");
        return step("write", path, Err(error));
    }
    create_beside(path).map(drop)
}

/// The directory that a path is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A temporary file in the directory of `path`.
#[track_caller]
fn create_beside(path: &Path) -> Result<tempfile::NamedTempFile> {
    step("create a file beside", path, create(directory_of(path)))
}

/// A new file with the permissions a plain `File::create` gives, not the private ones of a
/// temporary file.
fn create(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(directory)
}

#[track_caller]
fn step<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(Error::io(action, path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_cleans_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        atomic_write(&path, "old").unwrap();
        atomic_write(&path, "new").unwrap();
        let failed = atomic_write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().starts_with("write: no more"));
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let nowhere = directory.path().join("none/file");
        assert!(atomic_write(&nowhere, "").is_err() && check_writable(&nowhere).is_err());
        assert!(check_writable(directory.path()).unwrap_err().to_string().contains("no file"));
        check_writable(&path).unwrap();
        check_writable(directory.path().join("other")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
