//! AdamW, clipping and the moving average against stored results of the official training loop.
//!
//! The results are not part of the repository: they are looked for in `$DDIT_SHARED`, or in
//! `shared` beside the repository, and without them the test says so and passes, unless
//! `DDIT_REQUIRE_SHARED=1`.

use std::io::Write as _;
use std::path::PathBuf;

use autograd::optim::{AdamW, AdamWConfig, Clipped, Ema};
use autograd::{Grads, Params, Var, backward_with};
use serde_json::Value;
use tensor::Tensor;
use tensor::io::safetensors::SafeTensors;

/// The case's entry in the manifest, and its tensors.
fn fixture() -> Option<(Value, SafeTensors)> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var("DDIT_SHARED").unwrap_or(beside.into());
    let root = PathBuf::from(shared).join("reference/fixtures");
    let Ok(manifest) = std::fs::read_to_string(root.join("manifest.json")) else {
        let required = std::env::var("DDIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
        assert!(!required, "no fixtures at {}", root.display());
        let _ = writeln!(std::io::stderr(), "SKIPPED: no fixtures at {}", root.display());
        return None;
    };
    // Python writes a number that JSON does not have.
    let manifest: Value = serde_json::from_str(&manifest.replace(": Infinity", ": null")).unwrap();
    let entry = manifest["cases"].as_array().unwrap().iter().find(|case| case["id"] == "optimizer");
    let entry = entry.expect("the manifest has the case").clone();
    let file = SafeTensors::open(root.join(entry["file"].as_str().unwrap())).unwrap();
    Some((entry, file))
}

/// Fails unless |got − want| ≤ atol + rtol·|want| everywhere.
fn assert_near(entry: &Value, key: &str, got: &[f64], want: &Tensor) {
    let [atol, rtol] = ["atol", "rtol"].map(|name| entry["tensors"][key][name].as_f64().unwrap());
    let want = want.to_f64_vec();
    assert_eq!(got.len(), want.len(), "{key}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let apart = (got - want).abs();
        assert!(apart <= atol + rtol * want.abs(), "{key}[{i}]: {got}, not {want}");
    }
}

/// The given tensors as gradients of these parameters.
fn gradients(pairs: &[(Var, Tensor)]) -> Grads {
    backward_with(pairs).unwrap()
}

#[test]
fn steps_with_warmup_and_average() {
    let Some((entry, file)) = fixture() else { return };
    let number = |key: &str| entry["config"][key].as_f64().unwrap();
    let betas = [0, 1].map(|i| entry["config"]["betas"][i].as_f64().unwrap());
    let config = AdamWConfig {
        betas,
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        clip: None,
        ema: Some(Ema::Constant(0.9)),
    };
    let param = ("param".to_owned(), file.get("in.param").unwrap());
    let params = Params::from_tensors([param], |_| true).unwrap();
    let var = params.get("param").unwrap();
    let mut adamw = AdamW::new(&params, config).unwrap();
    let row = |key: &str, k| file.get(key).unwrap().select(0, k).unwrap();
    for k in 0..file.get("in.grads").unwrap().shape()[0] {
        // The first call has rate 0.
        let lr = number("lr") * (k as f64 / number("warmup_steps")).min(1.0);
        assert_near(&entry, "out.lr", &[lr], &row("out.lr", k));
        adamw.step(&gradients(&[(var.clone(), row("in.grads", k))]), lr).unwrap();
        assert_near(&entry, "out.params", &var.value().to_f64_vec(), &row("out.params", k));
        let average = adamw.average().remove(0).1.to_f64_vec();
        assert_near(&entry, "out.ema", &average, &row("out.ema", k));
    }
}

#[test]
fn clipping_by_the_norm_of_all() {
    let Some((entry, file)) = fixture() else { return };
    let limit = entry["config"]["grad_clip"].as_f64().unwrap();
    let [a, b] = ["in.clip_a", "in.clip_b"].map(|key| file.get(key).unwrap());
    let vars = [&a, &b].map(|x| Var::parameter(x.clone()));
    let grads = gradients(&[(vars[0].clone(), a), (vars[1].clone(), b)]);
    let clipped = Clipped::of(&grads, &vars, Some(limit)).unwrap();
    assert_near(&entry, "out.norm", &[clipped.norm], &file.get("out.norm").unwrap());
    for (var, key) in vars.iter().zip(["out.clip_a", "out.clip_b"]) {
        let scaled = grads.get(var).unwrap().to_f64_vec();
        let scaled: Vec<f64> = scaled.iter().map(|g| g * clipped.factor).collect();
        assert_near(&entry, key, &scaled, &file.get(key).unwrap());
    }
}
