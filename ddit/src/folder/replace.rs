//! Folders that appear whole or not at all.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tensor::{Error, Result};

/// Makes the folder `path`: `write` fills a new one beside it, which then takes its name. A folder
/// that is there already is replaced, and stays what it was if anything fails.
///
/// Errors: those of `write`; the operating system's. Should the old folder not get its name back,
/// the error says where it is.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
    let new = beside(parent, ".new")?;
    let filled = new.path().join("folder");
    write(&filled)?;
    if !path.exists() {
        return rename(&filled, path);
    }
    // Between the two renames the old folder stands under the temporary name.
    let old = beside(parent, ".old")?;
    let aside = old.path().join("folder");
    rename(path, &aside)?;
    let Err(error) = rename(&filled, path) else { return Ok(()) };
    Err(match rename(&aside, path) {
        Ok(()) => error,
        Err(_) => error.note(format!("what was there is {}/folder now", old.keep().display())),
    })
}

/// A folder of a name that is still free, removed when it is dropped.
fn beside(parent: &Path, suffix: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix(".").suffix(suffix).tempdir_in(parent);
    folder.map_err(|error| Error::io("create a folder in", parent, error))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::io("rename", from, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_or_stays_what_it_was() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/model");
        let put = |text: &'static str| {
            move |new: &Path| {
                fs::create_dir(new).unwrap();
                fs::write(new.join("file"), text).map_err(|e| Error::io("write", new, e))
            }
        };
        let read = || fs::read_to_string(path.join("file")).unwrap();
        replace(&path, put("old")).unwrap();
        // The writing fails, or leaves nothing that could be renamed.
        assert!(replace(&path, |_| Err(Error::value("test", "no"))).is_err());
        assert_eq!(read(), "old");
        let error = replace(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with("rename"), "{error}");
        assert_eq!(read(), "old");
        replace(&path, put("new")).unwrap();
        assert_eq!(read(), "new");
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no temporary folder is left");
    }
}
