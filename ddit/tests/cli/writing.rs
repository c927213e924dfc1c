//! Commands that write texts.

use serde_json::Value;

use crate::world::{Ran, World, keys};

#[test]
fn texts_are_lines_with_their_seeds() {
    let world = World::new();
    let caption = ["caption", "red.png", "blue.png", "--model", "model", "--json", "--seed", "3"];
    let lines = world.run(&caption).succeeded().lines();
    assert_eq!(keys(&lines[0]), ["file", "text", "seed"]);
    assert_eq!((&lines[1]["file"], &lines[1]["seed"]), (&"blue.png".into(), &4.into()));
    let alone = ["caption", "blue.png", "--model", "model", "--seed", "4"];
    let text = world.run(&alone).succeeded().stdout;
    assert_eq!(text.trim_end_matches('\n'), lines[1]["text"].as_str().unwrap());

    world.write("q.txt", "red.png\tis there a circle?\nblue.png\thow many squares are there?\n");
    let lines = world.run(&["ask", "--questions", "q.txt", "--model", "model", "--json"]);
    let lines = lines.succeeded().lines();
    assert_eq!(keys(&lines[1]), ["file", "question", "answer", "seed"]);
    assert_eq!(lines[1]["question"], "how many squares are there?");
    let piped = ["ask", "--questions", "-", "--model", "model"];
    let ran = Ran::reading(world.command(&piped), "red.png is there a circle?\n");
    ran.failed(&["standard input, line 1", "tab"]);
    let long = "is there a circle and a circle and a circle and a circle?";
    let ran = world.run(&["ask", "red.png", long, "--model", "model"]).succeeded();
    assert_eq!(ran.stdout, "\n");
    assert!(ran.stderr.contains("wrote no word"), "{}", ran.stderr);

    let fill = ["fill", "a _ circle", "--image", "red.png", "--model", "model", "--json"];
    let line = &world.run(&fill).succeeded().lines()[0];
    assert_eq!(keys(line), ["file", "template", "text", "seed"]);
    assert!(line["text"].as_str().unwrap().ends_with("circle"), "{line}");
    let ran = world.run(&["fill", "_{3}", "--model", "model", "--json"]).succeeded();
    assert_eq!(ran.lines()[0]["file"], Value::Null);
    assert!(ran.stderr.contains("without --image"), "{}", ran.stderr);
}

#[test]
fn texts_are_ranked_likeliest_first() {
    let world = World::new();
    let texts = ["a red circle", "a triangle", "three blue squares"];
    let lines =
        world.run(&[&["rank", "red.png", "--model", "model", "--json"], &texts[..]].concat());
    let lines = lines.succeeded().lines();
    assert_eq!(keys(&lines[0]), ["text", "likelihood"]);
    let values: Vec<f64> = lines.iter().map(|l| l["likelihood"].as_f64().unwrap()).collect();
    assert!(values.is_sorted_by(|a, b| a >= b) && values.iter().all(|&l| l < 0.0), "{values:?}");
    let mut ranked: Vec<_> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    ranked.sort();
    assert_eq!(ranked, texts);
    let alone = world.run(&["rank", "red.png", texts[1], "--model", "model", "--json"]);
    let likelihood = alone.succeeded().lines()[0]["likelihood"].clone();
    let known = lines.iter().find(|line| line["text"] == texts[1]).unwrap();
    assert_eq!(likelihood, known["likelihood"]);
}

/// The steps of the exact sampler end with the last mask; those of the release go on to the end,
/// and what is still masked then is no step.
#[test]
fn switches_choose_between_paper_and_release() {
    let world = World::new();
    let base = ["caption", "red.png", "--model", "model", "--trace", "--json"];
    let trace = |more: &[&str]| {
        let line = world.run(&[&base[..], more].concat()).succeeded().lines().remove(0);
        line["trace"].clone()
    };
    let paper = trace(&["--recipe", "paper"]);
    assert_eq!(paper, trace(&["--sampler", "exact"]));
    let release = trace(&["--recipe", "release"]);
    assert_eq!(release, trace(&["--sampler", "ddpm-cache"]));
    assert_ne!(paper, release);
    assert_ne!(paper, trace(&["--recipe", "paper", "--length", "5"]));
    let other = ["--latents", "mode", "--resolution", "6", "--pad", "<pad>"];
    world.run(&[&base[..], &other].concat()).succeeded();
}

#[test]
fn a_text_is_shown_being_unmasked() {
    let world = World::new();
    for sampler in ["exact", "ddpm-cache", "confidence"] {
        let base = ["caption", "red.png", "--model", "model", "--trace", "--sampler", sampler];
        let line = &world.run(&[&base[..], &["--json"]].concat()).succeeded().lines()[0];
        let steps = line["trace"].as_array().unwrap();
        let last = steps.last().unwrap()["tokens"].as_array().unwrap();
        assert!(last.iter().all(Value::is_string), "{sampler}: {line}");
        let text = world.run(&base).succeeded().stdout;
        assert_eq!(text.lines().count(), 1 + steps.len() + 2, "{text}");
    }
}

/// The question keeps its `</s>` as the released code has it, and its answer comes after that.
#[test]
fn an_answer_is_shown_being_unmasked() {
    let world = World::new();
    let question = "is there a circle?";
    for recipe in ["paper", "release"] {
        let ask = ["ask", "red.png", question, "--model", "model", "--recipe", recipe];
        let ran = world.run(&[&ask[..], &["--trace", "--json"]].concat()).succeeded();
        let steps = ran.lines()[0]["trace"].as_array().unwrap().clone();
        let hidden = |step: &Value| step["tokens"].as_array().unwrap().contains(&Value::Null);
        assert!(steps.len() > 1 && hidden(&steps[0]), "{recipe}: {}", ran.stdout);
        assert!(!hidden(steps.last().unwrap()), "{recipe}: {}", ran.stdout);
    }
}

#[test]
fn unknown_words_are_pointed_out_and_drawn_all_the_same() {
    let world = World::new();
    let ran = world.run(&["generate", "a cirlce and a zebra", "--model", "model", "-o", "a.png"]);
    let stderr = ran.succeeded().stderr;
    assert!(stderr.contains("\"cirlce\"") && stderr.contains("\"circle\""), "{stderr}");
    assert!(stderr.contains("\"zebra\""), "{stderr}");
    assert!(world.path("a.png").exists());
    let long = "a circle and a circle and a circle and a circle and a square";
    let stderr = world.run(&["generate", long, "--model", "model"]).succeeded().stderr;
    assert!(stderr.contains("cut off"), "{stderr}");
}
