//! Pictures through autoencoders of both kinds.

use std::collections::BTreeMap;

use ddit::config::VaeConfig;
use ddit::folder::Component;
use ddit::taesd::{self, TaesdConfig};
use ddit::vae;
use serde_json::json;
use tensor::DType;
use tensor::io::safetensors;

use crate::world::{World, keys};

/// Puts an autoencoder of each kind into the folder.
fn save_autoencoders(world: &World) {
    let config: VaeConfig = serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [4, 8], "layers_per_block": 1,
        "latent_channels": 4, "norm_num_groups": 2, "scaling_factor": 1.0,
    }))
    .unwrap();
    let weights = vae::inventory(&config).fresh(1, DType::BF16).unwrap();
    Component { config, weights }.write(&world.path("some/vae")).unwrap();

    let config = TaesdConfig { latent_channels: 4, width: 8, blocks: vec![1, 1], pools: true };
    let weights = taesd::inventory(&config).fresh(1, DType::F16).unwrap();
    for half in ["encoder", "decoder"] {
        let named = weights.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(half)?.strip_prefix('.')?, tensor))
        });
        let path = world.path(&format!("tiny_{half}.safetensors"));
        safetensors::save(path, named, &BTreeMap::new()).unwrap();
    }
}

#[test]
fn pictures_come_back_in_their_size_with_a_measure() {
    let world = World::new();
    save_autoencoders(&world);
    for vae in ["some", "some/vae", ".", "tiny_decoder.safetensors"] {
        let line = ["reconstruct", "red.png", "--vae", vae, "-o", "r.png", "--json"];
        let lines = world.run(&line).succeeded().lines();
        assert_eq!(keys(&lines[0]), ["image", "file", "psnr"]);
        let (picture, original) = (world.picture("r.png"), world.picture("red.png"));
        assert_eq!([picture.width(), picture.height()], [11, 9]);
        let measured = ddit::autoencoder::psnr(&picture, &original);
        assert!((lines[0]["psnr"].as_f64().unwrap() - measured).abs() < 1e-9);
    }
    let whole = world.picture("r.png");
    let tile = |side: &str| {
        let line = ["reconstruct", "red.png", "--vae", ".", "-o", "t.png", "--tile", side];
        let text = world.run(&line).succeeded().stdout;
        assert!(text.starts_with("t.png  PSNR ") && text.ends_with(" dB\n"), "{text}");
        world.picture("t.png")
    };
    assert_eq!(tile("12"), whole);
    assert_ne!(tile("4"), whole);
    assert_eq!(world.leftovers(), [""; 0]);
}
