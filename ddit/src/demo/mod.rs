//! A demonstration: the model draws, tells what it drew, answers and captions, and every bit of
//! it is judged exactly.
//!
//! | file | what it does |
//! |---|---|
//! | [`run`] | draws, asks, and gathers a [`page::Page`] |
//! | [`page`] | the page as one HTML file |
//! | [`unmasking`] | a text on its way from masks to words |

pub mod page;
pub mod unmasking;

use tensor::Result;
use tensor::rng::Rng;

use crate::eval::describe;
use crate::pipeline::{Generated, Pipeline};
use crate::shapes::suite::{Prompt, PromptKind, prompts};
use crate::shapes::{
    Caption, Picture, Placement, Pool, Question, QuestionKind, Scene, SceneKind, look, verdict,
};
use crate::train::samples::png;
use page::{Answered, Dialogue, Drawn, Page, Unmasking};
use unmasking::words;

/// The stream of the generator that the demonstration's scenes and prompts are drawn from.
const DEMONSTRATION: u64 = 0x6465_6d6f;

/// Steps of a picture's making that are shown at most.
const FRAMES: usize = 10;

/// Questions about each picture that was drawn.
const QUESTIONS: usize = 2;

/// What a demonstration shows.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pictures of each of the six kinds of prompt.
    pub per_kind: usize,
    /// Seed of prompts, scenes and samples.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { per_kind: 4, seed: 0 }
    }
}

/// Called as the demonstration goes along: what is being done, steps done, steps of it in all. An
/// error of its ends it.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize) -> Result<()>;

/// A question about the picture of that number, and the right answer.
type Asked = (usize, String, &'static str);

/// A model being demonstrated.
struct Demonstration<'a> {
    pipeline: &'a Pipeline,
    options: Options,
}

/// Puts the model through everything it can do.
///
/// Errors: those of the pipeline.
pub fn run(pipeline: &Pipeline, options: Options, progress: Progress) -> Result<Page> {
    let show = Demonstration { pipeline, options };
    let rng = &mut Rng::new(options.seed).stream(DEMONSTRATION);
    let drawn = show.draw(rng, progress)?;
    Ok(Page {
        model: String::new(),
        run: String::new(),
        dialogues: show.converse(rng, progress)?,
        unmasking: show.unmask(rng, progress)?,
        drawn,
    })
}

impl Demonstration<'_> {
    /// Pictures of prompts of every kind, the model's own captions of them, and its answers to
    /// questions about them.
    fn draw(&self, rng: &mut Rng, progress: Progress) -> Result<Vec<Drawn>> {
        let Options { per_kind, seed } = self.options;
        let prompts: Vec<_> = PromptKind::ALL
            .into_iter()
            .flat_map(|kind| prompts(kind, Pool::Seen, per_kind, rng))
            .collect();
        let texts: Vec<String> = prompts.iter().map(|prompt| prompt.demand.to_string()).collect();
        let mut options = self.pipeline.generate_options();
        (options.seed, options.trace) = (seed, true);
        let drawn = self.pipeline.generate(&texts, &options, &mut |done, all| {
            progress("drawing pictures of sentences", done, all)
        })?;
        let mut options = self.pipeline.write_options();
        options.seed = seed;
        let pictures: Vec<&Picture> = drawn.iter().map(|drawn| &drawn.picture).collect();
        let captions = self.pipeline.caption(&pictures, &options, &mut |done, all| {
            progress("captioning its own pictures", done, all)
        })?;
        let asked = questions_about(&pictures, rng);
        let answers = self.ask(&pictures, &asked, "asking about its own pictures", progress)?;
        let items = prompts.iter().zip(&drawn).zip(&captions).zip(answers);
        let judged = items.map(|(((prompt, drawn), caption), turns)| Drawn {
            frames: frames(drawn),
            turns,
            ..judge(prompt, drawn, &caption.text)
        });
        Ok(judged.collect())
    }

    /// A scene of every kind, and a question of every kind that can be asked of it.
    fn converse(&self, rng: &mut Rng, progress: Progress) -> Result<Vec<Dialogue>> {
        let scenes = SceneKind::ALL.map(|kind| Scene::of_kind(kind, Pool::Seen, rng));
        let pictures = scenes.each_ref().map(Scene::draw);
        let mut asked: Vec<Asked> = Vec::new();
        for (i, scene) in scenes.iter().enumerate() {
            for kind in QuestionKind::ALL {
                if let Some(question) = Question::of_kind(kind, scene, rng)
                    && let Some(right) = question.answer(scene)
                {
                    asked.push((i, question.to_string(), right));
                }
            }
        }
        let pictures = pictures.each_ref();
        let turns = self.ask(&pictures, &asked, "asking about scenes", progress)?;
        let dialogue = |(picture, turns)| Dialogue { png: png(picture), turns };
        Ok(pictures.into_iter().zip(turns).map(dialogue).collect())
    }

    /// The model's answers, together for each picture.
    fn ask(
        &self,
        pictures: &[&Picture],
        asked: &[Asked],
        what: &str,
        progress: Progress,
    ) -> Result<Vec<Vec<Answered>>> {
        let mut options = self.pipeline.write_options();
        options.seed = self.options.seed;
        let questions: Vec<(&Picture, &str)> =
            asked.iter().map(|(i, question, _)| (pictures[*i], question.as_str())).collect();
        let answers =
            self.pipeline.ask(&questions, &options, &mut |done, all| progress(what, done, all))?;
        let mut turns: Vec<Vec<Answered>> = pictures.iter().map(|_| Vec::new()).collect();
        for ((i, question, right), answer) in asked.iter().zip(answers) {
            let (question, right) = (question.clone(), (*right).to_owned());
            turns[*i].push(Answered { question, answer: answer.text, right });
        }
        Ok(turns)
    }

    /// A caption of a scene, with the tokens after every step.
    fn unmask(&self, rng: &mut Rng, progress: Progress) -> Result<Unmasking> {
        let picture = Scene::of_kind(SceneKind::Place, Pool::Seen, rng).draw();
        let mut options = self.pipeline.write_options();
        (options.seed, options.trace) = (self.options.seed, true);
        let written = self.pipeline.caption(&[&picture], &options, &mut |done, all| {
            progress("unmasking a caption", done, all)
        })?;
        let mut steps = Vec::new();
        for written in &written {
            // Counted as steps that are done: before the first, there is nothing but masks.
            let revealed = words(self.pipeline.tokenizer(), written)?;
            steps.extend(revealed.first().map(|(_, tokens)| (0, vec![None; tokens.len()])));
            steps.extend(revealed.into_iter().map(|(step, tokens)| (step + 1, tokens)));
        }
        Ok(Unmasking { png: png(&picture), steps })
    }
}

/// Two questions about each picture in which the judge knows every object, of kinds that take
/// turns. The right answers are those that the pixels give, whatever was to be drawn.
fn questions_about(pictures: &[&Picture], rng: &mut Rng) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (i, picture) in pictures.iter().enumerate() {
        let Some(scene) = look(picture).scene() else { continue };
        let kinds = QuestionKind::ALL.into_iter().cycle().skip(i).take(QuestionKind::ALL.len());
        let questions = kinds.filter_map(|kind| {
            let question = Question::of_kind(kind, &scene, rng)?;
            Some((i, question.to_string(), question.answer(&scene)?))
        });
        asked.extend(questions.take(QUESTIONS));
    }
    asked
}

/// What some steps expected the picture to be, evenly spaced, the last one among them.
fn frames(drawn: &Generated) -> Vec<(f32, Vec<u8>)> {
    let apart = drawn.trace.len().div_ceil(FRAMES).max(1);
    let shown = drawn.trace.iter().rev().step_by(apart).rev();
    shown.map(|step| (step.sigma, png(&step.estimate))).collect()
}

/// A picture, what the judge says of it, and what it says of the model's caption of it.
fn judge(prompt: &Prompt, drawn: &Generated, caption: &str) -> Drawn {
    let objects = look(&drawn.picture).objects;
    let parsed = caption.parse::<Caption>().map_err(|error| error.to_string());
    let told = parsed.and_then(|caption| {
        caption.check(&objects, Placement::JUDGED).map_err(|failure| failure.to_string())
    });
    Drawn {
        kind: prompt.kind.word(),
        prompt: prompt.demand.to_string(),
        seed: drawn.seed,
        png: png(&drawn.picture),
        frames: Vec::new(),
        sees: describe(&objects),
        wrong: verdict(&drawn.picture, &prompt.demand).err().map(|failure| failure.to_string()),
        caption: caption.to_owned(),
        caption_wrong: told.err(),
        turns: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::suite;

    #[test]
    fn pictures_and_captions_are_judged_apart() {
        let scene = Scene::of_kind(SceneKind::One, Pool::Seen, &mut Rng::new(3));
        let object = scene.objects[0];
        let prompts = suite::prompts(PromptKind::SingleObject, Pool::Seen, 3, &mut Rng::new(0));
        let (picture, trace) = (scene.draw(), Vec::new());
        let drawn = Generated { picture, seed: 5, candidate: 0, judgement: None, trace };
        for prompt in &prompts {
            let is_right = prompt.demand.to_string() == format!("a {}", object.form);
            let judged = judge(prompt, &drawn, "a hat");
            assert_eq!((judged.wrong.is_none(), judged.seed), (is_right, 5));
            assert!(judged.caption_wrong.is_some_and(|why| why.contains("hat")));
            let caption = format!("a {} {}", object.colour, object.form);
            assert_eq!(judge(prompt, &drawn, &caption).caption_wrong, None);
        }
        assert!(judge(&prompts[0], &drawn, "a circle").sees.contains(object.form.word()));
    }

    #[test]
    fn questions_are_about_what_was_drawn_and_not_what_was_asked_for() {
        let rng = &mut Rng::new(4);
        // Not of kind two: the judge takes these for clearly placed where they are.
        let kinds = [SceneKind::One, SceneKind::Count, SceneKind::Place].into_iter().cycle();
        let scene = |kind| Scene::of_kind(kind, Pool::Seen, rng);
        let scenes: Vec<Scene> = kinds.take(21).map(scene).collect();
        let mut pictures: Vec<Picture> = scenes.iter().map(Scene::draw).collect();
        pictures.push(Picture::filled(64, 64, [0; 3]));
        let asked = questions_about(&pictures.iter().collect::<Vec<_>>(), rng);
        assert_eq!(asked.len(), QUESTIONS * scenes.len());
        for (i, question, right) in asked {
            let answered = QuestionKind::ALL.into_iter().any(|kind| {
                (0..1000).any(|_| {
                    Question::of_kind(kind, &scenes[i], rng).is_some_and(|known| {
                        known.to_string() == question && known.answer(&scenes[i]) == Some(right)
                    })
                })
            });
            assert!(answered, "{question} {right} {:?}", scenes[i]);
        }
    }
}
