//! Tests of the world as a whole: its scenes, its captions, its judge, its suites, its
//! words.

mod caption;
mod judge;
mod scene;
mod suite;

use std::collections::BTreeSet;

use super::*;
use crate::text::sequence::question_prompt;

/// Steele, Lea and Flood's SplitMix64, the smallest generator that will do.
pub struct SplitMix(pub u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Draw for SplitMix {
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// A standard normal number, by Box and Muller.
pub fn normal(rng: &mut dyn Draw) -> f64 {
    let (radius, angle) = ((-2.0 * (1.0 - rng.uniform()).ln()).sqrt(), rng.uniform());
    radius * (std::f64::consts::TAU * angle).cos()
}

/// Where `a` is from `b`, by the words of the rule.
fn relation_by_definition(a: &Object, b: &Object) -> Option<&'static str> {
    let (right, down) = (a.centre.x - b.centre.x, a.centre.y - b.centre.y);
    let candidates = [
        ("left of", -right, down),
        ("right of", right, down),
        ("above", -down, right),
        ("below", down, right),
    ];
    let holds =
        |(_, along, across): &(&str, f64, f64)| *along >= 18.0 && *along >= 1.5 * across.abs();
    candidates.into_iter().find(holds).map(|(word, ..)| word)
}

/// `\w+|[^\w\s]+`: how a word-level tokenizer takes a text apart.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let class = |c: char| (c.is_alphanumeric(), c.is_whitespace());
    let mut last = (false, true);
    for c in text.chars() {
        if class(c) != last {
            words.push(String::new());
        }
        last = class(c);
        words.last_mut().unwrap().push(c);
    }
    words.retain(|word| !word.trim().is_empty());
    words
}

#[test]
fn the_vocabulary_is_what_the_texts_need_and_no_more() {
    let mut rng = SplitMix(45);
    let (mut used, mut longest) = (BTreeSet::new(), 0);
    for i in 0..30_000 {
        let pool = if i % 3 == 0 { Pool::Novel } else { Pool::Seen };
        let scene = Scene::from_pool(pool, &mut rng);
        let question = Question::random(&scene, &mut rng);
        let answer = question.answer(&scene).unwrap();
        let asked = question_prompt(&question.to_string()) + answer;
        for text in [Caption::random(&scene, &mut rng).to_string(), asked] {
            let words = split(&text);
            longest = longest.max(words.len());
            used.extend(words);
        }
    }
    assert_eq!(used, WORDS.map(String::from).into());
    assert_eq!((used.len(), longest), (WORDS.len(), MAX_WORDS));
}
