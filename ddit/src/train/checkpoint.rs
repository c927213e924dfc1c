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
//! not at all, whenever the process is killed or the disk is full. Older ones go only after a newer
//! one is there; one of the same step is put aside until then, and comes back if the process is
//! killed in between.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensor::io::safetensors::{self, SafeTensors};
use tensor::{Error, Result, Tensor};

use super::place::Place;
use crate::weights::source;

/// Starts the name of every checkpoint's folder.
const PREFIX: &str = "step-";

/// Ends the hidden name of a checkpoint that is being written.
const UNFINISHED: &str = ".tmp";

/// Ends the hidden name of one whose place a newer one of the same step is about to take.
const ASIDE: &str = ".old";

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
    /// Length of the log in bytes.
    pub log_length: u64,
    /// Pictures and texts seen.
    pub pairs: u64,
    /// Text tokens seen, padding included.
    pub text_tokens: u64,
    /// Seconds spent in steps.
    pub seconds: f64,
    /// The step of the last sample sheet.
    #[serde(default)]
    pub sampled: u64,
    /// The step of the last scores.
    #[serde(default)]
    pub scored: u64,
    /// Where the last step was made.
    #[serde(default)]
    pub place: Option<Place>,
}

impl Checkpoint {
    /// Writes the checkpoint into `folder`, then removes all but the `keep` newest.
    ///
    /// Errors: the operating system's; nothing is left of the checkpoint then, and all others are.
    pub fn save(&self, folder: &Path, keep: usize) -> Result<PathBuf> {
        fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
        let name = format!("{PREFIX}{:08}", self.state.step);
        let path = folder.join(&name);
        let [new, old] = [UNFINISHED, ASIDE].map(|end| folder.join(format!(".{name}{end}")));
        remove(&new)?;
        self.write(&new).inspect_err(|_| {
            // The disk may be full, and is to have room again.
            let _ = remove(&new);
        })?;
        // The same step again: after a resumption with other settings, say.
        if path.exists() {
            remove(&old)?;
            rename(&path, &old)?;
        }
        rename(&new, &path)?;
        sync_folder(folder)?;
        remove(&old)?;
        prune(folder, keep)?;
        Ok(path)
    }

    /// Writes the files into a new folder.
    fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir(folder).map_err(|error| Error::io("create", folder, error))?;
        tensor::io::atomic_write(folder.join("config.toml"), &self.config)?;
        let state = serde_json::to_string_pretty(&self.state);
        let state = state.expect("counters can be written");
        tensor::io::atomic_write(folder.join("state.json"), state + "\n")?;
        for (name, tensors) in [("model", &self.model), ("optimizer", &self.optimizer)] {
            let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), source(tensor)));
            safetensors::save(file(folder, name), tensors, &Default::default())?;
        }
        Ok(())
    }

    /// The newest checkpoint in `folder` with its own folder, if there is one. What a kill left
    /// unfinished is removed, and what it left put aside comes back.
    ///
    /// Errors: the operating system's; the newest is damaged, with how to go on from an older one.
    pub fn newest(folder: &Path) -> Result<Option<(PathBuf, Self)>> {
        tidy(folder)?;
        let mut all = finished(folder)?;
        let Some((_, path)) = all.pop() else { return Ok(None) };
        let opened = Self::open(&path).map_err(|error| match all.last() {
            Some((_, older)) => {
                error.note(format!("to go on from {}, remove {}", older.display(), path.display()))
            }
            None => error,
        });
        Ok(Some((path, opened?)))
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

/// The step of the newest checkpoint in `folder`; 0 without one.
///
/// Errors: the operating system's.
pub fn reached(folder: &Path) -> Result<u64> {
    Ok(finished(folder)?.last().map_or(0, |(step, _)| *step))
}

/// Removes what a kill left unfinished, and gives what was put aside its name back, unless a newer
/// one has it.
fn tidy(folder: &Path) -> Result<()> {
    for (name, path) in entries(folder)?.into_iter().filter(|(name, _)| name.starts_with('.')) {
        match name[1..].strip_suffix(ASIDE).map(|name| folder.join(name)) {
            Some(whole) if !whole.exists() => rename(&path, &whole)?,
            Some(_) => remove(&path)?,
            None if name.ends_with(UNFINISHED) => remove(&path)?,
            None => {}
        }
    }
    Ok(())
}

/// Removes all but the `keep` newest checkpoints.
fn prune(folder: &Path, keep: usize) -> Result<()> {
    let all = finished(folder)?;
    all[..all.len().saturating_sub(keep)].iter().try_for_each(|(_, old)| remove(old))
}

/// The checkpoints in `folder` with their steps, oldest first.
fn finished(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |name: &str| name.strip_prefix(PREFIX)?.parse::<u64>().ok();
    let all = entries(folder)?.into_iter();
    let mut all: Vec<_> = all.filter_map(|(name, path)| Some((step(&name)?, path))).collect();
    all.sort();
    Ok(all)
}

/// What is in a folder: names and paths; nothing if there is no folder.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = || {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        };
        fs::read_dir(folder)?.map(entry).collect::<std::io::Result<_>>()
    };
    match list() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| Error::io("list", folder, error)),
    }
}

fn file(folder: &Path, part: &str) -> PathBuf {
    folder.join(part).with_extension("safetensors")
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::io("rename", from, error))
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
        assert!(Checkpoint::newest(&folder.path().join("none")).unwrap().is_none());
        // What has such a name and is none is nobody's business.
        fs::write(folder.path().join("step-notes.txt"), "").unwrap();
        for step in [5, 90, 100] {
            checkpoint(step).save(folder.path(), 2).unwrap();
        }
        let (newest, read) = Checkpoint::newest(folder.path()).unwrap().unwrap();
        assert_eq!(finished(folder.path()).unwrap().len(), 2);
        assert_eq!(read.state, checkpoint(100).state);
        assert_eq!(read.optimizer[0].1.item().unwrap(), 100.0);
        assert_eq!((read.config.as_str(), read.model[0].0.as_str()), ("seed = 1\n", "w"));
        checkpoint(100).save(folder.path(), 2).unwrap();
        let again = Checkpoint::newest(folder.path()).unwrap().unwrap().0;
        assert_eq!((again, reached(folder.path()).unwrap()), (newest, 100), "the same step again");
    }

    #[test]
    fn half_a_checkpoint_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let whole = checkpoint(5).save(folder.path(), 2).unwrap();
        let half = folder.path().join(".step-00000009.tmp");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("model.safetensors"), "half").unwrap();
        assert_eq!(Checkpoint::newest(folder.path()).unwrap().unwrap().0, whole);
        assert!(!half.exists());
        checkpoint(9).save(folder.path(), 2).unwrap();
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_and_spoils_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let whole = checkpoint(5).save(folder.path(), 2).unwrap();
        // Two tensors of one name are refused when the settings have been written.
        let twice = [checkpoint(5).model, checkpoint(5).model].concat();
        for step in [5, 6] {
            let failing = Checkpoint { model: twice.clone(), ..checkpoint(step) };
            failing.save(folder.path(), 2).unwrap_err();
            assert_eq!(entries(folder.path()).unwrap().len(), 1, "step {step}");
            assert_eq!(Checkpoint::newest(folder.path()).unwrap().unwrap().0, whole);
        }
    }

    #[test]
    fn the_same_step_again_is_never_without_a_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let whole = checkpoint(5).save(folder.path(), 2).unwrap();
        let aside = folder.path().join(".step-00000005.old");
        // Killed between the two renames, then right after them.
        fs::rename(&whole, &aside).unwrap();
        assert_eq!(Checkpoint::newest(folder.path()).unwrap().unwrap().0, whole);
        fs::create_dir(&aside).unwrap();
        assert_eq!(Checkpoint::newest(folder.path()).unwrap().unwrap().0, whole);
        assert!(whole.is_dir() && !aside.exists());
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(1).save(folder.path(), 2).unwrap();
        let path = checkpoint(2).save(folder.path(), 2).unwrap();
        fs::write(path.join("optimizer.safetensors"), "damaged").unwrap();
        let error = Checkpoint::newest(folder.path()).err().unwrap().to_string();
        let older = folder.path().join("step-00000001");
        for told in ["optimizer.safetensors", &format!("to go on from {}, ", older.display())] {
            assert!(error.contains(told), "{error}");
        }
        fs::write(path.join("state.json"), "{").unwrap();
        assert!(Checkpoint::open(&path).err().unwrap().to_string().contains("state.json"));
    }
}
