//! Reading headers, and trusting none of what they say.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::{Described, Info};
use crate::shape::MAX_RANK;
use crate::{DType, Error, Result, Shape};

/// The longest header the format's own reader takes.
const MAX_HEADER: usize = 100_000_000;

/// The header's length, before the header.
const PREFIX: usize = 8;

/// A header that agrees with the length of its file.
pub(super) struct Header {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor's description. Types and ranks this crate does not have are kept as written: they
/// are an error only to who asks for them.
pub(super) struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// The data's bytes, counted from the start of the file, and within it.
    pub(super) range: Range<usize>,
}

impl Header {
    /// Reads the header of a file, given whole.
    ///
    /// Errors: not JSON of the right form; names twice; data outside the file, overlapping, of
    /// another length than shape and type ask for, or with gaps between.
    #[track_caller]
    pub(super) fn parse(file: &[u8], path: &Path) -> Result<Self> {
        let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
            let message = format!("{} bytes are too few for a header's length", file.len());
            return Err(Error::file("safetensors", path, message).offset(0));
        };
        let length = u64::from_le_bytes(*prefix);
        let header = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER);
        let Some(header) = header.and_then(|length| rest.get(..length)) else {
            let message = format!(
                "the header's length is given as {length}, but {} bytes follow and {MAX_HEADER} \
                 are allowed",
                rest.len()
            );
            return Err(Error::file("safetensors", path, message)
                .offset(0)
                .note("the file is cut short, or no safetensors file"));
        };
        let Fields { entries, metadata } = parse_json(header, path, PREFIX)?;
        let data_start = PREFIX + header.len();
        let mut checked = BTreeMap::new();
        for (name, entry) in entries {
            let entry = entry.check(&name, path, data_start, file.len())?;
            checked.insert(name, entry);
        }
        check_coverage(&checked, path, data_start..file.len())?;
        Ok(Self { entries: checked, metadata: metadata.0 })
    }
}

impl Entry {
    pub(super) fn describe(&self) -> Described<'_> {
        let dtype = match dtype_of(&self.dtype) {
            Some(dtype) => dtype.name(),
            None => &self.dtype,
        };
        Described { dtype, shape: &self.shape, bytes: self.range.len() }
    }

    #[track_caller]
    pub(super) fn info(&self, name: &str, path: &Path) -> Result<Info> {
        let Some(dtype) = dtype_of(&self.dtype) else {
            let message = format!("elements of type {} are not supported", self.dtype);
            return Err(Error::file("safetensors", path, message).key(name));
        };
        if self.shape.len() > MAX_RANK {
            let message = format!("{:?} has more than {MAX_RANK} axes", self.shape);
            return Err(Error::file("safetensors", path, message).key(name));
        }
        Ok(Info { dtype, shape: Shape::new(&self.shape)? })
    }
}

/// The tensors of an index and the file that holds each: names of plain files beside the index.
#[track_caller]
pub(super) fn parse_index(json: &[u8], path: &Path) -> Result<BTreeMap<String, String>> {
    let Index { weight_map: Unique(weight_map) } = parse_json(json, path, 0)?;
    for (name, file) in &weight_map {
        let plain = Path::new(file).file_name().is_some_and(|plain| plain == file.as_str());
        if !plain || file.contains(['/', '\\', '\0']) {
            let message = format!("{file:?} is not the name of a file beside the index");
            return Err(Error::file("safetensors", path, message).key(name));
        }
    }
    Ok(weight_map)
}

/// The format's name of an element type.
pub(super) const fn format_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
    }
}

fn dtype_of(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|&dtype| format_name(dtype) == name)
}

/// Nothing overlaps, and every byte of the data belongs to a tensor: the format demands both, so
/// that a file cannot carry what no reader sees.
#[track_caller]
fn check_coverage(
    entries: &BTreeMap<String, Entry>,
    path: &Path,
    data: Range<usize>,
) -> Result<()> {
    let mut ordered: Vec<_> = entries.iter().map(|(name, entry)| (&entry.range, name)).collect();
    ordered.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = data.start;
    for (range, name) in ordered {
        if range.start != end {
            let message = match range.start < end {
                true => "the data overlaps another tensor's",
                false => "bytes before the data belong to no tensor",
            };
            let first = range.start.min(end) as u64;
            return Err(Error::file("safetensors", path, message).key(name).offset(first));
        }
        end = range.end;
    }
    if end != data.end {
        let message = format!("the last {} bytes belong to no tensor", data.end - end);
        return Err(Error::file("safetensors", path, message).offset(end as u64));
    }
    Ok(())
}

#[track_caller]
fn parse_json<'a, T: Deserialize<'a>>(json: &'a [u8], path: &Path, start: usize) -> Result<T> {
    let error = match serde_json::from_slice(json) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // The byte of line and column, which count from one; column 0 is a line's start.
    let lines = json.split_inclusive(|&byte| byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let offset = start + before + error.column().saturating_sub(1);
    Err(Error::file("safetensors", path, error.to_string()).offset(offset as u64).caused_by(error))
}

/// A tensor's description as written.
#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawEntry {
    #[track_caller]
    fn check(self, name: &str, path: &Path, data_start: usize, file: usize) -> Result<Entry> {
        let [begin, end] = self.data_offsets;
        let at = |offset: u64| usize::try_from(offset).ok()?.checked_add(data_start);
        let range = match (at(begin), at(end)) {
            (Some(begin), Some(end)) if begin <= end && end <= file => begin..end,
            _ => {
                let message = format!(
                    "data at {begin}..{end} is outside the {} bytes of data",
                    file - data_start
                );
                return Err(Error::file("safetensors", path, message)
                    .key(name)
                    .offset(data_start as u64)
                    .note("the file is cut short, or its header is wrong"));
            }
        };
        if let Some(dtype) = dtype_of(&self.dtype) {
            let bytes = self
                .shape
                .iter()
                .try_fold(dtype.size() as u64, |product, &length| product.checked_mul(length));
            if bytes != Some(range.len() as u64) {
                let needed = bytes.map_or("more than 2⁶⁴".into(), |bytes| bytes.to_string());
                let message = format!(
                    "shape {:?} of {dtype} takes {needed} bytes, but the data has {}",
                    self.shape,
                    range.len()
                );
                return Err(Error::file("safetensors", path, message)
                    .key(name)
                    .offset(range.start as u64));
            }
        }
        // Lengths beyond `usize` can only belong to types of unknown size, which nothing reads.
        let length = |length| usize::try_from(length).unwrap_or(usize::MAX);
        let shape = self.shape.into_iter().map(length).collect();
        Ok(Entry { dtype: self.dtype, shape, range })
    }
}

/// A header as written.
struct Fields {
    entries: BTreeMap<String, RawEntry>,
    metadata: Unique<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: Unique<String>,
}

/// A JSON object that refuses to have a key twice, where most readers let the last one win and so
/// can be made to see different things in one file.
#[derive(Default)]
struct Unique<V>(BTreeMap<String, V>);

impl<V> Unique<V> {
    fn insert<E: serde::de::Error>(&mut self, key: String, value: V) -> Result<(), E> {
        match self.0.entry(key) {
            Slot::Vacant(slot) => slot.insert(value),
            Slot::Occupied(slot) => {
                return Err(E::custom(format!("the key {:?} appears twice", slot.key())));
            }
        };
        Ok(())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Object<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut unique = Unique(BTreeMap::new());
                while let Some((key, value)) = map.next_entry()? {
                    unique.insert(key, value)?;
                }
                Ok(unique)
            }
        }
        from.deserialize_map(Object(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let (mut entries, mut metadata) = (Unique(BTreeMap::new()), None);
                while let Some(key) = map.next_key::<String>()? {
                    if key != "__metadata__" {
                        entries.insert(key, map.next_value()?)?;
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom("the key \"__metadata__\" appears twice"));
                    }
                }
                Ok(Fields { entries: entries.0, metadata: metadata.unwrap_or_default() })
            }
        }
        from.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str, data: usize) -> Result<Header> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        Header::parse(&file, Path::new("file"))
    }

    #[test]
    fn good_headers_pass() {
        let tensor = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let foreign = r#"{"dtype":"F8_E4M3","shape":[3],"data_offsets":[8,11]}"#;
        let header = format!(r#"{{"__metadata__":{{"k":"v"}},"a":{tensor},"b":{foreign}}}   "#);
        let parsed = parse(&header, 11).unwrap();
        let start = 8 + header.len();
        assert_eq!(parsed.entries["a"].range, start..start + 8);
        assert_eq!(parsed.metadata["k"], "v");
        let path = Path::new("file");
        assert_eq!(parsed.entries["a"].info("a", path).unwrap().shape, [2]);
        assert!(parsed.entries["b"].info("b", path).is_err());
        let told = ["a", "b"].map(|name| parsed.entries[name].describe());
        assert_eq!(told[0], Described { dtype: "f32", shape: &[2], bytes: 8 });
        assert_eq!(told[1], Described { dtype: "F8_E4M3", shape: &[3], bytes: 3 });
        assert!(parse("{}", 0).unwrap().entries.is_empty());
    }

    #[test]
    fn bad_headers_say_where() {
        let one = |fields: &str| format!(r#"{{"a":{{{fields}}}}}"#);
        let tensor = |shape: &str, begin: u64, end: u64| {
            one(&format!(r#""dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]"#))
        };
        let two = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                      "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                        "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        let cases: [(String, usize, &str); 13] = [
            (tensor("[2]", 0, 8), 7, "outside the 7 bytes"),
            (tensor("[2]", 8, 0), 8, "outside"),
            (tensor("[2]", u64::MAX - 7, u64::MAX), 8, "outside"),
            (tensor("[3]", 0, 8), 8, "takes 12 bytes"),
            (tensor("[4294967296,4294967296]", 0, 8), 8, "more than 2⁶⁴"),
            (tensor("[-1]", 0, 8), 8, "-1"),
            (tensor("[2]", 0, 8), 9, "last 1 bytes belong to no tensor"),
            (tensor("[2]", 4, 12), 12, "bytes before the data"),
            (two.into(), 6, "overlaps"),
            (twice.into(), 2, "\"a\" appears twice"),
            (one(r#""dtype":"F32","shape":[2]"#), 8, "missing field `data_offsets`"),
            (r#"{"__metadata__":{"k":1}}"#.into(), 0, "expected a string"),
            ("{\"a\"".into(), 0, "EOF"),
        ];
        for (header, data, expected) in cases {
            let text = parse(&header, data).err().expect(&header).to_string();
            assert!(text.contains(expected) && text.contains("byte "), "{header}: {text}");
        }
    }

    #[test]
    fn absurd_lengths_are_refused_before_they_are_used() {
        for length in [3, MAX_HEADER as u64 + 1, u64::MAX] {
            let error = Header::parse(&length.to_le_bytes(), Path::new("file")).err().unwrap();
            assert!(error.to_string().contains(&length.to_string()), "{error}");
        }
        assert!(Header::parse(&[0; 7], Path::new("file")).is_err());
    }

    #[test]
    fn an_index_stays_in_its_folder() {
        for file in ["../a", "/a", "a/b", "", ".", "..", "a\\\\b"] {
            let json = format!(r#"{{"weight_map":{{"x":"{file}"}}}}"#);
            assert!(parse_index(json.as_bytes(), Path::new("index")).is_err(), "{file}");
        }
        let json = br#"{"metadata":{"total_size":1},"weight_map":{"x":"a-1.safetensors"}}"#;
        assert_eq!(parse_index(json, Path::new("index")).unwrap()["x"], "a-1.safetensors");
    }
}
