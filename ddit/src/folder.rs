//! Pipeline folders: everything a model is, in the layout of the official pipeline.
//!
//! ```text
//! model_index.json            which components there are
//! transformer/                config.json, diffusion_pytorch_model.safetensors or its shards
//! vae/                        the same; absent where the model works on pixels
//! tokenizer/                  tokenizer.json or spiece.model, and what belongs to it
//! scheduler/                  scheduler_config.json
//! generation_config.json      defaults for sampling; ours alone
//! ```
//!
//! A folder is read from a disk or from bytes compiled into the program, by the same code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tensor::io::safetensors::{self, SafeTensors};
use tensor::{Error, Result, Tensor};

use crate::config::{GenerationConfig, SchedulerConfig, TransformerConfig, VaeConfig};
use crate::text::{self, Tokenizer};
use crate::weights::Inventory;
use crate::{mmdit, vae};

const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const GENERATION: &str = "generation_config.json";

/// The weights of a component are in this file, or in shards named after it.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// What a pipeline folder holds.
pub struct Folder {
    /// The dual diffusion transformer.
    pub transformer: Component<TransformerConfig>,
    /// The autoencoder; none where the transformer works on pixels.
    pub vae: Option<Component<VaeConfig>>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The noise levels of sampling.
    pub scheduler: SchedulerConfig,
    /// Defaults for sampling.
    pub generation: GenerationConfig,
}

/// A network: its geometry and its tensors, checked against each other when read.
#[derive(Clone, Debug)]
pub struct Component<C> {
    /// The geometry.
    pub config: C,
    /// The tensors by name, in the order of the network's [`Inventory`].
    pub weights: Vec<(String, Tensor)>,
}

/// Where a folder's files come from.
enum Source<'a> {
    Disk(PathBuf),
    /// Paths within the folder, and contents.
    Memory(&'a [(&'a str, &'a [u8])]),
}

impl Folder {
    /// Reads a folder. Weights stay in the files until they are used.
    ///
    /// Errors: files missing, all of them at once; files that do not parse; a text encoder, which
    /// is not supported; configurations of other models; tensors missing, surplus or of another
    /// shape, all of them at once.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::read(&Source::Disk(path.to_owned()))
            .map_err(|error| error.scope(path.display().to_string()))
    }

    /// Reads a folder whose files are in memory: paths within the folder, and contents.
    ///
    /// Errors: as [`open`](Self::open).
    pub fn from_bytes(files: &[(&str, &[u8])]) -> Result<Self> {
        Self::read(&Source::Memory(files))
    }

    fn read(source: &Source) -> Result<Self> {
        if !source.has(INDEX) {
            return Err(source.missing(&[INDEX.to_owned()]));
        }
        let index: Value = source.json(INDEX)?;
        if is_present(&index["text_encoder"]) {
            return Err(Error::value(
                "open",
                "the folder has a text_encoder, and this program does not run one yet",
            )
            .note("models with text_embedding, which have none, open"));
        }
        let has_vae = is_present(&index["vae"]);
        source.check_files(has_vae)?;
        let folder = Self {
            transformer: source.component("transformer", |config: &TransformerConfig| {
                config.check()?;
                if !config.text_embedding {
                    let message = "the transformer needs a text encoder, and there is none";
                    return Err(Error::value("open", message));
                }
                Ok(mmdit::inventory(config))
            })?,
            vae: if has_vae {
                Some(source.component("vae", |config: &VaeConfig| {
                    config.check()?;
                    Ok(vae::inventory(config))
                })?)
            } else {
                None
            },
            tokenizer: source.tokenizer()?,
            scheduler: source.json(SCHEDULER)?,
            generation: match source.has(GENERATION) {
                true => source.json(GENERATION)?,
                false => GenerationConfig::default(),
            },
        };
        folder.check()?;
        Ok(folder)
    }

    /// That the components fit each other.
    fn check(&self) -> Result<()> {
        self.scheduler.check()?;
        let fail = |message: String| Err(Error::value("open", message));
        let transformer = &self.transformer.config;
        if self.tokenizer.len() > transformer.vocab_size {
            let (words, rows) = (self.tokenizer.len(), transformer.vocab_size);
            return fail(format!("the tokenizer has {words} tokens, the text head {rows}"));
        }
        let channels = match &self.vae {
            Some(vae) => vae.config.latent_channels,
            None => 3,
        };
        let (inputs, outputs) = (transformer.in_channels, transformer.out_channels);
        if [inputs, outputs] != [channels; 2] {
            return fail(format!(
                "the transformer maps {inputs} channels to {outputs}, pictures come in {channels}"
            ));
        }
        Ok(())
    }

    /// Writes the folder, whole or not at all: under another name beside `path`, then renamed.
    /// A folder that is there already is replaced.
    ///
    /// Errors: the operating system's.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
        let beside = |suffix| {
            let mut builder = tempfile::Builder::new();
            let directory = builder.prefix(".").suffix(suffix).tempdir_in(parent);
            directory.map_err(|error| Error::io("create a folder in", parent, error))
        };
        let new = beside(".new")?;
        self.write_files(&new.path().join("folder"))?;
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|error| Error::io("rename", from, error))
        };
        if !path.exists() {
            return rename(&new.path().join("folder"), path);
        }
        // Between the two renames the old folder stands under the temporary name.
        let old = beside(".old")?;
        rename(path, &old.path().join("folder"))?;
        rename(&new.path().join("folder"), path)
    }

    fn write_files(&self, path: &Path) -> Result<()> {
        let vae = match &self.vae {
            Some(_) => json!(["diffusers", "AutoencoderKL"]),
            None => json!([null, null]),
        };
        let index = json!({
            "_class_name": "DualDiffSD3Pipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": [null, null],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "transformer": ["sd3_modules.sd3_model", "SD3JointModelFlexible"],
            "vae": vae,
        });
        write_json(&path.join(INDEX), &index)?;
        self.transformer.write(&path.join("transformer"))?;
        if let Some(vae) = &self.vae {
            vae.write(&path.join("vae"))?;
        }
        for (name, bytes) in self.tokenizer.files() {
            write(&path.join("tokenizer").join(name), bytes)?;
        }
        write_json(&path.join(SCHEDULER), &self.scheduler)?;
        write_json(&path.join(GENERATION), &self.generation)
    }
}

impl<C: Serialize> Component<C> {
    /// Writes `config.json` and the weights into the folder of one component.
    ///
    /// Errors: the operating system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(&path.join("config.json"), &self.config)?;
        let tensors = self.weights.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::save(path.join(WEIGHTS), tensors, &metadata)
    }
}

impl<C: DeserializeOwned> Component<C> {
    /// Reads the folder of one component: `config.json`, and the weights that `inventory` lists
    /// for that configuration.
    ///
    /// Errors: files missing; a configuration that does not parse or that `inventory` refuses;
    /// tensors missing, surplus or of another shape, all of them at once.
    pub fn open(path: &Path, inventory: impl FnOnce(&C) -> Result<Inventory>) -> Result<Self> {
        Source::Disk(path.to_owned()).component("", inventory)
    }
}

impl Source<'_> {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Disk(root) => root.join(name).is_file(),
            Self::Memory(files) => files.iter().any(|(path, _)| *path == name),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Disk(root) => {
                let path = root.join(name);
                fs::read(&path).map_err(|error| Error::io("open", &path, error))
            }
            Self::Memory(files) => match files.iter().find(|(path, _)| *path == name) {
                Some((_, bytes)) => Ok(bytes.to_vec()),
                None => Err(self.missing(&[name.to_owned()])),
            },
        }
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path(name);
        serde_json::from_slice(&self.read(name)?)
            .map_err(|error| Error::file("json", path, error.to_string()))
    }

    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Disk(root) => root.join(name),
            Self::Memory(_) => name.into(),
        }
    }

    /// That every file there has to be is there.
    fn check_files(&self, has_vae: bool) -> Result<()> {
        let components: &[&str] = if has_vae { &["transformer", "vae"] } else { &["transformer"] };
        let mut needed = vec![SCHEDULER.to_owned()];
        let [json, model, ..] = text::FILES.map(|name| format!("tokenizer/{name}"));
        if !self.has(&model) {
            needed.push(json);
        }
        for component in components {
            needed.push(format!("{component}/config.json"));
            if !self.has(&format!("{component}/{WEIGHTS}.index.json")) {
                needed.push(format!("{component}/{WEIGHTS}"));
            }
        }
        needed.retain(|name| !self.has(name));
        if needed.is_empty() { Ok(()) } else { Err(self.missing(&needed)) }
    }

    fn missing(&self, names: &[String]) -> Error {
        let message = match names {
            [_] => "a file of the pipeline folder is missing",
            _ => "files of the pipeline folder are missing",
        };
        let error = Error::file("open", self.path(""), message);
        names.iter().fold(error, |error, name| error.note(name))
    }

    fn component<C: DeserializeOwned>(
        &self,
        name: &str,
        inventory: impl FnOnce(&C) -> Result<Inventory>,
    ) -> Result<Component<C>> {
        let within = |file: &str| match name {
            "" => file.to_owned(),
            _ => format!("{name}/{file}"),
        };
        let config = self.json(&within("config.json"))?;
        let inventory =
            inventory(&config).map_err(|error| error.path(self.path(&within("config.json"))))?;
        let file = match self {
            Self::Disk(root) => {
                let (single, index) = (within(WEIGHTS), within(&format!("{WEIGHTS}.index.json")));
                let name = if self.has(&single) { single } else { index };
                SafeTensors::open(root.join(name))?
            }
            Self::Memory(_) => SafeTensors::from_bytes(&self.read(&within(WEIGHTS))?)?,
        };
        let tensor = |name: &str| Ok((name.to_owned(), file.get(name)?));
        let found = file.names().map(tensor).collect::<Result<BTreeMap<_, _>>>()?;
        let weights =
            inventory.take(found).map_err(|error| error.path(self.path(&within(WEIGHTS))))?;
        Ok(Component { config, weights })
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        if let Self::Disk(root) = self {
            return Tokenizer::open(root.join("tokenizer"));
        }
        let present = text::FILES.iter().filter(|name| self.has(&format!("tokenizer/{name}")));
        let read = |name: &&'static str| Ok((*name, self.read(&format!("tokenizer/{name}"))?));
        Tokenizer::from_files(present.map(read).collect::<Result<_>>()?)
    }
}

/// Whether an entry of `model_index.json` names a class: absent, null and [null, null] do not.
fn is_present(entry: &Value) -> bool {
    entry.as_array().is_some_and(|names| names.iter().any(|name| !name.is_null()))
}

/// Writes a file of a folder that has its final name only when all of it is written.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
    }
    tensor::io::atomic_write(path, bytes)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::file("json", path, error.to_string()))?;
    text.push(b'\n');
    write(path, &text)
}
