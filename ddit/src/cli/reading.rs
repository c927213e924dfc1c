//! Files that commands read: pictures, and lists with one item a line.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ddit::config::Recipe;
use ddit::data::{decode, resize};
use ddit::pipeline::Pipeline;
use ddit::shapes::Picture;
use ddit::train::config::Alpha;

/// What stands for standard input in place of a file's path.
const STANDARD_INPUT: &str = "-";

/// What a list is called in errors.
fn name(path: &Path) -> String {
    match path.as_os_str() == STANDARD_INPUT {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// The lines of a file, or of standard input for `-`, that are not blank, with their numbers from 1.
///
/// Errors: the file cannot be read; it has no such line.
pub fn lines(path: &Path, what: &str) -> Result<Vec<(usize, String)>> {
    let text = match path.as_os_str() == STANDARD_INPUT {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let text = text.with_context(|| format!("cannot read {}", name(path)))?;
    // Some editors begin a file with a mark that it is UTF-8.
    let text = text.trim_start_matches('\u{feff}');
    let numbered = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let lines: Vec<(usize, String)> = numbered
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| (number, line.to_owned()))
        .collect();
    if lines.is_empty() {
        bail!("{} is empty\n  one {what} a line is needed", name(path));
    }
    Ok(lines)
}

/// A picture and a question about it, from every line `IMAGE<tab>QUESTION` of such a file.
///
/// Errors: as [`lines`]; a line without a tab, a picture or a question.
pub fn questions(path: &Path) -> Result<Vec<(PathBuf, String)>> {
    let split = |(number, line): (usize, String)| match line.split_once('\t') {
        Some((file, question)) if !file.trim().is_empty() && !question.trim().is_empty() => {
            Ok((PathBuf::from(file.trim()), question.trim().to_owned()))
        }
        _ => bail!(
            "{}, line {number}: \"{line}\"\n  IMAGE, a tab character and a QUESTION are needed",
            name(path)
        ),
    };
    lines(path, "IMAGE<tab>QUESTION")?.into_iter().map(split).collect()
}

/// Pictures from files, fitted to the size that a model sees; each file is read once.
pub struct Pictures {
    by_path: HashMap<PathBuf, Picture>,
}

impl Pictures {
    /// Reads all of `paths`; without a `side` in pixels they are fitted to the model's.
    ///
    /// Errors: a side that the model has no places for; a file that cannot be read, or is no PNG,
    /// JPEG or WebP.
    pub fn read<'a>(
        pipeline: &Pipeline,
        paths: impl IntoIterator<Item = &'a Path>,
        side: Option<usize>,
    ) -> Result<Self> {
        let alpha = match pipeline.folder().generation.recipe {
            Recipe::Paper => Alpha::White,
            // As the official preprocessing does.
            Recipe::Release => Alpha::Drop,
        };
        let side = side.unwrap_or(pipeline.side());
        pipeline.check_resolution(side)?;
        let mut by_path = HashMap::new();
        for path in paths {
            if !by_path.contains_key(path) {
                let picture = decode::read_picture(path, alpha)?;
                // Now, so that large pictures are not held until their turn comes.
                by_path.insert(path.to_owned(), resize::fit(&picture, side));
            }
        }
        Ok(Self { by_path })
    }

    /// The picture of a file that was read.
    pub fn get(&self, path: &Path) -> &Picture {
        self.by_path.get(path).expect("only asked for files that were read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn blank_lines_do_not_count() {
        let list = file("\u{feff}a circle\n\n  a square \r\n");
        let expected = [(1, "a circle".to_owned()), (3, "a square".to_owned())];
        assert_eq!(lines(list.path(), "prompt").unwrap(), expected);
        let error = lines(file(" \n").path(), "prompt").unwrap_err().to_string();
        assert!(error.contains("is empty") && error.contains("one prompt a line"), "{error}");
        let error = lines(Path::new("no/such"), "prompt").unwrap_err().to_string();
        assert!(error.contains("no/such"), "{error}");
    }

    #[test]
    fn questions_need_a_tab() {
        let list = file("a.png\tis there a circle?\nb c.png \t how many? \n");
        let expected = [("a.png", "is there a circle?"), ("b c.png", "how many?")]
            .map(|(file, question)| (PathBuf::from(file), question.to_owned()));
        assert_eq!(questions(list.path()).unwrap(), expected);
        for wrong in ["a.png is there?", "a.png\t", "\twhat?"] {
            let error = questions(file(&format!("x.png\ty\n{wrong}\n")).path()).unwrap_err();
            let error = error.to_string();
            // A line that is only a picture is trimmed to it before it is looked at.
            assert!(error.contains("line 2") && error.contains("tab"), "{wrong}: {error}");
        }
    }
}
