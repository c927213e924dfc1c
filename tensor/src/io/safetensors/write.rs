//! Writing: equal tensors give equal bytes, whatever order they come in.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::json;

use super::Info;
use super::header::format_name;
use crate::io::{atomic_write, atomic_write_with};
use crate::{Error, Result, Tensor};

/// The data starts at a multiple of this, so that maps of the file are aligned for SIMD.
const ALIGNMENT: usize = 64;

/// What is written as a tensor: one that is there, or one that a function makes when its turn
/// comes, so that a checkpoint may be larger than the memory.
pub trait Source {
    /// Its type and shape, which a file tells before its contents.
    fn info(&self) -> Info;

    /// The tensor.
    fn tensor(&self) -> Result<Tensor>;
}

impl Source for &Tensor {
    fn info(&self) -> Info {
        Info { dtype: self.dtype(), shape: *self.shape() }
    }

    fn tensor(&self) -> Result<Tensor> {
        Ok((*self).clone())
    }
}

impl<F: Fn() -> Result<Tensor>> Source for (Info, F) {
    fn info(&self) -> Info {
        self.0
    }

    fn tensor(&self) -> Result<Tensor> {
        let tensor = (self.1)()?;
        if (&tensor).info() == self.0 {
            return Ok(tensor);
        }
        let message = "a tensor is not of the type and shape that were announced";
        Err(Error::value("safetensors", message)
            .operand("made", &tensor)
            .operand("announced", &self.0.shape))
    }
}

/// Writes a file, whole or not at all (see [`atomic_write_with`]).
///
/// Tensors are ordered by element size, largest first, which aligns each of them without padding,
/// and then by name.
///
/// Errors: a name twice, or one that the format keeps for itself; the operating system's; those of
/// a [`Source`].
#[track_caller]
pub fn save<N: Into<String>, S: Source>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, S)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Vec<(String, S)> =
        tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::value("safetensors", "two tensors have one name")
            .path(path)
            .key(&pair[0].0));
    }
    if tensors.iter().any(|(name, _)| name == "__metadata__") {
        let error = Error::value("safetensors", "the format keeps this name for itself");
        return Err(error.path(path).key("__metadata__"));
    }
    tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.info().dtype.size()));
    let header = header(&tensors, metadata);
    atomic_write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (name, tensor) in &tensors {
            let tensor = tensor.tensor().map_err(|error| io::Error::other(error.key(name)))?;
            let packed = tensor.contiguous();
            file.write_all(packed.bytes().expect("contiguous() makes it so"))?;
        }
        Ok(())
    })
}

/// Writes one file or, where that would hold more than `most` bytes, shards `NAME-0000k-of-0000n`
/// of at most that each, in the order of the tensors, and then their index
/// `NAME.safetensors.index.json` beside them; a tensor of more is a shard of its own.
///
/// Errors: as [`save`]; `path` does not end in `.safetensors`.
#[track_caller]
pub fn save_shards<N: Into<String>, S: Source>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, S)>,
    metadata: &BTreeMap<String, String>,
    most: usize,
) -> Result<()> {
    let path = path.as_ref();
    let (mut shards, mut total, mut room): (Vec<Vec<(String, S)>>, usize, usize) =
        (vec![Vec::new()], 0, most);
    for (name, tensor) in tensors {
        let bytes = tensor.info().bytes();
        if bytes > room && shards.last().is_some_and(|shard| !shard.is_empty()) {
            shards.push(Vec::new());
            room = most;
        }
        room = room.saturating_sub(bytes);
        total += bytes;
        shards.last_mut().expect("there is a first").push((name.into(), tensor));
    }
    let count = shards.len();
    if count == 1 {
        return save(path, shards.swap_remove(0), metadata);
    }
    let stem = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".safetensors"));
    let Some(stem) = stem else {
        let message = "the name of a file of tensors ends in .safetensors";
        return Err(Error::value("safetensors", message).path(path));
    };
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1);
        for (name, _) in &shard {
            if weight_map.insert(name.clone(), file.clone()).is_some() {
                let error = Error::value("safetensors", "two tensors have one name");
                return Err(error.path(path).key(name));
            }
        }
        save(path.with_file_name(file), shard, metadata)?;
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let index_name = format!("{stem}.safetensors.index.json");
    atomic_write(path.with_file_name(index_name), format!("{index:#}\n"))
}

fn header<S: Source>(tensors: &[(String, S)], metadata: &BTreeMap<String, String>) -> String {
    let mut fields = Vec::new();
    if !metadata.is_empty() {
        let pairs: Vec<_> = metadata
            .iter()
            .map(|(key, value)| format!("{}:{}", quote(key), quote(value)))
            .collect();
        fields.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut begin = 0;
    for (name, tensor) in tensors {
        let info = tensor.info();
        let end = begin + info.bytes();
        let lengths: Vec<_> = info.shape.iter().map(usize::to_string).collect();
        fields.push(format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            quote(name),
            format_name(info.dtype),
            lengths.join(","),
        ));
        begin = end;
    }
    let mut header = format!("{{{}}}", fields.join(","));
    let prefix = size_of::<u64>();
    let padded = (prefix + header.len()).next_multiple_of(ALIGNMENT) - prefix;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    header
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::io::safetensors::SafeTensors;

    #[test]
    fn bytes_do_not_depend_on_order() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (Tensor::ones([3], DType::U8), Tensor::zeros([2], DType::F32));
        let metadata = BTreeMap::from([("step".to_owned(), "\"1\"".to_owned())]);
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        save(&first, [("a", &a), ("b", &b)], &metadata).unwrap();
        save(&second, [("b", &b), ("a", &a)], &metadata).unwrap();
        let bytes = std::fs::read(&first).unwrap();
        assert_eq!(bytes, std::fs::read(&second).unwrap());
        assert_eq!((bytes.len() - 11) % ALIGNMENT, 0);
        assert_eq!(bytes[bytes.len() - 3..], [1, 1, 1], "the byte tensor comes last");
        assert!(save(&first, [("a", &a), ("a", &b)], &metadata).is_err());
        assert!(save(&first, [("__metadata__", &a)], &metadata).is_err());
    }

    #[test]
    fn tensors_may_be_made_when_their_turn_comes() {
        let folder = tempfile::tempdir().unwrap();
        let [there, made] = ["there", "made"].map(|name| folder.path().join(name));
        let tensors = [4, 2].map(|n| Tensor::arange(n, DType::F32));
        save(&there, ["b", "a"].into_iter().zip(&tensors), &BTreeMap::new()).unwrap();
        let turn = std::cell::RefCell::new(Vec::new());
        let source = |n: usize, length: usize| {
            let turn = &turn;
            let make = move || {
                turn.borrow_mut().push(n);
                Ok(Tensor::arange(length, DType::F32))
            };
            (Info { dtype: DType::F32, shape: [n].into() }, make)
        };
        save(&made, [("b", source(4, 4)), ("a", source(2, 2))], &BTreeMap::new()).unwrap();
        assert_eq!(*turn.borrow(), [2, 4], "in the order of the file");
        assert_eq!(std::fs::read(&there).unwrap(), std::fs::read(&made).unwrap());
        let error = save(&made, [("b", source(4, 5))], &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("announced") && error.contains("[5]"), "{error}");
        assert_eq!(std::fs::read(&there).unwrap(), std::fs::read(&made).unwrap());
    }

    #[test]
    fn shards_hold_no_more_than_they_may_and_read_back_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [3, 2, 9, 1].map(|n| Tensor::arange(n, DType::F32));
        let named = || ["a", "b", "c", "d"].into_iter().zip(&tensors);
        let path = folder.path().join("model.safetensors");
        // 12 + 8 bytes, the 36 that are more than any shard may hold, 4.
        save_shards(&path, named(), &BTreeMap::new(), 20).unwrap();
        let shard = |i| folder.path().join(format!("model-0000{i}-of-00003.safetensors"));
        let names = |i| {
            let shard = SafeTensors::open(shard(i)).unwrap();
            shard.names().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!([1, 2, 3].map(names), [vec!["a", "b"], vec!["c"], vec!["d"]]);
        let whole = SafeTensors::open(folder.path()).unwrap();
        for (name, tensor) in named() {
            assert_eq!(whole.get(name).unwrap().to_f64_vec(), tensor.to_f64_vec());
        }
        let index = std::fs::read(folder.path().join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], 60);
        let single = folder.path().join("single.safetensors");
        save_shards(&single, named(), &BTreeMap::new(), 60).unwrap();
        assert_eq!(SafeTensors::open(single).unwrap().names().len(), 4);
        let twice = [("a", &tensors[2]), ("a", &tensors[2])];
        assert!(save_shards(&path, twice, &BTreeMap::new(), 20).is_err());
    }
}
