//! From SD3's single file to a model that draws and describes: what learns, and what does not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;
use tensor::Tensor;

use super::*;
use crate::folder::Folder;
use crate::pipeline::GenerateOptions;
use crate::sd3::Sd3;
use crate::sd3::tests::write_single_file;
use crate::shapes::Picture;
use crate::text::Tokenizer;

/// The last block and both heads.
const LAST: &str =
    r#"trainable=["transformer.transformer_blocks.1.*", "*.text_proj_out.*", "*.image_*_out.*"]"#;

/// A D-DiT folder that begins as SD3, and four pictures with captions to learn from.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write_single_file(&path("sd3.safetensors"));
        let tokenizer = Tokenizer::of_words(crate::shapes::WORDS).unwrap();
        let sd3 = Sd3::open(path("sd3.safetensors")).unwrap().with_tokenizer(tokenizer);
        let (model, _) = sd3.into_folder(0).unwrap();
        model.save(path("sd3")).unwrap();
        let mut manifest = String::new();
        for (colour, rgb) in [
            ("red", [220, 30, 30]),
            ("green", [30, 180, 30]),
            ("blue", [30, 30, 220]),
            ("yellow", [230, 220, 40]),
        ] {
            samples::write_png(&Picture::filled(8, 8, rgb), &path(&format!("{colour}.png")))
                .unwrap();
            manifest += &format!("{{\"file\": \"{colour}.png\", \"caption\": \"a {colour}\"}}\n");
        }
        fs::write(path("list.jsonl"), manifest).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, overrides: &[&str]) -> RunConfig {
        let init = format!("init={}", self.path("sd3").display());
        let manifest = format!("data.manifest={}", self.path("list.jsonl").display());
        let common = [
            init.as_str(),
            manifest.as_str(),
            "data.source=folder",
            "data.size=8",
            "autoencoder.source=init",
            "model.text_length=5",
            "batch.images=8",
            "batch.texts=8",
            "optimizer.learning_rate=1e-2",
            "optimizer.decay=constant",
            "run.steps=50",
            "run.log_every=1",
            "run.weights=f16",
            "generation.steps=2",
        ];
        preset("tiny", &[&common, overrides].concat())
    }

    fn model(&self, name: &str) -> Tensors {
        tensors(&Folder::open(self.path(name)).unwrap())
    }
}

type Tensors = BTreeMap<String, Tensor>;

/// All tensors of a folder by their full names.
fn tensors(folder: &Folder) -> Tensors {
    let mut all = Tensors::new();
    let mut add = |network: &str, weights: &[(String, Tensor)]| {
        all.extend(weights.iter().map(|(name, w)| (format!("{network}.{name}"), w.clone())));
    };
    add("transformer", &folder.transformer.weights);
    add("text_encoder", &folder.text_encoder.as_ref().unwrap().weights);
    add("vae", &folder.vae.as_ref().unwrap().weights);
    all
}

/// Names of the tensors that are not what they were, to the last bit and in their types.
fn changed<'a>(before: &'a Tensors, after: &Tensors) -> Vec<&'a str> {
    assert!(before.keys().eq(after.keys()));
    let same = |(name, old): &(&String, &Tensor)| {
        crate::weights::is_same(old, &after[name.as_str()]).unwrap()
    };
    before.iter().filter(|pair| !same(pair)).map(|(name, _)| name.as_str()).collect()
}

fn learnt(trainer: &Trainer) -> Vec<(String, Vec<u32>)> {
    let bits = |w: &Tensor| w.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    trainer.learner.trained().iter().map(|(name, w)| (name.clone(), bits(w))).collect()
}

/// One command after the other: the folder, the run, the run once more with a stop in it, a
/// picture and a caption.
#[test]
fn sd3_learns_both_directions_and_what_is_frozen_stays() {
    let world = World::new();
    let config = world.config(&[LAST, "run.sample_every=50"]);
    let mut losses = [Vec::new(), Vec::new()];
    let mut observe = |event: Event| {
        if let Event::Step(report) = event {
            losses.iter_mut().zip(&report.losses[1..]).for_each(|(all, (_, loss))| all.push(*loss));
        }
    };
    let stop = AtomicBool::new(false);
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    start(config.clone(), &world.path("run"), &Device::Cpu, &mut watch).unwrap();
    for (name, losses) in ["image", "text"].iter().zip(&losses) {
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..10]), mean(&losses[40..]));
        assert!(last < 0.8 * first, "{name} loss: {first} to {last}");
    }

    let (before, after) = (world.model("sd3"), world.model("run/model"));
    let parts = ["transformer_blocks.1.", "text_proj_out.", "image_norm_out.", "image_proj_out."];
    let learns = |name: &&String| {
        let own = name.strip_prefix("transformer.");
        own.is_some_and(|own| parts.iter().any(|part| own.starts_with(part)))
    };
    let expected: Vec<&str> = before.keys().filter(learns).map(String::as_str).collect();
    assert_eq!(changed(&before, &after), expected);

    let pipeline = Pipeline::open(world.path("run/model")).unwrap();
    let options = GenerateOptions { seed: 1, ..pipeline.generate_options() };
    let drawn = pipeline.generate(&["a red"], &options, &mut |_, _| Ok(())).unwrap();
    assert_eq!((drawn[0].picture.width(), drawn[0].picture.height()), (8, 8));
    let picture = Picture::filled(8, 8, [220, 30, 30]);
    let written =
        pipeline.caption(&[&picture], &pipeline.write_options(), &mut |_, _| Ok(())).unwrap();
    assert_eq!(written[0].ids.len(), 5);
    assert!(world.path("run/samples/step-00000050.png").exists());
}

#[test]
fn a_resumed_run_from_sd3_has_the_same_bits() {
    let world = World::new();
    let row = r#"trainable=["transformer.transformer_blocks.1.*", "*.mask_embedding"]"#;
    let config = world.config(&[row, "run.steps=12"]);
    let mut straight = open(&config, &world.path("one"));
    let losses = steps(&mut straight, 12);
    let mut first = open(&config, &world.path("two"));
    assert_eq!(steps(&mut first, 7), losses[..7]);
    first.save().unwrap();
    steps(&mut first, 2);
    drop(first);
    let mut second = open(&config, &world.path("two"));
    assert_eq!(steps(&mut second, 5), losses[7..]);
    assert_eq!(learnt(&second), learnt(&straight));
    // A checkpoint of other weights is none of this run's.
    let all = world.config(&["run.steps=12"]);
    let mut ignore = |_, _| Ok(());
    let error = Trainer::open(all, &world.path("two"), &Device::Cpu, &mut ignore)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("transformer.context_embedder.bias is missing"), "{error}");
}

/// The paper's second stage at its barest: of all tensors one row changes, by a gradient that came
/// through the whole encoder, whether or not its blocks are run again for it.
#[test]
fn the_masks_embedding_learns_alone() {
    let world = World::new();
    let before = world.model("sd3");
    for recipe in ["paper", "release"] {
        let recipe_is = format!("objective.recipe={recipe}");
        let run = |name: &str, checkpointed: &str| {
            let only = "trainable=[\"text_encoder.mask_embedding\"]";
            let config = world.config(&[only, &recipe_is, checkpointed, "run.steps=3"]);
            let mut trainer = open(&config, &world.path(name));
            steps(&mut trainer, 3);
            trainer
        };
        let trainer = run("kept", "batch.checkpoint_blocks=false");
        let again = run("again", "batch.checkpoint_blocks=true");
        assert_eq!(learnt(&trainer), learnt(&again));
        assert_eq!(trainer.learner.memory().len(), 4, "m, v, the average; and counts");

        let after = tensors(&Folder::open(trainer.export().unwrap()).unwrap());
        assert_eq!(changed(&before, &after), ["text_encoder.shared.weight"]);
        let [old, new] = [&before, &after].map(|all| &all["text_encoder.shared.weight"]);
        let row = |table: &Tensor, id: usize| table.select(0, id).unwrap().to_f64_vec();
        let other: Vec<usize> =
            (0..old.shape()[0]).filter(|&id| row(old, id) != row(new, id)).collect();
        let mask = Tokenizer::of_words(crate::shapes::WORDS).unwrap().mask();
        assert_eq!(other, [mask as usize]);
        let file = trainer.out.join("model/mask_embedding.safetensors");
        let apart = crate::t5::load_row(file, 6).unwrap();
        assert_eq!(apart.to_dtype(new.dtype()).to_f64_vec(), row(new, mask as usize));
        fs::remove_dir_all(world.path("kept")).unwrap();
        fs::remove_dir_all(world.path("again")).unwrap();
    }
}

#[test]
fn a_whole_text_encoder_learns_from_the_text_pass() {
    let world = World::new();
    let config = world.config(&["trainable=[\"text_encoder.*\"]", "run.steps=3"]);
    let mut trainer = open(&config, &world.path("run"));
    steps(&mut trainer, 3);
    let after = tensors(&Folder::open(trainer.export().unwrap()).unwrap());
    let before = world.model("sd3");
    let encoder: Vec<&str> =
        before.keys().map(String::as_str).filter(|n| n.starts_with("text_encoder.")).collect();
    assert_eq!(changed(&before, &after), encoder);
}

#[test]
fn patterns_that_select_nothing_are_errors() {
    let world = World::new();
    for (pattern, told) in [
        ("transformer.transformer_block.1.*", "transformer.transformer_blocks.1"),
        ("vae.decoder.*", "networks that can be trained in this run: text_encoder, transformer"),
        ("*.pos_embed.pos_embed", "nothing that this run can train"),
    ] {
        let config = world.config(&[&format!("trainable=[\"{pattern}\"]")]);
        let opened = Trainer::open(config, &world.path("run"), &Device::Cpu, &mut |_, _| Ok(()));
        let error = opened.err().unwrap().to_string();
        assert!(error.contains(told) && error.contains("trainable"), "{error}");
    }
}
