//! Commands on a GPU: on the virtual machine's, where the stand-in for the driver is found.
#![cfg(target_os = "linux")]

use std::process::Command;

use crate::world::{Ran, World};

/// A command that finds the stand-in where it looks for a driver. Cargo leaves that beside the tests.
fn with_stand_in(mut command: Command) -> Ran {
    let beside = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(beside.join("libcuda.so").exists(), "the stand-in is a dev-dependency");
    command.env("LD_LIBRARY_PATH", beside);
    Ran::of(command)
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
    world.write("vae.toml", "preset = \"tiny-vae\"\n[run]\nsteps = 1\n[batch]\nimages = 2\n");
    let mut train = vec!["train", "tiny", "--out", "run", "--device", "cuda"];
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
        "run.steps=1",
    ];
    train.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    with_stand_in(world.command(&train)).succeeded();
    assert!(world.path("run/vae-run/model/vae/config.json").exists());
    assert!(world.path("run/latents.safetensors").exists());
    world.run(&["caption", "red.png", "--model", "run"]).succeeded();
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
        "| products under autocast | 2 |",
        "| product 16 × 16 × 32, bf16 |",
        "| ada_layer_norm, backward |",
        "| model tiny, training step |",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    assert!(!page.contains("FAILS") && !page.contains("NaN") && !page.contains("inf"), "{page}");
    // The rates of the card that the machine pretends to be are known.
    assert!(page.lines().filter(|line| line.contains(" % |")).count() > 10, "{page}");

    with_stand_in(world.command(&["gpu-report", "--device", "cpu"])).failed(&["about a GPU"]);
    with_stand_in(world.command(&["gpu-report", "--device", "cuda:+0"])).failed(&["is no device"]);
    let mut alone = world.command(&report);
    alone.env_remove("LD_LIBRARY_PATH");
    let alone = Ran::of(alone);
    if alone.code == 2 {
        alone.failed(&["no CUDA driver on this machine"]);
    } else {
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
    let mut alone = with("cuda");
    alone.env_remove("LD_LIBRARY_PATH");
    let alone = Ran::of(alone);
    if alone.code == 0 {
        eprintln!("SKIPPED a_device_that_is_not_there_is_named: this machine has a driver");
        return;
    }
    alone.failed(&["no CUDA driver on this machine", "use the device cpu"]);
    world.run(&[&draw[..], &["cpu", "--low-memory"]].concat()).failed(&["cannot be used with"]);
}
