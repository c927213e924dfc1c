//! The shapes world as a training set.

use tensor::rng::Rng;

use super::Asked;
use super::stream::{Purpose, stream};
use crate::shapes::{Caption, Draw, Pool, Question, Scene, SceneKind};

/// Scenes without the held-out combinations. Scene `i` is a pure function of (seed, i), from a
/// stream that evaluation does not use; what is said about it is new every time.
pub struct Shapes {
    scenes: Vec<Scene>,
    sorted: f64,
}

impl Shapes {
    /// The first `count` scenes of a seed. `weights` says how often each of
    /// [`SceneKind::ALL`] occurs, relative to the others; one at least is above zero.
    /// `sorted` is the share of [sorted](Caption::sorted) captions.
    pub fn new(seed: u64, count: usize, weights: [f64; 4], sorted: f64) -> Self {
        let scene = |i| {
            let mut rng = stream(seed, Purpose::Scene, i as u64, 0);
            Scene::of_kind(weighted(weights, Draw::uniform(&mut rng)), Pool::Seen, &mut rng)
        };
        Self { scenes: (0..count).map(scene).collect(), sorted }
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
        let scene = &self.scenes[i];
        match self.sorted > 0.0 && Draw::uniform(rng) < self.sorted {
            true => Caption::sorted(scene, rng).to_string(),
            false => Caption::random(scene, rng).to_string(),
        }
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

/// The kind whose part of the weights, laid end to end, holds the point `at` of 0 to 1.
fn weighted(weights: [f64; 4], at: f64) -> SceneKind {
    let mut left = at * weights.iter().sum::<f64>();
    let holds = |weight: &f64| {
        left -= weight;
        left < 0.0
    };
    // Rounding may leave a point behind all parts; it belongs to the last that is not empty.
    let last = || weights.iter().rposition(|&weight| weight > 0.0);
    SceneKind::ALL[weights.iter().position(holds).or_else(last).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: [f64; 4] = [1.0; 4];

    #[test]
    fn scenes_depend_on_seed_and_number_alone() {
        let (few, many) = (Shapes::new(3, 5, EVEN, 0.0), Shapes::new(3, 50, EVEN, 0.0));
        assert!((0..5).all(|i| few.scene(i) == many.scene(i)));
        assert_ne!(many.scene(0), Shapes::new(4, 1, EVEN, 0.0).scene(0));
        assert!((0..50).all(|i| !many.scene(i).is_novel()));
    }

    #[test]
    fn kinds_occur_as_often_as_their_weights_say() {
        let scenes = Shapes::new(5, 4000, [0.0, 3.0, 1.0, 0.0], 0.0).scenes;
        let of = |kind| scenes.iter().filter(|scene| scene.kind == kind).count();
        assert_eq!(of(SceneKind::One) + of(SceneKind::Place), 0);
        // A standard error is 27.
        assert!((2890..=3110).contains(&of(SceneKind::Two)), "{}", of(SceneKind::Two));
        // The point between two parts is the second's, and the end is nobody's but the last's.
        let parts = [0.0, 0.2, 0.5, 0.99, 1.0].map(|at| weighted([1.0, 1.5, 2.5, 0.0], at));
        use SceneKind::{Count, One, Two};
        assert_eq!(parts, [One, Two, Count, Count, Count]);
    }

    #[test]
    fn texts_are_drawn_anew_and_true() {
        let shapes = Shapes::new(0, 20, EVEN, 0.0);
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
