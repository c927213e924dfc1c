//! Checkpoints: everything a run needs to go on as if it had never stopped.
//!
//! ```text
//! checkpoints/step-00000200/
//!     config.toml              the settings, for whoever finds the folder alone
//!     state.json               counters; random numbers need none, they follow from seed and step
//!     model.safetensors        the weights that learn; the others are found where they came from
//!     optimizer.safetensors    what AdamW remembers: two averages of the gradient, one of the
//!                              weights, counters; and the log's open window
//! ```
//!
//! A checkpoint is written under another name, brought to disk, and renamed: it is there whole or
//! not at all, whenever the process is killed. Older ones go only after a newer one is there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensor::io::safetensors::{self, SafeTensors};
use tensor::{Error, Result, Tensor};

/// Starts the name of every checkpoint's folder.
const PREFIX: &str = "step-";

/// Tensors by name.
pub type Named = Vec<(String, Tensor)>;

/// The contents of a checkpoint.
pub struct Checkpoint {
    /// Counters.
    pub state: State,
    /// The settings as TOML.
    pub config: String,
    /// The weights that learn.
    pub model: Named,
    /// What the optimiser remembers.
    pub optimizer: Named,
}

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done. With the seed it is all the random state and the position in the data.
    pub step: u64,
    /// The run's seed.
    pub seed: u64,
    /// The commit of the program that made the checkpoint, if that was known when it was built.
    pub commit: String,
    /// Length of the log in bytes.
    pub log_length: u64,
    /// Pictures and texts seen.
    pub pairs: u64,
    /// Text tokens seen, padding included.
    pub text_tokens: u64,
    /// Seconds spent training.
    pub seconds: f64,
}

impl Checkpoint {
    /// Writes the checkpoint into `folder`, then removes all but the `keep` newest.
    ///
    /// Errors: the operating system's.
    pub fn save(&self, folder: &Path, keep: usize) -> Result<PathBuf> {
        fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
        let path = folder.join(format!("{PREFIX}{:08}", self.state.step));
        let new = folder.join(format!(".{PREFIX}{:08}.tmp", self.state.step));
        remove(&new)?;
        fs::create_dir(&new).map_err(|error| Error::io("create", &new, error))?;
        tensor::io::atomic_write(new.join("config.toml"), &self.config)?;
        let state = serde_json::to_string_pretty(&self.state);
        let state = state.expect("counters can be written");
        tensor::io::atomic_write(new.join("state.json"), state + "\n")?;
        for (name, tensors) in [("model", &self.model), ("optimizer", &self.optimizer)] {
            let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
            safetensors::save(file(&new, name), tensors, &Default::default())?;
        }
        // The same step again: after a resumption with other settings, say.
        remove(&path)?;
        fs::rename(&new, &path).map_err(|error| Error::io("rename", &new, error))?;
        sync_folder(folder)?;
        prune(folder, keep)?;
        Ok(path)
    }

    /// Reads a checkpoint's folder.
    ///
    /// Errors: a file missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = path.join(name);
            fs::read_to_string(&path).map_err(|error| Error::io("open", &path, error))
        };
        let state = serde_json::from_str(&read("state.json")?).map_err(|error| {
            Error::file("checkpoint", path.join("state.json"), error.to_string())
        })?;
        let named = |name| {
            let file = SafeTensors::open(file(path, name))?;
            file.names().map(|name| Ok((name.to_owned(), file.get(name)?))).collect::<Result<_>>()
        };
        Ok(Self {
            state,
            config: read("config.toml")?,
            model: named("model")?,
            optimizer: named("optimizer")?,
        })
    }
}

/// The newest checkpoint in `folder`, if there is one. What a kill left unfinished is removed.
///
/// Errors: the operating system's.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.exists() {
        return Ok(None);
    }
    for (name, path) in entries(folder)? {
        if name.starts_with('.') && name.ends_with(".tmp") {
            remove(&path)?;
        }
    }
    Ok(finished(folder)?.pop())
}

/// Removes all but the `keep` newest checkpoints.
fn prune(folder: &Path, keep: usize) -> Result<()> {
    let all = finished(folder)?;
    all[..all.len().saturating_sub(keep)].iter().try_for_each(|old| remove(old))
}

/// The checkpoints in `folder`, oldest first: their names have one length.
fn finished(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = entries(folder)?;
    all.retain(|(name, _)| name.starts_with(PREFIX));
    all.sort();
    Ok(all.into_iter().map(|(_, path)| path).collect())
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = || {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        };
        fs::read_dir(folder)?.map(entry).collect::<std::io::Result<_>>()
    };
    list().map_err(|error| Error::io("list", folder, error))
}

fn file(folder: &Path, part: &str) -> PathBuf {
    folder.join(part).with_extension("safetensors")
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", folder, error))
        }
        _ => Ok(()),
    }
}

/// Brings the names in a folder to disk, where folders can be opened for that.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let sync = File::open(folder).and_then(|open| open.sync_all());
        sync.map_err(|error| Error::io("bring to disk", folder, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let named = |x: f64| vec![("w".to_owned(), Tensor::scalar(x, tensor::DType::F32))];
        Checkpoint {
            state: State { step, seconds: 0.1, ..State::default() },
            config: "seed = 1\n".into(),
            model: named(1.0),
            optimizer: named(step as f64),
        }
    }

    #[test]
    fn the_newest_are_kept_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(latest(&folder.path().join("none")).unwrap(), None);
        for step in [5, 90, 100] {
            checkpoint(step).save(folder.path(), 2).unwrap();
        }
        let newest = latest(folder.path()).unwrap().unwrap();
        assert_eq!(finished(folder.path()).unwrap().len(), 2);
        let read = Checkpoint::open(&newest).unwrap();
        assert_eq!(read.state, checkpoint(100).state);
        assert_eq!(read.optimizer[0].1.item().unwrap(), 100.0);
        assert_eq!((read.config.as_str(), read.model[0].0.as_str()), ("seed = 1\n", "w"));
        checkpoint(100).save(folder.path(), 2).unwrap();
        assert_eq!(latest(folder.path()).unwrap().unwrap(), newest, "the same step again");
    }

    #[test]
    fn half_a_checkpoint_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let whole = checkpoint(5).save(folder.path(), 2).unwrap();
        let half = folder.path().join(".step-00000009.tmp");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("model.safetensors"), "half").unwrap();
        assert_eq!(latest(folder.path()).unwrap().unwrap(), whole);
        assert!(!half.exists());
        checkpoint(9).save(folder.path(), 2).unwrap();
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = checkpoint(1).save(folder.path(), 1).unwrap();
        fs::write(path.join("optimizer.safetensors"), "damaged").unwrap();
        let error = Checkpoint::open(&path).err().unwrap().to_string();
        assert!(error.contains("optimizer.safetensors"), "{error}");
        fs::write(path.join("state.json"), "{").unwrap();
        assert!(Checkpoint::open(&path).err().unwrap().to_string().contains("state.json"));
    }
}
