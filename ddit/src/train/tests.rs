//! Whole runs of a tiny model: what they learn, and that nothing interrupts them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::par;
use serde_json::Value;
use tensor::Device;

use super::*;
use crate::pipeline::Pipeline;

mod runs;
mod sd3;

/// A transformer of one block on pixels, which needs no autoencoder.
const PIXELS: [&str; 8] = [
    "autoencoder.source=none",
    "model.blocks=1",
    "model.patch=16",
    "data.scenes=32",
    "batch.images=4",
    "batch.texts=4",
    "run.log_every=1",
    "run.steps=20",
];

fn config(overrides: &[&str]) -> RunConfig {
    preset("tiny", &[&PIXELS, overrides].concat())
}

fn preset(name: &str, overrides: &[&str]) -> RunConfig {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    RunConfig::load(name, &overrides).unwrap()
}

fn open(config: &RunConfig, out: &Path) -> Trainer {
    fs::create_dir_all(out).unwrap();
    Trainer::open(config.clone(), out, &Device::Cpu, &mut |_, _| Ok(())).unwrap()
}

fn steps(trainer: &mut Trainer, count: usize) -> Vec<f64> {
    (0..count).map(|_| trainer.step().unwrap().losses[0].1).collect()
}

fn bits(trainer: &Trainer) -> Vec<(String, Vec<u32>)> {
    let bits = |t: &tensor::Tensor| t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits);
    trainer.weights().iter().map(|(name, t)| (name.clone(), bits(t).collect())).collect()
}

/// The log without its times.
fn log(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        log::TIMES.iter().for_each(|key| drop(line.as_object_mut().unwrap().remove(*key)));
        line
    };
    text.lines().map(line).collect()
}

/// A run to its end or until the step after which it is stopped; its losses.
fn run(
    begin: impl FnOnce(&mut Watch) -> tensor::Result<Outcome>,
    stop_after: u64,
) -> (Vec<f64>, Outcome) {
    let (stop, mut losses) = (AtomicBool::new(false), Vec::new());
    let mut observe = |event: Event| {
        if let Event::Step(report) = event {
            losses.push(report.losses[0].1);
            stop.store(report.step >= stop_after, Ordering::Relaxed);
        }
    };
    let outcome = begin(&mut Watch { stop: &stop, observe: &mut observe, validate: None });
    (losses, outcome.unwrap())
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let config = config(&["run.log_every=4"]);
    let mut straight = open(&config, &one);
    let losses = steps(&mut straight, 20);

    let mut first = open(&config, &two);
    assert_eq!(steps(&mut first, 10), losses[..10]);
    first.save().unwrap();
    // Steps after the checkpoint are lost, as by a kill.
    steps(&mut first, 3);
    drop(first);
    let mut second = open(&config, &two);
    assert_eq!(steps(&mut second, 10), losses[10..]);
    assert_eq!(bits(&second), bits(&straight));
    assert_eq!(log(&two), log(&one));
    assert_eq!(second.learner.average().len(), straight.learner.average().len());
    for ((name, a), (_, b)) in second.learner.average().iter().zip(straight.learner.average()) {
        assert_eq!(a.to_f64_vec(), b.to_f64_vec(), "{name}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let run = |threads: usize| {
        par::with_threads(threads, || {
            let mut trainer = open(&config(&[]), &folder.path().join(threads.to_string()));
            steps(&mut trainer, 5);
            bits(&trainer)
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn micro_batches_change_rounding_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = open(&config(&[]), folder.path());
    // The first steps open the gates, which start closed.
    steps(&mut trainer, 3);
    trainer.save().unwrap();
    let gradient = |parts: &str| {
        let mut trainer = open(&config(&[parts]), folder.path());
        let trainer::Subject::Dual(dual) = &mut trainer.subject else {
            unreachable!("the settings are a transformer's")
        };
        let (grads, seen) = dual.gradient(3).unwrap();
        let weights = trainer.learner.params().trained();
        let found = weights.filter_map(|(_, weight)| grads.get(weight));
        let values: Vec<f64> = found.flat_map(|gradient| gradient.to_f64_vec()).collect();
        (seen.losses[0].1, values)
    };
    // Gradients are compared, not weights: AdamW turns a gradient that is 0 but for rounding, as
    // that of a key's bias, into a whole step.
    let (whole, parts) = (gradient("batch.micro_batches=1"), gradient("batch.micro_batches=4"));
    assert!((whole.0 - parts.0).abs() < 1e-5 * whole.0, "{} {}", whole.0, parts.0);
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let apart = squares(&mut whole.1.iter().zip(&parts.1).map(|(a, b)| a - b));
    let size = squares(&mut whole.1.iter().copied());
    assert!(size > 0.0 && apart < 1e-10 * size, "{apart} of {size}");
}

#[test]
fn both_losses_fall() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["run.steps=120", "optimizer.warmup=10", "data.scenes=4"]);
    let mut trainer = open(&config, folder.path());
    let reports: Vec<_> = (0..120).map(|_| trainer.step().unwrap()).collect();
    // A patch's velocity is noise minus 768 pixels, and a token of 32 numbers can tell no more
    // than 32 of the noise's 768 directions, of variance 1 each: what can be learnt is the rest.
    let noise = 1.0 - 32.0 / 768.0;
    for (loss, floor) in [noise, noise, 0.0].into_iter().enumerate() {
        let above = |range: std::ops::Range<usize>| {
            let sum: f64 = reports[range].iter().map(|report| report.losses[loss].1).sum();
            sum / 20.0 - floor
        };
        let (first, last) = (above(0..20), above(100..120));
        assert!(last < 0.8 * first, "{}: {first} to {last}", reports[0].losses[loss].0);
    }
}

/// Everything in one command, stopped in the autoencoder's run and in the transformer's.
#[test]
fn a_whole_run_survives_being_stopped_and_leaves_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, stopped) = (folder.path().join("straight"), folder.path().join("stopped"));
    let config = preset("tiny", &["run.steps=12", "run.sample_every=12", "run.log_every=1"]);
    let (losses, outcome) =
        run(|watch| start(config.clone(), &straight, &Device::Cpu, watch), u64::MAX);
    assert_eq!(outcome, Outcome::Finished(straight.join("model")));
    assert_eq!(losses.len(), 20 + 12);

    let (mut again, outcome) = run(|watch| start(config.clone(), &stopped, &Device::Cpu, watch), 7);
    assert_eq!(
        outcome,
        Outcome::Stopped { reason: Stop::Asked, step: 7, run: stopped.clone() },
        "in the autoencoder's run"
    );
    // After the autoencoder's last step and before the transformer's first; then not at all.
    for stop_after in [20, u64::MAX] {
        let (losses, _) = run(|watch| resume(&stopped, &[], &Device::Cpu, watch), stop_after);
        again.extend(losses);
    }
    assert_eq!(again, losses);
    assert_eq!(log(&stopped), log(&straight));
    let curves = |out: &Path| fs::read_to_string(out.join("curves.svg")).unwrap();
    assert_eq!(curves(&stopped), curves(&straight));
    assert!(curves(&straight).contains("text loss"));
    assert!(curves(&straight.join("vae-run")).contains("divergence"));

    let open = |out: &Path| Pipeline::open(out.join("model")).unwrap();
    let (one, two) = (open(&straight), open(&stopped));
    let draw = |model: &Pipeline| {
        let drawn =
            model.generate(&["a red circle"], &model.generate_options(), &mut |_, _| Ok(()));
        drawn.unwrap().remove(0).picture
    };
    assert_eq!(draw(&one), draw(&two));
    let vae = one.vae().unwrap().config();
    assert!(vae.scaling_factor > 0.0 && vae.scaling_factor != 1.0, "the latents were measured");
    assert!(straight.join("samples/step-00000012.png").exists());
}

#[test]
fn questions_are_learnt_from_a_pretrained_model() {
    let folder = tempfile::tempdir().unwrap();
    let (first, tuned) = (folder.path().join("first"), folder.path().join("tuned"));
    let config = config(&["run.steps=3"]);
    run(|watch| start(config, &first, &Device::Cpu, watch), u64::MAX);
    let init = format!("init={}", first.display());
    let config = preset(
        "shapes-vqa",
        &[
            &init,
            "autoencoder.source=none",
            "data.scenes=8",
            "batch.images=4",
            "batch.texts=4",
            "run.steps=2",
            "run.sample_every=0",
            "data.questions=1",
        ],
    );
    let trainer = open(&config, &tuned);
    let model = open_model_weights(&first);
    assert_eq!(trainer.weights().len(), model.len());
    for ((name, a), (_, b)) in trainer.weights().iter().zip(&model) {
        assert_eq!(a.to_f64_vec(), b.to_f64_vec(), "{name}");
    }
    drop(trainer);
    let again = folder.path().join("again");
    let (losses, _) = run(|watch| start(config, &again, &Device::Cpu, watch), u64::MAX);
    assert_eq!(losses.len(), 2);
}

fn open_model_weights(run: &Path) -> Vec<(String, tensor::Tensor)> {
    setup::open_model(run).unwrap().transformer.weights
}

/// Two pictures with captions on disk; the setting that names their list.
fn two_pictures(folder: &Path) -> String {
    let mut manifest = String::new();
    for (name, colour) in [("a", [200, 30, 30]), ("b", [30, 30, 200])] {
        let picture = crate::shapes::Picture::filled(20, 10, colour);
        samples::write_png(&picture, &folder.join(format!("{name}.png"))).unwrap();
        manifest += &format!("{{\"file\": \"{name}.png\", \"caption\": \"picture {name}\"}}\n");
    }
    let list = folder.join("list.jsonl");
    fs::write(&list, manifest).unwrap();
    format!("data.manifest={}", list.display())
}

#[test]
fn a_folder_of_pictures_is_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = two_pictures(folder.path());
    let config = config(&["data.source=folder", &manifest, "data.size=32"]);
    let mut trainer = open(&config, &folder.path().join("run"));
    steps(&mut trainer, 2);
    let model = trainer.export().unwrap();
    let tokenizer = crate::text::Tokenizer::open(model.join("tokenizer")).unwrap();
    assert_eq!(tokenizer.len(), 4 + 3);
    for (length, cut) in [(3, 0), (2, 2)] {
        let config = RunConfig {
            model: config::ModelConfig { text_length: length, ..trainer.config().model.clone() },
            ..trainer.config().clone()
        };
        let trainer = open(&config, &folder.path().join(length.to_string()));
        let trainer::Subject::Dual(dual) = &trainer.subject else {
            unreachable!("the settings are a transformer's")
        };
        assert_eq!(dual.cut_captions().unwrap(), (cut, 2), "{length} tokens");
    }
}

#[test]
fn a_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), "").unwrap();
    let (stop, mut observe) = (AtomicBool::new(false), |_: Event| {});
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    let error =
        start(config(&[]), folder.path(), &Device::Cpu, &mut watch).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
}
