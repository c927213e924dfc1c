//! Evaluation sets are balanced, can be met and are scored as they say.

use std::collections::HashSet;

use super::super::suite::*;
use super::super::*;
use super::SplitMix;

#[test]
fn prompts_are_balanced_and_the_same_for_the_same_seed() {
    let distinct = [3, 6, 9, 18 - 2, 24, 6 * 30 - 38];
    for (kind, distinct) in PromptKind::ALL.into_iter().zip(distinct) {
        let set = prompts(kind, Pool::Seen, 300, &mut SplitMix(30));
        assert_eq!(set, prompts(kind, Pool::Seen, 300, &mut SplitMix(30)));
        let texts: Vec<String> = set.iter().map(|p| p.demand.to_string()).collect();
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), distinct, "{kind}");
        for text in &texts {
            let times = texts.iter().filter(|t| *t == text).count();
            assert!((300 / distinct..=300_usize.div_ceil(distinct)).contains(&times), "{text}");
            assert!(!text.contains("purple triangle") && !text.contains("yellow square"));
        }
    }
}

#[test]
fn novel_prompts_all_name_a_held_out_combination() {
    for (kind, distinct) in [(PromptKind::Colors, 2), (PromptKind::ColorAttr, 20 + 20 - 2)] {
        let set = prompts(kind, Pool::Novel, 100, &mut SplitMix(31));
        let texts: HashSet<String> = set.iter().map(|p| p.demand.to_string()).collect();
        assert_eq!((set.len(), texts.len()), (100, distinct));
        let named = |t: &String| t.contains("purple triangle") || t.contains("yellow square");
        assert!(texts.iter().all(named));
    }
    assert!(prompts(PromptKind::Position, Pool::Novel, 100, &mut SplitMix(31)).is_empty());
}

/// Every prompt can be met, and by a picture of a scene that its caption is true of.
#[test]
fn prompts_are_met_by_the_scenes_they_describe() {
    let mut rng = SplitMix(32);
    let scenes = scenes(Pool::Seen, 4000, &mut rng);
    let pictures: Vec<_> = scenes.iter().map(Scene::draw).collect();
    for prompt in PromptKind::ALL.into_iter().flat_map(|k| prompts(k, Pool::Seen, 24, &mut rng)) {
        let is_true = |s: &&Scene| Caption::judge(&prompt.demand.to_string(), s).is_ok();
        let described: Vec<usize> =
            (0..scenes.len()).filter(|&i| is_true(&&scenes[i])).take(5).collect();
        assert!(!described.is_empty(), "{}", prompt.demand);
        for i in described {
            assert_eq!(verdict(&pictures[i], &prompt.demand), Ok(()));
        }
    }
}

#[test]
fn questions_are_balanced_over_answers() {
    for (kind, pool) in QuestionKind::ALL.into_iter().flat_map(|k| Pool::ALL.map(|p| (k, p))) {
        let set = questions(kind, pool, 60, &mut SplitMix(33));
        let answers: HashSet<&str> = set.iter().map(|asked| asked.answer).collect();
        for answer in &answers {
            let right = set.iter().filter(|asked| asked.is_right(&format!(" {answer}"))).count();
            assert_eq!(right, 60 / answers.len(), "{kind} {pool} {answer}");
        }
        assert!(set.iter().all(|a| a.question.kind() == kind
            && a.question.answer(&a.scene) == Some(a.answer)
            && a.scene.is_novel() == (pool == Pool::Novel)));
    }
}

#[test]
fn wilson_intervals_match_published_ones() {
    // Newcombe 1998, table I, method 3.
    for (right, total, low, high) in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ] {
        let (a, b) = Tally { right, total }.interval();
        assert!((a - low).abs() < 5e-5 && (b - high).abs() < 5e-5, "{right}/{total}: {a} {b}");
    }
}

#[test]
fn overall_weighs_kinds_not_trials() {
    let mut scores = Scores::of_prompts();
    for i in 0..100 {
        scores.record("single_object", true);
        scores.record("counting", i < 50);
    }
    assert_eq!(scores.overall(), 0.75);
    assert_eq!(scores.interval(), Tally { right: 150, total: 200 }.interval());
    scores.record("counting", false);
    scores.record("single_object", true);
    assert!((scores.overall() - (1.0 + 50.0 / 101.0) / 2.0).abs() < 1e-15);
    assert!(scores.to_string().contains("counting        49.5 %"), "{scores}");
}

#[test]
fn caption_scores_say_right_and_how_much() {
    let mut rng = SplitMix(34);
    let mut scores = CaptionScores::new();
    for scene in scenes(Pool::Seen, 20_000, &mut rng) {
        let caption = Caption::random(&scene, &mut rng);
        assert_eq!(scores.record(&caption.to_string(), &scene), Ok(caption));
    }
    assert_eq!(scores.scores.overall(), 1.0);
    assert!((scores.detail() - 0.625).abs() < 0.01, "{}", scores.detail());
    let scene = Scene::of_kind(SceneKind::One, Pool::Seen, &mut rng);
    assert!(scores.record("nothing", &scene).is_err());
    assert!(scores.scores.overall() < 1.0);
}
