//! The safetensors format: a JSON header that names tensors, then their bytes.
//!
//! ```text
//! u64 n │ n bytes of JSON │ data
//! {"name": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, …}
//! ```
//!
//! A file is mapped, and its tensors are views of the map: opening a checkpoint of gigabytes reads
//! its header only, and weights that are never touched are never read. A large checkpoint is a
//! folder of such files, *shards*, and an index that says which tensor is in which.
//!
//! Format: <https://huggingface.co/docs/safetensors>.

mod header;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use write::{Source, save, save_shards};

use self::header::{Header, parse_index};
use super::map::map;
use crate::buffer::Storage;
use crate::{DType, Error, Result, Shape, Tensor};

/// An open file, or folder of shards.
///
/// ```no_run
/// use tensor::io::safetensors::SafeTensors;
/// # fn main() -> tensor::Result<()> {
/// let checkpoint = SafeTensors::open("transformer")?;
/// for name in checkpoint.names() {
///     println!("{name} {:?}", checkpoint.info(name)?);
/// }
/// let weight = checkpoint.get("pos_embed.proj.weight")?;
/// # Ok(())
/// # }
/// ```
pub struct SafeTensors {
    path: PathBuf,
    shards: Vec<Shard>,
    /// The shard that holds each tensor.
    names: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

struct Shard {
    path: PathBuf,
    storage: Arc<Storage>,
    header: Header,
}

/// What a header says of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The type of its elements.
    pub dtype: DType,
    /// The lengths of its axes.
    pub shape: Shape,
}

/// What a header says of a tensor that may be of a type or a rank this crate does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described<'a> {
    /// The type of its elements: by our name if it is one of ours, or by the format's.
    pub dtype: &'a str,
    /// The lengths of its axes.
    pub shape: &'a [usize],
    /// The bytes that its elements take.
    pub bytes: usize,
}

impl Info {
    /// The bytes that its elements take.
    pub fn bytes(&self) -> usize {
        self.shape.numel() * self.dtype.size()
    }
}

impl SafeTensors {
    /// Opens a file, an index (`*.safetensors.index.json`) with its shards, or a folder that holds
    /// one of these. A folder's variants (`model.fp16.safetensors`) are passed over if there is a
    /// file without one.
    ///
    /// Errors: files that cannot be read; headers that break the format, overlap, or disagree with
    /// the file's length; an index that names files outside its folder, or tensors not there.
    #[track_caller]
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { find_in(path)? } else { path.to_owned() };
        if file.extension().is_some_and(|extension| extension == "json") {
            return Self::open_index(&file);
        }
        Self::of_one(Shard::open(file)?)
    }

    /// Reads a file that is in memory already; its tensors share one copy of the bytes.
    ///
    /// Errors: as [`open`](Self::open).
    #[track_caller]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let path = PathBuf::from("(memory)");
        let header = Header::parse(bytes, &path)?;
        Self::of_one(Shard { path, storage: Arc::new(Storage::copy_of(bytes)), header })
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The free-form strings stored with the tensors; of all shards together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The path of the file, index or shard that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds a tensor, also where the index leaves it out.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        let shard = match self.names.get(name) {
            Some(&shard) => Some(&self.shards[shard]),
            None => self.shards.iter().find(|shard| shard.header.entries.contains_key(name)),
        };
        shard.map(|shard| shard.path.as_path())
    }

    /// Element type and shape of a tensor, without touching its data.
    ///
    /// Errors: no such tensor; an element type or rank this crate does not have.
    #[track_caller]
    pub fn info(&self, name: &str) -> Result<Info> {
        let (shard, entry) = self.find(name)?;
        entry.info(name, &shard.path)
    }

    /// What the header says of a tensor, whatever it is of.
    ///
    /// Errors: no such tensor.
    #[track_caller]
    pub fn describe(&self, name: &str) -> Result<Described<'_>> {
        let (_, entry) = self.find(name)?;
        Ok(entry.describe())
    }

    /// A tensor, as a view of the file. It keeps the map alive; the `SafeTensors` may go. Data
    /// that is not aligned for its type (rare: writers align) is copied.
    ///
    /// Errors: no such tensor; an element type or rank this crate does not have.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let (shard, entry) = self.find(name)?;
        let Info { dtype, shape } = entry.info(name, &shard.path)?;
        let (start, size) = (entry.range.start, dtype.size());
        Ok(if start.is_multiple_of(size) {
            Tensor::from_storage(shard.storage.clone(), start / size, shape, dtype)
        } else {
            let copy = Storage::copy_of(&shard.storage.bytes()[entry.range.clone()]);
            Tensor::from_storage(Arc::new(copy), 0, shape, dtype)
        })
    }

    /// The name most like `name`, for "did you mean".
    pub fn nearest(&self, name: &str) -> Option<&str> {
        self.names().min_by_key(|other| edit_distance(name, other))
    }

    #[track_caller]
    fn find(&self, name: &str) -> Result<(&Shard, &header::Entry)> {
        if let Some(&shard) = self.names.get(name) {
            let shard = &self.shards[shard];
            return Ok((shard, &shard.header.entries[name]));
        }
        let error = Error::file("safetensors", &self.path, "there is no such tensor").key(name);
        Err(match self.nearest(name) {
            Some(nearest) => error.note(format!("the nearest name is {nearest}")),
            None => error,
        })
    }

    #[track_caller]
    fn of_one(shard: Shard) -> Result<Self> {
        Ok(Self {
            path: shard.path.clone(),
            names: shard.header.entries.keys().map(|name| (name.clone(), 0)).collect(),
            metadata: shard.header.metadata.clone(),
            shards: vec![shard],
        })
    }

    #[track_caller]
    fn open_index(path: &Path) -> Result<Self> {
        let weight_map = parse_index(&map(path)?, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let (mut shards, mut numbers) = (Vec::new(), BTreeMap::new());
        let (mut names, mut metadata) = (BTreeMap::new(), BTreeMap::new());
        for (name, file) in weight_map {
            let number = match numbers.get(&file) {
                Some(&number) => number,
                None => {
                    let shard = Shard::open(folder.join(&file))?;
                    metadata.extend(shard.header.metadata.clone());
                    shards.push(shard);
                    numbers.insert(file, shards.len() - 1);
                    shards.len() - 1
                }
            };
            let shard: &Shard = &shards[number];
            if !shard.header.entries.contains_key(&name) {
                let message = format!("{} says this tensor is in here", path.display());
                return Err(Error::file("safetensors", &shard.path, message)
                    .key(name)
                    .note("the shard has no such tensor: is the download complete?"));
            }
            names.insert(name, number);
        }
        Ok(Self { path: path.to_owned(), shards, names, metadata })
    }
}

impl Shard {
    #[track_caller]
    fn open(path: PathBuf) -> Result<Self> {
        let map = map(&path)?;
        let header = Header::parse(&map, &path)?;
        Ok(Self { path, storage: Arc::new(Storage::Mapped(map)), header })
    }
}

/// The one index in a folder, else the one safetensors file.
#[track_caller]
fn find_in(folder: &Path) -> Result<PathBuf> {
    let listing = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
    let paths = match listing {
        Ok(paths) => paths,
        Err(error) => return Err(Error::io("list", folder, error)),
    };
    let ending = |end: &str| {
        let mut found: Vec<_> =
            paths.iter().filter(|path| path.to_string_lossy().ends_with(end)).cloned().collect();
        // A name with a second dot is a variant: passed over if there is one without.
        if found.len() > 1 {
            let plain = |path: &&PathBuf| {
                path.file_name().is_some_and(|name| {
                    name.to_string_lossy().trim_end_matches(end).find('.').is_none()
                })
            };
            let without: Vec<_> = found.iter().filter(plain).cloned().collect();
            found = if without.is_empty() { found } else { without };
        }
        found.sort();
        found
    };
    let mut found = ending(".safetensors.index.json");
    if found.is_empty() {
        found = ending(".safetensors");
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) if found.is_empty() => {
            Err(Error::file("safetensors", folder, "no *.safetensors file in this folder"))
        }
        Err(found) => {
            let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
            Err(Error::file("safetensors", folder, "several files in this folder")
                .note(format!("name one of {names:?}")))
        }
    }
}

/// Levenshtein's distance: how many letters to insert, delete or replace.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_letters() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn tensors_are_views_that_outlive_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let x = Tensor::arange(6, DType::F32).reshape([2, 3]).unwrap();
        save(&path, [("x", &x)], &BTreeMap::new()).unwrap();
        let reader = SafeTensors::open(folder.path()).unwrap();
        let (mut a, b) = (reader.get("x").unwrap(), reader.get("x").unwrap());
        assert_eq!(a.slice::<f32>().unwrap().as_ptr(), b.slice::<f32>().unwrap().as_ptr());
        let error = reader.get("y").unwrap_err().to_string();
        assert!(error.contains("nearest name is x"), "{error}");
        drop(reader);
        a.slice_mut::<f32>().unwrap()[0] = 9.0;
        assert_eq!((a.to_f64_vec()[0], b.to_f64_vec()), (9.0, x.to_f64_vec()));
    }
}
