//! A set of fixtures: the manifest, and the cases in it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tensor::{Device, Error, Result};

use super::{KINDS, Report, Trial};

/// The version of the format that is read.
const FORMAT: u64 = 1;

/// Where files lie that all sets share, unless [`FixtureSet::with_shared`] says otherwise.
const SHARED: &str = "../shared";

/// Cases with stored results.
///
/// ```no_run
/// use ddit::parity::FixtureSet;
/// # fn main() -> tensor::Result<()> {
/// for case in FixtureSet::open("fixtures/manifest.json")?.cases()? {
///     for comparison in case.run()?.comparisons {
///         assert!(comparison.ok(), "{}: {}", case.id(), comparison.tensor);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FixtureSet {
    path: PathBuf,
    manifest: Value,
    shared: PathBuf,
    device: Device,
}

/// A case of a set.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    set: &'a FixtureSet,
    entry: &'a Value,
    id: &'a str,
    kind: &'a str,
}

impl FixtureSet {
    /// Reads a manifest. Its files are opened when a case needs them.
    ///
    /// Errors: a file that cannot be read, is not JSON, or is of another format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let manifest = read_json(&path)?;
        let set = Self { path, manifest, shared: SHARED.into(), device: Device::Cpu };
        match set.manifest.get("format").and_then(Value::as_u64) {
            Some(FORMAT) => Ok(set),
            _ => Err(set.malformed("format", format!("expected {FORMAT}"))),
        }
    }

    /// The same set, with files that all sets share, such as the public vocabulary of T5, looked
    /// for in this folder and not in `../shared`.
    pub fn with_shared(self, shared: impl Into<PathBuf>) -> Self {
        Self { shared: shared.into(), ..self }
    }

    /// The same set, whose networks compute on a device: with its tensors and its tolerances.
    pub fn on(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
    }

    /// The cases, in the manifest's order.
    ///
    /// Errors: there are none; cases without an id or a kind.
    pub fn cases(&self) -> Result<Vec<Case<'_>>> {
        let entries = match self.manifest.get("cases").and_then(Value::as_array) {
            Some(entries) if !entries.is_empty() => entries,
            _ => return Err(self.malformed("cases", "expected a list of cases")),
        };
        let case = |(i, entry)| {
            let entry: &Value = entry;
            let text = |key: &str| match entry.get(key).and_then(Value::as_str) {
                Some(text) => Ok(text),
                None => Err(self.malformed(format!("cases[{i}].{key}"), "expected a name")),
            };
            Ok(Case { set: self, entry, id: text("id")?, kind: text("kind")? })
        };
        entries.iter().enumerate().map(case).collect()
    }

    /// What the manifest says of the weights `name`.
    pub(super) fn weights(&self, name: &str) -> Result<&Map<String, Value>> {
        let weights = self.manifest.get("weights").and_then(|weights| weights.get(name));
        let found = weights.and_then(Value::as_object);
        found.ok_or_else(|| self.malformed(format!("weights.{name}"), "expected an object"))
    }

    /// The file that `entry`, found at `key` of the manifest, names.
    pub(super) fn file(&self, entry: &Map<String, Value>, key: &str) -> Result<PathBuf> {
        match entry.get("file").and_then(Value::as_str) {
            Some(name) => Ok(self.path(name)),
            None => Err(self.malformed(format!("{key}.file"), "expected the name of a file")),
        }
    }

    /// Where networks compute.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The folder of files that all sets share.
    pub(super) fn shared(&self) -> &Path {
        &self.shared
    }

    /// A file beside the manifest.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// A folder beside the manifest's own.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.path("..").join(name)
    }

    /// The error of a manifest that does not say what it has to.
    pub(super) fn malformed(&self, key: impl Into<String>, message: impl Into<String>) -> Error {
        Error::file("manifest", &self.path, message).key(key)
    }
}

impl<'a> Case<'a> {
    /// Its name.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// What is to be computed.
    pub fn kind(&self) -> &'a str {
        self.kind
    }

    /// Computes what the case expects, as far as its kind is supported, and compares.
    ///
    /// Errors: files that cannot be read; tensors or keys missing; shapes that do not fit; values
    /// that the model has not; nothing to compare.
    pub fn run(&self) -> Result<Report> {
        let Some((_, compare)) = KINDS.iter().find(|(kind, _)| *kind == self.kind) else {
            let unsupported = vec![self.kind.to_owned()];
            return Ok(Report { unsupported, ..Report::default() });
        };
        let run = || {
            let mut trial = Trial::open(self.set, self.entry, self.id)?;
            compare(&mut trial)?;
            trial.finish(self.kind)
        };
        run().map_err(|error| error.scope(self.id))
    }
}

/// A JSON file as Python writes it: with the numbers Infinity and NaN, which JSON has not, as null.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("open", path, error))?;
    serde_json::from_str(&without_infinities(&text))
        .map_err(|error| Error::file("json", path, error.to_string()).caused_by(error))
}

fn without_infinities(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    let (mut quoted, mut escaped) = (false, false);
    while let Some(first) = rest.chars().next() {
        let number = ["-Infinity", "Infinity", "NaN"].iter().find(|name| rest.starts_with(**name));
        if let Some(number) = number.filter(|_| !quoted) {
            plain.push_str("null");
            rest = &rest[number.len()..];
            continue;
        }
        quoted ^= first == '"' && !escaped;
        escaped = first == '\\' && !escaped;
        plain.push(first);
        rest = &rest[first.len_utf8()..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_has_not_become_null_outside_of_texts() {
        let text = r#"{"a": -Infinity, "b": [NaN,Infinity], "Infinity \" NaN": "é\\"}"#;
        let plain = r#"{"a": null, "b": [null,null], "Infinity \" NaN": "é\\"}"#;
        assert_eq!(without_infinities(text), plain);
    }
}
