//! One network of a pipeline: its folder, or its part of a folder in memory.

use std::collections::BTreeMap;
use std::path::Path;

use autograd::{Params, Var};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tensor::io::safetensors::{self, SafeTensors, save_shards};
use tensor::{DType, Result, Tensor};

use super::source::{Source, write_json};
use crate::config::{TransformerConfig, VaeConfig};
use crate::t5::{self, T5Config};
use crate::weights::{Inventory, source};
use crate::{mmdit, vae};

/// The most bytes of a file of weights; what is larger is written as shards, as the official
/// libraries do.
const SHARD: usize = 5_000_000_000;

/// A network: its geometry and its tensors, checked against each other when read.
#[derive(Clone, Debug)]
pub struct Component<C> {
    /// The geometry.
    pub config: C,
    /// The tensors by name, in the order of the network's [`Inventory`].
    pub weights: Vec<(String, Tensor)>,
}

/// The geometry of a network that has a folder of its own in a pipeline.
pub trait Geometry: Serialize + DeserializeOwned {
    /// The file of the weights; shards are named after it.
    const WEIGHTS: &'static str;

    /// The tensors of a network of this geometry.
    ///
    /// Errors: a geometry that cannot be, or another network's.
    fn inventory(&self) -> Result<Inventory>;
}

impl Geometry for TransformerConfig {
    const WEIGHTS: &'static str = "diffusion_pytorch_model.safetensors";

    fn inventory(&self) -> Result<Inventory> {
        self.check()?;
        Ok(mmdit::inventory(self))
    }
}

impl Geometry for VaeConfig {
    const WEIGHTS: &'static str = "diffusion_pytorch_model.safetensors";

    fn inventory(&self) -> Result<Inventory> {
        self.check()?;
        Ok(vae::inventory(self))
    }
}

impl Geometry for T5Config {
    const WEIGHTS: &'static str = "model.safetensors";

    fn inventory(&self) -> Result<Inventory> {
        self.check()?;
        Ok(t5::inventory(self))
    }
}

impl<C: Geometry> Component<C> {
    /// Reads the folder of one component: `config.json`, and the weights it asks for, in one file
    /// or in shards with an index.
    ///
    /// Errors: files missing; a configuration that does not parse or that cannot be; tensors
    /// missing, surplus or of another shape, all of them at once.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&Source::Disk(path.to_owned()), "")
    }

    /// Reads the component `name` of a pipeline.
    pub(super) fn read(source: &Source, name: &str) -> Result<Self> {
        let within = |file: &str| match name {
            "" => file.to_owned(),
            _ => format!("{name}/{file}"),
        };
        let config: C = source.json(&within("config.json"))?;
        let at_config = |error: tensor::Error| error.path(source.path(&within("config.json")));
        let inventory = config.inventory().map_err(at_config)?;
        let (single, index) = (within(C::WEIGHTS), within(&index_of(C::WEIGHTS)));
        let weights = match source {
            Source::Disk(root) => {
                let name = if source.has(&single) { single } else { index };
                inventory.take_from(&SafeTensors::open(root.join(name))?)
            }
            Source::Memory(_) => inventory
                .take_from(&SafeTensors::from_bytes(&source.read(&single)?)?)
                .map_err(|error| error.path(single)),
        };
        Ok(Self { config, weights: weights? })
    }

    /// Writes `config.json` and the weights, in their types, into the folder of one component.
    ///
    /// Errors: the operating system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let tensors = self.weights.iter().map(|(name, tensor)| (name.as_str(), source(tensor)));
        write_component(path, &self.config, tensors)
    }

    /// The weights for inference. Matrices, which are nearly all of it, stay in the type they are
    /// stored in, and so do constant tables: products and look-ups read them as they go. The rest
    /// is widened once.
    ///
    /// Errors: as [`Geometry::inventory`].
    pub fn constants(&self) -> Result<Params> {
        let inventory = self.config.inventory()?;
        let tables: Vec<&str> =
            inventory.iter().filter(|w| w.buffer).map(|w| w.name.as_str()).collect();
        let constant = |(name, tensor): &(String, Tensor)| {
            let stored = tensor.rank() == 2 || tables.contains(&name.as_str());
            let wide = !stored && tensor.dtype() != DType::F64;
            let tensor = if wide { tensor.to_dtype(DType::F32) } else { tensor.clone() };
            (name.clone(), Var::constant(tensor))
        };
        Params::from_vars(self.weights.iter().map(constant))
    }
}

/// Writes `config.json` and the weights of a network into the folder of one component, as
/// [`Component::write`] does; a [`safetensors::Source`] makes a tensor when its turn to be written comes.
///
/// Errors: the operating system's; those of a source.
pub fn write_component<C: Geometry, N: Into<String>, S: safetensors::Source>(
    path: &Path,
    config: &C,
    tensors: impl IntoIterator<Item = (N, S)>,
) -> Result<()> {
    write_json(&path.join("config.json"), config)?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save_shards(path.join(C::WEIGHTS), tensors, &metadata, SHARD)
}

/// The name of the index of a file's shards.
pub(super) fn index_of(weights: &str) -> String {
    format!("{weights}.index.json")
}
