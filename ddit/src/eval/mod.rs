//! Evaluation on the shapes world: three suites, scored exactly, with intervals.
//!
//! | suite | asks | counts |
//! |---|---|---|
//! | `shapes-geneval` | draw a prompt, six kinds in GenEval's terms | pictures that show it |
//! | `shapes-caption` | caption a scene, four kinds | captions true in every part |
//! | `shapes-vqa` | answer a question by infilling, five kinds | the one right word |
//!
//! Each suite has a `seen` part, whose combinations of colour and form occur in training, and a
//! `novel` part, whose combinations never did. Sets are drawn from streams of their own, so no
//! evaluation scene is a training scene. The model enters as a closure; [`run`] has one that puts
//! the suites to a [`Pipeline`](crate::pipeline::Pipeline).
//!
//! [`reconstruction`] scores autoencoders, as they are trained.
//! [`agreement`] and [`cider`] are the scores that published tables use on answers and captions.

pub mod agreement;
pub mod cider;
pub mod reconstruction;
pub mod run;

use serde::Serialize;
use tensor::rng::Rng;

use crate::shapes::suite::{
    Asked, CaptionScores, Prompt, PromptKind, Scores, prompts, questions, scenes,
};
use crate::shapes::{Picture, Pool, QuestionKind, Scene, Seen, look, verdict};

/// The stream of the generator that evaluation sets are drawn from; training uses others.
const EVALUATION: u64 = 0x6576_616c;

/// A suite, by the name that the command line gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// Pictures drawn from prompts.
    ShapesGeneval,
    /// Captions of pictures.
    ShapesCaption,
    /// Answers to questions about pictures.
    ShapesVqa,
}

/// How large the sets are, and which.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Items of each kind, in the seen part and in the novel part alike.
    pub per_kind: usize,
    /// Which set: another seed is another draw of the same kinds.
    pub seed: u64,
}

impl Default for Size {
    fn default() -> Size {
        Size { per_kind: 100, seed: 0 }
    }
}

/// What became of one item.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// The kind within the suite.
    pub kind: &'static str,
    /// Whether its combinations never occur in training.
    pub novel: bool,
    /// What was asked: a prompt, a true caption, a question.
    pub asked: String,
    /// What came: what the judge sees, a caption, an answer.
    pub came: String,
    /// Why it is wrong; `None` if it is right.
    pub wrong: Option<String>,
}

/// What became of one part of a suite.
#[derive(Clone, Debug)]
pub struct Part {
    /// Scores by kind.
    pub scores: Scores,
    /// Share of caption objects with size and colour stated; captions only.
    pub detail: Option<f64>,
    /// Pictures with specks besides their objects; prompts only.
    pub messy: Option<usize>,
}

/// A suite's scores and every item behind them.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seen part.
    pub seen: Part,
    /// The novel part.
    pub novel: Part,
    /// Every item, seen part first.
    pub items: Vec<Item>,
}

impl Report {
    fn new(seen: Scores, novel: Scores) -> Report {
        let part = |scores| Part { scores, detail: None, messy: None };
        Report { seen: part(seen), novel: part(novel), items: Vec::new() }
    }

    fn record(&mut self, item: Item) {
        let part = if item.novel { &mut self.novel } else { &mut self.seen };
        part.scores.record(item.kind, item.wrong.is_none());
        self.items.push(item);
    }
}

fn rng(size: Size, part: Pool) -> Rng {
    Rng::new(size.seed).stream(EVALUATION + part as u64)
}

/// Prompts of all six kinds, drawn by `draw` all at once, judged from their pixels.
///
/// Errors: those of `draw`.
pub fn geneval<E>(
    size: Size,
    draw: impl FnOnce(&[String]) -> Result<Vec<Picture>, E>,
) -> Result<Report, E> {
    let mut set: Vec<(Pool, Prompt)> = Vec::new();
    for part in Pool::ALL {
        let mut rng = rng(size, part);
        for kind in PromptKind::ALL {
            set.extend(prompts(kind, part, size.per_kind, &mut rng).into_iter().map(|p| (part, p)));
        }
    }
    let texts: Vec<String> = set.iter().map(|(_, prompt)| prompt.demand.to_string()).collect();
    let pictures = draw(&texts)?;
    let mut report = Report::new(Scores::of_prompts(), Scores::new([]));
    let mut messy = [0; 2];
    for (((part, prompt), asked), picture) in set.iter().zip(texts).zip(&pictures) {
        let sight = look(picture);
        messy[*part as usize] += usize::from(sight.is_messy());
        report.record(Item {
            kind: prompt.kind.word(),
            novel: *part == Pool::Novel,
            asked,
            came: describe(&sight.objects),
            wrong: verdict(picture, &prompt.demand).err().map(|failure| failure.to_string()),
        });
    }
    [report.seen.messy, report.novel.messy] = messy.map(Some);
    Ok(report)
}

/// What is seen, in words: `large red circle at (20.1, 30.5), …`; `?` for what is not known.
pub fn describe(objects: &[Seen]) -> String {
    let one = |object: &Seen| {
        let colour = object.colour.map_or("?", |colour| colour.word());
        let (size, form) = object.shape.map_or(("?", "?"), |(f, s)| (s.word(), f.word()));
        format!("{size} {colour} {form} at {}", object.centre)
    };
    match objects {
        [] => "nothing".to_owned(),
        objects => objects.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

/// Scenes of all four kinds, captioned by `caption` all at once.
///
/// Errors: those of `caption`.
pub fn caption<E>(
    size: Size,
    caption: impl FnOnce(&[Picture]) -> Result<Vec<String>, E>,
) -> Result<Report, E> {
    let mut set: Vec<(Pool, Scene)> = Vec::new();
    for part in Pool::ALL {
        let n = 4 * size.per_kind;
        set.extend(scenes(part, n, &mut rng(size, part)).into_iter().map(|scene| (part, scene)));
    }
    let pictures: Vec<Picture> = set.iter().map(|(_, scene)| scene.draw()).collect();
    let texts = caption(&pictures)?;
    let mut parts = Pool::ALL.map(|_| CaptionScores::new());
    let mut items = Vec::new();
    for ((part, scene), came) in set.iter().zip(texts) {
        let judged = parts[*part as usize].record(&came, scene);
        items.push(Item {
            kind: scene.kind.word(),
            novel: *part == Pool::Novel,
            asked: describe(&scene.seen()),
            came,
            wrong: judged.err().map(|failure| failure.to_string()),
        });
    }
    let [seen, novel] = parts.map(|scores| {
        let detail = Some(scores.detail());
        Part { scores: scores.scores, detail, messy: None }
    });
    Ok(Report { seen, novel, items })
}

/// Questions of all five kinds, answered by `answer` all at once from pictures and questions.
///
/// Errors: those of `answer`.
pub fn vqa<E>(
    size: Size,
    answer: impl FnOnce(&[(Picture, String)]) -> Result<Vec<String>, E>,
) -> Result<Report, E> {
    let mut set: Vec<(Pool, Asked)> = Vec::new();
    for part in Pool::ALL {
        let mut rng = rng(size, part);
        for kind in QuestionKind::ALL {
            let asked = questions(kind, part, size.per_kind, &mut rng);
            set.extend(asked.into_iter().map(|asked| (part, asked)));
        }
    }
    let asked: Vec<(Picture, String)> =
        set.iter().map(|(_, a)| (a.scene.draw(), a.question.to_string())).collect();
    let answers = answer(&asked)?;
    let mut report = Report::new(Scores::of_questions(), Scores::new([]));
    for (((part, item), (_, question)), came) in set.iter().zip(asked).zip(answers) {
        let is_right = came.trim() == item.answer;
        report.record(Item {
            kind: item.question.kind().word(),
            novel: *part == Pool::Novel,
            asked: question,
            came,
            wrong: (!is_right).then(|| format!("the answer is {}", item.answer)),
        });
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::shapes::Caption;

    const SMALL: Size = Size { per_kind: 12, seed: 5 };

    /// An oracle that draws a scene of which the prompt is true gets everything right.
    #[test]
    fn a_perfect_painter_scores_one_and_a_blank_one_nothing() {
        let mut rng = Rng::new(1);
        let scenes: Vec<Scene> = (0..60_000)
            .map(|i| Scene::from_pool(if i % 3 == 0 { Pool::Novel } else { Pool::Seen }, &mut rng))
            .collect();
        let perfect = |texts: &[String]| {
            let paint = |text: &String| {
                let scene = scenes.iter().find(|s| Caption::judge(text, s).is_ok());
                scene.unwrap_or_else(|| panic!("no scene for {text}")).draw()
            };
            Ok::<_, Infallible>(texts.iter().map(paint).collect())
        };
        let report = geneval(SMALL, perfect).unwrap();
        for part in [&report.seen, &report.novel] {
            assert_eq!((part.scores.overall(), part.messy), (1.0, Some(0)));
        }
        assert_eq!(report.items.len(), 12 * 6 + 12 * 2);
        let blank = |texts: &[String]| {
            Ok::<_, Infallible>(vec![Picture::filled(64, 64, [235; 3]); texts.len()])
        };
        let report = geneval(SMALL, blank).unwrap();
        assert_eq!((report.seen.scores.overall(), report.seen.scores.interval().0), (0.0, 0.0));
        // A speck of colour, and nothing else.
        let mut speck = Picture::filled(64, 64, [235; 3]);
        (0..10).for_each(|x| speck.set_pixel(20 + x, 30, [220, 40, 40]));
        let specks = |texts: &[String]| Ok::<_, Infallible>(vec![speck.clone(); texts.len()]);
        let report = geneval(SMALL, specks).unwrap();
        assert_eq!([report.seen.messy, report.novel.messy], [Some(12 * 6), Some(12 * 2)]);
    }

    #[test]
    fn constant_answers_score_chance() {
        let yes =
            |asked: &[(Picture, String)]| Ok::<_, Infallible>(vec!["yes".into(); asked.len()]);
        let report = vqa(SMALL, yes).unwrap();
        assert_eq!(report.seen.scores.overall(), 0.5 / 5.0);
        let silent = |p: &[Picture]| Ok::<_, Infallible>(vec![String::new(); p.len()]);
        let report = caption(SMALL, silent).unwrap();
        for part in [&report.seen, &report.novel] {
            assert_eq!((part.scores.overall(), part.detail), (0.0, Some(0.0)));
        }
        assert!(report.items.iter().any(|item| item.novel));
    }
}
