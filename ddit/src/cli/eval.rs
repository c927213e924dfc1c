//! `ddit eval`: scores on a suite.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ddit::eval::run::{Examined, Subject};
use ddit::eval::{Part, Report, Size, Suite};
use ddit::shapes::Picture;
use ddit::shapes::suite::Tally;
use ddit::train::samples::{sheet, write_png};
use samplers::flow::Guidance;
use serde_json::{Value, json};

use super::model::ModelArgs;
use super::output::Output;
use super::{Outcome, parse};

/// Pictures on the sheet of wrong ones at most, and in a row of it.
const SHEET: [usize; 2] = [96, 12];

/// Score a model on a suite: everything is judged exactly, with 95 % intervals
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to put to the model
    #[arg(value_name = "SUITE")]
    suite: Suite,
    #[command(flatten)]
    model: ModelArgs,
    /// Items of each kind
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse::items)]
    per_kind: usize,
    /// Seed of the set and of the model's samples
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse::seed)]
    seed: u64,
    /// Steps of drawing or writing [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    steps: Option<usize>,
    /// Guidance scale of drawing [default: the model's]
    #[arg(long, value_name = "X", value_parser = parse::scale)]
    cfg: Option<f32>,
    /// Pictures drawn of each prompt, the likeliest of which is kept [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    candidates: Option<usize>,
    /// Write every item to DIR/items.jsonl, and pictures of wrong ones to DIR/wrong.png
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let idle = [("--cfg", args.cfg.is_some()), ("--candidates", args.candidates.is_some())];
    if let Some((name, _)) = idle.iter().find(|(_, is_set)| *is_set)
        && args.suite != Suite::ShapesGeneval
    {
        bail!("{name} would do nothing: this suite has no pictures drawn\n  leave it out");
    }
    let pipeline = args.model.open()?;
    if let Some(out) = &args.out {
        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    }
    let mut subject = Subject::new(&pipeline);
    subject.generate.seed = args.seed;
    subject.write.seed = args.seed;
    if let Some(steps) = args.steps {
        (subject.generate.steps, subject.write.steps) = (steps, steps);
    }
    if let Some(scale) = args.cfg {
        subject.generate.guidance = Guidance::new(scale);
    }
    if let Some(candidates) = args.candidates {
        subject.generate.candidates = candidates;
    }
    let name = args.suite.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
    let size = Size { per_kind: args.per_kind, seed: args.seed };
    let progress = output.progress(&name);
    let examined = subject.examine(args.suite, size, &mut |done, all| progress.set(done, all))?;
    drop(progress);

    print(&name, &args.model.name(), &examined.report, output)?;
    if let Some(out) = &args.out {
        write(&examined, out)?;
    }
    pipeline.refusal().iter().for_each(|why| output.warn(why));
    Ok(Outcome::Done)
}

/// The tables, or a line for every kind and one for their mean.
fn print(suite: &str, model: &str, report: &Report, output: &Output) -> Result<()> {
    output.text(format_args!("{suite}: {model}\n"))?;
    for (name, heading, part) in [
        ("seen", "combinations that occur in training", &report.seen),
        ("novel", "novel: combinations held out of training", &report.novel),
    ] {
        let pictures: usize = part.scores.kinds.iter().map(|(_, tally)| tally.total).sum();
        if pictures == 0 {
            continue;
        }
        output.text(format_args!("{heading}\n{}", part.scores))?;
        if let Some(detail) = part.detail {
            let percent = 100.0 * detail;
            output.text(format_args!("detail: size and colour stated of {percent:.1} %"))?;
        }
        if let Some(messy) = part.messy {
            output.text(format_args!("messy: specks in {messy} of {pictures} pictures"))?;
        }
        output.text("")?;
        if output.is_json() {
            for line in lines(suite, name, part) {
                output.line(line)?;
            }
        }
    }
    Ok(())
}

fn lines(suite: &str, name: &str, part: &Part) -> Vec<Value> {
    let scores = &part.scores;
    let kind = |(kind, tally): &(&str, Tally)| {
        let (low, high) = tally.interval();
        json!({
            "suite": suite, "part": name, "kind": kind, "right": tally.right,
            "total": tally.total, "rate": tally.rate(), "low": low, "high": high,
        })
    };
    let tried = scores.kinds.iter().filter(|(_, tally)| tally.total > 0);
    let mut lines: Vec<Value> = tried.clone().map(kind).collect();
    let (low, high) = scores.interval();
    let sum = |count: fn(&Tally) -> usize| tried.clone().map(|(_, t)| count(t)).sum::<usize>();
    let mut overall = json!({
        "suite": suite, "part": name, "kind": "overall", "right": sum(|tally| tally.right),
        "total": sum(|tally| tally.total), "rate": scores.overall(), "low": low, "high": high,
    });
    if let Some(detail) = part.detail {
        overall["detail"] = json!(detail);
    }
    if let Some(messy) = part.messy {
        overall["messy"] = json!(messy);
    }
    lines.push(overall);
    lines
}

/// Writes every item, and a sheet of the pictures whose items are wrong.
fn write(examined: &Examined, out: &Path) -> Result<()> {
    let mut text = String::new();
    for item in &examined.report.items {
        text += &serde_json::to_string(item)?;
        text.push('\n');
    }
    tensor::io::atomic_write(out.join("items.jsonl"), text)?;
    let items = examined.report.items.iter().zip(&examined.pictures);
    let wrong = items.filter(|(item, _)| item.wrong.is_some()).map(|(_, picture)| picture.clone());
    let [most, columns] = SHEET;
    let wrong: Vec<Picture> = wrong.take(most).collect();
    let path = out.join("wrong.png");
    match wrong.is_empty() {
        // One of an earlier run would be mistaken for this one's.
        true if path.exists() => Ok(fs::remove_file(path)?),
        true => Ok(()),
        false => Ok(write_png(&sheet(&wrong, columns), &path)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_line_for_every_kind_that_was_tried_and_one_for_their_mean() {
        let mut scores = ddit::shapes::suite::Scores::new(["a", "b", "never"]);
        scores.record("a", true);
        scores.record("b", true);
        scores.record("b", false);
        let part = Part { scores, detail: Some(0.5), messy: Some(2) };
        let lines = lines("suite", "seen", &part);
        let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["a", "b", "overall"]);
        assert_eq!((&lines[1]["right"], &lines[1]["rate"]), (&json!(1), &json!(0.5)));
        assert_eq!((&lines[2]["rate"], &lines[2]["total"]), (&json!(0.75), &json!(3)));
        assert!(lines[0].get("detail").is_none() && lines[2]["detail"] == 0.5);
        assert!(lines[0].get("messy").is_none() && lines[2]["messy"] == 2);
        assert!(lines.iter().all(|l| l["low"].as_f64() <= l["rate"].as_f64()));
    }
}
