//! Questions about scenes, each with a one-word answer.

use std::fmt;

use super::scene::is_held_out;
use super::{
    Colour, Draw, Form, NUMBERS, Object, Placement, Relation, Scene, SceneKind, flip, named_enum,
    pick,
};

named_enum! {
    /// What is asked for.
    QuestionKind {
        /// `is there a red circle?`
        Exists = "exists",
        /// `what color is the circle?`
        Colour = "colour",
        /// `what shape is the red object?`
        Shape = "shape",
        /// `how many circles are there?`
        Count = "count",
        /// `what is left of the circle?`
        Place = "place",
    }
}

/// A question. Its [`Display`](fmt::Display) is the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Is there such an object?
    Exists {
        /// Its colour, if that is part of the question.
        colour: Option<Colour>,
        /// Its form.
        form: Form,
    },
    /// What colour is the only object of that form?
    Colour(Form),
    /// What form is the only object of that colour?
    Shape(Colour),
    /// How many objects have the form?
    Count(Form),
    /// What is there, seen from the only object of that form?
    Place(Relation, Form),
}

impl Question {
    /// A question about `scene`, its kind uniform over those that apply.
    ///
    /// No question about a scene without [held-out](super::scene::HELD_OUT) combinations names
    /// one. Training would otherwise hear of purple triangles in questions whose answer is always
    /// no, and the compositional test would measure that habit.
    pub fn random(scene: &Scene, rng: &mut dyn Draw) -> Question {
        loop {
            if let Some(question) = Question::of_kind(pick(rng, &QuestionKind::ALL), scene, rng) {
                return question;
            }
        }
    }

    /// A question of that kind about `scene`; `None` if none can be asked.
    ///
    /// Answers to [`Exists`](Question::Exists) are yes and no equally often, and tell nothing
    /// about whether a colour is named. Half of the no's name an object that differs in one of
    /// its two attributes from an object of the scene (POPE's "adversarial"); the others share
    /// nothing with any.
    pub fn of_kind(kind: QuestionKind, scene: &Scene, rng: &mut dyn Draw) -> Option<Question> {
        let with_form = |form| scene.objects.iter().filter(|o| o.form == form).count();
        let with_colour = |colour| scene.objects.iter().filter(|o| o.colour == colour).count();
        match kind {
            QuestionKind::Exists if flip(rng) => Some(present(scene, rng)),
            QuestionKind::Exists => absent(scene, rng),
            QuestionKind::Colour => {
                pick_where(rng, &Form::ALL, |form| with_form(form) == 1).map(Question::Colour)
            }
            QuestionKind::Shape => {
                pick_where(rng, &Colour::ALL, |c| with_colour(c) == 1).map(Question::Shape)
            }
            QuestionKind::Count => {
                // Most forms are absent from most scenes: asked evenly, half the answers are zero.
                let is_there = flip(rng) || flip(rng);
                pick_where(rng, &Form::ALL, |form| (with_form(form) > 0) == is_there)
                    .map(Question::Count)
            }
            QuestionKind::Place => {
                let form = pick(rng, &scene.objects).form;
                other_than(form, scene).map(|(_, relation)| Question::Place(relation, form))
            }
        }
    }

    /// Which kind of question it is.
    pub fn kind(&self) -> QuestionKind {
        match self {
            Question::Exists { .. } => QuestionKind::Exists,
            Question::Colour(_) => QuestionKind::Colour,
            Question::Shape(_) => QuestionKind::Shape,
            Question::Count(_) => QuestionKind::Count,
            Question::Place(..) => QuestionKind::Place,
        }
    }

    /// The answer for `scene`; `None` where the question cannot be asked.
    pub fn answer(&self, scene: &Scene) -> Option<&'static str> {
        let subjects = self.subjects(scene);
        let only = || if let [object] = subjects[..] { Some(object) } else { None };
        match self {
            Question::Exists { .. } => Some(if subjects.is_empty() { "no" } else { "yes" }),
            Question::Colour(_) => only().map(|object| object.colour.word()),
            Question::Shape(_) | Question::Place(..) => only().map(|object| object.form.word()),
            Question::Count(_) => NUMBERS.get(subjects.len()).copied(),
        }
    }

    /// The objects of `scene` that the question is about: those it asks for or describes.
    pub fn subjects<'a>(&self, scene: &'a Scene) -> Vec<&'a Object> {
        let is_meant = |object: &&Object| match *self {
            Question::Exists { colour: Some(colour), form } => {
                (object.colour, object.form) == (colour, form)
            }
            Question::Shape(colour) => object.colour == colour,
            Question::Exists { form, .. } | Question::Colour(form) | Question::Count(form) => {
                object.form == form
            }
            Question::Place(relation, form) => other_than(form, scene)
                .is_some_and(|(other, there)| there == relation && other.form == object.form),
        };
        scene.objects.iter().filter(is_meant).collect()
    }
}

/// One of the `options` that `keep` keeps, each as likely.
fn pick_where<T: Copy>(rng: &mut dyn Draw, options: &[T], keep: impl Fn(T) -> bool) -> Option<T> {
    let kept: Vec<T> = options.iter().copied().filter(|&option| keep(option)).collect();
    (!kept.is_empty()).then(|| pick(rng, &kept))
}

/// A question that asks for an object of the scene.
fn present(scene: &Scene, rng: &mut dyn Draw) -> Question {
    let object = pick(rng, &scene.objects);
    let names_colour = flip(rng) || flip(rng);
    Question::Exists { colour: names_colour.then_some(object.colour), form: object.form }
}

/// A question that asks for an object the scene does not have, if there is one to ask for. A
/// colour is named in 3/4 of them, as in [`present`]: always in the adversarial half, in half of
/// the others.
fn absent(scene: &Scene, rng: &mut dyn Draw) -> Option<Question> {
    let adversarial = flip(rng);
    let names_colour = adversarial || flip(rng);
    let may_be_held_out = scene.is_novel();
    let all: Vec<(Colour, Form)> =
        Colour::ALL.into_iter().flat_map(|colour| Form::ALL.map(|form| (colour, form))).collect();
    let (colour, form) = pick_where(rng, &all, |(colour, form)| {
        let shared = |o: &Object| usize::from(o.form == form) + usize::from(o.colour == colour);
        // 2 attributes shared: it is there; 1: it differs in one; 0: in both, from every object.
        let most_shared = scene.objects.iter().map(shared).max();
        most_shared == Some(usize::from(adversarial))
            && (may_be_held_out || !is_held_out(colour, form))
    })?;
    Some(Question::Exists { colour: names_colour.then_some(colour), form })
}

/// In a scene for questions of place: the object beside the one of that form, and where it is,
/// seen from that.
fn other_than(form: Form, scene: &Scene) -> Option<(&Object, Relation)> {
    match (scene.kind, &scene.objects[..]) {
        (SceneKind::Place, [a, b] | [b, a]) if b.form == form => {
            Placement::CLEAR.relation(a.centre, b.centre).map(|relation| (a, relation))
        }
        _ => None,
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Exists { colour: Some(colour), form } => {
                write!(f, "is there a {colour} {form}?")
            }
            Question::Exists { colour: None, form } => write!(f, "is there a {form}?"),
            Question::Colour(form) => write!(f, "what color is the {form}?"),
            Question::Shape(colour) => write!(f, "what shape is the {colour} object?"),
            Question::Count(form) => write!(f, "how many {} are there?", form.plural()),
            Question::Place(relation, form) => write!(f, "what is {relation} the {form}?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pool;
    use super::super::tests::SplitMix;
    use super::*;

    /// The answer from the text alone: words and plain lists, none of the functions above.
    fn answer_by_text(text: &str, scene: &Scene) -> Option<String> {
        let words: Vec<&str> = text.trim_end_matches('?').split(' ').collect();
        let table: Vec<[String; 2]> =
            scene.objects.iter().map(|o| [o.colour.to_string(), o.form.to_string()]).collect();
        let single = |column: usize, word: &str| {
            let rows: Vec<_> = table.iter().filter(|row| row[column] == word).collect();
            (rows.len() == 1).then(|| rows[0][1 - column].clone())
        };
        match words[..] {
            ["is", "there", "a", ref of @ ..] => {
                let holds = |row: &[String; 2]| of.iter().all(|w| row.iter().any(|a| a == w));
                Some(if table.iter().any(holds) { "yes" } else { "no" }.into())
            }
            ["what", "color", "is", "the", form] => single(1, form),
            ["what", "shape", "is", "the", colour, "object"] => single(0, colour),
            ["how", "many", forms, "are", "there"] => {
                let count = table.iter().filter(|row| format!("{}s", row[1]) == forms).count();
                Some(["zero", "one", "two", "three", "four"][count].into())
            }
            ["what", "is", where_, .., "the", form] => {
                let here = scene.objects.iter().find(|o| o.form.word() == form)?.centre;
                let there = scene.objects.iter().find(|o| o.form.word() != form)?;
                let (dx, dy) = (there.centre.x - here.x, there.centre.y - here.y);
                let (near, far) = if dx.abs() < dy.abs() { (dx, dy) } else { (dy, dx) };
                let is_so = match where_ {
                    "left" => far == dx && dx < 0.0,
                    "right" => far == dx && dx > 0.0,
                    "above" => far == dy && dy < 0.0,
                    "below" => far == dy && dy > 0.0,
                    other => panic!("{other}"),
                };
                let is_clear = far.abs() >= 18.0 && far.abs() >= 1.5 * near.abs();
                (is_so && is_clear).then(|| there.form.to_string())
            }
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn answers_agree_with_the_text_read_literally() {
        let mut rng = SplitMix(20);
        let mut kinds = [0; 5];
        for i in 0..20_000 {
            let pool = if i % 5 == 0 { Pool::Novel } else { Pool::Seen };
            let scene = Scene::from_pool(pool, &mut rng);
            let question = Question::random(&scene, &mut rng);
            let answer = question.answer(&scene).expect("a random question can be answered");
            let by_text = answer_by_text(&question.to_string(), &scene);
            assert_eq!(by_text.as_deref(), Some(answer), "{question} {scene:?}");
            kinds[question.kind() as usize] += 1;
        }
        assert!(kinds.iter().all(|&n| n > 1000), "{kinds:?}");
    }

    #[test]
    fn a_question_that_does_not_apply_has_no_answer() {
        let mut rng = SplitMix(21);
        for _ in 0..2000 {
            let scene = Scene::random(&mut rng);
            for relation in Relation::ALL {
                let question = Question::Place(relation, pick(&mut rng, &Form::ALL));
                let expected = match scene.kind {
                    SceneKind::Place => answer_by_text(&question.to_string(), &scene),
                    _ => None,
                };
                assert_eq!(question.answer(&scene), expected.as_deref());
            }
            for question in
                Form::ALL.map(Question::Colour).into_iter().chain(Colour::ALL.map(Question::Shape))
            {
                let expected = answer_by_text(&question.to_string(), &scene);
                assert_eq!(question.answer(&scene), expected.as_deref());
            }
        }
    }

    #[test]
    fn yes_and_no_are_balanced_and_half_the_noes_are_adversarial() {
        let mut rng = SplitMix(22);
        let (mut yes, mut no, mut adversarial, mut named_yes, mut named_no) = (0, 0, 0, 0, 0);
        for _ in 0..40_000 {
            let scene = Scene::random(&mut rng);
            let question = Question::of_kind(QuestionKind::Exists, &scene, &mut rng).unwrap();
            let Question::Exists { colour, form } = question else { panic!("{question}") };
            let named = i32::from(colour.is_some());
            if question.answer(&scene) == Some("yes") {
                (yes, named_yes) = (yes + 1, named_yes + named);
                continue;
            }
            (no, named_no) = (no + 1, named_no + named);
            let is_near = |o: &Object| (o.form == form) != (Some(o.colour) == colour);
            let near = colour.is_some() && scene.objects.iter().any(is_near);
            adversarial += i32::from(near);
            assert!(
                near || scene.objects.iter().all(|o| o.form != form && Some(o.colour) != colour)
            );
        }
        // Standard deviations are 0.0025 of all, 0.0035 of the halves.
        let close =
            |a: i32, b: i32, share: f64| (f64::from(a) / f64::from(b) - share).abs() < 0.015;
        assert!(close(yes, yes + no, 0.5), "{yes} {no}");
        assert!(close(adversarial, no, 0.5), "{adversarial} of {no}");
        assert!(close(named_yes, yes, 0.75) && close(named_no, no, 0.75), "{named_yes} {named_no}");
    }

    #[test]
    fn training_never_names_what_is_held_out() {
        let mut rng = SplitMix(23);
        for _ in 0..50_000 {
            let scene = Scene::random(&mut rng);
            let text = Question::random(&scene, &mut rng).to_string();
            assert!(!text.contains("purple triangle") && !text.contains("yellow square"), "{text}");
        }
    }
}
