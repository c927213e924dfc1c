//! Writing: equal tensors give equal bytes, whatever order they come in.

use std::collections::BTreeMap;
use std::path::Path;

use super::header::format_name;
use crate::io::atomic_write_with;
use crate::{Error, Result, Tensor};

/// The data starts at a multiple of this, so that maps of the file are aligned for SIMD.
const ALIGNMENT: usize = 64;

/// Writes a file, whole or not at all (see [`atomic_write_with`]).
///
/// Tensors are ordered by element size, largest first, which aligns each of them without padding,
/// and then by name.
///
/// Errors: a name twice, or one that the format keeps for itself; the operating system's.
#[track_caller]
pub fn save<'a, N: Into<String>>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Vec<(String, &Tensor)> =
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
    tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));
    let header = header(&tensors, metadata);
    atomic_write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (_, tensor) in &tensors {
            let packed = tensor.contiguous();
            file.write_all(packed.bytes().expect("contiguous() makes it so"))?;
        }
        Ok(())
    })
}

fn header(tensors: &[(String, &Tensor)], metadata: &BTreeMap<String, String>) -> String {
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
        let end = begin + tensor.numel() * tensor.dtype().size();
        let lengths: Vec<_> = tensor.shape().iter().map(usize::to_string).collect();
        fields.push(format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            quote(name),
            format_name(tensor.dtype()),
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
}
