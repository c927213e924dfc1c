//! `ddit ask`: questions about pictures.

use std::path::PathBuf;

use anyhow::Result;
use ddit::pipeline::Pipeline;
use ddit::shapes::Picture;
use ddit::text::sequence::question_prompt;
use serde_json::json;

use super::caption::show;
use super::model::{ModelArgs, WriteArgs, item_seed, warn_of_texts};
use super::output::Output;
use super::reading::{self, Pictures};
use super::{Outcome, parse};

/// Answer questions about pictures
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A PNG, JPEG or WebP file of any size
    #[arg(value_name = "IMAGE", required_unless_present = "questions", requires = "question")]
    image: Option<PathBuf>,
    /// What to ask about it
    #[arg(value_name = "QUESTION", value_parser = parse::words)]
    question: Option<String>,
    /// Read questions from a file, a line each: IMAGE, a tab character, QUESTION; - is standard
    /// input
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    questions: Option<PathBuf>,
    /// An instruction to put after every question
    #[arg(long, value_name = "TEXT")]
    suffix: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let asked = args.asked()?;
    let pipeline = args.model.open()?;
    let paths = asked.iter().map(|(path, _)| path.as_path());
    let pictures = Pictures::read(&pipeline, paths, args.write.resolution)?;
    let sent: Vec<String> = asked.iter().map(|(_, question)| args.sent(question)).collect();
    let mut options = args.write.options(&pipeline);
    warn(&pipeline, &sent, options.length, output)?;

    let progress = output.progress("answering");
    let items: Vec<(&(PathBuf, String), &String)> = asked.iter().zip(&sent).collect();
    let batches = items.chunks(options.batch);
    let total = batches.len() * options.steps;
    for (number, batch) in batches.enumerate() {
        options.seed = item_seed(args.write.seed, number * options.batch);
        let mut step = |done, _| progress.set(number * options.steps + done, total);
        let questions: Vec<(&Picture, &str)> =
            batch.iter().map(|((path, _), sent)| (pictures.get(path), sent.as_str())).collect();
        let answers = pipeline.ask(&questions, &options, &mut step)?;
        for (((path, question), _), answer) in batch.iter().zip(&answers) {
            let file = path.display().to_string();
            let text = match asked.len() {
                1 => answer.text.clone(),
                _ => format!("{file}: {question} {}", answer.text),
            };
            let record = json!({
                "file": file, "question": question, "answer": answer.text, "seed": answer.seed,
            });
            progress.aside(|| show(&pipeline, answer, options.trace, record, &text, output))?;
        }
    }
    Ok(Outcome::Done)
}

impl Args {
    /// Pictures and questions, in order.
    fn asked(&self) -> Result<Vec<(PathBuf, String)>> {
        match (&self.questions, &self.image, &self.question) {
            (Some(file), _, _) => reading::questions(file),
            (None, Some(image), Some(question)) => Ok(vec![(image.clone(), question.clone())]),
            _ => unreachable!("clap demands a picture and a question, or a file of them"),
        }
    }

    /// A question as the model gets it.
    fn sent(&self, question: &str) -> String {
        match &self.suffix {
            Some(suffix) => format!("{question} {suffix}"),
            None => question.to_owned(),
        }
    }
}

/// Warns of unknown words, and of questions that leave no room for an answer.
fn warn(pipeline: &Pipeline, questions: &[String], length: usize, output: &Output) -> Result<()> {
    let prompts: Vec<String> = questions.iter().map(|question| question_prompt(question)).collect();
    warn_of_texts(pipeline, prompts.iter().map(String::as_str), length, output)
}
