//! Pipeline folders: everything a model is, in the layout of the official pipeline.
//!
//! ```text
//! model_index.json            which components there are
//! transformer/                config.json, diffusion_pytorch_model.safetensors or its shards
//! vae/                        the same; absent where the model works on pixels
//! text_encoder/               config.json, model.safetensors or its shards; absent where the
//!                             transformer embeds token ids itself
//! tokenizer/                  tokenizer.json or spiece.model, and what belongs to it
//! scheduler/                  scheduler_config.json
//! generation_config.json      defaults for sampling; ours alone
//! ```
//!
//! A folder is read from a disk or from bytes compiled into the program, by the same code. Weights
//! stay in their files, mapped, and in the type they are stored in until they are used.

mod component;
mod replace;
mod source;

use std::path::Path;

use serde_json::{Value, json};
use tensor::{Error, Result};

use self::component::index_of;
use self::source::{Source, write, write_json};
use crate::config::{GenerationConfig, Recipe, SchedulerConfig, TransformerConfig, VaeConfig};
use crate::t5::T5Config;
use crate::text::{END, FILES, Tokenizer};

pub use component::{Component, Geometry, write_component};
pub use replace::replace;

const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const GENERATION: &str = "generation_config.json";

/// What a pipeline folder holds.
pub struct Folder {
    /// The dual diffusion transformer.
    pub transformer: Component<TransformerConfig>,
    /// The text encoder; none where the transformer embeds token ids itself.
    pub text_encoder: Option<Component<T5Config>>,
    /// The autoencoder; none where the transformer works on pixels.
    pub vae: Option<Component<VaeConfig>>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The noise levels of sampling.
    pub scheduler: SchedulerConfig,
    /// Defaults for sampling.
    pub generation: GenerationConfig,
}

impl Folder {
    /// Reads a folder. Weights stay in the files until they are used.
    ///
    /// Errors: files missing, all of them at once; files that do not parse; configurations of
    /// other models, or that do not fit each other; tensors missing, surplus or of another shape,
    /// all of them at once.
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
        source.check(&[vec![INDEX.to_owned()]])?;
        let index: Value = source.json(INDEX)?;
        let [has_text_encoder, has_vae] =
            ["text_encoder", "vae"].map(|name| is_present(&index[name]));
        let mut needed = vec![
            vec![SCHEDULER.to_owned()],
            FILES[..2].iter().map(|name| format!("tokenizer/{name}")).collect(),
        ];
        let mut need = |name: &str, weights: &str| {
            let weights = [weights.to_owned(), index_of(weights)];
            needed.push(vec![format!("{name}/config.json")]);
            needed.push(weights.map(|file| format!("{name}/{file}")).to_vec());
        };
        need("transformer", TransformerConfig::WEIGHTS);
        if has_text_encoder {
            need("text_encoder", T5Config::WEIGHTS);
        }
        if has_vae {
            need("vae", VaeConfig::WEIGHTS);
        }
        source.check(&needed)?;
        let scheduler: SchedulerConfig = source.json(SCHEDULER)?;
        scheduler.check().map_err(|error| error.path(source.path(SCHEDULER)))?;
        let generation = match source.has(GENERATION) {
            true => source.json(GENERATION)?,
            false => GenerationConfig::default(),
        };
        generation.check().map_err(|error| error.path(source.path(GENERATION)))?;
        let folder = Self {
            transformer: Component::read(source, "transformer")?,
            text_encoder: match has_text_encoder {
                true => Some(Component::read(source, "text_encoder")?),
                false => None,
            },
            vae: match has_vae {
                true => Some(Component::read(source, "vae")?),
                false => None,
            },
            tokenizer: source.tokenizer()?,
            scheduler,
            generation,
        };
        folder.check()?;
        Ok(folder)
    }

    /// That the components fit each other.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::value("open", message));
        let transformer = &self.transformer.config;
        if self.tokenizer.len() > transformer.vocab_size {
            let (words, rows) = (self.tokenizer.len(), transformer.vocab_size);
            return fail(format!("the tokenizer has {words} tokens, the text head {rows}"));
        }
        match (transformer.text_embedding, &self.text_encoder) {
            (true, None) => {}
            (true, Some(_)) => {
                let message = "the transformer embeds token ids itself, beside a text encoder";
                return fail(message.to_owned());
            }
            (false, None) => {
                let message = "the transformer needs a text encoder, and there is none";
                return fail(message.to_owned());
            }
            (false, Some(encoder)) => {
                let (given, needed) = (encoder.config.d_model, transformer.joint_attention_dim);
                if given != needed {
                    return fail(format!(
                        "the text encoder's states have {given} numbers, the transformer takes \
                         {needed}"
                    ));
                }
                let (words, rows) = (self.tokenizer.len(), encoder.config.vocab_size);
                if words > rows {
                    return fail(format!(
                        "the tokenizer has {words} tokens, the text encoder {rows}"
                    ));
                }
            }
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

    /// The folder with the defaults of a recipe in place of its own: the recipe's text sampler and
    /// prompts, and with [`Recipe::Paper`] texts that are padded with `</s>`, as in training.
    ///
    /// Errors: the tokenizer has no `</s>`.
    pub fn with_recipe(mut self, recipe: Recipe) -> Result<Self> {
        self.generation.recipe = recipe;
        self.generation.sampler = None;
        if recipe == Recipe::Paper {
            self.tokenizer = self.tokenizer.with_pad(END)?;
        }
        Ok(self)
    }

    /// Writes the folder, whole or not at all; one that is there already is [replaced](replace()).
    ///
    /// Errors: the operating system's.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        replace(path.as_ref(), |new| self.write_files(new))
    }

    fn write_files(&self, path: &Path) -> Result<()> {
        let networks = [self.text_encoder.is_some(), self.vae.is_some()];
        write_frame(path, networks, &self.tokenizer, &self.scheduler)?;
        self.transformer.write(&path.join("transformer"))?;
        if let Some(encoder) = &self.text_encoder {
            encoder.write(&path.join("text_encoder"))?;
        }
        if let Some(vae) = &self.vae {
            vae.write(&path.join("vae"))?;
        }
        write_json(&path.join(GENERATION), &self.generation)
    }
}

/// Writes what an official folder holds beside its networks: the index, which says whether there
/// are a text encoder and an autoencoder, tokenizer and scheduler.
///
/// Errors: the operating system's.
pub fn write_frame(
    path: &Path,
    [has_encoder, has_vae]: [bool; 2],
    tokenizer: &Tokenizer,
    scheduler: &SchedulerConfig,
) -> Result<()> {
    let entry = |present: bool, names: [&str; 2]| match present {
        true => json!(names),
        false => json!([null, null]),
    };
    let class = if has_encoder { "T5TokenizerFast" } else { "PreTrainedTokenizerFast" };
    let index = json!({
        "_class_name": "DualDiffSD3Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": entry(has_encoder, ["transformers", "T5EncoderModel"]),
        "tokenizer": ["transformers", class],
        "transformer": ["sd3_modules.sd3_model", "SD3JointModelFlexible"],
        "vae": entry(has_vae, ["diffusers", "AutoencoderKL"]),
    });
    write_json(&path.join(INDEX), &index)?;
    for (name, bytes) in tokenizer.files() {
        write(&path.join("tokenizer").join(name), bytes)?;
    }
    write_json(&path.join(SCHEDULER), scheduler)
}

/// Whether an entry of `model_index.json` names a class: absent, null and [null, null] do not.
fn is_present(entry: &Value) -> bool {
    entry.as_array().is_some_and(|names| names.iter().any(|name| !name.is_null()))
}
