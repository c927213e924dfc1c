//! The safetensors reader and writer against the format's own implementation, and against files
//! nobody should have written.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use safetensors as official;
use tensor::io::safetensors::{Info, SafeTensors, save};
use tensor::{DType, Tensor};

/// One tensor of every type, of a few shapes.
fn sample() -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        let x = Tensor::arange(3 * i, dtype).reshape([3, i]).unwrap();
        tensors.insert(format!("layer.{i}.weight"), x.transpose(0, 1).unwrap());
    }
    tensors.insert("a \"quoted\" näme".into(), Tensor::scalar(7.0, DType::F32));
    tensors
}

fn saved(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save(path, tensors, &metadata).unwrap();
    std::fs::read(path).unwrap()
}

fn same(read: &SafeTensors, tensors: &BTreeMap<String, Tensor>) {
    assert!(read.names().eq(tensors.keys()));
    for (name, expected) in tensors {
        let info = Info { dtype: expected.dtype(), shape: *expected.shape() };
        assert_eq!(read.info(name).unwrap(), info);
        let found = read.get(name).unwrap();
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
        assert_eq!(found.bytes().unwrap(), expected.contiguous().bytes().unwrap(), "{name}");
    }
}

#[test]
fn agrees_with_the_official_implementation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = sample();
    let bytes = saved(&path, &tensors);
    let theirs = official::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), tensors.len());
    for (name, tensor) in &tensors {
        let view = theirs.tensor(name).unwrap();
        assert_eq!(view.shape(), &tensor.shape()[..]);
        assert_eq!(view.data(), tensor.contiguous().bytes().unwrap());
    }
    let rewritten = official::serialize(theirs.tensors(), None).unwrap();
    same(&SafeTensors::from_bytes(&rewritten).unwrap(), &tensors);
    let ours = SafeTensors::open(&path).unwrap();
    same(&ours, &tensors);
    assert_eq!(ours.metadata()["format"], "pt");
}

#[test]
fn unaligned_data_is_copied() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                     "b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#;
    let data: Vec<u8> =
        [5_u8].into_iter().chain([1.5_f32, -2.0].iter().flat_map(|x| x.to_le_bytes())).collect();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let read = SafeTensors::from_bytes(&file).unwrap();
    assert_eq!(read.get("a").unwrap().to_f64_vec(), [5.0]);
    assert_eq!(read.get("b").unwrap().to_f64_vec(), [1.5, -2.0]);
}

#[test]
fn shards_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = sample();
    let mut weight_map = serde_json::Map::new();
    for half in 0..2 {
        let file = format!("model-{half}.safetensors");
        let part: BTreeMap<_, _> =
            tensors.iter().skip(half).step_by(2).map(|(k, v)| (k.clone(), v.clone())).collect();
        saved(&folder.path().join(&file), &part);
        weight_map.extend(part.into_keys().map(|name| (name, file.clone().into())));
    }
    let index = folder.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<_, _>| {
        std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    };
    write(&weight_map);
    same(&SafeTensors::open(folder.path()).unwrap(), &tensors);
    same(&SafeTensors::open(&index).unwrap(), &tensors);

    let mut without = weight_map.clone();
    let left_out = without.keys().next_back().unwrap().clone();
    let held_by = folder.path().join(without.remove(&left_out).unwrap().as_str().unwrap());
    write(&without);
    let shards = SafeTensors::open(folder.path()).unwrap();
    assert!(!shards.contains(&left_out) && shards.file_of("none").is_none());
    assert_eq!(shards.file_of(&left_out), Some(held_by.as_path()));

    weight_map.insert("lost".into(), "model-1.safetensors".into());
    write(&weight_map);
    let text = SafeTensors::open(folder.path()).err().unwrap().to_string();
    assert!(text.contains("lost") && text.contains("model-1.safetensors"), "{text}");
    weight_map["lost"] = "model-2.safetensors".into();
    write(&weight_map);
    let text = SafeTensors::open(folder.path()).err().unwrap().to_string();
    assert!(text.starts_with("open: ") && text.contains("model-2"), "{text}");
}

#[test]
fn a_folder_is_opened_by_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let error = || SafeTensors::open(folder.path()).err().unwrap().to_string();
    assert!(error().contains("no *.safetensors"));
    let tensors = sample();
    saved(&folder.path().join("model.fp16.safetensors"), &BTreeMap::new());
    saved(&folder.path().join("model.safetensors"), &tensors);
    same(&SafeTensors::open(folder.path()).unwrap(), &tensors);
    saved(&folder.path().join("other.safetensors"), &tensors);
    assert!(error().contains("several files"));
}

/// How much of a mapped file is in this process's memory, in kB.
#[cfg(target_os = "linux")]
fn resident(path: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (_, map) = maps.split_once(path.to_str().unwrap()).expect("the file is mapped");
    let rss = map.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn an_unloaded_tensor_takes_no_memory_and_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let large = Tensor::arange(4 << 20, DType::F32);
    saved(&path, &BTreeMap::from([("large".to_owned(), large.clone())]));
    let read = SafeTensors::open(&path).unwrap().get("large").unwrap();
    let same = || read.bytes().unwrap() == large.bytes().unwrap();
    assert!(same() && resident(&path) >= 16 << 10);
    read.narrow(0, 0, 2 << 20).unwrap().unload();
    // A large page that is given back in part may go as a whole.
    assert!((4 << 10..9 << 10).contains(&resident(&path)), "{} kB", resident(&path));
    assert!(same() && resident(&path) >= 16 << 10, "it is read again");
    read.unload();
    assert!(resident(&path) < 1 << 10, "{} kB", resident(&path));
    // Memory of our own is kept.
    large.unload();
    assert!(same());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A damaged file is an error or reads within its bounds; and what is read is what the
    /// official reader reads, where that takes the file too.
    #[test]
    fn damage_is_never_a_panic(
        cut in prop::option::of(0.0_f64..1.0),
        changes in prop::collection::vec((0.0_f64..1.0, any::<u8>()), 0..4),
    ) {
        let mut file = sample_file();
        for (place, byte) in changes {
            // Mostly the header, where damage means something.
            let place = (place * place * file.len() as f64) as usize;
            file[place] = byte;
        }
        if let Some(cut) = cut {
            file.truncate((cut * file.len() as f64) as usize);
        }
        let theirs = official::SafeTensors::deserialize(&file);
        match SafeTensors::from_bytes(&file) {
            Ok(read) => for name in read.names() {
                let Ok(tensor) = read.get(name) else { continue };
                if let Ok(theirs) = &theirs {
                    prop_assert_eq!(tensor.bytes().unwrap(), theirs.tensor(name).unwrap().data());
                }
            },
            Err(error) => prop_assert!(error.to_string().contains("(memory)")),
        }
    }

    #[test]
    fn noise_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(SafeTensors::from_bytes(&bytes).is_err());
        prop_assert!(tensor::io::npy::from_bytes(&bytes).is_err());
    }
}

fn sample_file() -> Vec<u8> {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        saved(&folder.path().join("x"), &sample())
    };
    FILE.get_or_init(make).clone()
}
