//! The same bits, whatever runs them: one thread or two, the first run or a later one, in one go or
//! resumed, alone or in a batch, and on each instruction set.
//!
//! An instruction set that the processor lacks is skipped, and that is said.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use autograd::Var;
use ddit::pipeline::{GenerateOptions, Pipeline, TextSampler, WriteOptions};
use ddit::shapes::Picture;
use ddit::train::{RunConfig, Trainer, Watch, start};
use kernels::lane::on_every_isa;
use kernels::par;
use samplers::masked::Likelihood;
use tensor::rng::Rng;
use tensor::{DType, Device, Tensor};

/// Asserts that `run` answers the same on every instruction set, with one thread and with two, and
/// once more as at first. It is given the number of the run.
fn assert_same_everywhere<R: PartialEq + Send>(what: &str, run: impl Fn(usize) -> R + Sync) {
    let run_with = |threads: usize, number: usize| par::with_threads(threads, || run(number));
    let first = run_with(2, 0);
    assert!(run_with(2, 1) == first, "{what}: a second run differs");
    let mut number = 1;
    on_every_isa(what, |isa| {
        for threads in [1, 2] {
            number += 1;
            let same = run_with(threads, number) == first;
            assert!(same, "{what}: {isa:?} with {threads} threads differs");
        }
    });
}

fn config(preset: &str, overrides: &[&str]) -> RunConfig {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    RunConfig::load(preset, &overrides).unwrap()
}

/// A transformer on pixels, large enough for its kernels to be split over threads.
fn transformer() -> RunConfig {
    config(
        "tiny",
        &[
            "autoencoder.source=none",
            "data.scenes=8",
            "data.questions=0.5",
            "model.width=64",
            "model.patch=8",
            "batch.images=2",
            "batch.texts=2",
        ],
    )
}

fn autoencoder() -> RunConfig {
    config("tiny-vae", &["data.scenes=8", "batch.images=2"])
}

/// Steps of a run, from its newest checkpoint or its beginning, and the bytes of the checkpoint
/// then written: weights, both moments, their average. And the losses.
fn train(config: &RunConfig, out: &Path, steps: usize) -> (Vec<u64>, [Vec<u8>; 2]) {
    fs::create_dir_all(out).unwrap();
    let mut trainer = Trainer::open(config.clone(), out, &Device::Cpu, &mut |_, _| Ok(())).unwrap();
    let losses = (0..steps).flat_map(|_| trainer.step().unwrap().losses);
    let losses = losses.map(|(_, loss)| loss.to_bits()).collect();
    let checkpoint = trainer.save().unwrap();
    let file = |name: &str| fs::read(checkpoint.join(format!("{name}.safetensors"))).unwrap();
    (losses, ["model", "optimizer"].map(file))
}

/// Three steps, since gates that start shut are open after the first, and what is behind them
/// moves from the second on.
#[test]
fn training_steps() {
    for (what, config) in [("transformer", transformer()), ("autoencoder", autoencoder())] {
        let folder = tempfile::tempdir().unwrap();
        let run = |number: usize| train(&config, &folder.path().join(number.to_string()), 3);
        assert_same_everywhere(what, run);

        let (straight, resumed) = (run(100), folder.path().join("resumed"));
        let (mut losses, _) = train(&config, &resumed, 2);
        let (last, checkpoint) = train(&config, &resumed, 1);
        losses.extend(last);
        assert!((losses, checkpoint) == straight, "{what}: a resumed run differs");
    }
}

/// A model of the tiny preset, autoencoder included, trained for a few steps.
fn model() -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let (stop, mut observe) = (AtomicBool::new(false), |_: ddit::train::Event| {});
    let mut watch = Watch { stop: &stop, observe: &mut observe, validate: None };
    let config = config("tiny", &["run.steps=8", "data.scenes=8"]);
    start(config, folder.path(), &Device::Cpu, &mut watch).unwrap();
    Pipeline::open(folder.path().join("model")).unwrap()
}

fn picture(seed: u64) -> Picture {
    let bytes = (0..64 * 64 * 3).map(|i| (Rng::new(seed).word_at(i) >> 56) as u8);
    Picture::new(64, 64, bytes.collect()).unwrap()
}

/// Pictures of prompts with what each step believed in, drawn `batch` at a time; and, as bytes
/// round away the last bits, decoded latents as they are.
#[test]
fn drawing_pictures() {
    let model = model();
    let latents = Rng::new(3).normal([2, 4, 8, 8], DType::F32).unwrap();
    assert_same_everywhere("pictures", |number| {
        let options = GenerateOptions {
            seed: 5,
            batch: 1 + number % 3,
            trace: true,
            ..model.generate_options()
        };
        let prompts = ["a red circle", "two small squares", "a green triangle"];
        let drawn = model.generate(&prompts, &options, &mut |_, _| Ok(())).unwrap();
        let pictures: Vec<_> = drawn
            .into_iter()
            .map(|drawn| {
                let trace: Vec<_> = drawn.trace.into_iter().map(|step| step.estimate).collect();
                (drawn.picture, trace)
            })
            .collect();
        let decoded = model.vae().unwrap().decode(&Var::constant(latents.clone())).unwrap();
        (pictures, bits(&decoded.value()))
    });
}

/// Captions and answers of every sampler, written `batch` at a time; and, as words round away the
/// last bits, their likelihoods.
#[test]
fn writing_texts() {
    let model = model();
    let pictures = [picture(1), picture(2), picture(3)];
    let seen: Vec<&Picture> = pictures.iter().collect();
    let questions: Vec<(&Picture, &str)> =
        seen.iter().map(|picture| (*picture, "how many squares are there?")).collect();
    assert_same_everywhere("texts", |number| {
        let mut texts = Vec::new();
        for (_, sampler) in TextSampler::ALL {
            let batch = 1 + number % 3;
            let options = WriteOptions { seed: 5, batch, sampler, ..model.write_options() };
            let captions = model.caption(&seen, &options, &mut |_, _| Ok(())).unwrap();
            let answers = model.ask(&questions, &options, &mut |_, _| Ok(())).unwrap();
            texts.extend(captions.into_iter().chain(answers).map(|written| written.ids));
        }
        let tokens: Vec<i64> = texts[0].iter().map(|&id| i64::from(id)).collect();
        let scored: Vec<usize> = (0..8).collect();
        let mask = i64::from(model.tokenizer().mask());
        let judged = Likelihood { tokens: &tokens, scored: &scored, mask, batch: 64 };
        let denoiser = model.denoiser(&seen[..1], &[5], &model.write_options()).unwrap();
        let exact = judged.nelbo(denoiser).unwrap();
        (texts, exact.to_bits())
    });
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}
