//! Where a folder's files come from: a disk, or bytes compiled into the program.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tensor::{Error, Result};

use crate::text::{self, Tokenizer};

/// Where a folder's files come from.
pub enum Source<'a> {
    /// A folder.
    Disk(PathBuf),
    /// Paths within the folder, and contents.
    Memory(&'a [(&'a str, &'a [u8])]),
}

impl Source<'_> {
    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Disk(root) => root.join(name).is_file(),
            Self::Memory(files) => files.iter().any(|(path, _)| *path == name),
        }
    }

    /// The contents of a file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Disk(root) => {
                let path = root.join(name);
                fs::read(&path).map_err(|error| Error::io("open", &path, error))
            }
            Self::Memory(files) => match files.iter().find(|(path, _)| *path == name) {
                Some((_, bytes)) => Ok(bytes.to_vec()),
                None => Err(self.missing(&[name.to_owned()])),
            },
        }
    }

    /// What a JSON file says.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path(name);
        serde_json::from_slice(&self.read(name)?)
            .map_err(|error| Error::file("json", path, error.to_string()))
    }

    /// The path of a file, for errors.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Disk(root) => root.join(name),
            Self::Memory(_) => name.into(),
        }
    }

    /// That files are there, of each choice at least one.
    ///
    /// Errors: every choice of which there is none, all of them at once.
    pub fn check(&self, choices: &[Vec<String>]) -> Result<()> {
        let is_missing = |choice: &&Vec<String>| !choice.iter().any(|name| self.has(name));
        let missing: Vec<String> =
            choices.iter().filter(is_missing).map(|choice| choice.join(" or ")).collect();
        if missing.is_empty() { Ok(()) } else { Err(self.missing(&missing)) }
    }

    /// The error of files that are not there.
    pub fn missing(&self, names: &[String]) -> Error {
        let message = match names {
            [_] => "a file of the pipeline folder is missing",
            _ => "files of the pipeline folder are missing",
        };
        let error = Error::file("open", self.path(""), message);
        names.iter().fold(error, |error, name| error.note(name))
    }

    /// The tokenizer in the folder `tokenizer`.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        if let Self::Disk(root) = self {
            return Tokenizer::open(root.join("tokenizer"));
        }
        let present = text::FILES.iter().filter(|name| self.has(&format!("tokenizer/{name}")));
        let read = |name: &&'static str| Ok((*name, self.read(&format!("tokenizer/{name}"))?));
        Tokenizer::from_files(present.map(read).collect::<Result<_>>()?)
    }
}

/// Writes a file of a folder that has its final name only when all of it is written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
    }
    tensor::io::atomic_write(path, bytes)
}

/// Writes a JSON file as [`write`] does.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::file("json", path, error.to_string()))?;
    text.push(b'\n');
    write(path, &text)
}
