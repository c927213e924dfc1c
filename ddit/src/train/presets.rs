//! Presets, files and single settings, put together into a [`RunConfig`].
//!
//! Later ones win: the defaults, a preset, a file (which may name the preset it starts from by
//! `preset = "shapes"`), then `key=value` pairs with dotted keys. A key that does not exist is an
//! error that names the nearest one that does, so a misspelt setting is never silently the default.

use std::fs;
use std::path::Path;

use tensor::{Error, Result};
use toml::{Table, Value};

use super::config::{AutoencoderConfig, RunConfig, Source, Task};
use super::limits;
use tensor::spelling;

/// The presets compiled in: name, and what differs from the defaults.
pub const PRESETS: [(&str, &str); 8] = [
    ("shapes-vae", include_str!("../../presets/shapes-vae.toml")),
    ("shapes", include_str!("../../presets/shapes.toml")),
    ("shapes-vqa", include_str!("../../presets/shapes-vqa.toml")),
    ("folder", include_str!("../../presets/folder.toml")),
    ("sd3", include_str!("../../presets/sd3.toml")),
    ("sd3-mask", include_str!("../../presets/sd3-mask.toml")),
    ("tiny-vae", include_str!("../../presets/tiny-vae.toml")),
    ("tiny", include_str!("../../presets/tiny.toml")),
];

impl RunConfig {
    /// The settings of a preset or a TOML file, changed by `overrides` of the form `key=value`.
    ///
    /// Errors: neither a preset nor a file; a key that does not exist; a value of another type;
    /// settings that no run can have.
    pub fn load(preset_or_file: &str, overrides: &[String]) -> Result<Self> {
        let mut settings = defaults();
        apply_named(&mut settings, preset_or_file)?;
        finish(settings, overrides)
    }

    /// The settings that a run's `config.toml` holds, changed by `overrides` of the form
    /// `key=value`. Every key has to be there: a run goes on as it began, whatever the defaults
    /// are by now.
    ///
    /// Errors: no such file; not the settings of a run, or not all of them; as
    /// [`load`](Self::load).
    pub fn read(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let (mut settings, file) = (defaults(), read_toml(path)?);
        let missing = missing(&settings, &file, "");
        if !missing.is_empty() {
            let error = Error::file("config", path, "settings of the run are missing");
            let error = error.wrong(missing.into_iter().map(|line| format!("no {line}")));
            return Err(error.note("these are the defaults of today; add what was meant"));
        }
        merge(&mut settings, file, "").map_err(|error| error.path(path))?;
        finish(settings, overrides)
    }
}

/// What `all` has and `some` has not, as `a.b = value`.
fn missing(all: &Table, some: &Table, path: &str) -> Vec<String> {
    let lines = all.iter().flat_map(|(key, value)| match (value, some.get(key)) {
        (Value::Table(all), Some(Value::Table(some))) => {
            missing(all, some, &format!("{path}{key}."))
        }
        (_, Some(_)) => Vec::new(),
        (_, None) => vec![format!("{path}{key} = {value}")],
    });
    lines.collect()
}

/// The settings with overrides, checked.
fn finish(mut settings: Table, overrides: &[String]) -> Result<RunConfig> {
    for setting in overrides {
        merge(&mut settings, parse_override(setting)?, "")?;
    }
    let config: Result<RunConfig, toml::de::Error> = settings.try_into();
    // The error's second line names the key.
    let wrong =
        |e: toml::de::Error| Error::value("config", e.to_string().trim().replace('\n', " "));
    let mut config = config.map_err(wrong)?;
    limits::check(&config)?;
    for (key, _) in overrides.iter().filter_map(|setting| setting.split_once('=')) {
        if let Some(why) = idle(&config, key.trim()) {
            let message = format!("would do nothing: {why}");
            return Err(Error::value("config", message).key(key.trim()));
        }
    }
    fix_paths(&mut config)?;
    Ok(config)
}

/// Why a key that somebody sets has no part in such a run, if it has none.
fn idle(config: &RunConfig, key: &str) -> Option<&'static str> {
    let (section, name) = key.split_once('.').unwrap_or((key, ""));
    let is_dual = config.task == Task::Dual;
    match (section, name) {
        ("model" | "objective" | "generation", _) | ("batch", "texts") | ("data", "sorted")
            if !is_dual =>
        {
            Some("it is a transformer's, and the run is an autoencoder's")
        }
        ("data", "kinds" | "sorted") if config.data.source == Source::Folder => {
            Some("it is the shapes world's, and the data is a folder")
        }
        ("autoencoder", "source" | "preset") if !is_dual => {
            Some("the run is the autoencoder's own")
        }
        ("model", name) if !config.init.is_empty() && name != "text_length" => {
            Some("the transformer is that of init")
        }
        ("autoencoder", name)
            if is_dual && name != "source" && config.autoencoder.source != "train" =>
        {
            Some("no autoencoder is trained unless autoencoder.source is \"train\"")
        }
        _ => None,
    }
}

/// Makes every path absolute, so that a run can be resumed from any directory.
fn fix_paths(config: &mut RunConfig) -> Result<()> {
    let is_name = |text: &str| {
        ["", "train", "none", "init"].contains(&text)
            || PRESETS.iter().any(|(name, _)| *name == text)
    };
    let RunConfig { init, data, autoencoder, .. } = config;
    let AutoencoderConfig { source, preset, .. } = autoencoder;
    for path in [init, &mut data.manifest, &mut data.atlas, source, preset] {
        if !is_name(path) {
            let absolute = std::path::absolute(&*path);
            let absolute = absolute.map_err(|error| Error::io("find", &*path, error))?;
            *path = absolute.to_string_lossy().into_owned();
        }
    }
    Ok(())
}

/// The default settings as a table: every key there is.
fn defaults() -> Table {
    Table::try_from(RunConfig::default()).expect("settings are tables of numbers and strings")
}

/// Lays the preset or file `name` over `settings`.
fn apply_named(settings: &mut Table, name: &str) -> Result<()> {
    if let Some((_, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
        let preset = text.parse().expect("a test parses every preset");
        return merge(settings, preset, "");
    }
    let path = Path::new(name);
    if !path.exists() {
        let known: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let error = Error::value("config", format!("`{name}` is neither a preset nor a file"))
            .note(format!("presets: {}", known.join(", ")));
        return Err(match spelling::nearest(name, known) {
            Some(near) => error.note(format!("did you mean `{near}`?")),
            None => error,
        });
    }
    let mut file = read_toml(path)?;
    if let Some(preset) = file.remove("preset") {
        let Some(preset) = preset.as_str() else {
            return Err(Error::file("config", path, "must name a preset").key("preset"));
        };
        apply_named(settings, preset)?;
    }
    merge(settings, file, "").map_err(|error| error.path(path))
}

fn read_toml(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("open", path, error))?;
    text.parse().map_err(|e: toml::de::Error| Error::file("config", path, e.to_string()))
}

/// `a.b=value` as the table `{ a = { b = value } }`. What is not a TOML value is a string, so that
/// paths and names need no quotes.
fn parse_override(setting: &str) -> Result<Table> {
    let Some((key, text)) = setting.split_once('=') else {
        let message = format!("`{setting}` is not of the form key=value");
        return Err(Error::value("config", message));
    };
    let value = format!("value = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("value"));
    let value = value.unwrap_or_else(|| Value::String(text.to_owned()));
    let (path, last) = key.trim().rsplit_once('.').unwrap_or(("", key.trim()));
    let innermost = Table::from_iter([(last.to_owned(), value)]);
    Ok(path
        .rsplit('.')
        .filter(|part| !part.is_empty())
        .fold(innermost, |inner, part| Table::from_iter([(part.to_owned(), Value::Table(inner))])))
}

/// Lays `over` on `settings`, which has every key there is; `path` leads to both.
fn merge(settings: &mut Table, over: Table, path: &str) -> Result<()> {
    for (key, value) in over {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(current) = settings.get_mut(&key) else {
            return Err(unknown_key(settings, &key, &full));
        };
        match (current, value) {
            // The one table of free keys: values a line of the manifest must have.
            (Value::Table(current), Value::Table(value)) if full == "data.only" => *current = value,
            (Value::Table(current), Value::Table(value)) => merge(current, value, &full)?,
            (current @ Value::Float(_), Value::Integer(n)) => *current = Value::Float(n as f64),
            (current, value) if current.same_type(&value) => *current = value,
            (current, value) => {
                let message = format!("{value} is no {}", current.type_str());
                return Err(Error::value("config", message).key(full));
            }
        }
    }
    Ok(())
}

fn unknown_key(settings: &Table, key: &str, full: &str) -> Error {
    let error = Error::value("config", "there is no such setting").key(full);
    let known: Vec<&str> = settings.keys().map(String::as_str).collect();
    match spelling::nearest(key, known.iter().copied()) {
        Some(near) => error.note(format!("did you mean `{near}`?")),
        None => error.note(format!("here are: {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::Task;
    use crate::train::schedule::Decay;

    fn load(name: &str, overrides: &[&str]) -> Result<RunConfig> {
        RunConfig::load(name, &overrides.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn every_preset_is_a_run() {
        for (name, _) in PRESETS {
            let needed: &[&str] = match name {
                "shapes-vqa" => &["init=some/run"],
                "folder" => &["data.manifest=some.jsonl"],
                "sd3" | "sd3-mask" => &["init=some/run", "data.manifest=some.jsonl"],
                _ => &[],
            };
            let config = load(name, needed).unwrap();
            let written: RunConfig = toml::from_str(&config.to_toml()).unwrap();
            assert_eq!(written, config, "{name} survives its own config.toml");
        }
    }

    #[test]
    fn overrides_win_and_need_no_quotes() {
        let changes = [
            "run.steps=7",
            "optimizer.learning_rate=1",
            "optimizer.decay=linear",
            "autoencoder.preset=/some/where",
            "autoencoder.widths=[8, 16]",
            "data.only={ split = \"train\" }",
        ];
        let config = load("shapes", &changes).unwrap();
        assert_eq!((config.run.steps, config.optimizer.learning_rate), (7, 1.0));
        assert_eq!((config.optimizer.decay, config.task), (Decay::Linear, Task::Dual));
        assert_eq!(config.autoencoder.preset, "/some/where");
        assert_eq!(config.autoencoder.widths, [8, 16]);
        assert_eq!(config.data.only["split"].as_str(), Some("train"));
    }

    #[test]
    fn a_file_builds_on_a_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        fs::write(&path, "preset = \"shapes-vae\"\nseed = 9\n[run]\nsteps = 3\n").unwrap();
        let config = load(path.to_str().unwrap(), &["run.keep=5"]).unwrap();
        assert_eq!((config.task, config.seed), (Task::Vae, 9));
        assert_eq!((config.run.steps, config.run.keep), (3, 5));
    }

    #[test]
    fn a_runs_settings_are_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let config = load("shapes", &[]).unwrap();
        fs::write(&path, config.to_toml()).unwrap();
        assert_eq!(RunConfig::read(&path, &[]).unwrap(), config);
        fs::write(&path, config.to_toml().replace("keep = 2\n", "")).unwrap();
        let error = RunConfig::read(&path, &[]).unwrap_err().to_string();
        assert!(error.contains("wrong  no run.keep = 2\n"), "{error}");
        fs::write(&path, "").unwrap();
        assert!(RunConfig::read(&path, &[]).unwrap_err().to_string().contains("no seed = 0"));
    }

    #[test]
    fn mistakes_name_the_key_and_the_nearest() {
        for (change, told) in [
            ("optimizer.learing_rate=1", ["optimizer.learing_rate", "`learning_rate`"]),
            ("optimiser.clip=1", ["optimiser", "`optimizer`"]),
            ("run.elephants=1", ["run.elephants", "here are: "]),
            ("run.steps=many", ["run.steps", "is no integer"]),
            ("run.steps=0", ["run.steps", "at least 1"]),
            ("batch.micro_batches=3", ["batch.micro_batches", "divide"]),
            ("run.steps=-5", ["-5", "run.steps"]),
            ("batch.images=1048576", ["batch.images", "below 1048576"]),
            ("batch.texts=1048550", ["batch.texts", "together"]),
            ("objective.recipe=soup", ["soup", "objective.recipe"]),
            ("data.source=soup", ["soup", "data.source"]),
            ("data.scenes=9999999999999", ["data.scenes", "10000000"]),
            ("data.kinds=[0,0,0,0]", ["data.kinds", "not all of them zero"]),
            ("data.kinds=[1,-1,1,1]", ["data.kinds", "from zero up"]),
            ("data.kinds=[1,1]", ["data", "length"]),
            ("data.sorted=1.5", ["data.sorted", "share"]),
            ("generation.steps=0", ["generation.steps", "at least 1"]),
            ("generation.candidates=0", ["generation.candidates", "at least 1"]),
            ("generation.guidance=-1", ["generation.guidance", "negative"]),
            ("optimizer.learning_rate=nan", ["optimizer.learning_rate", "from zero up"]),
            ("optimizer.epsilon=0", ["optimizer.epsilon", "positive"]),
            ("optimizer.epsilon=1e-50", ["optimizer.epsilon", "float32"]),
            ("optimizer.weight_decay=-1", ["optimizer.weight_decay", "from zero up"]),
            ("objective.text_weight=inf", ["objective.text_weight", "from zero up"]),
            ("model.width=33", ["model.heads", "divide"]),
            ("model.width=6", ["model", "no multiple of 4"]),
            ("model.width=100000000", ["model.width", "65536"]),
            ("model.heads=0", ["model.heads", "divide"]),
            ("model.blocks=0", ["model", "num_layers is 0"]),
            ("model.patch=0", ["model", "patch_size is 0"]),
            ("model.patch=3", ["model.patch", "8 x 8"]),
            ("model.text_length=0", ["model.text_length", "2 to 4096"]),
            ("model.text_length=12", ["model.text_length", "at least 13"]),
            ("autoencoder.widths=[]", ["autoencoder", "0 levels"]),
            ("seed", ["`seed`", "key=value"]),
        ] {
            let error = load("shapes", &[change]).unwrap_err().to_string();
            assert!(told.iter().all(|told| error.contains(told)), "{change}: {error}");
        }
        let error = load("shape", &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean `shapes`?"), "{error}");
        for (preset, change) in [
            ("shapes-vae", "autoencoder.preset=tiny-vae"),
            ("shapes-vae", "model.width=64"),
            ("shapes-vqa", "model.width=64"),
            ("shapes-vqa", "autoencoder.preset=tiny-vae"),
            ("shapes-vae", "data.sorted=1"),
            ("folder", "data.kinds=[1,2,1,1]"),
        ] {
            let common = ["init=some/run", "data.manifest=some.jsonl", change];
            let error = load(preset, &common).unwrap_err().to_string();
            assert!(error.contains("would do nothing"), "{preset} {change}: {error}");
        }
        assert!(load("shapes-vqa", &[]).unwrap_err().to_string().contains("init"));
    }
}
