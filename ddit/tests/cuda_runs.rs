//! Whole runs on a GPU, from pictures in a folder to the finished model, beside the CPU's. The GPU
//! is the virtual machine; this test has it to itself, so that what it did is known.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ddit::shapes::Picture;
use ddit::train::samples::write_png;
use ddit::train::{Event, Outcome, RunConfig, Trainer, Watch, start};
use serde_json::Value;
use tensor::Device;
use tensor::io::safetensors::SafeTensors;

mod listed;
use listed::assert_listed;

/// Side of the pictures.
const SIDE: usize = 16;

/// Three pictures of stripes, and the list of them.
fn write_pictures(folder: &Path) -> String {
    let mut list = String::new();
    for i in 0..3usize {
        let stripes = (0..3 * SIDE * SIDE).map(|j| ((j / (i + 1)) % 5) as f32 / 2.0 - 1.0);
        let picture = Picture::from_chw(SIDE, SIDE, &stripes.collect::<Vec<_>>()).unwrap();
        write_png(&picture, &folder.join(format!("{i}.png"))).unwrap();
        list += &format!("{{\"file\": \"{i}.png\", \"caption\": \"{} stripes\"}}\n", i + 1);
    }
    let path = folder.join("pictures.jsonl");
    fs::write(&path, list).unwrap();
    path.display().to_string()
}

fn config(preset: &str, manifest: &str, settings: &[&str]) -> RunConfig {
    let data = [format!("data.manifest={manifest}"), format!("data.size={SIDE}")];
    let common = ["data.source=folder", "run.log_every=1", "batch.images=2"];
    let settings: Vec<String> =
        common.iter().chain(settings).map(|&s| s.to_owned()).chain(data).collect();
    RunConfig::load(preset, &settings).unwrap()
}

/// The numbers that a run's log has of its steps.
fn losses(run: &Path) -> Vec<f64> {
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// |a − b| / |b| of all of a file's numbers.
fn apart(a: &Path, b: &Path) -> f64 {
    let [a, b] = [a, b].map(|path| {
        let file = SafeTensors::open(path).unwrap();
        let numbers = |name: &str| file.get(name).unwrap().to_f64_vec();
        ["mean", "logvar"].map(numbers).concat()
    });
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// How often the stand-in has run kernels that convolve.
fn convolutions(stand_in: &cuda::Installed) -> usize {
    let told = stand_in.statistics();
    let launches = |line: &str| line.split('\t').nth(1).and_then(|n| n.parse::<usize>().ok());
    told.lines().filter(|line| line.starts_with("conv")).filter_map(launches).sum()
}

#[test]
fn an_autoencoder_is_trained_and_makes_latents_on_the_gpu() {
    let stand_in = cuda::unless_gpu();
    let devices = [("here", Device::Cpu), ("there", Device::cuda(0).unwrap())];
    let folder = tempfile::tempdir().unwrap();
    let manifest = write_pictures(folder.path());
    let path = |name: &str| folder.path().join(name);

    // The run of an autoencoder: steps, a checkpoint, samples, the finished model.
    let vae = config(
        "tiny-vae",
        &manifest,
        &["autoencoder.widths=[4, 4]", "run.steps=3", "run.sample_every=3"],
    );
    for (name, device) in &devices {
        let (stop, mut observe) = (AtomicBool::new(false), |_: Event| {});
        let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
        let outcome = start(vae.clone(), &path(name), device, &mut watch).unwrap();
        assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
        assert!(path(name).join("samples/step-00000003.png").exists());
    }
    let [here, there] = ["here", "there"].map(|name| losses(&path(name)));
    assert_eq!((here.len(), there.len()), (3, 3));
    for (got, want) in there.iter().zip(&here) {
        assert!((got - want).abs() <= 1e-5 * want, "loss {got}, not {want}");
    }
    let scale = |name: &str| {
        let config = fs::read_to_string(path(name).join("model/vae/config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        config["scaling_factor"].as_f64().unwrap()
    };
    assert!((scale("there") / scale("here") - 1.0).abs() < 1e-3, "latents are measured");

    // The latents that a transformer learns from, of one autoencoder on both devices.
    let source = format!("autoencoder.source={}", path("here").display());
    let dual = config(
        "tiny",
        &manifest,
        &[source.as_str(), "model.blocks=1", "model.width=16", "batch.texts=2", "run.steps=1"],
    );
    for (name, device) in &devices {
        let (out, before) = (path(&format!("{name}-dual")), stand_in.map(convolutions));
        fs::create_dir_all(&out).unwrap();
        let opened = Trainer::open(dual.clone(), &out, device, &mut |_, _| Ok(()));
        if let (Some(stand_in), Some(before)) = (stand_in, before) {
            let made = convolutions(stand_in) - before;
            let is_there = matches!(device, Device::Cuda(_));
            assert_eq!(made > 0, is_there, "{made} convolutions on the GPU for {device}");
        }
        opened.unwrap().step().unwrap();
    }
    let latents = |name: &str| path(name).join("latents.safetensors");
    let apart = apart(&latents("there-dual"), &latents("here-dual"));
    assert!(apart <= 1e-5, "{apart:.1e}");
    drop(devices);
    assert!(stand_in.is_none_or(|stand_in| stand_in.last_fault().is_empty()));
    assert_listed();
}
