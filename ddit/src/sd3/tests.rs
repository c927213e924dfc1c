//! A tiny SD3, with all names of the real one's single file, made into a D-DiT folder.

use std::collections::BTreeSet;

use serde_json::json;
use tensor::DType;
use tensor::io::safetensors::save;
use tensor::rng::Rng;

use super::*;
use crate::config::VaeConfig;
use crate::identify::{Kind, identify};
use crate::t5::T5Config;
use crate::tiny;
use crate::weights::Inventory;

const COUNTS: Counts = Counts { blocks: 2, levels: 2 };

fn transformer_config() -> TransformerConfig {
    tiny::transformer(json!({
        "vocab_size": 1, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 6,
        "pooled_projection_dim": 5, "pos_embed_max_size": 6, "text_embedding": false,
        "max_text_length": null,
    }))
}

/// The inventories of the three networks, by the library's names.
fn inventories() -> [(Network, Inventory); 3] {
    let vae: VaeConfig = serde_json::from_value(json!({
        "in_channels": 3, "out_channels": 3, "block_out_channels": [32, 64],
        "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 32,
        "scaling_factor": 1.0,
    }))
    .unwrap();
    let t5: T5Config = serde_json::from_value(json!({
        "vocab_size": 120, "d_model": 6, "d_kv": 2, "d_ff": 7, "num_layers": 1, "num_heads": 3,
        "feed_forward_proj": "gated-gelu",
    }))
    .unwrap();
    [
        (Network::Transformer, start::inventory(&transformer_config())),
        (Network::Vae, vae.inventory().unwrap()),
        (Network::TextEncoder, t5.inventory().unwrap()),
    ]
}

/// The names of the single file that become those of an inventory: found by trying all that the
/// parts of a name can be.
fn single_file_names() -> Vec<String> {
    let mut names = vec!["model.diffusion_model.pos_embed".to_owned()];
    let mut add = |module: String| {
        names.extend(["weight", "bias"].map(|leaf| format!("{module}.{leaf}")));
    };
    for module in [
        "x_embedder.proj",
        "t_embedder.mlp.0",
        "t_embedder.mlp.2",
        "y_embedder.mlp.0",
        "y_embedder.mlp.2",
        "context_embedder",
        "final_layer.linear",
        "final_layer.adaLN_modulation.1",
    ] {
        add(format!("model.diffusion_model.{module}"));
    }
    let block = ["attn.qkv", "adaLN_modulation.1", "attn.proj", "mlp.fc1", "mlp.fc2"];
    // The last block's text goes no further than attention.
    let blocks = [(0, "x", 5), (0, "context", 5), (1, "x", 5), (1, "context", 2)];
    for (i, side, modules) in blocks {
        for module in &block[..modules] {
            add(format!("model.diffusion_model.joint_blocks.{i}.{side}_block.{module}"));
        }
    }
    let resnet = ["norm1", "conv1", "norm2", "conv2"];
    for (side, way, extra) in [("encoder", "down", 0), ("decoder", "up", 1)] {
        let mut add = |module: String| add(format!("first_stage_model.{side}.{module}"));
        for module in ["conv_in", "conv_out", "norm_out"] {
            add(module.to_owned());
        }
        for part in resnet {
            for block in ["mid.block_1", "mid.block_2"] {
                add(format!("{block}.{part}"));
            }
            for (level, block) in (0..2).flat_map(|l| (0..=extra).map(move |b| (l, b))) {
                add(format!("{way}.{level}.block.{block}.{part}"));
            }
        }
        for part in ["norm", "q", "k", "v", "proj_out"] {
            add(format!("mid.attn_1.{part}"));
        }
    }
    for module in [
        "encoder.down.0.downsample.conv",
        "encoder.down.1.block.0.nin_shortcut",
        "decoder.up.1.upsample.conv",
        "decoder.up.0.block.0.nin_shortcut",
    ] {
        add(format!("first_stage_model.{module}"));
    }
    let t5 = inventories().into_iter().next_back().unwrap().1;
    names.extend(t5.iter().map(|w| format!("text_encoders.t5xxl.transformer.{}", w.name)));
    names
}

/// The single file in 16 bits, and one tensor of a CLIP encoder. Values are such that what networks
/// make of numbers around 1 is again around 1.
pub(crate) fn write_single_file(path: &Path) -> BTreeMap<String, Tensor> {
    let shapes: BTreeMap<_, _> = inventories()
        .into_iter()
        .flat_map(|(n, list)| {
            list.iter().map(|w| ((n, w.name.clone()), w.shape)).collect::<Vec<_>>()
        })
        .collect();
    let mut tensors = BTreeMap::new();
    for (i, name) in single_file_names().into_iter().enumerate() {
        let (network, rest) = names::network(&name).unwrap();
        let pieces = names::translate(network, rest, COUNTS).unwrap();
        let (new, cut) = &pieces[0];
        let mut shape = shapes[&(network, new.clone())].to_vec();
        match cut {
            Cut::Third(_) => shape[0] *= 3,
            Cut::Squeezed => shape.extend([1, 1]),
            Cut::Whole | Cut::Swapped => {}
        }
        let values = Rng::new(9).stream(i as u64).normal(shape.as_slice(), DType::F64).unwrap();
        let inputs = shape[1..].iter().product::<usize>() as f64;
        let values: Vec<f64> = values.to_f64_vec().iter().map(|x| x / inputs.sqrt()).collect();
        let values = Tensor::from_vec(values, shape.as_slice()).unwrap();
        tensors.insert(name, values.to_dtype(DType::F16));
    }
    let clip = Tensor::zeros([3], DType::F16);
    tensors
        .insert("text_encoders.clip_l.transformer.text_model.final_layer_norm.bias".into(), clip);
    save(path, &tensors, &BTreeMap::new()).unwrap();
    tensors
}

#[test]
fn a_single_file_becomes_a_folder_and_every_tensor_is_accounted_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sd3.safetensors");
    let original = write_single_file(&path);
    let file = SafeTensors::open(&path).unwrap();
    let found = identify(&file, &Value::Null);
    let kinds: Vec<Kind> = found.iter().map(|found| found.kind).collect();
    let expected = [Kind::Sd3Transformer, Kind::Autoencoder, Kind::TextEncoder, Kind::Clip];
    assert_eq!(kinds, expected);
    for found in &found {
        assert!(found.misfit.is_none(), "{}", found.misfit.as_ref().unwrap());
    }

    let tokenizer = Tokenizer::of_words(crate::shapes::WORDS).unwrap();
    let words = tokenizer.len();
    let sd3 = Sd3::open(&path).unwrap().with_tokenizer(tokenizer);
    let (folder, account) = sd3.into_folder(3).unwrap();
    let of = |is: fn(&Fate) -> bool| account.iter().filter(|(_, fate)| is(fate)).count();
    assert_eq!(of(|fate| *fate == Fate::Fresh), 9);
    assert_eq!(of(|fate| matches!(fate, Fate::Partly(_))), 2);
    assert_eq!(of(|fate| *fate == Fate::Dropped), 5, "pooled texts and CLIP");
    let told: BTreeSet<&String> = account
        .iter()
        .map(|(name, fate)| match fate {
            Fate::Carried(from) | Fate::Partly(from) => from,
            Fate::Fresh | Fate::Dropped => name,
        })
        .collect();
    assert!(original.keys().all(|name| told.contains(name)));

    // Rows of the last text norm: the shift, the scale, then what is new and not zero.
    let name = "transformer_blocks.1.norm1_context.linear.weight";
    let weights: BTreeMap<_, _> = folder.transformer.weights.iter().cloned().collect();
    let norm = weights[name].to_f64_vec();
    let single = "model.diffusion_model.joint_blocks.1.context_block.adaLN_modulation.1.weight";
    assert_eq!(norm[..2 * 64], original[single].to_f64_vec());
    assert!(norm[2 * 64..].iter().all(|&x| x != 0.0 && x.abs() <= 8_f64.sqrt().recip() + 1e-3));
    let single = original["model.diffusion_model.final_layer.adaLN_modulation.1.bias"].to_f64_vec();
    let [shift, scale] = [&single[..8], &single[8..]];
    assert_eq!(weights["image_norm_out.linear.bias"].to_f64_vec(), [scale, shift].concat());
    assert_eq!(*weights["text_proj_out.weight"].shape(), [words, 8]);
    assert!(weights.values().all(|tensor| tensor.dtype() == DType::F16));

    let model = directory.path().join("model");
    folder.save(&model).unwrap();
    let read = Folder::open(&model).unwrap();
    for ((name, ours), (_, theirs)) in
        folder.transformer.weights.iter().zip(&read.transformer.weights)
    {
        assert!(crate::weights::is_same(ours, theirs).unwrap(), "{name}");
    }
}

/// What a single file lacks is taken from a base, of which only settings may be there.
#[test]
fn a_base_gives_what_a_single_file_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sd3.safetensors");
    write_single_file(&path);
    let tokenizer = || Tokenizer::of_words(crate::shapes::WORDS).unwrap();
    let whole = Sd3::open(&path).unwrap().with_tokenizer(tokenizer()).into_folder(0).unwrap().0;
    let base = directory.path().join("base");
    whole.save(&base).unwrap();
    fs::remove_dir_all(base.join("transformer")).unwrap();
    fs::remove_file(base.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let config = base.join("vae/config.json");
    let settings = fs::read_to_string(&config).unwrap().replace("1.5305", "0.5");
    fs::write(&config, settings).unwrap();

    let tensors = write_single_file(&path);
    let without: BTreeMap<_, _> =
        tensors.into_iter().filter(|(name, _)| !name.starts_with("text_encoders.")).collect();
    save(&path, &without, &BTreeMap::new()).unwrap();
    let sd3 = Sd3::open(&path).unwrap().or(Sd3::open(&base).unwrap());
    let (folder, _) = sd3.into_folder(0).unwrap();
    assert_eq!(folder.vae.unwrap().config.scaling_factor, 0.5);
    assert_eq!(folder.tokenizer.len(), tokenizer().len());
    let [ours, theirs] = [folder.text_encoder, whole.text_encoder].map(|t5| t5.unwrap().weights);
    assert!(ours.iter().zip(&theirs).all(|(a, b)| crate::weights::is_same(&a.1, &b.1).unwrap()));
}

#[test]
fn what_is_missing_or_strange_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sd3.safetensors");
    let tokenizer = || Tokenizer::of_words(crate::shapes::WORDS).unwrap();
    let mut tensors = write_single_file(&path);
    let error = Sd3::open(&path).unwrap().into_folder(0).err().unwrap().to_string();
    assert!(error.contains("no tokenizer"), "{error}");

    let block = "model.diffusion_model.joint_blocks.0.x_block.attn.proj.bias";
    let bias = tensors.remove(block).unwrap();
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    let sd3 = Sd3::open(&path).unwrap().with_tokenizer(tokenizer());
    let error = sd3.into_folder(0).err().unwrap().to_string();
    assert!(error.contains("missing transformer_blocks.0.attn.to_out.0.bias"), "{error}");
    assert!(error.contains("sd3.safetensors"), "{error}");

    let strange = "model.diffusion_model.joint_blocks.0.x_block.attn.ln_q.weight";
    tensors.insert(strange.into(), bias);
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    let error = Sd3::open(&path).err().unwrap().to_string();
    assert!(error.contains(strange) && error.contains("sd3.safetensors"), "{error}");

    let qkv = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.bias";
    tensors.remove(strange);
    tensors.insert(qkv.into(), Tensor::zeros([25], DType::F16));
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    let error = Sd3::open(&path).err().unwrap().to_string();
    assert!(error.contains(qkv) && error.contains("three equal parts"), "{error}");

    let kept: BTreeMap<_, _> =
        tensors.into_iter().filter(|(name, _)| !name.contains("diffusion_model")).collect();
    save(&path, &kept, &BTreeMap::new()).unwrap();
    let error = Sd3::open(&path).err().unwrap().to_string();
    assert!(error.contains("no transformer of SD3's"), "{error}");
}
