//! Pictures on disk, listed with their captions in a JSONL file.
//!
//! ```text
//! {"file": "cats/1.png", "caption": "a cat on a mat"}
//! {"file": "cats/2.jpg", "caption": ["two cats", "cats asleep"]}
//! ```
//!
//! The keys are settings (`data.file_key`, `data.caption_keys`), and so is which lines count
//! (`data.only`). A set whose pictures are the cells of one big one is read by their numbers:
//!
//! ```text
//! atlas = "atlas.png"         # cells of atlas_cell = 64 pixels, in rows from the top left
//! atlas_key = "id"            # {"id": 33, ...} is the second cell of the second row of 32
//! caption_keys = ["phrase"]
//! only = { split = "train" }
//! ```

use std::fs;
use std::path::Path;

use image::{DynamicImage, GenericImageView};
use serde_json::Value;
use tensor::rng::Rng;
use tensor::{Error, Result};

use super::decode::{flatten, read_image};
use super::resize::fit;
use crate::pipeline::Progress;
use crate::shapes::Picture;
use crate::text::words::SPECIAL;
use crate::train::config::DataConfig;

/// Pictures of one size with captions, all in memory: 3 bytes a pixel.
pub struct Folder {
    pictures: Vec<Picture>,
    captions: Vec<Vec<String>>,
}

impl Folder {
    /// Reads the manifest and every picture in it, fitted to `config.size` pixels: the shorter
    /// side is resized to it, the middle cut out. `progress` is told how many lines are done, and of
    /// how many; an error of its ends that.
    ///
    /// Errors: a file that cannot be read; a line that is no JSON object, or has no picture or no
    /// caption under the keys, or one with a special token of the tokenizers; no line left; those of
    /// `progress`.
    pub fn open(config: &DataConfig, progress: Progress) -> Result<Self> {
        let manifest = Path::new(&config.manifest);
        let text = fs::read_to_string(manifest);
        let text = text.map_err(|error| Error::io("open", manifest, error))?;
        let atlas = match config.atlas.as_str() {
            "" => None,
            path => Some(read_image(Path::new(path))?),
        };
        let only = serde_json::to_value(&config.only);
        let only = only.map_err(|error| Error::value("config", error.to_string()))?;
        let (mut pictures, mut captions) = (Vec::new(), Vec::new());
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let total = lines.clone().count();
        for (done, (number, line)) in lines.enumerate() {
            progress(done, total)?;
            let fail = |message: String| {
                Error::file("manifest", manifest, format!("line {}: {message}", number + 1))
            };
            let line: Value = serde_json::from_str(line).map_err(|e| fail(e.to_string()))?;
            if !has(&line, &only) {
                continue;
            }
            let image = match &atlas {
                Some(atlas) => cell(atlas, &line, config).map_err(fail)?,
                None => {
                    let file = line[&config.file_key].as_str();
                    let file = file.ok_or_else(|| fail(format!("no {:?}", config.file_key)))?;
                    read_image(&manifest.with_file_name(file))?
                }
            };
            pictures.push(fit(&flatten(&image, config.alpha), config.size));
            captions.push(texts(&line, &config.caption_keys).map_err(fail)?);
        }
        progress(total, total)?;
        if pictures.is_empty() {
            return Err(Error::file("manifest", manifest, "no line of it counts"));
        }
        Ok(Self { pictures, captions })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// Picture `i`.
    pub fn picture(&self, i: usize) -> Picture {
        self.pictures[i].clone()
    }

    /// One of the captions of picture `i`.
    pub fn caption(&self, i: usize, rng: &mut Rng) -> &str {
        let captions = &self.captions[i];
        &captions[rng.below(captions.len())]
    }

    /// All captions.
    pub fn captions(&self) -> impl Iterator<Item = &str> {
        self.captions.iter().flatten().map(String::as_str)
    }
}

/// Whether the line has every value of `only`.
fn has(line: &Value, only: &Value) -> bool {
    only.as_object().is_none_or(|only| only.iter().all(|(key, value)| line[key] == *value))
}

/// The cell of the atlas whose number the line has.
fn cell(atlas: &DynamicImage, line: &Value, config: &DataConfig) -> Result<DynamicImage, String> {
    let side = config.atlas_cell;
    let columns = atlas.width() as usize / side.max(1);
    let rows = atlas.height() as usize / side.max(1);
    let number = line[&config.atlas_key].as_u64().map(|number| number as usize);
    match number {
        None => Err(format!("no number under {:?}", config.atlas_key)),
        Some(number) if number >= rows * columns => {
            Err(format!("cell {number} of an atlas with {}", rows * columns))
        }
        Some(number) => {
            let (x, y) = (number % columns * side, number / columns * side);
            let cell = atlas.view(x as u32, y as u32, side as u32, side as u32);
            Ok(cell.to_image().into())
        }
    }
}

/// The strings under the keys, alone or in lists.
fn texts(line: &Value, keys: &[String]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    for value in keys.iter().map(|key| &line[key]) {
        match value {
            Value::String(text) => texts.push(text.clone()),
            Value::Array(list) => {
                texts.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    if texts.is_empty() {
        return Err(format!("no caption under {keys:?}"));
    }
    // A tokenizer would take it for the token of that name: the mask, or the end of the text.
    let special = SPECIAL.iter().find(|token| texts.iter().any(|text| text.contains(**token)));
    match special {
        Some(token) => Err(format!("a caption with {token}, which has a meaning of its own")),
        None => Ok(texts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::Alpha;

    fn write_picture(path: &Path, width: u32, height: u32, colours: impl Fn(u32, u32) -> [u8; 4]) {
        let image = image::RgbaImage::from_fn(width, height, |x, y| image::Rgba(colours(x, y)));
        image.save(path).unwrap();
    }

    fn config(manifest: &Path) -> DataConfig {
        let manifest = manifest.to_str().unwrap().to_owned();
        DataConfig { manifest, size: 4, ..DataConfig::default() }
    }

    fn open(config: &DataConfig) -> Result<Folder> {
        Folder::open(config, &mut |_, _| Ok(()))
    }

    #[test]
    fn reads_files_relative_to_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        write_picture(&folder.path().join("sub/a.png"), 8, 4, |_, _| [10, 20, 30, 255]);
        write_picture(&folder.path().join("b.png"), 2, 2, |_, _| [0, 0, 0, 0]);
        let manifest = folder.path().join("list.jsonl");
        let lines = r#"{"file": "sub/a.png", "caption": "a thing", "split": "train"}

            {"file": "b.png", "caption": ["nothing", "a hole"], "split": "val"}"#;
        fs::write(&manifest, lines).unwrap();

        let set = open(&config(&manifest)).unwrap();
        assert_eq!((set.len(), set.captions().count()), (2, 3));
        assert_eq!(set.picture(0), Picture::filled(4, 4, [10, 20, 30]));
        assert_eq!(set.picture(1), Picture::filled(4, 4, [255; 3]));
        let dropped = DataConfig { alpha: Alpha::Drop, ..config(&manifest) };
        assert_eq!(open(&dropped).unwrap().picture(1), Picture::filled(4, 4, [0; 3]));
        let said: Vec<&str> = (0..9).map(|s| set.caption(1, &mut Rng::new(s))).collect();
        assert!(said.contains(&"nothing") && said.contains(&"a hole"));

        let only = toml::Table::from_iter([("split".to_owned(), "train".into())]);
        let set = open(&DataConfig { only, ..config(&manifest) }).unwrap();
        assert_eq!(set.captions().collect::<Vec<_>>(), ["a thing"]);
    }

    #[test]
    fn whoever_watches_is_told_of_every_line_and_can_end_it() {
        let folder = tempfile::tempdir().unwrap();
        write_picture(&folder.path().join("a.png"), 4, 4, |_, _| [0; 4]);
        let manifest = folder.path().join("list.jsonl");
        let line = "{\"file\": \"a.png\", \"caption\": \"a thing\"}\n";
        fs::write(&manifest, [line, "\n", line, line].concat()).unwrap();
        let mut told = Vec::new();
        let mut watch = |done, total| {
            told.push((done, total));
            Ok(())
        };
        Folder::open(&config(&manifest), &mut watch).unwrap();
        assert_eq!(told, [(0, 3), (1, 3), (2, 3), (3, 3)]);
        let mut enough = |done, _| match done {
            0 => Ok(()),
            _ => Err(Error::value("test", "enough")),
        };
        let error = Folder::open(&config(&manifest), &mut enough).err().unwrap();
        assert_eq!(error.message(), "enough");
    }

    #[test]
    fn reads_cells_of_an_atlas() {
        let folder = tempfile::tempdir().unwrap();
        let atlas = folder.path().join("atlas.png");
        write_picture(&atlas, 12, 8, |x, y| [(y / 4 * 3 + x / 4) as u8, 0, 0, 255]);
        let manifest = folder.path().join("list.jsonl");
        fs::write(&manifest, "{\"id\": 4, \"label\": \"four\"}\n{\"id\": 2, \"label\": \"two\"}\n")
            .unwrap();
        let config = DataConfig {
            atlas: atlas.to_str().unwrap().to_owned(),
            atlas_cell: 4,
            caption_keys: vec!["label".into()],
            ..config(&manifest)
        };
        let set = open(&config).unwrap();
        assert_eq!(set.picture(0).pixel(1, 1), [4, 0, 0]);
        assert_eq!(set.picture(1).pixel(3, 0), [2, 0, 0]);
    }

    #[test]
    fn mistakes_name_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("list.jsonl");
        write_picture(&folder.path().join("a.png"), 4, 4, |_, _| [0; 4]);
        for (line, told) in [
            ("{\"caption\": \"x\"}", "line 2: no \"file\""),
            ("{\"file\": \"a.png\"}", "line 2: no caption under [\"caption\"]"),
            (
                "{\"file\": \"a.png\", \"caption\": [\"x\", \"a <extra_id_0>\"]}",
                "line 2: a caption with <extra_id_0>",
            ),
            ("{\"file\": \"a.png\", \"caption\": \"x</s>\"}", "line 2: a caption with </s>"),
            ("{\"file\": \"none.png\", \"caption\": \"x\"}", "none.png"),
            ("not json", "line 2: "),
        ] {
            fs::write(&manifest, format!("\n{line}\n")).unwrap();
            let error = open(&config(&manifest)).err().unwrap().to_string();
            assert!(error.contains(told), "{error}");
        }
        fs::write(&manifest, "\n").unwrap();
        assert!(open(&config(&manifest)).is_err());
    }
}
