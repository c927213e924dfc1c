//! The judge sees what was drawn, through noise too, and nothing that was not.

use super::super::*;
use super::{SplitMix, normal};

/// Whether `sight` has exactly the scene's objects, and the greatest error of a centre.
fn compare(scene: &Scene, sight: &Sight) -> (bool, f64) {
    let mut worst: f64 = 0.0;
    let found = scene.objects.iter().all(|o| {
        let drop = o.form.centroid_drop() * o.size.radius();
        let away =
            |s: &&Seen| (s.centre.x - o.centre.x).abs().max((s.centre.y - drop - o.centre.y).abs());
        let mut same = sight
            .objects
            .iter()
            .filter(|s| s.colour == Some(o.colour) && s.shape == Some((o.form, o.size)))
            .collect::<Vec<_>>();
        same.sort_by(|a, b| away(a).total_cmp(&away(b)));
        worst = worst.max(same.first().map_or(f64::INFINITY, away));
        same.first().is_some_and(|s| away(s) < 2.0)
    });
    (found && sight.objects.len() == scene.objects.len(), worst)
}

/// What a mediocre decoder makes of a picture: neighbours leak into each other by `blur`, and
/// every value has normal noise.
fn degrade(picture: &Picture, blur: f32, noise: f32, rng: &mut dyn Draw) -> Picture {
    let (w, h) = (picture.width(), picture.height());
    let values = picture.to_chw();
    let at = |c: usize, y: usize, x: usize| values[(c * h + y.min(h - 1)) * w + x.min(w - 1)];
    let mut out = vec![0.0; values.len()];
    for (i, value) in out.iter_mut().enumerate() {
        let (c, y, x) = (i / (w * h), i / w % h, i % w);
        let beside = at(c, y.saturating_sub(1), x)
            + at(c, y + 1, x)
            + at(c, y, x.saturating_sub(1))
            + at(c, y, x + 1);
        let sharp = at(c, y, x);
        *value = sharp + blur * (beside / 4.0 - sharp) + noise / 127.5 * normal(rng) as f32;
    }
    Picture::from_chw(w, h, &out).unwrap()
}

#[test]
fn drawn_scenes_are_seen_exactly() {
    let mut rng = SplitMix(10);
    let mut worst: f64 = 0.0;
    for i in 0..4000 {
        let pool = if i % 4 == 0 { Pool::Novel } else { Pool::Seen };
        let scene = Scene::from_pool(pool, &mut rng);
        let sight = look(&scene.draw());
        let (same, error) = compare(&scene, &sight);
        assert!(same && sight.specks == 0, "{scene:?} seen as {sight:?}");
        worst = worst.max(error);
        let caption = Caption::random(&scene, &mut rng);
        let verdict = caption.check(&sight.objects, Placement::JUDGED);
        assert_eq!(verdict, Ok(()), "{caption} of {scene:?}");
    }
    println!("worst centre: {worst:.3} px");
    assert!(worst < 0.1, "{worst}");
}

#[test]
fn mild_noise_and_blur_change_nothing() {
    for (blur, noise) in [(0.0, 3.0), (0.2, 6.0), (0.4, 6.0), (0.4, 10.0)] {
        let mut rng = SplitMix(11);
        let (mut right, mut worst): (usize, f64) = (0, 0.0);
        for _ in 0..500 {
            let scene = Scene::random(&mut rng);
            let sight = look(&degrade(&scene.draw(), blur, noise, &mut rng));
            let (same, error) = compare(&scene, &sight);
            let caption = Caption::random(&scene, &mut rng);
            let verdict = caption.check(&sight.objects, Placement::JUDGED);
            right += usize::from(same && verdict.is_ok());
            worst = worst.max(if same { error } else { 0.0 });
        }
        println!("blur {blur}, noise {noise}: {right} of 500, centres within {worst:.2} px");
        assert!(right >= 498, "blur {blur}, noise {noise}: {right} of 500");
    }
}

/// A picture with a pixel of `colour` wherever `holds(x, y)`.
fn painted(colour: [u8; 3], holds: impl Fn(i32, i32) -> bool) -> Picture {
    let mut picture = Picture::filled(SIDE, SIDE, BACKGROUND);
    for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
        if holds(x as i32, y as i32) {
            picture.set_pixel(x, y, colour);
        }
    }
    picture
}

#[test]
fn what_is_no_form_is_malformed() {
    let red = Colour::Red.rgb();
    let radius = |x: i32, y: i32| f64::from((x - 32).pow(2) + (y - 32).pow(2)).sqrt();
    let bar = painted(red, |x, y| (10..50).contains(&x) && (30..36).contains(&y));
    let ring = painted(red, |x, y| (8.0..13.0).contains(&radius(x, y)));
    let half = painted(red, |x, y| radius(x, y) < 13.0 && y < 30);
    let huge = painted(red, |x, y| radius(x, y) < 22.0);
    let flood = painted(red, |_, _| true);
    for (name, picture) in
        [("bar", bar), ("ring", ring), ("half", half), ("huge", huge), ("flood", flood)]
    {
        let sight = look(&picture);
        assert_eq!(sight.objects.len(), 1, "{name}");
        assert_eq!((sight.objects[0].colour, sight.objects[0].shape), (Some(Colour::Red), None));
        let failure = verdict(&picture, &"a red circle".parse().unwrap()).unwrap_err();
        assert!(matches!(failure, Failure::Malformed(_)), "{name}: {failure}");
    }
}

#[test]
fn strange_colours_are_no_colours_and_near_ones_are() {
    let disc = |x: i32, y: i32| (x - 32).pow(2) + (y - 32).pow(2) <= 64;
    for grey in [[20, 20, 20], [120, 120, 120], [240, 110, 180]] {
        let picture = painted(grey, disc);
        let seen = look(&picture).objects[0];
        assert_eq!((seen.colour, seen.shape), (None, None), "{grey:?}");
        assert_eq!(seen.centre, Point { x: 32.5, y: 32.5 });
        let failure = verdict(&picture, &"a circle".parse().unwrap()).unwrap_err();
        assert!(matches!(failure, Failure::NoColour(_)), "{failure}");
    }
    let seen = look(&painted([180, 70, 60], disc)).objects[0];
    assert_eq!((seen.colour, seen.shape), (Some(Colour::Red), Some((Form::Circle, Size::Small))));
}

#[test]
fn sizes_of_regions_make_objects_specks_and_noise() {
    // Rows of 36, 35, 8 and 7 pixels; corners that touch do not connect.
    let blue = Colour::Blue.rgb();
    let length = |y| match y {
        5 => 36,
        15 => 35,
        25 => 8,
        35 => 7,
        _ => 0,
    };
    let sight = look(&painted(blue, |x, y| x < length(y)));
    assert_eq!((sight.objects.len(), sight.specks, sight.is_messy()), (1, 2, true));
    let checkers = painted(blue, |x, y| (x + y) % 2 == 0);
    assert_eq!(look(&checkers), Sight { objects: vec![], specks: 0 });
    let failure = verdict(&checkers, &"a circle".parse().unwrap());
    assert_eq!(failure, Err(Failure::Number { stated: 1, seen: 0 }));
}

#[test]
fn any_picture_can_be_looked_at() {
    let mut rng = SplitMix(12);
    for _ in 0..60 {
        let (width, height) = (rng.below(90), rng.below(90));
        let palette = [BACKGROUND, Colour::Red.rgb(), [0, 0, 0], Colour::Green.rgb()];
        let skew = rng.uniform() * 6.0;
        let pixel = |_| palette[(rng.uniform().powf(skew) * 4.0) as usize % 4];
        let rgb = (0..width * height).flat_map(pixel).collect();
        let sight = look(&Picture::new(width, height, rgb).unwrap());
        assert!(sight.objects.iter().all(|o| o.centre.x <= width as f64));
    }
}

/// The answers that the pixels give are the scene's.
#[test]
fn a_picture_is_asked_about_as_the_scene_it_shows() {
    let mut rng = SplitMix(13);
    let mut answers = [0; QuestionKind::ALL.len()];
    for _ in 0..400 {
        let scene = Scene::random(&mut rng);
        let shown = look(&scene.draw()).scene().unwrap();
        assert_eq!(shown.objects.len(), scene.objects.len());
        for kind in QuestionKind::ALL {
            let Some(question) = Question::of_kind(kind, &scene, &mut rng) else { continue };
            let answer = question.answer(&shown);
            answers[kind as usize] += usize::from(answer.is_some());
            // At the limit of what is clearly placed, a tenth of a pixel decides.
            if answer.is_some() || kind != QuestionKind::Place {
                assert_eq!(answer, question.answer(&scene), "{question} {scene:?}");
            }
        }
    }
    assert!(answers.iter().all(|&n| n > 60), "{answers:?}");
    let red = Colour::Red.rgb();
    let blank = painted(red, |_, _| false);
    let bar = painted(red, |x, y| (10..50).contains(&x) && (30..36).contains(&y));
    let black = painted([0; 3], |x, y| (x - 32).pow(2) + (y - 32).pow(2) <= 64);
    let five = painted(red, |x, y| {
        let in_row = |middle: i32| (middle - 4..middle + 4).contains(&x);
        (20..28).contains(&y) && [6, 18, 30, 42, 54].into_iter().any(in_row)
    });
    for picture in [blank, bar, black, five] {
        assert_eq!(look(&picture).scene(), None);
    }
}
