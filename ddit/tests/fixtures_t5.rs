//! The text encoder, tokens and pictures against stored results of the official code.
//!
//! The results are not part of the repository: they are looked for in `$DDIT_SHARED`, or in
//! `shared` beside the repository. Without them the tests say `SKIPPED` and pass, unless
//! `DDIT_REQUIRE_SHARED=1`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use autograd::{Params, Var, backward_with};
use ddit::config::Recipe;
use ddit::data::decode::read_picture;
use ddit::data::resize::{Filter, fit, fit_square, resize};
use ddit::mmdit::{self, Mmdit, TextInput};
use ddit::objective::{Corrupted, TextDraws, Texts};
use ddit::t5::bucket::bucket;
use ddit::t5::{self, T5Encoder};
use ddit::text::{Row, Tokenizer};
use ddit::train::config::Alpha;
use ddit::weights::Inventory;
use samplers::masked::{MIN_TIME, stratified_times};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tensor::Tensor;
use tensor::io::safetensors::SafeTensors;

/// The fixture set: its folder and what is in it.
struct Fixtures {
    root: PathBuf,
    manifest: Value,
}

/// One case: what is given, what is expected, and how near is near enough.
struct Case<'a> {
    entry: &'a Value,
    file: SafeTensors,
    misses: Vec<String>,
}

impl Fixtures {
    fn open() -> Option<Self> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
        let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
        let root = PathBuf::from(shared).join("reference/fixtures");
        let Ok(manifest) = std::fs::read(root.join("manifest.json")) else {
            let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
            assert!(!required, "no fixtures at {}", root.display());
            eprintln!("SKIPPED: no fixtures at {}", root.display());
            return None;
        };
        // Python writes a number that JSON does not have.
        let text = String::from_utf8(manifest).unwrap().replace(": Infinity", ": null");
        Some(Self { manifest: serde_json::from_str(&text).unwrap(), root })
    }

    /// The configuration and tensors of weights, as they are stored.
    fn weights<C: DeserializeOwned>(
        &self,
        name: &str,
        inventory: impl Fn(&C) -> Inventory,
        trains: bool,
    ) -> (C, Params) {
        let entry = &self.manifest["weights"][name];
        let config: C = serde_json::from_value(entry["config"].clone()).unwrap();
        let file = SafeTensors::open(self.root.join(entry["file"].as_str().unwrap())).unwrap();
        let tensor = |name: &str| (name.to_owned(), file.get(name).unwrap());
        let found: BTreeMap<String, Tensor> = file.names().map(tensor).collect();
        let weights = inventory(&config).take(found).unwrap();
        (config, Params::from_tensors(weights, |_| trains).unwrap())
    }

    fn entries(&self, kind: &str) -> Vec<&Value> {
        let cases = self.manifest["cases"].as_array().unwrap();
        let cases: Vec<_> = cases.iter().filter(|case| case["kind"] == kind).collect();
        assert!(!cases.is_empty(), "no case of kind {kind}");
        cases
    }

    /// Every case of a kind whose file is JSON.
    fn each_json(&self, kind: &str, check: impl Fn(&Value)) {
        for entry in self.entries(kind) {
            let file = std::fs::read(self.root.join(entry["file"].as_str().unwrap())).unwrap();
            check(&serde_json::from_slice(&file).unwrap());
        }
    }

    /// Every case of a kind, judged by `check`; fails with everything that missed.
    fn each(&self, kind: &str, mut check: impl FnMut(&mut Case)) {
        let mut misses = Vec::new();
        for entry in self.entries(kind) {
            let file = self.root.join(entry["file"].as_str().unwrap());
            let mut case =
                Case { entry, file: SafeTensors::open(file).unwrap(), misses: Vec::new() };
            check(&mut case);
            let id = entry["id"].as_str().unwrap();
            misses.extend(case.misses.iter().map(|miss| format!("{id}: {miss}")));
        }
        assert!(misses.is_empty(), "{}", misses.join("\n"));
    }
}

/// Whole numbers as token ids.
fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

impl Case<'_> {
    fn get(&self, key: &str) -> Tensor {
        self.file.get(key).unwrap()
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        self.get(key).to_vec::<i64>().unwrap().iter().map(|&id| id as u32).collect()
    }

    /// The keys that begin so, and the rest of each.
    fn keys(&self, prefix: &str) -> Vec<(String, String)> {
        let rest = |key: &str| Some((key.to_owned(), key.strip_prefix(prefix)?.to_owned()));
        self.file.names().filter_map(rest).collect()
    }

    /// Records a miss unless `|got - want| <= atol + rtol * |want|` everywhere.
    fn check(&mut self, key: &str, got: &Tensor) {
        let want = self.get(key);
        if got.numel() != want.numel() {
            self.misses.push(format!("{key} is {}, not {}", got.shape(), want.shape()));
            return;
        }
        let told = &self.entry["tensors"][key];
        let [atol, rtol] = ["atol", "rtol"].map(|name| told[name].as_f64().unwrap_or(0.0));
        let mut worst = 0.0_f64;
        for (got, want) in got.to_f64_vec().into_iter().zip(want.to_f64_vec()) {
            let share = (got - want).abs() / (atol + rtol * want.abs());
            // Equal numbers have no distance even where no tolerance is given; NaN has any.
            worst = worst.max(if got == want { 0.0 } else { share.max(f64::MIN_POSITIVE) });
            if share.is_nan() && got != want {
                worst = f64::INFINITY;
            }
        }
        if worst > 1.0 {
            self.misses.push(format!("{key} misses by {worst:.3} tolerances"));
        }
    }
}

/// States and gradients, with weights in the precision they are stored in.
#[test]
fn encoder_values_and_gradients() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("t5", |case| {
        let name = case.entry["weights"].as_str().unwrap();
        let (config, params) = fixtures.weights(name, t5::inventory, true);
        let encoder = T5Encoder::new(config, &params).unwrap();

        let ids = case.ids("in.ids");
        let [_, length] = case.get("in.ids").dims().unwrap();
        let hidden = encoder.forward(&ids, length).unwrap();
        case.check("out.hidden", &hidden.value());
        let mut x = encoder.embedding().forward(&ids, length).unwrap();
        let bias = encoder.relative_bias(length).unwrap();
        for (i, block) in encoder.blocks().enumerate() {
            x = block.forward(&x, &bias).unwrap();
            if case.file.contains(&format!("mid.block{i}")) {
                case.check(&format!("mid.block{i}"), &x.value());
            }
        }
        if case.file.contains("in.g") {
            let grads = backward_with(&[(hidden, case.get("in.g"))]).unwrap();
            for (key, name) in case.keys("grad.") {
                case.check(&key, grads.get(&params.get(&name).unwrap()).unwrap());
            }
        }
    });
}

/// Corrupted tokens through encoder and transformer to the loss, and back to the mask's embedding.
#[test]
fn text_loss_through_the_encoder() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("text_loss", |case| {
        let name = |i: usize| case.entry["weights"][i].as_str().unwrap();
        let (config, params) = fixtures.weights(name(0), mmdit::inventory, true);
        let model = Mmdit::new(config, &params).unwrap();
        let (config, frozen) = fixtures.weights(name(1), t5::inventory, false);
        let mut encoder = T5Encoder::new(config, &frozen).unwrap();
        let mask = case.entry["config"]["mask_id"].as_u64().unwrap() as u32;
        let row = encoder.train_row(mask).unwrap();

        let [_, length] = case.get("in.x0").dims().unwrap();
        let learned: Vec<bool> = case.ids("in.label_mask").iter().map(|&m| m == 1).collect();
        let texts = Texts { ids: &case.ids("in.x0"), learned: &learned, counted: None, length };
        let uniforms = |key: &str| case.get(key).to_f64_vec();
        let draws = TextDraws {
            times: stratified_times(&uniforms("in.u_t"), MIN_TIME),
            uniforms: uniforms("in.u_mask"),
        };
        let corrupted = Corrupted::new(&texts, &draws, mask, Recipe::Release).unwrap();
        assert_eq!(corrupted.ids, case.ids("mid.xt"));
        let states = encoder.forward(&corrupted.ids, length).unwrap();
        let text = TextInput::States(&states);
        let loss = corrupted.loss(&model, &case.get("in.latents"), text).unwrap();
        case.check("out.loss", &loss.value());
        let grads = loss.backward().unwrap();
        for (key, name) in case.keys("grad.") {
            let var = match name.as_str() {
                "t5_mask_embedding" => row.clone(),
                name => params.get(name).unwrap(),
            };
            case.check(&key, grads.get(&var).unwrap());
        }
    });
}

#[test]
fn relative_positions() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("t5_buckets", |case| {
        let number = |key: &str| case.entry["config"][key].as_u64().unwrap() as usize;
        let (buckets, max_distance) = (number("num_buckets"), number("max_distance"));
        let relative = case.get("in.rel").to_vec::<i64>().unwrap();
        let found: Vec<i64> =
            relative.iter().map(|&r| bucket(r as isize, buckets, max_distance) as i64).collect();
        let count = found.len();
        case.check("out.bucket", &Tensor::from_vec(found, [count]).unwrap());
        let table = Var::constant(case.get("in.table"));
        for (key, length) in case.keys("out.bias_") {
            let bias = t5::relative_bias(&table, max_distance, length.parse().unwrap()).unwrap();
            case.check(&key, &bias.value());
        }
    });
}

#[test]
fn tokens_and_their_texts() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each_json("tokenizer", |fixture| {
        let reference = fixtures.root.parent().unwrap();
        let folder = match fixture["tokenizer"].as_str().unwrap() {
            "public T5 vocabulary" => reference.parent().unwrap().join("data/t5"),
            name => reference.join(name).join("tokenizer"),
        };
        let tokenizer = Tokenizer::open(folder).unwrap();
        assert_eq!(tokenizer.len() as u64, fixture["length"]);
        assert_eq!(u64::from(tokenizer.mask()), fixture["mask_id"]);
        for case in fixture["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoded = tokenizer.encode(text).unwrap();
            assert_eq!(encoded, ids(&case["ids"]), "{text:?}");
            assert_eq!(tokenizer.decode(&encoded).unwrap(), case["decoded_clean"], "{text:?}");
        }
    });
}

#[test]
fn rows_of_questions_and_answers() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each_json("sft_packing", |fixture| {
        let length = fixture["max_length"].as_u64().unwrap() as usize;
        let pad = fixture["pad_id"].as_u64().unwrap() as u32;
        for example in fixture["examples"].as_array().unwrap() {
            let pack = match example["reverse"].as_bool().unwrap() {
                true => Row::pack_reverse,
                false => Row::pack,
            };
            let (question, answer) = (ids(&example["question_ids"]), ids(&example["answer_ids"]));
            let row = pack(&question, &answer, length, pad);
            assert_eq!(row.ids, ids(&example["input_ids"]), "{example}");
            let learn: Vec<u32> = row.learn.iter().map(|&learn| learn.into()).collect();
            assert_eq!(learn, ids(&example["label_mask"]), "{example}");
        }
    });
}

#[test]
fn pictures_made_ready() {
    let Some(fixtures) = Fixtures::open() else { return };
    fixtures.each("image_preprocess", |case| {
        let file = fixtures.root.join(case.entry["config"]["image"].as_str().unwrap());
        let picture = read_picture(file, Alpha::Drop).unwrap();
        let bytes = |bytes: &[u8]| Tensor::from_slice(bytes, [bytes.len()]).unwrap();
        case.check("aux.rgb", &bytes(picture.rgb()));
        let [height, width, _] = case.get("out.resize_u8").dims().unwrap();
        let resized = resize(&picture, width, height, Filter::Bicubic);
        case.check("out.resize_u8", &bytes(resized.rgb()));
        let values = |values: Vec<f32>| {
            let count = values.len();
            Tensor::from_vec(values, [count]).unwrap()
        };
        for (key, side) in case.keys("out.model_") {
            case.check(&key, &values(fit(&picture, side.parse().unwrap()).to_chw()));
        }
        for (key, side) in case.keys("out.sft_") {
            case.check(&key, &values(fit_square(&picture, side.parse().unwrap())));
        }
    });
}
