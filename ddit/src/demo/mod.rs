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
use crate::pipeline::{FlowTrace, Generated, Pipeline};
use crate::shapes::suite::{Prompt, PromptKind, prompts};
use crate::shapes::{
    Caption, Picture, Placement, Pool, Question, QuestionKind, Scene, SceneKind, look, verdict,
};
use crate::train::samples::png;
use page::{Answered, Denoising, Dialogue, Drawn, Page, Unmasking};
use unmasking::words;

/// The stream of the generator that the demonstration's scenes and prompts are drawn from.
const DEMONSTRATION: u64 = 0x6465_6d6f;

/// Steps of a picture being denoised that are shown at most.
const FRAMES: usize = 10;

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

/// Called as the demonstration goes along: what is being done, steps done, steps of it in all.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

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
        denoising: show.denoise(&drawn, progress)?,
        dialogues: show.converse(rng, progress)?,
        unmasking: show.unmask(rng, progress)?,
        drawn,
    })
}

impl Demonstration<'_> {
    /// Pictures of prompts of every kind, and the model's own captions of them.
    fn draw(&self, rng: &mut Rng, progress: Progress) -> Result<Vec<Drawn>> {
        let Options { per_kind, seed } = self.options;
        let prompts: Vec<_> = PromptKind::ALL
            .into_iter()
            .flat_map(|kind| prompts(kind, Pool::Seen, per_kind, rng))
            .collect();
        let texts: Vec<String> = prompts.iter().map(|prompt| prompt.demand.to_string()).collect();
        let mut options = self.pipeline.generate_options();
        options.seed = seed;
        let drawn = self.pipeline.generate(&texts, &options, &mut |done, all| {
            progress("drawing pictures of sentences", done, all);
        })?;
        let mut options = self.pipeline.write_options();
        options.seed = seed;
        let pictures: Vec<&Picture> = drawn.iter().map(|drawn| &drawn.picture).collect();
        let captions = self.pipeline.caption(&pictures, &options, &mut |done, all| {
            progress("captioning its own pictures", done, all);
        })?;
        let items = prompts.iter().zip(&drawn).zip(&captions);
        Ok(items.map(|((prompt, drawn), caption)| judge(prompt, drawn, &caption.text)).collect())
    }

    /// One of the pictures once more, with what each step expected it to be.
    fn denoise(&self, drawn: &[Drawn], progress: Progress) -> Result<Denoising> {
        // The last kind names two objects with their colours: there is most to be seen.
        let Some(last) = drawn.last() else {
            return Ok(Denoising { prompt: String::new(), frames: Vec::new() });
        };
        let mut options = self.pipeline.generate_options();
        (options.seed, options.trace) = (last.seed, true);
        let traced = self.pipeline.generate(&[&last.prompt], &options, &mut |done, all| {
            progress("drawing one of them step by step", done, all);
        })?;
        let steps: Vec<&FlowTrace> = traced.iter().flat_map(|drawn| &drawn.trace).collect();
        // Evenly spaced, the last one always among them.
        let apart = steps.len().div_ceil(FRAMES).max(1);
        let shown = steps.iter().rev().step_by(apart).rev();
        let frames = shown.map(|step| (step.sigma, png(&step.estimate))).collect();
        Ok(Denoising { prompt: last.prompt.clone(), frames })
    }

    /// A scene of every kind, and a question of every kind that can be asked of it.
    fn converse(&self, rng: &mut Rng, progress: Progress) -> Result<Vec<Dialogue>> {
        let scenes = SceneKind::ALL.map(|kind| Scene::of_kind(kind, Pool::Seen, rng));
        let pictures = scenes.each_ref().map(Scene::draw);
        let mut asked: Vec<(usize, String, &str)> = Vec::new();
        for (i, scene) in scenes.iter().enumerate() {
            for kind in QuestionKind::ALL {
                if let Some(question) = Question::of_kind(kind, scene, rng)
                    && let Some(right) = question.answer(scene)
                {
                    asked.push((i, question.to_string(), right));
                }
            }
        }
        let mut options = self.pipeline.write_options();
        options.seed = self.options.seed;
        let questions: Vec<(&Picture, &str)> =
            asked.iter().map(|(i, question, _)| (&pictures[*i], question.as_str())).collect();
        let answers = self.pipeline.ask(&questions, &options, &mut |done, all| {
            progress("answering questions", done, all);
        })?;
        let mut dialogues: Vec<Dialogue> =
            pictures.iter().map(|picture| Dialogue { png: png(picture), turns: vec![] }).collect();
        for ((i, question, right), answer) in asked.iter().zip(answers) {
            dialogues[*i].turns.push(Answered {
                question: question.clone(),
                answer: answer.text,
                right: (*right).to_owned(),
            });
        }
        Ok(dialogues)
    }

    /// A caption of a scene, with the tokens after every step.
    fn unmask(&self, rng: &mut Rng, progress: Progress) -> Result<Unmasking> {
        let picture = Scene::of_kind(SceneKind::Place, Pool::Seen, rng).draw();
        let mut options = self.pipeline.write_options();
        (options.seed, options.trace) = (self.options.seed, true);
        let written = self.pipeline.caption(&[&picture], &options, &mut |done, all| {
            progress("unmasking a caption", done, all);
        })?;
        let mut steps = Vec::new();
        for written in &written {
            steps = words(self.pipeline.tokenizer(), written)?;
            // Before the first step, a caption is nothing but masks.
            let masks = steps.first().map(|tokens| vec![None; tokens.len()]);
            steps.splice(0..0, masks);
        }
        Ok(Unmasking { png: png(&picture), steps })
    }
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
        sees: describe(&objects),
        wrong: verdict(&drawn.picture, &prompt.demand).err().map(|failure| failure.to_string()),
        caption: caption.to_owned(),
        caption_wrong: told.err(),
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
        let drawn = Generated { picture: scene.draw(), seed: 5, trace: Vec::new() };
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
}
