//! Commands on a GPU: on the virtual machine's, where the stand-in for the driver is found.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tensor::io::safetensors::SafeTensors;

use crate::world::{Ran, World};

/// A command that finds the stand-in where it looks for a driver. Cargo leaves that beside the
/// tests.
fn with_stand_in(mut command: Command) -> Ran {
    let beside = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(beside.join("libcuda.so").exists(), "the stand-in is a dev-dependency");
    command.env("LD_LIBRARY_PATH", beside);
    Ran::of(command)
}

/// The program says in one line that there is no driver and what to do; where it found that out
/// stands below. `false` if this machine has one.
fn is_refused_without_a_driver(mut command: Command) -> bool {
    command.env_remove("LD_LIBRARY_PATH");
    let ran = Ran::of(command);
    if ran.code == 0 {
        return false;
    }
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [line, at] = lines[..] else { panic!("{lines:#?}") };
    assert!(line.contains("no CUDA driver") && line.contains("use the device cpu"), "{line}");
    assert!(at.starts_with("  at"), "{at}");
    ran.failed(&[]);
    true
}

#[test]
fn a_gpu_draws_and_writes_what_the_processor_does() {
    let world = World::new();
    let draw = ["generate", "a circle", "--model", "model", "--steps", "2", "-o"];
    world.run(&[&draw[..], &["here.png"]].concat()).succeeded();
    let there = [&draw[..], &["there.png", "--device", "cuda"]].concat();
    with_stand_in(world.command(&there)).succeeded();
    let [here, there] = ["here.png", "there.png"].map(|name| world.picture(name));
    assert_eq!((there.width(), there.height()), (here.width(), here.height()));
    // Rounding may take a number to the next of 256.
    assert!(here.rgb().iter().zip(there.rgb()).all(|(a, b)| a.abs_diff(*b) <= 1));

    let caption = ["caption", "red.png", "--model", "model"];
    let here = world.run(&caption).succeeded().stdout;
    let there = world.command(&[&caption[..], &["--device", "cuda:0"]].concat());
    assert_eq!(with_stand_in(there).succeeded().stdout, here);
}

/// First an autoencoder, then its latents of the data, then a transformer on them.
#[test]
fn a_gpu_trains_a_model_that_the_processor_uses() {
    let world = World::new();
    let line = |name| format!("{{\"file\": \"{name}.png\", \"caption\": \"{name}\"}}\n");
    world.write("pictures.jsonl", &["red", "blue"].map(line).concat());
    let run = "[run]\nsteps = 2\nlog_every = 1\n";
    world.write("vae.toml", &format!("preset = \"tiny-vae\"\n{run}[batch]\nimages = 2\n"));
    let settings = [
        "data.source=folder",
        "data.manifest=pictures.jsonl",
        "data.size=16",
        "autoencoder.preset=vae.toml",
        "autoencoder.widths=[4, 4]",
        "model.blocks=1",
        "model.width=16",
        "batch.images=2",
        "batch.texts=2",
        // Weights move in the second: the first warms up.
        "run.steps=2",
        "run.log_every=1",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
    let train = |out, device: &[&str]| {
        let command = ["train", "tiny", "--out", out];
        world.command(&[&command[..], &settings, device].concat())
    };
    with_stand_in(train("run", &["--device", "cuda"])).succeeded();
    Ran::of(train("here", &[])).succeeded();
    for name in ["log.jsonl", "vae-run/log.jsonl"] {
        let losses = |run: &str| {
            let log = std::fs::read_to_string(world.path(run).join(name)).unwrap();
            let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.filter_map(|line| line["loss"].as_f64()).collect::<Vec<_>>()
        };
        let (there, here) = (losses("run"), losses("here"));
        assert_eq!((there.len(), here.len()), (2, 2), "{name}");
        let is_near = there.iter().zip(&here).all(|(a, b)| (a / b - 1.0).abs() < 1e-3);
        assert!(is_near, "{name}: {there:?}, not {here:?}");
    }
    let file = "diffusion_pytorch_model.safetensors";
    for model in ["model/transformer", "vae-run/model/vae"] {
        let [there, here] = ["run", "here"].map(|run| world.path(run).join(model).join(file));
        assert_trained_alike(&there, &here);
    }
    world.run(&["caption", "red.png", "--model", "run"]).succeeded();
}

/// The weights of two models, trained for a step: a gradient near zero may have either sign, and
/// move its weight by the whole learning rate either way.
fn assert_trained_alike(there: &Path, here: &Path) {
    let [there, here] = [there, here].map(|path| SafeTensors::open(path).unwrap());
    let (mut all, mut elsewhere) = (0, 0);
    for name in here.names() {
        let [there, here] = [&there, &here].map(|file| file.get(name).unwrap().to_f64_vec());
        assert_eq!(there.len(), here.len(), "{name}");
        all += here.len();
        elsewhere += there.iter().zip(&here).filter(|(a, b)| (**a - **b).abs() > 1e-5).count();
    }
    assert!(all > 0 && elsewhere * 100 <= all, "{elsewhere} weights of {all} are elsewhere");
}

#[test]
fn a_gpu_is_reported_on() {
    let world = World::new();
    let report = ["gpu-report", "--tiny", "--cases", "1", "--millis", "1"];
    let to_file = [&report[..], &["--out", "page.md", "--json"]].concat();
    let told = with_stand_in(world.command(&to_file)).succeeded().lines();
    let page = std::fs::read_to_string(world.path("page.md")).unwrap();
    assert_eq!((&told[0]["passed"], &told[0]["page"]), (&true.into(), &page.clone().into()));
    for part in [
        "| card | A100 (PTX virtual machine), compute capability 8.0, 2.0 GiB |",
        "| kernels | PTX 7.0 for sm_80 |",
        "the virtual machine behind the stand-in",
        " pass**",
        "| attention | 2 |",
        "| attention of bf16 | 4 |",
        "| products under autocast | 3 |",
        "| product 16 × 16 × 32, bf16 |",
        "| ada_layer_norm, backward |",
        "| model tiny, training step, repeated |",
        "| model tiny, forward, repeated, bf16 |",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    assert!(!page.contains("FAILS") && !page.contains("NaN") && !page.contains("inf"), "{page}");
    // The rates of the card that the machine pretends to be are known.
    assert!(page.lines().filter(|line| line.contains(" % |")).count() > 10, "{page}");

    with_stand_in(world.command(&["gpu-report", "--device", "cpu"])).failed(&["about a GPU"]);
    with_stand_in(world.command(&["gpu-report", "--device", "cuda:+0"])).failed(&["is no device"]);
    if !is_refused_without_a_driver(world.command(&report)) {
        eprintln!("SKIPPED a_gpu_is_reported_on, part: this machine has a driver");
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let world = World::new();
    let draw = ["generate", "a circle", "--model", "model", "--device"];
    let with = |device: &str| world.command(&[&draw[..], &[device]].concat());
    Ran::of(with("tpu")).failed(&["`tpu` is no device", "cpu, cuda"]);
    with_stand_in(with("cuda:3")).failed(&["GPU 3 does not open"]);
    let bench = world.command(&["bench", "step", "--device", "cuda:3"]);
    with_stand_in(bench).failed(&["GPU 3 does not open"]);
    Ran::of(world.command(&["bench", "forward", "--device", "tpu"])).failed(&["is no device"]);
    if !is_refused_without_a_driver(with("cuda")) {
        eprintln!("SKIPPED a_device_that_is_not_there_is_named, part: this machine has a driver");
    }
    world.run(&[&draw[..], &["cpu", "--low-memory"]].concat()).failed(&["cannot be used with"]);
}
