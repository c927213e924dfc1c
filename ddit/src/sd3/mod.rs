//! SD3's checkpoints, and folders of D-DiT models that begin as SD3.
//!
//! SD3 comes as a single file with names of its authors', or as a folder of the diffusers library.
//! Both become networks by the library's names; from these a D-DiT takes all it can.
//!
//! | file | what it knows |
//! |---|---|
//! | [`names`] | the names of the single file, and what becomes of each tensor |
//! | [`geometry`] | what shapes tell of a network |
//! | [`start`] | a D-DiT transformer from SD3's |

pub mod geometry;
pub mod names;
pub mod start;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tensor::io::safetensors::SafeTensors;
use tensor::{Error, Result, Tensor};

use self::geometry::{Tensors, count};
use self::names::{Counts, Cut, Network};
use self::start::Origin;
use crate::config::{GenerationConfig, SchedulerConfig, TransformerConfig};
use crate::folder::{Component, Folder, Geometry};
use crate::text::Tokenizer;

/// SD3's noise levels at sampling.
const SHIFT: f64 = 3.0;

/// What a checkpoint has of SD3, and what else a D-DiT needs.
#[derive(Default)]
pub struct Sd3 {
    networks: BTreeMap<Network, Part>,
    /// Text to ids, for the T5 encoder.
    tokenizer: Option<Tokenizer>,
    scheduler: Option<SchedulerConfig>,
    /// Tensors of a single file that belong to other networks.
    ignored: Vec<String>,
}

/// A network as it was found.
#[derive(Default)]
struct Part {
    /// Its `config.json`, where there is one.
    config: Option<Value>,
    /// Its tensors by the library's names.
    tensors: Tensors,
    /// The names they were found under.
    found_as: BTreeMap<String, String>,
    /// The file or the folder they were found in.
    path: PathBuf,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is SD3's tensor of this name, or a part of it.
    Carried(String),
    /// Its first rows are SD3's tensor of this name; the others are new.
    Partly(String),
    /// It is new.
    Fresh,
    /// It is SD3's, and D-DiT has no use for it.
    Dropped,
}

/// What became of each tensor: its name, with the network's in front unless it was dropped.
pub type Account = Vec<(String, Fate)>;

impl Network {
    /// The network's folder in a D-DiT pipeline.
    fn folder(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
        }
    }
}

impl Sd3 {
    /// Opens a single file, a folder of the diffusers library or, for what [`or`](Self::or) takes
    /// from it, a folder of a D-DiT model, of which any part may be absent. Tensors stay in their
    /// files until they are used.
    ///
    /// Errors: files that cannot be read; names that are not SD3's.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let parts = ["transformer", "vae", "text_encoder", "text_encoder_3", "tokenizer"];
        match parts.iter().any(|name| path.join(name).is_dir()) {
            true => Self::open_folder(path),
            false => Self::from_single_file(&SafeTensors::open(path)?),
        }
    }

    /// The networks in a single file.
    ///
    /// Errors: no transformer of SD3's; names that no network of SD3's has, all of them at once.
    pub fn from_single_file(file: &SafeTensors) -> Result<Self> {
        let names = || file.names().filter_map(names::network);
        let of = |wanted| names().filter(move |(network, _)| *network == wanted).map(|(_, n)| n);
        let counts = Counts {
            blocks: count(of(Network::Transformer), "joint_blocks."),
            levels: count(of(Network::Vae), "encoder.down."),
        };
        if counts.blocks == 0 {
            let message = "there is no transformer of SD3's in this file";
            return Err(Error::file("sd3", file.path(), message)
                .note("a single file has names like model.diffusion_model.joint_blocks.0. ..."));
        }
        let (mut sd3, mut unknown) = (Self::default(), Vec::new());
        for name in file.names() {
            let Some((network, rest)) = names::network(name) else {
                sd3.ignored.push(name.to_owned());
                continue;
            };
            let Some(pieces) = names::translate(network, rest, counts) else {
                unknown.push(name);
                continue;
            };
            let tensor = file.get(name)?;
            let part = sd3.networks.entry(network).or_default();
            part.path = file.path().to_owned();
            for (new, cut) in pieces {
                let piece =
                    cut.apply(&tensor).map_err(|error| error.path(file.path()).key(name))?;
                part.found_as.insert(new.clone(), name.to_owned());
                part.tensors.insert(new, piece);
            }
        }
        if !unknown.is_empty() {
            let message = format!("{} tensors have names that SD3 has not", unknown.len());
            let error = Error::file("sd3", file.path(), message);
            return Err(unknown.into_iter().fold(error, Error::note));
        }
        Ok(sd3)
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let mut sd3 = Self::default();
        // SD3 has two CLIP encoders before its T5.
        let third = path.join("text_encoder_3").is_dir();
        let [text_encoder, tokenizer] = match third {
            true => ["text_encoder_3", "tokenizer_3"],
            false => ["text_encoder", "tokenizer"],
        };
        for (network, name) in [
            (Network::Transformer, "transformer"),
            (Network::Vae, "vae"),
            (Network::TextEncoder, text_encoder),
        ] {
            let folder = path.join(name);
            if !folder.is_dir() {
                continue;
            }
            let config: Value = read_json(&folder.join("config.json"))?;
            if network == Network::TextEncoder && config.get("d_model").is_none() {
                continue;
            }
            let tensors = read_tensors(&folder)?;
            let found_as =
                tensors.keys().map(|key| (key.clone(), format!("{name}/{key}"))).collect();
            let part = Part { config: Some(config), tensors, found_as, path: folder };
            sd3.networks.insert(network, part);
        }
        let scheduler = path.join("scheduler/scheduler_config.json");
        if scheduler.is_file() {
            let found: SchedulerConfig = read_json(&scheduler)?;
            found.check().map_err(|error| error.path(&scheduler))?;
            sd3.scheduler = Some(found);
        }
        if path.join(tokenizer).is_dir() {
            let found = Tokenizer::open(path.join(tokenizer));
            // Beside no T5, a tokenizer may be a CLIP encoder's, which has no token for a mask.
            sd3.tokenizer = match sd3.networks.contains_key(&Network::TextEncoder) {
                true => Some(found?),
                false => found.ok(),
            };
        }
        Ok(sd3)
    }

    /// The tensors of a network by the library's names, if it was found.
    pub fn tensors(&self, network: Network) -> Option<&Tensors> {
        self.networks.get(&network).map(|part| &part.tensors)
    }

    /// The tensors of a single file that belong to none of these networks.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// With another tokenizer for the T5 encoder.
    pub fn with_tokenizer(self, tokenizer: Tokenizer) -> Self {
        Self { tokenizer: Some(tokenizer), ..self }
    }

    /// With what another checkpoint has where this one has nothing: tokenizer, text encoder,
    /// autoencoder, settings; of a transformer, only its `config.json`.
    pub fn or(mut self, base: Self) -> Self {
        for (network, other) in base.networks {
            match self.networks.get_mut(&network) {
                Some(part) => part.config = part.config.take().or(other.config),
                None if network == Network::Transformer || other.tensors.is_empty() => {}
                None => drop(self.networks.insert(network, other)),
            }
        }
        self.tokenizer = self.tokenizer.or(base.tokenizer);
        self.scheduler = self.scheduler.or(base.scheduler);
        self
    }

    /// A D-DiT folder that begins as SD3, and what became of each tensor. New tensors have SD3's
    /// element type and depend on `seed` alone.
    ///
    /// Errors: no tokenizer, or a network is missing; another model's configuration; tensors
    /// missing, surplus or of another shape.
    pub fn into_folder(mut self, seed: u64) -> Result<(Folder, Account)> {
        let Some(tokenizer) = self.tokenizer.take() else {
            let message = "there is no tokenizer for the text encoder";
            return Err(Error::value("sd3", message)
                .note("a single file has none: its folder, or a base that has one, is needed"));
        };
        let mut account = Account::new();
        let transformer = self.transformer(tokenizer.len(), seed, &mut account)?;
        let text_encoder = Some(self.component(Network::TextEncoder, &mut account)?);
        let vae = Some(self.component(Network::Vae, &mut account)?);
        account.extend(self.ignored.into_iter().map(|name| (name, Fate::Dropped)));
        let scheduler = self.scheduler.unwrap_or_else(|| SchedulerConfig::new(SHIFT));
        let generation = GenerationConfig::default();
        let folder = Folder { transformer, text_encoder, vae, tokenizer, scheduler, generation };
        folder.check()?;
        Ok((folder, account))
    }

    fn transformer(
        &mut self,
        words: usize,
        seed: u64,
        account: &mut Account,
    ) -> Result<Component<TransformerConfig>> {
        let Part { mut config, tensors, found_as, path } = self.take(Network::Transformer)?;
        if let Some(Value::Object(config)) = &mut config {
            config.insert("vocab_size".into(), words.into());
            config.insert("_class_name".into(), "SD3JointModelFlexible".into());
        }
        let config: TransformerConfig = parse(config.unwrap_or_default(), &path)?;
        config.check().map_err(|error| error.path(&path))?;
        let dtype = tensors.get("context_embedder.weight").map(Tensor::dtype);
        let fresh = |weight: &crate::weights::Weight| {
            let tensor = start::fresh(weight, &config, seed)?;
            Ok(dtype.map_or(tensor.clone(), |dtype| tensor.to_dtype(dtype)))
        };
        let made = start::initialise(tensors, &config, fresh);
        let made = made.map_err(|error| misfit(error, &path))?;
        let old = |name: String| found_as.get(&name).cloned().unwrap_or(name);
        for ((name, _), origin) in made.weights.iter().zip(made.origins) {
            let fate = match origin {
                Origin::Fresh => Fate::Fresh,
                // The table of places can be computed, and so may be missing.
                Origin::Carried(name) if !found_as.contains_key(&name) => Fate::Fresh,
                Origin::Carried(name) => Fate::Carried(old(name)),
                Origin::Partly(name) => Fate::Partly(old(name)),
            };
            account.push((format!("transformer.{name}"), fate));
        }
        account.extend(made.dropped.into_iter().map(|name| (old(name), Fate::Dropped)));
        Ok(Component { config, weights: made.weights })
    }

    fn component<C: Geometry>(
        &mut self,
        network: Network,
        account: &mut Account,
    ) -> Result<Component<C>> {
        let Part { config, tensors, mut found_as, path } = self.take(network)?;
        let config: C = parse(config.unwrap_or_default(), &path)?;
        let inventory = config.inventory().map_err(|error| error.path(&path))?;
        let weights = inventory.take(tensors).map_err(|error| misfit(error, &path))?;
        for (name, _) in &weights {
            let old = found_as.remove(name).unwrap_or_else(|| name.clone());
            account.push((format!("{}.{name}", network.folder()), Fate::Carried(old)));
        }
        account.extend(found_as.into_values().map(|old| (old, Fate::Dropped)));
        Ok(Component { config, weights })
    }

    /// A network, with its geometry told by its shapes where nothing else tells it.
    fn take(&mut self, network: Network) -> Result<Part> {
        let found = self.networks.remove(&network).filter(|part| !part.tensors.is_empty());
        let Some(mut part) = found else {
            let message = format!("there is no {}", network.folder());
            return Err(Error::value("sd3", message).note("a base that has one is needed"));
        };
        if part.config.is_none() {
            let told = geometry::config(network, &part.tensors);
            part.config = Some(told.map_err(|error| misfit(error, &part.path))?);
        }
        Ok(part)
    }
}

impl Cut {
    /// What goes on.
    ///
    /// Errors: axes that this cannot be done to.
    pub fn apply(self, tensor: &Tensor) -> Result<Tensor> {
        let rows = tensor.shape().first().copied().unwrap_or(0);
        let fail = |what: &str| {
            Err(Error::shape("sd3", format!("the tensor has no {what}")).operand("tensor", tensor))
        };
        match self {
            Self::Whole => Ok(tensor.clone()),
            Self::Third(i) if rows.is_multiple_of(3) => tensor.narrow(0, i * rows / 3, rows / 3),
            Self::Third(_) => fail("three equal parts"),
            Self::Swapped if rows.is_multiple_of(2) => start::swap_halves(tensor),
            Self::Swapped => fail("halves"),
            Self::Squeezed => match tensor.shape()[..] {
                [outputs, inputs, 1, 1] | [outputs, inputs] => tensor.reshape([outputs, inputs]),
                _ => fail("two last axes of length 1"),
            },
        }
    }
}

/// The tensors in a network's folder; none if it holds no more than settings.
fn read_tensors(folder: &Path) -> Result<Tensors> {
    let entries = fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))?;
    let is_file = |entry: &fs::DirEntry| entry.path().extension() == Some("safetensors".as_ref());
    if !entries.flatten().any(|entry| is_file(&entry)) {
        return Ok(Tensors::new());
    }
    let file = SafeTensors::open(folder)?;
    let tensor = |name: &str| Ok((name.to_owned(), file.get(name)?));
    file.names().map(tensor).collect()
}

fn parse<C: DeserializeOwned>(config: Value, path: &Path) -> Result<C> {
    serde_json::from_value(config)
        .map_err(|error| Error::file("sd3", path, format!("the geometry: {error}")))
}

/// The error of tensors that do not fit, with where they were found, and whose names it uses.
fn misfit(error: Error, path: &Path) -> Error {
    let error = error.path(path);
    match path.is_dir() {
        true => error,
        false => error.note("names are those that the diffusers library gives the file's tensors"),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|error| Error::io("open", path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::file("json", path, error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
