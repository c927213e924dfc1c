//! Scenes obey their rules and are uniform where the rules say so.

use std::collections::BTreeMap;

use super::super::*;
use super::{SplitMix, relation_by_definition};

/// χ² of counts against equal shares.
fn chi_square(counts: &[usize]) -> f64 {
    let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts.iter().map(|&n| (n as f64 - mean).powi(2) / mean).sum()
}

#[test]
fn training_scenes_obey_every_rule() {
    let mut rng = SplitMix(40);
    for _ in 0..50_000 {
        let scene = Scene::random(&mut rng);
        let o = &scene.objects;
        for object in o {
            let held_out = [("purple", "triangle"), ("yellow", "square")];
            assert!(!held_out.contains(&(object.colour.word(), object.form.word())));
            let b = object.bounds();
            let inside = b.left.min(b.top) > 2.0 - 1e-9 && b.right.max(b.bottom) < 62.0 + 1e-9;
            assert!(inside, "{object:?}");
        }
        for (a, b) in o.iter().enumerate().flat_map(|(i, a)| o[..i].iter().map(move |b| (a, b))) {
            let (a, b) = (a.bounds(), b.bounds());
            let apart = a.right + 3.0 <= b.left + 1e-9
                || b.right + 3.0 <= a.left + 1e-9
                || a.bottom + 3.0 <= b.top + 1e-9
                || b.bottom + 3.0 <= a.top + 1e-9;
            assert!(apart, "{scene:?}");
        }
        match scene.kind {
            SceneKind::One => assert_eq!(o.len(), 1),
            SceneKind::Count => {
                assert!((2..=4).contains(&o.len()));
                let like_first = |a: &Object| {
                    (a.form, a.colour, a.size) == (o[0].form, o[0].colour, Size::Small)
                };
                assert!(o.iter().all(like_first));
            }
            SceneKind::Two | SceneKind::Place => {
                assert!(o.len() == 2 && o[0].form != o[1].form);
                let clear = relation_by_definition(&o[0], &o[1]).is_some();
                assert!(clear || scene.kind == SceneKind::Two);
            }
        }
    }
}

#[test]
fn what_scenes_show_is_uniform() {
    let mut rng = SplitMix(41);
    let mut counts: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for _ in 0..40_000 {
        let scene = Scene::random(&mut rng);
        let mut tally = |what, member: String| {
            *counts.entry(what).or_default().entry(member).or_default() += 1;
        };
        tally("kind", scene.kind.to_string());
        let object = &scene.objects[0];
        match scene.kind {
            SceneKind::One => tally("one", format!("{}{}", object.colour, object.form)),
            SceneKind::Count => tally("number", scene.objects.len().to_string()),
            // Sizes too, though large objects fit less often.
            SceneKind::Two => tally("two", format!("{}{}", object.size, scene.objects[1].size)),
            SceneKind::Place => tally("place", format!("{}{}", object.size, scene.objects[1].size)),
        }
    }
    // The quantiles that χ² exceeds once in a thousand times, for that many members.
    let limits = [
        ("kind", 4, 16.3),
        ("one", 16, 37.7),
        ("number", 3, 13.8),
        ("two", 4, 16.3),
        ("place", 4, 16.3),
    ];
    for (what, members, limit) in limits {
        let counts: Vec<usize> = counts[what].values().copied().collect();
        assert_eq!(counts.len(), members, "{what}");
        assert!(chi_square(&counts) < limit, "{what}: {counts:?}");
    }
}

#[test]
fn novel_scenes_all_show_a_held_out_combination() {
    let mut rng = SplitMix(42);
    for kind in SceneKind::ALL {
        for _ in 0..500 {
            let scene = Scene::of_kind(kind, Pool::Novel, &mut rng);
            assert!(scene.kind == kind && scene.is_novel());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_scene() {
    let draw = |seed| Scene::random(&mut SplitMix(seed));
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7).objects[0].centre, draw(8).objects[0].centre);
}
