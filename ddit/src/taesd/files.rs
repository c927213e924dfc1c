//! Where the tensors of a tiny autoencoder are, and what they are called there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tensor::io::safetensors::SafeTensors;
use tensor::{Error, Result, Tensor};

/// The halves, and what their authors' files are called at the end.
const HALVES: [(&str, &str); 2] =
    [("encoder", "encoder.safetensors"), ("decoder", "decoder.safetensors")];

/// Both halves in one file.
const WHOLE: &str = "diffusion_pytorch_model.safetensors";

/// All tensors at `path`, as `encoder.N..` and `decoder.N..`.
///
/// Errors: no such files; damaged ones; a folder with several.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    match beginning(path)? {
        Some(beginning) => {
            for (half, ending) in HALVES {
                let file = SafeTensors::open(format!("{beginning}{ending}"))?;
                for name in file.names() {
                    tensors.insert(format!("{half}.{name}"), file.get(name)?);
                }
            }
        }
        None => {
            let path = if path.is_dir() { path.join(WHOLE) } else { path.to_owned() };
            let file = SafeTensors::open(path)?;
            for name in file.names() {
                tensors.insert(own_name(name), file.get(name)?);
            }
        }
    }
    Ok(tensors)
}

/// What the names of both halves' files begin with; `None` where one file holds both.
fn beginning(path: &Path) -> Result<Option<String>> {
    let of = |path: &Path| {
        let path = path.to_str()?;
        HALVES.iter().find_map(|(_, ending)| path.strip_suffix(ending)).map(str::to_owned)
    };
    if !path.is_dir() {
        return Ok(of(path));
    }
    if path.join(WHOLE).is_file() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(path).map_err(|error| Error::io("open", path, error))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<String> = files.filter_map(|path: PathBuf| of(&path)).collect();
    found.sort_unstable();
    found.dedup();
    match found.len() {
        1 => Ok(found.pop()),
        count => {
            let message = format!("{count} tiny autoencoders are here, not one");
            let error = Error::file("open", path, message);
            let expected = HALVES.map(|(_, ending)| format!("*{ending}")).join(" and ");
            Err(error.note(format!("expected {expected}, or {WHOLE}")))
        }
    }
}

/// A module's name in its authors' numbering. In diffusers' the decoder begins with what is module
/// 1 here, since its first has no tensors.
fn own_name(name: &str) -> String {
    for (half, skipped) in [("encoder", 0), ("decoder", 1)] {
        let rest = name.strip_prefix(half).and_then(|rest| rest.strip_prefix(".layers."));
        let numbered = rest.and_then(|rest| rest.split_once('.'));
        if let Some((Ok(module), rest)) = numbered.map(|(n, rest)| (n.parse::<usize>(), rest)) {
            return format!("{half}.{}.{rest}", module + skipped);
        }
    }
    name.to_owned()
}
