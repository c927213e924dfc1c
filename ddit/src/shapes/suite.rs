//! Evaluation sets, as plain data, and their scores.
//!
//! Sets are drawn from the generator they are given: the caller opens a stream that training
//! does not use. They hold [`Pool::Seen`] or [`Pool::Novel`] items, never both, so the
//! compositional test is a set of its own.

use std::fmt;

use super::scene::{HELD_OUT, is_held_out};
use super::{
    Caption, Colour, Description, Draw, Failure, Form, NUMBERS, Pool, Question, QuestionKind,
    Relation, Scene, SceneKind, named_enum,
};

named_enum! {
    /// GenEval's six kinds of prompt, by its names.
    PromptKind {
        /// `a circle`
        SingleObject = "single_object",
        /// `a circle and a square`
        TwoObject = "two_object",
        /// `three circles`
        Counting = "counting",
        /// `a red circle`
        Colors = "colors",
        /// `a circle left of a square`
        Position = "position",
        /// `a red circle and a blue square`
        ColorAttr = "color_attr",
    }
}

/// A prompt; its text is the caption's, and a picture is right if [`verdict`](super::verdict)
/// says so of the caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prompt {
    /// What it tests.
    pub kind: PromptKind,
    /// What is to be seen.
    pub demand: Caption,
}

/// A question to be answered from the scene's picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What the picture shows.
    pub scene: Scene,
    /// What is asked.
    pub question: Question,
    /// The one right answer.
    pub answer: &'static str,
}

impl Asked {
    /// Whether a generated text is the answer, white space around it aside.
    pub fn is_right(&self, text: &str) -> bool {
        text.trim() == self.answer
    }
}

/// `n` prompts of one kind: all that the kind has in `pool`, shuffled, over and over, so that
/// each occurs as often as any other, give or take one. Only kinds that name colours have
/// novel prompts; for the others the set is empty.
pub fn prompts(kind: PromptKind, pool: Pool, n: usize, rng: &mut dyn Draw) -> Vec<Prompt> {
    let mut all = every_demand(kind);
    all.retain(|demand| {
        pool.admits(demand.objects().filter_map(|d| d.colour.map(|colour| (colour, d.form))))
    });
    shuffle(&mut all, rng);
    all.iter().cycle().take(n).map(|&demand| Prompt { kind, demand }).collect()
}

/// `n` scenes to be captioned, the four kinds in turn.
pub fn scenes(pool: Pool, n: usize, rng: &mut dyn Draw) -> Vec<Scene> {
    SceneKind::ALL.into_iter().cycle().take(n).map(|k| Scene::of_kind(k, pool, rng)).collect()
}

/// `n` questions of one kind, about as many scenes. The possible answers are right in turn, so
/// that no constant answer scores above chance. A novel question is about an object of a held-out
/// combination, or its answer is no.
pub fn questions(kind: QuestionKind, pool: Pool, n: usize, rng: &mut dyn Draw) -> Vec<Asked> {
    let answers = answers(kind, pool);
    answers.into_iter().cycle().take(n).map(|answer| ask(kind, pool, answer, rng)).collect()
}

/// The answers that such questions have.
fn answers(kind: QuestionKind, pool: Pool) -> Vec<&'static str> {
    match (kind, pool) {
        (QuestionKind::Exists, _) => vec!["yes", "no"],
        (QuestionKind::Colour, Pool::Seen) => Colour::ALL.map(Colour::word).to_vec(),
        (QuestionKind::Colour, Pool::Novel) => HELD_OUT.map(|(colour, _)| colour.word()).to_vec(),
        (QuestionKind::Count, Pool::Seen) => NUMBERS.to_vec(),
        (QuestionKind::Count, Pool::Novel) => NUMBERS[1..].to_vec(),
        (_, Pool::Seen) => Form::ALL.map(Form::word).to_vec(),
        (_, Pool::Novel) => HELD_OUT.map(|(_, form)| form.word()).to_vec(),
    }
}

/// A scene and a question with that answer.
fn ask(kind: QuestionKind, pool: Pool, answer: &'static str, rng: &mut dyn Draw) -> Asked {
    loop {
        let scene = Scene::from_pool(pool, rng);
        let Some(question) = Question::of_kind(kind, &scene, rng) else { continue };
        let is_novel = question.subjects(&scene).iter().any(|o| is_held_out(o.colour, o.form));
        if question.answer(&scene) == Some(answer)
            && (pool == Pool::Seen || is_novel || answer == "no")
        {
            return Asked { scene, question, answer };
        }
    }
}

/// Every prompt of that kind.
fn every_demand(kind: PromptKind) -> Vec<Caption> {
    let plain = |form| Description { size: None, colour: None, form };
    let coloured = |form, colour| Description { colour: Some(colour), ..plain(form) };
    let forms = || Form::ALL.into_iter();
    let colours = || Colour::ALL.into_iter();
    let pairs = || forms().flat_map(move |a| forms().filter(move |&b| b != a).map(move |b| (a, b)));
    let pair = |first, second, relation| Caption::Pair { first, second, relation };
    match kind {
        PromptKind::SingleObject => forms().map(|form| Caption::One(plain(form))).collect(),
        PromptKind::TwoObject => pairs().map(|(a, b)| pair(plain(a), plain(b), None)).collect(),
        PromptKind::Counting => forms()
            .flat_map(|form| {
                (2..=4).map(move |number| Caption::Group { number, each: plain(form) })
            })
            .collect(),
        PromptKind::Colors => forms()
            .flat_map(|form| colours().map(move |colour| Caption::One(coloured(form, colour))))
            .collect(),
        PromptKind::Position => pairs()
            .flat_map(|(a, b)| {
                Relation::ALL.map(|relation| pair(plain(a), plain(b), Some(relation)))
            })
            .collect(),
        // Of different colours, or the prompt could be met without telling whose is whose.
        PromptKind::ColorAttr => pairs()
            .flat_map(|(a, b)| {
                colours()
                    .flat_map(move |c| colours().filter(move |&d| d != c).map(move |d| (c, d)))
                    .map(move |(c, d)| pair(coloured(a, c), coloured(b, d), None))
            })
            .collect(),
    }
}

/// Fisher and Yates' shuffle.
fn shuffle<T>(items: &mut [T], rng: &mut dyn Draw) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last + 1));
    }
}

/// How many of a number of trials were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Right ones.
    pub right: usize,
    /// All.
    pub total: usize,
}

impl Tally {
    /// The share of right ones; not a number if there were no trials.
    pub fn rate(&self) -> f64 {
        self.right as f64 / self.total as f64
    }

    /// Wilson's 95 % interval of the rate behind the trials.
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.rate(), self.total as f64)
    }
}

/// The score interval of a proportion `p` of `n` trials (Wilson 1927), which unlike `p ± 1.96 σ`
/// stays within \[0, 1\] and is right near its ends. It holds `p`, rounding or not.
fn wilson(p: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054; // 97.5 % of a normal distribution lie below
    let shrink = 1.0 + Z * Z / n;
    let middle = (p + Z * Z / (2.0 * n)) / shrink;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / shrink;
    ((middle - half).min(p).max(0.0), (middle + half).max(p).min(1.0))
}

/// Tallies by kind, and their mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Kinds by name, and how each did.
    pub kinds: Vec<(&'static str, Tally)>,
}

impl Scores {
    /// No trials yet of any of `kinds`.
    pub fn new(kinds: impl IntoIterator<Item = &'static str>) -> Scores {
        Scores { kinds: kinds.into_iter().map(|kind| (kind, Tally::default())).collect() }
    }

    /// Scores for the six kinds of prompt.
    pub fn of_prompts() -> Scores {
        Scores::new(PromptKind::ALL.map(PromptKind::word))
    }

    /// Scores for the five kinds of question.
    pub fn of_questions() -> Scores {
        Scores::new(QuestionKind::ALL.map(QuestionKind::word))
    }

    /// Counts one trial of `kind`; a kind not yet known is added.
    pub fn record(&mut self, kind: &'static str, is_right: bool) {
        let at = self.kinds.iter().position(|(name, _)| *name == kind).unwrap_or_else(|| {
            self.kinds.push((kind, Tally::default()));
            self.kinds.len() - 1
        });
        let tally = &mut self.kinds[at].1;
        tally.right += usize::from(is_right);
        tally.total += 1;
    }

    /// The mean of the rates of all kinds that were tried, each with the same weight.
    pub fn overall(&self) -> f64 {
        let tried = self.tried();
        tried.iter().map(Tally::rate).sum::<f64>() / tried.len() as f64
    }

    /// A 95 % interval of [`overall`](Scores::overall): Wilson's for as many trials as would give
    /// a plain proportion the variance of the mean, `K² / Σ 1/n_k`; all trials if the `n_k` are
    /// equal.
    pub fn interval(&self) -> (f64, f64) {
        let tried = self.tried();
        let inverse: f64 = tried.iter().map(|tally| 1.0 / tally.total as f64).sum();
        wilson(self.overall(), (tried.len() * tried.len()) as f64 / inverse)
    }

    fn tried(&self) -> Vec<Tally> {
        self.kinds.iter().map(|(_, tally)| *tally).filter(|tally| tally.total > 0).collect()
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent =
            |(low, high): (f64, f64)| format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high);
        for (kind, tally) in self.kinds.iter().filter(|(_, tally)| tally.total > 0) {
            let Tally { right, total } = tally;
            let (rate, interval) = (100.0 * tally.rate(), percent(tally.interval()));
            writeln!(f, "{kind:<14} {rate:5.1} %  ({interval})  {right} of {total}")?;
        }
        write!(
            f,
            "{:<14} {:5.1} %  ({})",
            "overall",
            100.0 * self.overall(),
            percent(self.interval())
        )
    }
}

/// Scores of generated captions.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionScores {
    /// Right ones by kind of scene.
    pub scores: Scores,
    detail: f64,
}

impl CaptionScores {
    /// No captions yet.
    pub fn new() -> CaptionScores {
        CaptionScores { scores: Scores::new(SceneKind::ALL.map(SceneKind::word)), detail: 0.0 }
    }

    /// Judges and counts a caption that was generated for `scene`'s picture.
    pub fn record(&mut self, text: &str, scene: &Scene) -> Result<Caption, Failure> {
        let judged = Caption::judge(text, scene);
        self.scores.record(scene.kind.word(), judged.is_ok());
        self.detail += text.parse().map_or(0.0, |caption: Caption| caption.detail());
        judged
    }

    /// Mean [`Caption::detail`] of all captions, 0 for those that do not parse. The data's own is
    /// 5/8: a captioner that is right because it says less is no better.
    pub fn detail(&self) -> f64 {
        self.detail / self.scores.kinds.iter().map(|(_, tally)| tally.total).sum::<usize>() as f64
    }
}

impl Default for CaptionScores {
    fn default() -> CaptionScores {
        CaptionScores::new()
    }
}
