//! The shapes world as a training set.

use tensor::rng::Rng;

use super::Asked;
use super::stream::{Purpose, stream};
use crate::shapes::{Caption, Question, Scene};

/// Scenes without the held-out combinations. Scene `i` is a pure function of (seed, i), from a
/// stream that evaluation does not use; what is said about it is new every time.
pub struct Shapes {
    scenes: Vec<Scene>,
}

impl Shapes {
    /// The first `count` scenes of a seed.
    pub fn new(seed: u64, count: usize) -> Self {
        let scene = |i| Scene::random(&mut stream(seed, Purpose::Scene, i as u64, 0));
        Self { scenes: (0..count).map(scene).collect() }
    }

    /// Number of scenes.
    pub fn len(&self) -> usize {
        self.scenes.len()
    }

    /// Whether there is no scene.
    pub fn is_empty(&self) -> bool {
        self.scenes.is_empty()
    }

    /// Scene `i`.
    pub fn scene(&self, i: usize) -> &Scene {
        &self.scenes[i]
    }

    /// A caption of scene `i`.
    pub fn caption(&self, i: usize, rng: &mut Rng) -> String {
        Caption::random(&self.scenes[i], rng).to_string()
    }

    /// A question about scene `i` with its answer.
    pub fn question(&self, i: usize, rng: &mut Rng) -> Asked {
        let scene = &self.scenes[i];
        loop {
            let question = Question::random(scene, rng);
            // A random question can be asked of its scene; nothing is lost by making sure.
            if let Some(answer) = question.answer(scene) {
                return Asked { question: question.to_string(), answer: answer.to_owned() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_depend_on_seed_and_number_alone() {
        let (few, many) = (Shapes::new(3, 5), Shapes::new(3, 50));
        assert!((0..5).all(|i| few.scene(i) == many.scene(i)));
        assert_ne!(many.scene(0), Shapes::new(4, 1).scene(0));
        assert!((0..50).all(|i| !many.scene(i).is_novel()));
    }

    #[test]
    fn texts_are_drawn_anew_and_true() {
        let shapes = Shapes::new(0, 20);
        let rng = |step| stream(0, Purpose::Text, step, 0);
        let captions: Vec<String> = (0..20).map(|s| shapes.caption(1, &mut rng(s))).collect();
        assert!(captions.iter().any(|caption| *caption != captions[0]));
        assert_eq!(shapes.caption(1, &mut rng(0)), captions[0]);
        for i in 0..20 {
            let caption = shapes.caption(i, &mut rng(i as u64));
            assert!(Caption::judge(&caption, shapes.scene(i)).is_ok());
            assert!(shapes.question(i, &mut rng(0)).question.ends_with('?'));
        }
    }
}
