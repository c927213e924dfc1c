//! The suites put to a model.

use tensor::Result;

use super::{Report, Size, Suite, caption, geneval, vqa};
use crate::pipeline::{GenerateOptions, Pipeline, Progress, WriteOptions};
use crate::shapes::Picture;

/// Items of each kind in a [`validate`] score.
const VALIDATION_ITEMS: usize = 8;

/// The seed of validation sets: not that of [`Size::default`], so that no choice made by looking
/// at validation scores favours the evaluation set.
const VALIDATION_SEED: u64 = 1_000_000;

/// A model and how it is to draw and write; item i uses the options' seed plus i.
pub struct Subject<'a> {
    /// The model.
    pub pipeline: &'a Pipeline,
    /// How pictures are drawn.
    pub generate: GenerateOptions,
    /// How texts are written.
    pub write: WriteOptions,
}

/// A report, and the picture of each of its items: those drawn, or those asked about.
pub struct Examined {
    /// Scores and items.
    pub report: Report,
    /// A picture for every item, in the same order.
    pub pictures: Vec<Picture>,
}

impl<'a> Subject<'a> {
    /// The model with the defaults of its folder.
    pub fn new(pipeline: &'a Pipeline) -> Self {
        let (generate, write) = (pipeline.generate_options(), pipeline.write_options());
        Self { pipeline, generate, write }
    }

    /// Puts a suite to the model.
    ///
    /// Errors: those of the pipeline and of `progress`.
    pub fn examine(&self, suite: Suite, size: Size, progress: Progress) -> Result<Examined> {
        let mut pictures = Vec::new();
        let report = match suite {
            Suite::ShapesGeneval => geneval(size, |prompts| {
                let drawn = self.pipeline.generate(prompts, &self.generate, progress)?;
                pictures.extend(drawn.into_iter().map(|drawn| drawn.picture));
                Ok::<_, tensor::Error>(pictures.clone())
            })?,
            Suite::ShapesCaption => caption(size, |shown| {
                pictures.extend_from_slice(shown);
                let shown: Vec<&Picture> = shown.iter().collect();
                let written = self.pipeline.caption(&shown, &self.write, progress)?;
                Ok::<_, tensor::Error>(written.into_iter().map(|written| written.text).collect())
            })?,
            Suite::ShapesVqa => vqa(size, |asked| {
                pictures.extend(asked.iter().map(|(picture, _)| picture.clone()));
                let asked: Vec<(&Picture, &str)> =
                    asked.iter().map(|(picture, question)| (picture, question.as_str())).collect();
                let answers = self.pipeline.ask(&asked, &self.write, progress)?;
                Ok::<_, tensor::Error>(answers.into_iter().map(|answer| answer.text).collect())
            })?,
        };
        Ok(Examined { report, pictures })
    }
}

/// Scores of a model under training, by name, on small sets of their own: pictures, captions and,
/// if it has learnt to answer them, `questions`.
///
/// Errors: those of the pipeline and of `progress`.
pub fn validate(
    pipeline: &Pipeline,
    questions: bool,
    progress: Progress,
) -> Result<Vec<(String, f64)>> {
    let subject = Subject::new(pipeline);
    let size = Size { per_kind: VALIDATION_ITEMS, seed: VALIDATION_SEED };
    let mut scores = Vec::new();
    for (suite, name) in [
        (Suite::ShapesGeneval, "geneval"),
        (Suite::ShapesCaption, "caption"),
        (Suite::ShapesVqa, "vqa"),
    ] {
        if suite == Suite::ShapesVqa && !questions {
            continue;
        }
        let report = subject.examine(suite, size, progress)?.report;
        scores.push((name.to_owned(), report.seen.scores.overall()));
        scores.push((format!("{name}_novel"), report.novel.scores.overall()));
        scores.extend(report.seen.detail.map(|detail| (format!("{name}_detail"), detail)));
    }
    Ok(scores)
}
