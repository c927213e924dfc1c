//! What goes wrong, and how it is told.

use std::process::{Output, Stdio};

use crate::world::{Ran, World, save_model};

#[test]
fn usage_errors_are_code_2_and_help_is_0() {
    let world = World::new();
    for arguments in [
        &[][..],
        &["draw"],
        &["generate"],
        &["generate", ""],
        &["generate", "a circle", "--steps", "0"],
        &["generate", "a circle", "--cfg", "-1"],
        &["generate", "a circle", "--size", "64"],
        &["generate", "a circle", "--tile", "0"],
        &["generate", "a circle", "--sampler", "magic"],
        &["generate", "a circle", "--prompts", "list.txt"],
        &["caption"],
        &["caption", "red.png", "--recipe", "magic"],
        &["caption", "red.png", "--length", "100000"],
        &["init-from-sd3", "sd3.safetensors"],
        &["ask", "red.png"],
        &["ask", "red.png", " "],
        &["reconstruct", "red.png"],
        &["reconstruct", "red.png", "--vae", "model", "--tile", "0"],
        &["train", "tiny"],
        &["train", "--resume", "run", "--out", "run"],
        &["eval", "everything"],
        &["eval", "shapes-vqa", "--per-kind", "100000000"],
        &["parity"],
        &["bench", "step", "--case", "huge"],
    ] {
        world.run(arguments).failed(&["--help"]);
    }
    let help = world.run(&["--help"]).succeeded().stdout;
    let commands = [
        "demo",
        "train",
        "generate",
        "caption",
        "ask",
        "fill",
        "rank",
        "eval",
        "reconstruct",
        "init-from-sd3",
        "inspect",
    ];
    for command in commands {
        assert!(help.contains(command), "{help}");
        assert!(!world.run(&[command, "--help"]).succeeded().stdout.is_empty());
    }
    let help = world.run(&["fill", "--help"]).succeeded().stdout;
    assert!(help.contains("`_{3}` are three of them"), "{help}");
}

#[test]
fn bad_input_is_one_clear_error() {
    let world = World::new();
    world.write("empty.txt", "\n \n");
    world.write("list.txt", "red.png is there a circle?\n");
    world.write("text.png", "no picture at all");
    world.write("file", "");
    std::fs::create_dir(world.path("nothing")).unwrap();
    save_model(&world.path("broken"));
    let weights = "broken/transformer/diffusion_pytorch_model.safetensors";
    std::fs::write(world.path(weights), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    for (line, told) in [
        ("caption none.png --model model", &["none.png"][..]),
        ("caption text.png --model model", &["text.png", "neither PNG nor JPEG nor WebP"]),
        ("caption red.png --model model --resolution 100000", &["100000", "at most 8"]),
        ("caption red.png --model model --resolution 1", &["1 pixels a side", "at least 2"]),
        ("caption red.png --model nowhere", &["nowhere"]),
        ("caption red.png --model nothing", &["nothing"]),
        ("caption red.png --model broken", &["safetensors"]),
        ("caption red.png --model model --pad zebra", &["zebra"]),
        ("init-from-sd3 red.png --out new", &["red.png"]),
        ("init-from-sd3 red.png --out model", &["model exists"]),
        ("generate --prompts none.txt --model model", &["none.txt"]),
        ("generate --prompts empty.txt --model model", &["empty.txt", "one prompt a line"]),
        ("generate a b --model model -o x.png", &["x.png", "2 pictures"]),
        ("generate a --model model -o x.jpg", &["x.jpg", "PNG"]),
        ("generate a --model model -o file/x.png", &["file"]),
        ("ask --questions list.txt --model model", &["list.txt, line 1", "tab"]),
        ("fill circle --model model", &["circle", "no hole"]),
        ("fill _{40} --model model", &["12 tokens"]),
        ("fill _{-1} --model model", &["_{-1", "no number"]),
        ("reconstruct red.png --vae nowhere", &["nowhere"]),
        ("reconstruct red.png --vae nothing", &["nothing", "0 tiny autoencoders"]),
        ("reconstruct red.png --vae blue.png", &["blue.png"]),
        ("reconstruct red.png --vae model -o x.jpg", &["x.jpg", "PNG"]),
        ("inspect nowhere", &["nowhere", "does not exist"]),
        ("inspect red.png", &["red.png"]),
        ("eval shapes-caption --cfg 2 --model model", &["--cfg", "no pictures drawn"]),
        ("eval shapes-vqa --candidates 2 --model model", &["--candidates", "no pictures drawn"]),
        ("gradcheck tahn", &["tahn", "tanh"]),
        ("gradcheck gelu", &["gelu_tanh"]),
        ("train shape --out run", &["shape", "did you mean `shapes`?"]),
        ("train tiny --out run --set run.step=1", &["run.step", "`steps`"]),
        ("train tiny --out run --set run.steps=no", &["run.steps"]),
        ("train --resume nowhere", &["nowhere"]),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let ran = world.run(&arguments);
        assert!(ran.stderr.starts_with("error: "), "{line}: {}", ran.stderr);
        ran.failed(told);
    }
    assert!(!world.path("run").exists(), "a run that cannot begin leaves nothing");
    assert!(!world.path("x.png").exists());

    let mut command = world.command(&["gradcheck", "tanh"]);
    command.env("DDIT_ISA", "quantum");
    Ran::of(command).failed(&["DDIT_ISA", "quantum", "portable"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let mut command = world.command(&["inspect", "model"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(String::from_utf8(stderr).unwrap(), "");
}
