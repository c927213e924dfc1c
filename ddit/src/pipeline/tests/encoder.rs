//! Models with a text encoder: their folders, whole and damaged, and what they make.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tensor::io::safetensors::{SafeTensors, save, save_shards};

use super::*;
use crate::t5::{self, T5Config};

/// A model of 8 x 8 latents whose texts a T5 encoder reads; everything stored in 16 bits.
fn with_encoder() -> Folder {
    let made = folder(Recipe::Release, true);
    let words = made.tokenizer.len();
    let encoder: T5Config = serde_json::from_value(json!({
        "vocab_size": words + 3, "d_model": 6, "d_kv": 4, "d_ff": 10, "num_layers": 2,
        "num_heads": 3, "feed_forward_proj": "gated-gelu",
    }))
    .unwrap();
    let config = TransformerConfig {
        text_embedding: false,
        max_text_length: None,
        joint_attention_dim: 6,
        ..made.transformer.config
    };
    Folder {
        transformer: Component { weights: weights(&mmdit::inventory(&config)), config },
        text_encoder: Some(Component {
            weights: weights(&t5::inventory(&encoder)),
            config: encoder,
        }),
        generation: GenerationConfig { text_length: 10, prompt_length: 7, ..made.generation },
        ..made
    }
}

/// The bytes of every tensor.
fn bits<C>(component: &Component<C>) -> Vec<(String, Vec<u8>)> {
    let bytes = |(name, tensor): &(String, Tensor)| {
        (name.clone(), tensor.contiguous().bytes().unwrap().to_vec())
    };
    component.weights.iter().map(bytes).collect()
}

#[test]
fn a_folder_survives_being_written_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    let made = with_encoder();
    made.save(&path).unwrap();
    let read = Folder::open(&path).unwrap();
    let [ours, theirs] = [&made, &read].map(|folder| folder.text_encoder.as_ref().unwrap());
    assert_eq!((bits(ours), &ours.config), (bits(theirs), &theirs.config));
    assert_eq!(bits(&made.transformer), bits(&read.transformer));
    assert_eq!(bits(made.vae.as_ref().unwrap()), bits(read.vae.as_ref().unwrap()));
    assert_eq!(read.transformer.weights[0].1.dtype(), DType::BF16, "as it was stored");
    // Without our own defaults, the folder is used as the official pipeline would.
    fs::remove_file(path.join("generation_config.json")).unwrap();
    let options = Pipeline::open(&path).unwrap().write_options();
    assert_eq!((options.steps, options.length, options.keep_end), (64, 128, true));
    assert_eq!(options.sampler, TextSampler::DdpmCache);
    let paper = Folder::open(&path).unwrap().with_recipe(Recipe::Paper).unwrap();
    assert_eq!(paper.tokenizer.pad(), paper.tokenizer.end());
    let options = Pipeline::new(paper).unwrap().write_options();
    assert_eq!((options.sampler, options.keep_end), (TextSampler::Exact, false));
}

#[test]
fn pictures_and_texts_are_the_same_in_any_company() {
    let pipeline = Pipeline::new(with_encoder()).unwrap();
    let prompts = ["a red circle", "two small squares", "a green triangle"];
    let options = GenerateOptions { seed: 3, batch: 2, ..pipeline.generate_options() };
    let drawn = pipeline.generate(&prompts, &options, &mut |_, _| Ok(())).unwrap();
    assert_ne!(drawn[0].picture, drawn[1].picture);
    for (prompt, together) in prompts.iter().zip(&drawn) {
        let options = GenerateOptions { seed: together.seed, ..options.clone() };
        let alone = &pipeline.generate(&[prompt], &options, &mut |_, _| Ok(())).unwrap()[0];
        assert_eq!(alone.picture, together.picture);
    }
    // Prompts and null text are read by the encoder: another of either draws another picture.
    let other = GenerateOptions { negative: "a red circle".into(), ..options.clone() };
    let other = pipeline.generate(&prompts[..1], &other, &mut |_, _| Ok(())).unwrap();
    assert_ne!(other[0].picture, drawn[0].picture);

    let pictures = [picture(1), picture(2), picture(3)];
    let questions: Vec<(&Picture, &str)> =
        pictures.iter().map(|picture| (picture, "is there a circle?")).collect();
    let options = WriteOptions { seed: 4, batch: 2, ..pipeline.write_options() };
    let together = pipeline.ask(&questions, &options, &mut |_, _| Ok(())).unwrap();
    for (question, written) in questions.iter().zip(&together) {
        let options = WriteOptions { seed: written.seed, ..options.clone() };
        let alone = pipeline.ask(&[*question], &options, &mut |_, _| Ok(())).unwrap();
        assert_eq!(alone[0].ids, written.ids);
    }
}

/// The null text is read once, whatever the prompts; another length or text is another one.
#[test]
fn the_null_text_is_read_once() {
    let pipeline = Pipeline::new(with_encoder()).unwrap();
    let read = |text: &str, length| pipeline.null_text(text, length).unwrap().states().unwrap();
    let (first, again, longer) = (read("", 7), read("", 7), read("", 8));
    let other = read("a circle", 8);
    let place = |states: &Tensor| states.slice::<f32>().unwrap().as_ptr();
    assert_eq!(place(&first), place(&again), "one reading, shared");
    assert_eq!((first.shape()[1], longer.shape()[1]), (7, 8));
    assert_ne!(longer.to_f64_vec(), other.to_f64_vec());
}

/// Weights that are read anew for every pass are the same weights.
#[test]
fn streamed_weights_give_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    with_encoder().save(&path).unwrap();
    let plain = Pipeline::open(&path).unwrap();
    let streamed = Pipeline::streaming(Folder::open(&path).unwrap()).unwrap();
    let [first, second] = [&plain, &streamed].map(|pipeline| {
        let drawing = pipeline.generate_options();
        let drawn = pipeline.generate(&["a red circle"], &drawing, &mut |_, _| Ok(())).unwrap();
        let writing = pipeline.write_options();
        let written = pipeline.caption(&[&picture(1)], &writing, &mut |_, _| Ok(())).unwrap();
        (drawn[0].picture.clone(), written[0].ids.clone())
    });
    assert_eq!(first, second);
}

/// Writes the model, its encoder in shards, and hands the encoder's folder over to be damaged; the
/// error that follows says all that is returned.
#[track_caller]
fn damaged(damage: impl FnOnce(&Path) -> Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    let model = with_encoder();
    model.save(&path).unwrap();
    let encoder = path.join("text_encoder");
    let single = encoder.join("model.safetensors");
    fs::remove_file(&single).unwrap();
    let tensors = model.text_encoder.unwrap().weights;
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    save_shards(&single, tensors, &BTreeMap::new(), 600).unwrap();
    Folder::open(&path).unwrap();
    let told = damage(&encoder);
    let error = Folder::open(&path).err().expect("the folder is damaged").to_string();
    for told in told {
        assert!(error.contains(&told), "{told} is not in: {error}");
    }
}

/// Changes the tensors of the shard that holds `name`, of which the file's name is returned.
fn rewrite(
    folder: &Path,
    name: &str,
    change: impl FnOnce(&mut BTreeMap<String, Tensor>),
) -> String {
    let shards = SafeTensors::open(folder).unwrap();
    let path = shards.file_of(name).unwrap().to_owned();
    let shard = SafeTensors::open(&path).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        shard.names().map(|name| (name.to_owned(), shard.get(name).unwrap())).collect();
    change(&mut tensors);
    save(&path, &tensors, &BTreeMap::new()).unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Changes the index of a folder's shards.
fn reindex(folder: &Path, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(index["weight_map"].as_object_mut().unwrap());
    fs::write(&path, index.to_string()).unwrap();
}

#[test]
fn damage_is_told_with_file_and_key() {
    let query = "encoder.block.1.layer.0.SelfAttention.q.weight";
    let norm = "encoder.final_layer_norm.weight";
    let index = "text_encoder/model.safetensors.index.json";
    damaged(|folder| {
        let path = SafeTensors::open(folder).unwrap().file_of(query).unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        vec![path.display().to_string(), "cut short".into(), "encoder.block.1.".into()]
    });
    damaged(|folder| {
        let path = SafeTensors::open(folder).unwrap().file_of(query).unwrap().to_owned();
        fs::remove_file(&path).unwrap();
        vec![path.display().to_string()]
    });
    damaged(|folder| {
        let path = SafeTensors::open(folder).unwrap().file_of(query).unwrap().to_owned();
        reindex(folder, |map| drop(map.remove(query)));
        let shard = path.file_name().unwrap().to_str().unwrap();
        let missing = format!("missing {query}: it is in {shard}, but not in the index");
        vec![index.into(), "1 missing".into(), missing]
    });
    damaged(|folder| {
        let shard = rewrite(folder, query, |tensors| drop(tensors.remove(query)));
        vec![format!("text_encoder/{shard}"), query.into(), "is in".into(), index.into()]
    });
    damaged(|folder| {
        let shard = rewrite(folder, query, |tensors| {
            let swapped = tensors[query].transpose(0, 1).unwrap().contiguous();
            tensors.insert(query.into(), swapped);
        });
        vec![index.into(), format!("{query} is [6, 12], needed [12, 6], in {shard}")]
    });
    damaged(|folder| {
        let shard = rewrite(folder, query, |tensors| {
            let whole = tensors[query].to_dtype(DType::I32);
            tensors.insert(query.into(), whole);
        });
        vec![index.into(), format!("{query} is of type i32, needed floats, in {shard}")]
    });
    damaged(|folder| {
        let other = "encoder.final_layer_norm.weights";
        let shard = rewrite(folder, norm, |tensors| {
            let value = tensors.remove(norm).unwrap();
            tensors.insert(other.into(), value);
        });
        reindex(folder, |map| {
            let place = map.remove(norm).unwrap();
            map.insert(other.into(), place);
        });
        vec![
            "1 missing, 1 not of this model".into(),
            format!("missing {norm}; the file has {other}, in {shard}"),
            format!("surplus {other} [6], in {shard}"),
        ]
    });
    damaged(|folder| {
        let path = folder.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["feed_forward_proj"] = "relu".into();
        fs::write(&path, config.to_string()).unwrap();
        vec!["text_encoder/config.json".into(), "feed_forward_proj is relu".into()]
    });
    for (file, setting, told) in [
        ("scheduler/scheduler_config.json", json!({ "num_train_timesteps": 500 }), "is 500"),
        ("scheduler/scheduler_config.json", json!({ "shift": 0 }), "shift 0 is not positive"),
        ("generation_config.json", json!({ "steps": 0 }), "steps is 0"),
    ] {
        damaged(|folder| {
            fs::write(folder.with_file_name(file), setting.to_string()).unwrap();
            vec![file.into(), told.into()]
        });
    }
}

#[test]
fn components_must_fit_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    with_encoder().save(&path).unwrap();
    let index = path.join("model_index.json");
    let text = fs::read_to_string(&index).unwrap();
    let mut without: serde_json::Value = serde_json::from_str(&text).unwrap();
    without["text_encoder"] = json!([null, null]);
    fs::write(&index, without.to_string()).unwrap();
    let error = Folder::open(&path).err().unwrap().to_string();
    assert!(error.contains("needs a text encoder"), "{error}");

    let mut made = with_encoder();
    made.transformer = folder(Recipe::Release, true).transformer;
    made.save(&path).unwrap();
    let error = Folder::open(&path).err().unwrap().to_string();
    assert!(error.contains("embeds token ids itself"), "{error}");
}
