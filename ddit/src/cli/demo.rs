//! `ddit demo`: everything the model can do, judged, on one page.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use ddit::demo::page::{Answered, Drawn, Page};
use ddit::demo::{self, Options};
use ddit::pipeline::Pipeline;
use kernels::par;
use serde_json::{Value, json};

use super::model::ModelArgs;
use super::output::Output;
use super::{Outcome, parse, unmasking};

/// Show what the model can do: it draws, captions and answers, and all of it is judged exactly
///
/// Writes DIR/index.html, which holds every picture and needs nothing else.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the page goes
    #[arg(short, long, value_name = "DIR", default_value = "ddit-demo")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Seed of prompts, scenes and samples
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse::seed)]
    seed: u64,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let begun = Instant::now();
    let created = fs::create_dir_all(&args.out);
    created.with_context(|| format!("cannot create {}", args.out.display()))?;
    let pipeline = args.model.open()?;
    let progress = output.progress("");
    let options = Options { seed: args.seed, ..Options::default() };
    let mut stage = String::new();
    let mut page = demo::run(&pipeline, options, &mut |what, done, all| {
        if what != stage {
            what.clone_into(&mut stage);
            progress.stage(what);
        }
        progress.set(done, all)
    })?;
    drop(progress);
    pipeline.refusal().iter().for_each(|why| output.warn(why));
    page.model = describe(&args.model, &pipeline);
    page.run = format!("{:.1} s on {} threads", begun.elapsed().as_secs_f64(), par::threads());
    let path = args.out.join("index.html");
    tensor::io::atomic_write(&path, page.to_html())?;

    print(&page, output)?;
    let record = || json!({ "page": path.display().to_string(), "model": page.model });
    output.result(record, format_args!("{}\n{}", page.run, path.display()))?;
    Ok(Outcome::Done)
}

/// The model in a line.
fn describe(model: &ModelArgs, pipeline: &Pipeline) -> String {
    let folder = pipeline.folder();
    let vae = folder.vae.as_ref().map_or(&[][..], |vae| &vae.weights);
    let numbers = folder.transformer.weights.iter().chain(vae).map(|(_, tensor)| tensor.numel());
    let millions = numbers.sum::<usize>() as f64 / 1e6;
    format!("{}, {millions:.1} million numbers", model.name())
}

/// The page for a terminal, or a line for every picture and every answer.
fn print(page: &Page, output: &Output) -> Result<()> {
    output
        .text(format_args!("{}\n\nPictures of sentences, and questions about them", page.model))?;
    for drawn in &page.drawn {
        let record = || {
            json!({
                "kind": drawn.kind, "prompt": drawn.prompt, "seed": drawn.seed,
                "sees": drawn.sees, "wrong": drawn.wrong,
                "caption": drawn.caption, "caption_wrong": drawn.caption_wrong,
            })
        };
        output.result(record, picture_line(drawn))?;
        print_turns(&drawn.turns, json!(drawn.seed), output)?;
    }
    output.text("\nQuestions about other scenes")?;
    for dialogue in &page.dialogues {
        print_turns(&dialogue.turns, Value::Null, output)?;
    }
    output.text("\nA caption, token by token")?;
    output.text(unmasking::columns(&page.unmasking.steps))?;
    for (what, right, total) in page.scores() {
        output.text(format_args!("{right} of {total} {what}"))?;
    }
    output.text("")
}

/// Answers about a picture, and the seed that it was drawn with, if it was.
fn print_turns(turns: &[Answered], seed: Value, output: &Output) -> Result<()> {
    for turn in turns {
        let Answered { question, answer, right } = turn;
        let record =
            || json!({ "question": question, "answer": answer, "right": right, "seed": seed });
        output.result(record, answer_line(turn))?;
    }
    Ok(())
}

/// `✓ a red circle                     ✓ a large red circle`
fn picture_line(drawn: &Drawn) -> String {
    let Drawn { prompt, caption, .. } = drawn;
    let (shows, tells) = (mark(drawn.wrong.is_none()), mark(drawn.caption_wrong.is_none()));
    let why = drawn.wrong.as_ref().map_or(String::new(), |why| format!("  ({why})"));
    format!("  {shows} {prompt:<42}  captioned {tells} {caption}{why}")
}

fn answer_line(turn: &Answered) -> String {
    let Answered { question, answer, right } = turn;
    let correction = if turn.is_right() { String::new() } else { format!("  (it is {right})") };
    format!("      {} {question:<38}  {answer}{correction}", mark(turn.is_right()))
}

fn mark(is_right: bool) -> char {
    if is_right { '✓' } else { '✗' }
}
