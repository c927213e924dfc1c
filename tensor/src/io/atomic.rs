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
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = step("create a file beside", path, create(directory))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, temporary.as_file());
    step("write", path, write(&mut buffered).and_then(|()| buffered.flush()))?;
    drop(buffered);
    step("bring to disk", path, temporary.as_file().sync_all())?;
    step("rename onto", path, temporary.persist(path).map_err(|failed| failed.error))?;
    // Only Unix lets a directory be opened for this.
    #[cfg(unix)]
    step("bring to disk", directory, File::open(directory).and_then(|open| open.sync_all()))?;
    Ok(())
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
        assert!(atomic_write(directory.path().join("none/file"), "").is_err());
    }
}
