//! `ddit generate`: pictures of prompts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ddit::pipeline::{GenerateOptions, Generated, Pipeline};
use ddit::shapes::Picture;
use ddit::train::samples::{sheet, write_png};
use samplers::flow::{Guidance, Solver};
use serde_json::{Value, json};

use super::model::{ModelArgs, item_seed, warn_of_texts};
use super::output::Output;
use super::{Outcome, parse, reading};

/// Pictures in a row of a `--trace` strip.
const STRIP: usize = 10;

/// Draw a picture of each prompt
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to draw, one picture each
    #[arg(value_name = "PROMPT", required_unless_present = "prompts", value_parser = parse::words)]
    prompt: Vec<String>,
    /// Read prompts from a file, one a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Where pictures go: FILE.png for one picture, or a folder for 000.png, 001.png, ...
    /// [default: here, under the first numbers that are free]
    #[arg(short, long, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    /// Steps from noise to picture [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    steps: Option<usize>,
    /// Guidance scale: how closely prompts are followed; 1 is no guidance [default: the model's]
    #[arg(long, value_name = "X", value_parser = parse::scale)]
    cfg: Option<f32>,
    /// Draw so many pictures of each prompt and keep the best in the model's own judgement; with as
    /// many, its seed gives it again [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    candidates: Option<usize>,
    /// Shift of the noise levels towards noise; 1 leaves them alone [default: the model's]
    #[arg(long, value_name = "X", value_parser = parse::shift)]
    shift: Option<f64>,
    /// What guidance leads away from
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative: String,
    /// Tokens of a prompt, padding included [default: the model's]
    #[arg(long, value_name = "N", value_parser = parse::tokens)]
    prompt_length: Option<usize>,
    /// Seed of the first picture; picture i has this plus i
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse::seed)]
    seed: u64,
    /// Size in pixels, as in 64x64 [default: the model's]
    #[arg(long, value_name = "WxH", value_parser = parse::size)]
    size: Option<[usize; 2]>,
    /// How steps are taken
    #[arg(long, value_name = "NAME", value_parser = parse::solver(), default_value = "euler")]
    sampler: Solver,
    /// Decode pictures by overlapping tiles of so many pixels a side: bounds memory; not quite the
    /// same picture
    #[arg(long, value_name = "N", value_parser = parse::positive)]
    tile: Option<usize>,
    /// Write what each step expects the picture to be: NNN.trace.png, and NNN.trace.json about it
    #[arg(long)]
    trace: bool,
}

/// Where pictures go.
#[derive(Debug, PartialEq)]
enum Destination {
    File(PathBuf),
    /// A folder, and the number of the first picture there.
    Folder(PathBuf, usize),
}

pub fn run(args: &Args, output: &Output) -> Result<Outcome> {
    let prompts = args.prompts()?;
    let destination = match &args.out {
        Some(out) => Destination::new(out, prompts.len())?,
        None => Destination::free(Path::new(""), prompts.len()),
    };
    let pipeline = args.model.open()?;
    let mut options = args.options(&pipeline);
    let texts = prompts.iter().chain([&args.negative]).map(String::as_str);
    warn_of_texts(&pipeline, texts, options.prompt_length, output)?;
    destination.create()?;

    let progress = output.progress("drawing");
    let batches = prompts.chunks(options.batch);
    let batches_in_all = batches.len();
    for (number, batch) in batches.enumerate() {
        let first = number * options.batch;
        options.seed = item_seed(args.seed, first);
        let mut step = |done, all| progress.set(number * all + done, batches_in_all * all);
        let drawn = pipeline.generate(batch, &options, &mut step)?;
        for (i, (prompt, drawn)) in batch.iter().zip(&drawn).enumerate() {
            let file = destination.path(first + i);
            write_png(&drawn.picture, &file)?;
            let mut record = json!({
                "prompt": prompt, "file": file.display().to_string(), "seed": drawn.seed,
            });
            let mut which = format!("seed {}", drawn.seed);
            if let Some(judgement) = &drawn.judgement {
                let number = drawn.candidate + 1;
                record["candidate"] = json!(number);
                record["likelihood"] = json!(judgement.likelihood);
                record["caption"] = json!(judgement.caption);
                record["caption_likelihood"] = json!(judgement.caption_likelihood);
                which += &format!(", candidate {number} of {}", options.candidates);
            }
            if args.trace {
                record["trace"] = json!(write_trace(&file, prompt, drawn)?);
            }
            let text = format!("{}  {which}  {prompt}", file.display());
            progress.aside(|| output.result(|| record, text))?;
        }
    }
    pipeline.refusal().iter().for_each(|why| output.warn(why));
    Ok(Outcome::Done)
}

impl Args {
    fn prompts(&self) -> Result<Vec<String>> {
        match &self.prompts {
            Some(path) => {
                let lines = reading::lines(path, "prompt")?;
                Ok(lines.into_iter().map(|(_, prompt)| prompt).collect())
            }
            None => Ok(self.prompt.clone()),
        }
    }

    fn options(&self, pipeline: &Pipeline) -> GenerateOptions {
        let model = pipeline.generate_options();
        GenerateOptions {
            steps: self.steps.unwrap_or(model.steps),
            guidance: self.cfg.map_or(model.guidance, Guidance::new),
            candidates: self.candidates.unwrap_or(model.candidates),
            negative: self.negative.clone(),
            shift: self.shift.unwrap_or(model.shift),
            prompt_length: self.prompt_length.unwrap_or(model.prompt_length),
            size: self.size,
            solver: self.sampler,
            tile: self.tile,
            trace: self.trace,
            ..model
        }
    }
}

impl Destination {
    /// The first numbers in a row that no picture in the folder has: what was drawn before stays.
    fn free(folder: &Path, pictures: usize) -> Self {
        let numbered = |first| Self::Folder(folder.to_owned(), first);
        let is_free = |first: &usize| (0..pictures).all(|i| !numbered(*first).path(i).exists());
        numbered((0..).find(is_free).expect("there are more numbers than files"))
    }

    /// A path that ends in `.png` and is no folder is a file; anything else is a folder.
    fn new(path: &Path, pictures: usize) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned(), 0));
        }
        let shown = path.display();
        match path.extension().map(|extension| extension.to_ascii_lowercase()) {
            Some(png) if png == "png" && pictures == 1 => Ok(Self::File(path.to_owned())),
            Some(png) if png == "png" => {
                bail!("{shown} is one file for {pictures} pictures\n  name a folder with -o")
            }
            Some(other) if ["jpg", "jpeg", "webp", "gif", "bmp"].iter().any(|e| other == *e) => {
                bail!("{shown}: pictures are written as PNG\n  name a file .png, or a folder")
            }
            _ if path.exists() => bail!("{shown} is a file\n  name a folder, or a file .png"),
            _ => Ok(Self::Folder(path.to_owned(), 0)),
        }
    }

    /// Makes the folder, so that a place where nothing can be written is known before the work.
    fn create(&self) -> Result<()> {
        let folder = match self {
            Self::Folder(folder, _) => folder,
            Self::File(file) => file.parent().unwrap_or(Path::new("")),
        };
        if folder.as_os_str().is_empty() {
            return Ok(());
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
    }

    /// The file of picture `index`.
    fn path(&self, index: usize) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::Folder(folder, first) => folder.join(format!("{:03}.png", first + index)),
        }
    }
}

/// Writes what each step believed in beside the picture's file: all pictures in one, and a JSON
/// file that says what they are. The path of the former.
fn write_trace(file: &Path, prompt: &str, drawn: &Generated) -> Result<String> {
    let strip = file.with_extension("trace.png");
    let estimates: Vec<Picture> = drawn.trace.iter().map(|step| step.estimate.clone()).collect();
    write_png(&sheet(&estimates, STRIP), &strip)?;
    let sigmas = drawn.trace.iter().map(|step| step.sigma);
    let steps: Vec<Value> =
        sigmas.enumerate().map(|(step, sigma)| json!({ "step": step, "sigma": sigma })).collect();
    let about = json!({
        "prompt": prompt,
        "seed": drawn.seed,
        "file": file.display().to_string(),
        "trace": strip.display().to_string(),
        "columns": STRIP.min(steps.len()),
        "steps": steps,
    });
    tensor::io::atomic_write(file.with_extension("trace.json"), format!("{about:#}\n"))?;
    Ok(strip.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_means_depends_on_its_name_and_the_number_of_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("odd.png")).unwrap();
        let new = |name: &str, pictures| Destination::new(&at(name), pictures);
        assert_eq!(new("a.png", 1).unwrap(), Destination::File(at("a.png")));
        assert_eq!(new("new", 1).unwrap(), Destination::Folder(at("new"), 0));
        assert_eq!(new("odd.png", 3).unwrap(), Destination::Folder(at("odd.png"), 0));
        assert_eq!(new("new", 3).unwrap().path(12), at("new/012.png"));
        assert_eq!(new("new", 3).unwrap().path(1234), at("new/1234.png"));
        for (name, pictures, told) in
            [("a.PNG", 2, "2 pictures"), ("a.jpg", 1, "written as PNG"), ("file", 1, "is a file")]
        {
            let error = new(name, pictures).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn free_numbers_are_in_a_row() {
        let folder = tempfile::tempdir().unwrap();
        for taken in ["000.png", "003.png"] {
            fs::write(folder.path().join(taken), "").unwrap();
        }
        for (pictures, first) in [(1, 1), (2, 1), (3, 4)] {
            let expected = Destination::Folder(folder.path().to_owned(), first);
            assert_eq!(Destination::free(folder.path(), pictures), expected);
        }
    }
}
