//! Names and geometry; the arithmetic is checked against stored results in `tests/taesd.rs`.

use std::collections::BTreeMap;

use tensor::Tensor;
use tensor::io::safetensors;

use super::*;

fn config() -> TaesdConfig {
    TaesdConfig { latent_channels: 5, width: 8, blocks: vec![1, 2, 1], pools: true }
}

fn tensors() -> BTreeMap<String, Tensor> {
    inventory(&config()).fresh(1, DType::F16).unwrap().into_iter().collect()
}

fn save<'a>(path: &Path, tensors: impl Iterator<Item = (String, &'a Tensor)>) {
    let tensors: Vec<_> = tensors.collect();
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor));
    safetensors::save(path, named, &BTreeMap::new()).unwrap();
}

#[test]
fn tensors_tell_the_geometry() {
    assert_eq!(TaesdConfig::detect(&tensors()).unwrap(), config());
    assert_eq!(config().spatial_factor(), 4);
    let plain = TaesdConfig { pools: false, ..config() };
    let found = inventory(&plain).fresh(1, DType::F32).unwrap().into_iter().collect();
    assert_eq!(TaesdConfig::detect(&found).unwrap(), plain);
    for name in ["encoder.0.weight", "encoder.3.conv.0.weight", "encoder.7.weight"] {
        let mut found = tensors();
        found.remove(name).unwrap();
        let error = TaesdConfig::detect(&found).unwrap_err().to_string();
        assert!(error.contains("no tiny autoencoder"), "{error}");
    }
}

#[test]
fn modules_have_the_numbers_of_the_published_files() {
    let config =
        TaesdConfig { latent_channels: 32, width: 64, blocks: vec![1, 3, 3, 3], pools: true };
    let list = inventory(&config);
    let names: Vec<&str> = list.iter().map(|weight| weight.name.as_str()).collect();
    for name in ["encoder.10.weight", "encoder.13.pool.3.weight", "encoder.14.bias"] {
        assert!(names.contains(&name), "{name}");
    }
    for name in ["decoder.1.bias", "decoder.5.pool.1.bias", "decoder.17.weight", "decoder.19.bias"]
    {
        assert!(names.contains(&name), "{name}");
    }
    assert!(!names.contains(&"decoder.17.bias") && !names.contains(&"encoder.10.bias"));
    assert_eq!(names.len(), 79 + 79);
}

#[test]
fn two_files_and_one_are_the_same_autoencoder() {
    let folder = tempfile::tempdir().unwrap();
    let (pair, whole) = (folder.path().join("pair"), folder.path().join("whole"));
    [&pair, &whole].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let tensors = tensors();
    for half in ["encoder", "decoder"] {
        let named = tensors.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(half)?.strip_prefix('.')?.to_owned(), tensor))
        });
        save(&pair.join(format!("tiny_{half}.safetensors")), named);
    }
    let diffusers = tensors.iter().map(|(name, tensor)| {
        let parts: Vec<&str> = name.splitn(3, '.').collect();
        let module: usize = parts[1].parse().unwrap();
        let module = module - usize::from(parts[0] == "decoder");
        (format!("{}.layers.{module}.{}", parts[0], parts[2]), tensor)
    });
    save(&whole.join("diffusion_pytorch_model.safetensors"), diffusers);

    let picture = Tensor::arange(3 * 8 * 12, DType::F32).reshape([1, 3, 8, 12]).unwrap();
    let picture = Var::constant(picture).mul_scalar(0.003).unwrap();
    let through = |path: &Path| {
        let vae = Taesd::open(path).unwrap();
        assert_eq!(*vae.config(), config());
        let latents = vae.encode(&picture).unwrap();
        assert_eq!(*latents.shape(), [1, 5, 2, 3]);
        let decoded = vae.decode(&latents).unwrap();
        assert_eq!(decoded.shape(), picture.shape());
        decoded.value().to_f64_vec()
    };
    let expected = through(&pair);
    for path in [pair.join("tiny_decoder.safetensors"), whole.clone()] {
        assert_eq!(through(&path), expected, "{}", path.display());
    }

    std::fs::copy(pair.join("tiny_encoder.safetensors"), pair.join("x_encoder.safetensors"))
        .unwrap();
    let error = Taesd::open(&pair).unwrap_err().to_string();
    assert!(error.contains("2 tiny autoencoders"), "{error}");
    let error = Taesd::open(pair.join("x_encoder.safetensors")).unwrap_err().to_string();
    assert!(error.contains("x_decoder.safetensors"), "{error}");
    let error = Taesd::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("0 tiny autoencoders"), "{error}");
}

#[test]
fn what_does_not_fit_is_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.safetensors");
    let mut tensors = tensors();
    tensors.remove("decoder.5.weight").unwrap();
    save(&path, tensors.iter().map(|(name, tensor)| (name.clone(), tensor)));
    let error = Taesd::open(&path).unwrap_err().to_string();
    assert!(error.contains("decoder.5.weight") && error.contains("tiny.safetensors"), "{error}");
}
