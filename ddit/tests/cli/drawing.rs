//! Commands that make pictures.

use std::path::Path;

use serde_json::Value;

use crate::world::{Ran, SIDE, World, keys, save_latent_model};

#[test]
fn pictures_are_numbered_and_each_can_be_drawn_alone() {
    let world = World::new();
    world.write("list.txt", "a circle\n\na red square\nthree triangles\n");
    let base = ["generate", "--model", "model", "--json"];
    let many = [&base[..], &["--prompts", "list.txt", "-o", "all", "--seed", "5"]].concat();
    let lines = world.run(&many).succeeded().lines();
    for (i, (line, prompt)) in
        lines.iter().zip(["a circle", "a red square", "three triangles"]).enumerate()
    {
        assert_eq!(keys(line), ["prompt", "file", "seed"]);
        assert_eq!((&line["prompt"], &line["seed"]), (&prompt.into(), &(5 + i).into()));
        let file = format!("all/00{i}.png");
        assert_eq!(Path::new(line["file"].as_str().unwrap()), Path::new(&file));
        assert_eq!(world.picture(&file).width(), SIDE);
    }
    assert_eq!(lines.len(), 3);

    let piped = [&base[..], &["--prompts", "-", "-o", "piped", "--seed", "7"]].concat();
    let piped = Ran::reading(world.command(&piped), "three triangles\n").succeeded().lines();
    assert_eq!((piped.len(), &piped[0]["prompt"]), (1, &"three triangles".into()));
    assert_eq!(world.picture("piped/000.png"), world.picture("all/002.png"));

    let alone = [&base[..], &["three triangles", "-o", "one.png", "--seed", "7"]].concat();
    world.run(&alone).succeeded();
    assert_eq!(world.picture("one.png"), world.picture("all/002.png"));
    let text = world.run(&["generate", "--model", "model", "a circle"]).succeeded().stdout;
    assert!(text.contains("000.png") && world.path("000.png").exists(), "{text}");
    let first = world.picture("000.png");
    let text = world.run(&["generate", "--model", "model", "a square"]).succeeded().stdout;
    assert!(text.contains("001.png") && world.path("001.png").exists(), "{text}");
    assert_eq!(world.picture("000.png"), first, "what was drawn before stays");
    assert_eq!(world.leftovers(), [""; 0]);
}

/// By the model inside the program, which draws four candidates and tells them apart.
#[test]
fn the_seed_of_a_kept_candidate_gives_it_again() {
    let world = World::new();
    let draw = |prompt: &str, more: &[&str]| {
        let base = ["generate", prompt, "--steps", "2", "--json"];
        world.run(&[&base[..], more].concat()).succeeded().lines()
    };
    let lines = draw("a red circle", &["a red circle", "a red circle", "--seed", "6", "-o", "all"]);
    // The first candidate is what there is without any.
    let kept = lines.iter().find(|line| line["candidate"] != 1).unwrap();
    let said =
        ["prompt", "file", "seed", "candidate", "likelihood", "caption", "caption_likelihood"];
    assert_eq!(keys(kept), said);
    let alone = ["--seed", &kept["seed"].to_string(), "--trace", "-o", "alone.png"];
    let alone = &draw("a red circle", &alone)[0];
    assert_eq!(keys(alone), [&said[..], &["trace"]].concat());
    assert_eq!(world.picture("alone.png"), world.picture(kept["file"].as_str().unwrap()));
    assert_eq!(alone["candidate"], kept["candidate"]);
    let caption = kept["caption"].as_str().unwrap();
    for (text, likelihood) in [("a red circle", "likelihood"), (caption, "caption_likelihood")] {
        let rank = ["rank", "alone.png", text, "--json"];
        assert_eq!(world.run(&rank).succeeded().lines()[0]["likelihood"], kept[likelihood]);
    }
}

#[test]
fn options_of_drawing_matter_and_threads_do_not() {
    let world = World::new();
    let draw = |name: &str, more: &[&str]| {
        let base = ["generate", "a circle", "--model", "model", "-o", name];
        world.run(&[&base, more].concat()).succeeded();
        world.picture(name)
    };
    let plain = draw("plain.png", &["--threads", "1"]);
    assert_eq!(draw("threads.png", &["--threads", "3"]), plain);
    assert_ne!(draw("seed.png", &["--seed", "1"]), plain);
    assert_eq!(draw("size.png", &["--size", "4x8"]).width(), 4);
    draw("heun.png", &["--sampler", "heun", "--steps", "3", "--cfg", "1", "--negative", "a"]);

    let mut portable = world.command(&["generate", "a circle", "--model", "model"]);
    portable.args(["-o", "portable.png"]).env("DDIT_ISA", "portable");
    Ran::of(portable).succeeded();
    assert_eq!(world.picture("portable.png"), plain);

    let size = ["generate", "a circle", "--model", "model", "--size", "7x8"];
    world.run(&size).failed(&["7 x 8", "multiples of 2"]);
}

/// Tiles change a picture from latents a little, one tile does not, and neither does reading the
/// weights anew for every pass.
#[test]
fn memory_can_be_saved_when_drawing() {
    let world = World::new();
    save_latent_model(&world.path("latent"));
    let draw = |name: &str, more: &[&str]| {
        let base = ["generate", "a circle", "--model", "latent", "-o", name];
        world.run(&[&base, more].concat()).succeeded();
        world.picture(name)
    };
    let plain = draw("plain.png", &[]);
    assert_eq!(plain.width(), 2 * SIDE);
    assert_eq!(draw("one.png", &["--tile", "16"]), plain);
    let tiled = draw("tiled.png", &["--tile", "8"]);
    assert_eq!((tiled.width(), tiled.height()), (plain.width(), plain.height()));
    assert_ne!(tiled, plain);
    assert_eq!(draw("low.png", &["--low-memory"]), plain);
    let caption = ["caption", "red.png", "--model", "latent"];
    let text = world.run(&caption).succeeded().stdout;
    assert_eq!(world.run(&[&caption[..], &["--low-memory"]].concat()).succeeded().stdout, text);
}

#[test]
fn a_trace_is_a_strip_and_a_file_about_it() {
    let world = World::new();
    let ran = world.run(&[
        "generate", "a circle", "--model", "model", "-o", "t", "--trace", "--steps", "4", "--json",
    ]);
    let line = &ran.succeeded().lines()[0];
    assert_eq!(keys(line), ["prompt", "file", "seed", "trace"]);
    let strip = world.picture(line["trace"].as_str().unwrap());
    assert_eq!((strip.width(), strip.height()), (4 * (SIDE + 2) + 2, SIDE + 4));
    let about = std::fs::read(world.path("t/000.trace.json")).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    assert_eq!(about["steps"].as_array().unwrap().len(), 4);
    assert_eq!(about["steps"][0]["sigma"], 1.0);
}

#[test]
fn the_demonstration_is_one_page() {
    let world = World::new();
    let lines = world.run(&["demo", "--model", "model", "-o", "d/e", "--json"]).succeeded().lines();
    let page = std::fs::read_to_string(world.path("d/e/index.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    // Each picture, and two steps on the way to it.
    assert!(!page.contains("http") && page.matches("data:image/png;base64,").count() > 3 * 24);
    assert_eq!(lines.iter().filter(|line| line.get("prompt").is_some()).count(), 24);
    assert!(lines.iter().any(|line| line.get("question").is_some()));
    assert!(lines.last().unwrap()["page"].as_str().unwrap().ends_with("index.html"));
    let text = world.run(&["demo", "--model", "model"]).succeeded().stdout;
    assert!(text.contains("of 24 pictures") && text.contains("ddit-demo"), "{text}");
}
