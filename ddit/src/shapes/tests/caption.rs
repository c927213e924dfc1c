//! Captions: right exactly when they are among all true ones, written out.

use std::collections::HashSet;

use super::super::*;
use super::{SplitMix, relation_by_definition};

/// All texts that are true captions of the scene, written out one by one.
fn true_captions(scene: &Scene) -> HashSet<String> {
    let phrases = |article: &str, object: &Object, noun: &str| -> Vec<String> {
        let (size, colour) = (object.size.word(), object.colour.word());
        vec![
            format!("{article} {noun}"),
            format!("{article} {size} {noun}"),
            format!("{article} {colour} {noun}"),
            format!("{article} {size} {colour} {noun}"),
        ]
    };
    let single = |object: &Object| phrases("a", object, object.form.word());
    match scene.objects.as_slice() {
        [object] => single(object).into_iter().collect(),
        [a, b] if a.form != b.form => {
            let mut all = HashSet::new();
            for (a, b) in [(a, b), (b, a)] {
                for link in ["and"].into_iter().chain(relation_by_definition(a, b)) {
                    for first in single(a) {
                        all.extend(
                            single(b).iter().map(|second| format!("{first} {link} {second}")),
                        );
                    }
                }
            }
            all
        }
        several => {
            let noun = format!("{}s", several[0].form);
            let number = ["two", "three", "four"][several.len() - 2];
            phrases(number, &several[0], &noun).into_iter().collect()
        }
    }
}

#[test]
fn captions_are_true_and_read_back() {
    let mut rng = SplitMix(43);
    let (mut full, mut total) = (0, 0);
    for _ in 0..20_000 {
        let scene = Scene::random(&mut rng);
        let caption = Caption::random(&scene, &mut rng);
        let text = caption.to_string();
        assert!(true_captions(&scene).contains(&text), "{text}: {scene:?}");
        assert_eq!(text.parse(), Ok(caption));
        assert_eq!(Caption::judge(&text, &scene), Ok(caption));
        assert_eq!(
            text.contains(" of ") || text.contains("above") || text.contains("below"),
            scene.kind == SceneKind::Place
        );
        if scene.kind == SceneKind::Place {
            total += 1;
            full += i32::from(caption.detail() == 1.0);
        }
    }
    // 1/2 + 1/2 (1/2)^4, with a standard deviation of 0.007.
    assert!((f64::from(full) / f64::from(total) - 17.0 / 32.0).abs() < 0.03);
}

#[test]
fn all_true_captions_are_right_and_no_others() {
    let mut rng = SplitMix(44);
    let classes: [&[&str]; 7] = [
        &["small", "large"],
        &["red", "green", "blue", "yellow", "purple", "orange"],
        &["circle", "square", "triangle"],
        &["circles", "squares", "triangles"],
        &["two", "three", "four"],
        &["left", "right"],
        &["above", "below", "and"],
    ];
    let (mut true_ones, mut false_ones) = (0, 0);
    for _ in 0..3000 {
        let scene = Scene::random(&mut rng);
        let truths = true_captions(&scene);
        for text in &truths {
            assert!(Caption::judge(text, &scene).is_ok(), "{text}: {scene:?}");
        }
        let text = Caption::random(&scene, &mut rng).to_string();
        let words: Vec<&str> = text.split(' ').collect();
        let mut variants = Vec::new();
        for (i, word) in words.iter().enumerate() {
            let class = classes.iter().find(|class| class.contains(word));
            let replace = |new: &str| [&words[..i], &[new][..], &words[i + 1..]].concat().join(" ");
            variants
                .extend(class.into_iter().flat_map(|class| class.iter()).map(|new| replace(new)));
            variants.push(replace(pick(&mut rng, &WORDS))); // any word at all
            variants.push([&words[..i], &words[i + 1..]].concat().join(" ")); // one too few
            let extra = pick(&mut rng, &WORDS);
            variants.push([&words[..i], &[extra][..], &words[i..]].concat().join(" "));
        }
        for link in ["and", "left of", "right of", "above", "below"] {
            variants.push(text.replace(" and ", &format!(" {link} ")));
            variants.push(text.replace("left of", link).replace("right of", link));
        }
        for text in variants {
            let judged = Caption::judge(&text, &scene);
            assert_eq!(judged.is_ok(), truths.contains(&text), "'{text}' {judged:?}: {scene:?}");
            *(if judged.is_ok() { &mut true_ones } else { &mut false_ones }) += 1;
        }
    }
    assert!(true_ones > 10_000 && false_ones > 50_000, "{true_ones} {false_ones}");
}

#[test]
fn failures_say_why() {
    let place = |form, colour, size, x, y| Object { form, colour, size, centre: Point { x, y } };
    let scene = Scene {
        kind: SceneKind::Place,
        objects: vec![
            place(Form::Circle, Colour::Red, Size::Small, 12.0, 30.0),
            place(Form::Square, Colour::Blue, Size::Large, 45.0, 32.0),
        ],
    };
    let reason = |text: &str| Caption::judge(text, &scene).unwrap_err().to_string();
    assert_eq!(reason("a circle"), "1 object stated, 2 objects there");
    assert_eq!(reason("a circle and a triangle"), "there is no triangle, or too few");
    assert_eq!(reason("a green circle and a square"), "the circle is red");
    assert_eq!(reason("a square and a large circle"), "the circle is small");
    let wrong = "the first object is left of the second, not above it";
    assert_eq!(reason("a circle above a square"), wrong);
    assert_eq!(reason("two circles"), "there is no circle, or too few");
    assert_eq!(
        reason("a circle left a square"),
        "not a caption: word 4 is 'a' where 'of' should be"
    );
    assert_eq!(reason("a circle and a circle"), "not a caption: both objects are a circle");
    let end = "not a caption: the text ends where a size, a colour or a form should be";
    assert_eq!(reason("a circle and a red"), end);
    assert_eq!(reason(""), "not a caption: the text ends where 'a' or a number should be");
}
