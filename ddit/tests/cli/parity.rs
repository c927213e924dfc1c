//! Comparing with stored results: a set of fixtures of our own, whole and broken in every way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ddit::config::VaeConfig;
use ddit::mmdit::{position_table, time_features};
use ddit::vae;
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::io::safetensors::save;
use tensor::{DType, Tensor};

use crate::world::{Ran, command_in, keys};

/// A set of fixtures in a folder, of a geometry no published set has: three levels, five latent
/// channels, and a table of places with an odd side.
struct Set {
    folder: TempDir,
    manifest: Value,
}

/// A tensor with what the manifest says of it besides shape and type.
type Entry<'a> = (&'a str, Tensor, Value);

impl Set {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = json!({ "title": "ours", "format": 1, "weights": {}, "cases": [] });
        let mut set = Self { folder, manifest };
        let near = || json!({ "atol": 1e-5, "rtol": 1e-5 });
        let times = [0.0_f32, 17.25, 999.0];
        let features = |width| time_features(&times, width, DType::F32).unwrap();
        set.case(
            "times",
            "timestep_features",
            json!({}),
            &[
                ("in.t", Tensor::from_slice(&times, [3]).unwrap(), json!({})),
                ("out.emb6", features(6), near()),
                ("out.emb40", features(40), near()),
            ],
        );
        let config = json!({ "dim": 20, "pos_embed_max_size": 7, "base_size": 3 });
        set.case("places", "pos_embed", config, &[("out.table", position_table(20, 7, 3), near())]);
        let latents = Tensor::from_slice(&[0.5_f32; 2 * 5 * 2], [2, 5, 2, 1]).unwrap();
        set.case(
            "picture",
            "vae_decode",
            json!({}),
            &[
                ("in.latents", latents, json!({})),
                // What the decoder below gives for any latents: its last bias.
                ("out.image", Tensor::full([2, 4, 8, 4], 0.25, DType::F32), near()),
                (
                    "out.u8",
                    Tensor::full([2, 4, 8, 4], 159.0, DType::U8),
                    json!({ "max_difference": 1 }),
                ),
            ],
        );
        set.autoencoder();
        set.write()
    }

    /// An autoencoder of three levels whose last convolution is a bias of ¼.
    fn autoencoder(&mut self) {
        let config = json!({
            "in_channels": 4, "out_channels": 4, "block_out_channels": [2, 4, 6],
            "layers_per_block": 1, "latent_channels": 5, "norm_num_groups": 2,
            "scaling_factor": 0.5, "shift_factor": 0.25,
        });
        let geometry: VaeConfig = serde_json::from_value(config.clone()).unwrap();
        let mut weights = vae::inventory(&geometry).fresh(3, DType::F32).unwrap();
        for (name, weight) in &mut weights {
            match name.as_str() {
                "decoder.conv_out.weight" => *weight = Tensor::zeros(weight.shape(), DType::F32),
                "decoder.conv_out.bias" => *weight = Tensor::full(weight.shape(), 0.25, DType::F32),
                _ => {}
            }
        }
        let tensors = weights.iter().map(|(name, weight)| (name.as_str(), weight));
        save(self.folder.path().join("vae.safetensors"), tensors, &BTreeMap::new()).unwrap();
        self.manifest["weights"]["small"] = json!({ "file": "vae.safetensors", "config": config });
        self.manifest["cases"][2]["weights"] = "small".into();
    }

    fn case(&mut self, id: &str, kind: &str, config: Value, tensors: &[Entry]) {
        let file = format!("{id}.safetensors");
        let stored = tensors.iter().map(|(name, tensor, _)| (*name, tensor));
        save(self.folder.path().join(&file), stored, &BTreeMap::new()).unwrap();
        let mut described = json!({});
        for (name, tensor, rule) in tensors {
            let dtype = if tensor.dtype() == DType::U8 { "uint8" } else { "float32" };
            described[name] = rule.clone();
            described[name]["shape"] = json!(&tensor.shape()[..]);
            described[name]["dtype"] = dtype.into();
        }
        let case = json!({
            "id": id, "kind": kind, "config": config, "file": file, "tensors": described,
        });
        self.manifest["cases"].as_array_mut().unwrap().push(case);
    }

    fn write(self) -> Self {
        std::fs::write(self.path("manifest.json"), self.manifest.to_string()).unwrap();
        self
    }

    /// The set with its manifest changed.
    fn changed(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.manifest);
        self.write()
    }

    /// The set with the bytes of one of its files changed.
    fn damaged(self, file: &str, damage: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = std::fs::read(self.path(file)).unwrap();
        damage(&mut bytes);
        std::fs::write(self.path(file), bytes).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, more: &[&str]) -> Ran {
        let arguments = [&["parity", "manifest.json"], more].concat();
        Ran::of(command_in(self.folder.path(), &arguments))
    }

    /// Exit code 2, and an error that says all of `told`.
    #[track_caller]
    fn is_refused(&self, told: &[&str]) {
        let ran = self.run(&[]);
        assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
        for told in told {
            assert!(ran.stderr.contains(told), "{told} is not in: {}", ran.stderr);
        }
    }
}

#[test]
fn a_set_never_seen_before_is_within_tolerance() {
    let set = Set::new();
    let text = set.run(&[]).succeeded().stdout;
    let told = "all of 5 tensors of 3 cases are within tolerance";
    assert_eq!(text.lines().last(), Some(told), "{text}");
    let lines = set.run(&["--json"]).succeeded().lines();
    let (summary, tensors) = lines.split_last().unwrap();
    assert_eq!(keys(&tensors[0]), ["case", "kind", "tensor", "error", "tolerance", "ok"]);
    let names: Vec<&str> = tensors.iter().map(|line| line["tensor"].as_str().unwrap()).collect();
    assert_eq!(names, ["out.emb40", "out.emb6", "out.table", "out.image", "out.u8"]);
    for line in tensors {
        assert!(
            line["error"].as_f64() <= line["tolerance"].as_f64() && line["ok"] == true,
            "{line}"
        );
    }
    assert_eq!((&summary["tensors"], &summary["over"]), (&5.into(), &0.into()));
}

#[test]
fn a_deviation_is_code_1_and_is_pointed_at() {
    let set = Set::new().damaged("picture.safetensors", |bytes| {
        // The bytes of the picture come last; one of them is now off by two.
        *bytes.last_mut().unwrap() += 2;
    });
    let ran = set.run(&["--json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let lines = ran.lines();
    let wrong: Vec<&Value> = lines.iter().filter(|line| line["ok"] == false).collect();
    assert_eq!((wrong.len(), &wrong[0]["tensor"]), (1, &"out.u8".into()));
    assert_eq!((&wrong[0]["error"], &wrong[0]["tolerance"]), (&2.0.into(), &1.0.into()));
    let ran = set.run(&[]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stdout.matches("  OVER").count(), 1, "{}", ran.stdout);
    let told = "1 of 5 tensors of 3 cases are OVER TOLERANCE";
    assert_eq!(ran.stdout.lines().last(), Some(told));
    assert_eq!(set.run(&["--only", "places"]).code, 0);
    assert_eq!(set.run(&["--only", "vae_decode"]).code, 1);
}

#[test]
fn what_is_not_supported_is_code_3_and_is_listed() {
    let set = Set::new().changed(|manifest| {
        manifest["cases"][0]["kind"] = "tea_leaves".into();
        let cases = manifest["cases"].as_array_mut().unwrap();
        // Nothing of a kind that is not known is read.
        cases.push(json!({ "id": "second", "kind": "tea_leaves", "file": "none" }));
    });
    let ran = set.run(&[]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let told = "all of 3 tensors of 2 cases are within tolerance; not supported: tea_leaves (2)";
    assert_eq!(ran.stdout.lines().last(), Some(told));
    let lines = set.run(&["--json"]).lines();
    assert_eq!(lines.last().unwrap()["unsupported"], json!({ "tea_leaves": 2 }));
    // A result that the kind does not compute is not passed over either.
    let set = Set::new().changed(|manifest| {
        let tensors = &mut manifest["cases"][0]["tensors"];
        tensors["out.six"] = tensors["out.emb6"].take();
        tensors.as_object_mut().unwrap().remove("out.emb6");
    });
    let set = set.damaged("times.safetensors", |bytes| {
        let name = b"out.emb6";
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
        bytes[at..at + name.len()].copy_from_slice(b"out.six\"");
        bytes[at + name.len()] = b' ';
    });
    let ran = set.run(&[]);
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stdout.ends_with("not supported: out.six of timestep_features (1)\n"),
        "{}",
        ran.stdout
    );
    // But a deviation goes before it.
    let set = Set::new().changed(|manifest| manifest["cases"][0]["kind"] = "tea_leaves".into());
    let set = set.damaged("picture.safetensors", |bytes| *bytes.last_mut().unwrap() += 2);
    assert_eq!(set.run(&[]).code, 1);
}

#[test]
fn a_broken_manifest_names_its_key() {
    type Change = fn(&mut Value);
    let changes: [(Change, &[&str]); 16] = [
        (|m| m["format"] = 2.into(), &["format", "expected 1"]),
        (|m| m["cases"] = Value::Null, &["cases", "list"]),
        (|m| m["cases"] = json!([]), &["cases", "list"]),
        (|m| m["cases"][1]["kind"] = Value::Null, &["cases[1].kind"]),
        (|m| m["cases"][1]["tensors"] = json!({}), &["places.tensors"]),
        (|m| m["cases"][1]["file"] = Value::Null, &["places.file"]),
        (|m| m["cases"][1]["file"] = "none".into(), &["none"]),
        (|m| m["cases"][1]["config"]["dim"] = 18.into(), &["places.config.dim", "18"]),
        (|m| m["cases"][1]["config"]["dim"] = Value::Null, &["places.config.dim"]),
        (|m| m["cases"][1]["config"]["base_size"] = 0.into(), &["places.config.base_size"]),
        (|m| m["cases"][1]["config"]["dim"] = json!(1u64 << 60), &["places.config"]),
        (
            |m| m["cases"][1]["tensors"]["out.table"]["atol"] = "x".into(),
            &["places.tensors.out.table"],
        ),
        (|m| m["cases"][1]["tensors"]["out.table"]["dtype"] = "f".into(), &["out.table.dtype"]),
        (|m| m["cases"][2]["weights"] = "large".into(), &["weights.large"]),
        (
            |m| m["weights"]["small"]["config"]["layers_per_block"] = 0.into(),
            &["weights.small.config"],
        ),
        (
            |m| m["weights"]["small"]["config"]["latent_channels"] = 4.into(),
            &["vae.safetensors", "conv_in"],
        ),
    ];
    for (change, told) in changes {
        Set::new().changed(change).is_refused(told);
    }
    let set = Set::new();
    std::fs::write(set.path("manifest.json"), "{\"format\": 1, ").unwrap();
    set.is_refused(&["manifest.json", "line 1"]);
    std::fs::write(set.path("manifest.json"), b"\xff\xfe").unwrap();
    set.is_refused(&["manifest.json"]);
    std::fs::remove_file(set.path("manifest.json")).unwrap();
    set.is_refused(&["manifest.json"]);
    Set::new().run(&["--only", "place"]).failed(&["place", "did you mean places?"]);
}

#[test]
fn a_broken_file_names_its_tensor_and_the_other_cases_are_compared() {
    let shape = |m: &mut Value| m["cases"][1]["tensors"]["out.table"]["shape"] = json!([1, 49, 21]);
    Set::new().changed(shape).is_refused(&["places.safetensors", "out.table", "[1, 49, 21]"]);
    let missing = |m: &mut Value| {
        let description = m["cases"][0]["tensors"]["in.t"].clone();
        m["cases"][0]["tensors"]["in.u"] = description;
    };
    Set::new().changed(missing).is_refused(&["times.safetensors", "in.u"]);
    let set = Set::new().damaged("places.safetensors", |bytes| bytes.truncate(bytes.len() - 9));
    set.is_refused(&["places.safetensors", "out.table", "cut short"]);
    let told = "all of 4 tensors of 2 cases are within tolerance; 1 cases could not be run";
    assert_eq!(set.run(&[]).stdout.lines().last(), Some(told));
    assert_eq!(set.run(&["--json"]).lines().last().unwrap()["broken"], 1);
    let set = Set::new().damaged("vae.safetensors", |bytes| bytes.clear());
    set.is_refused(&["vae.safetensors"]);
}

#[test]
fn everything_stored_is_compared_or_told() {
    let mut set = Set::new();
    let features = time_features(&[3.0], 6, DType::F32).unwrap();
    let near = || json!({ "atol": 1e-5 });
    let tensors = [
        ("in.t", Tensor::from_slice(&[3.0_f32], [1]).unwrap(), json!({})),
        ("out.emb6", features.clone(), near()),
        ("aux.bf16_emb6", features.clone(), near()),
        ("mid.angles", features, near()),
    ];
    set.case("more", "timestep_features", json!({}), &tensors);
    let set = set.write();
    let text = set.run(&["--only", "more"]).succeeded().stdout;
    assert!(text.contains("  aux.bf16_emb6 of timestep_features is not compared\n"), "{text}");
    let told = "all of 1 tensors of 1 cases are within tolerance; not compared: aux.bf16_emb6 of \
                timestep_features (1), mid.angles of timestep_features (1)";
    assert_eq!(text.lines().last(), Some(told));
    let lines = set.run(&["--json", "--only", "more"]).succeeded().lines();
    let told = &lines.last().unwrap()["not_compared"];
    assert_eq!(told["mid.angles of timestep_features"], 1, "{told}");
}

#[test]
fn scores_of_another_kind_are_not_passed_over() {
    let with = |scores: Value| {
        let set = Set::new().changed(|manifest| {
            let case = json!({ "id": "scores", "kind": "metrics", "file": "scores.json" });
            manifest["cases"].as_array_mut().unwrap().push(case);
        });
        std::fs::write(set.path("scores.json"), scores.to_string()).unwrap();
        set
    };
    let normalised = json!([{ "text": "A cat", "expect": "cat" }]);
    let ran = with(json!({ "vqa_normalise": normalised, "bleu": [] })).run(&[]);
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.ends_with("; not supported: bleu of metrics (1)\n"), "{}", ran.stdout);
    let captions = json!({
        "candidates": ["a cat"], "references": [["a cat"]], "scores": [0.0], "mean": 0.0,
        "tolerance": -1.0,
    });
    with(json!({ "cider_d": [captions] })).is_refused(&["cider_d[0].tolerance", "-1"]);
}
