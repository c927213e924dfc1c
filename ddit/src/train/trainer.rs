//! A training run: its parts, a step of it, its checkpoints, its finished model.

use std::fs;
use std::path::{Path, PathBuf};

use autograd::{Grads, Params, Var};
use serde_json::{Map, Value, json};
use tensor::{DType, Error, Result, Tensor};

use super::autoencoder::Autoencoder;
use super::checkpoint::{Checkpoint, State, latest};
use super::config::{RunConfig, Task};
use super::dual::Dual;
use super::learner::Learner;
use super::log::{Log, StepReport, Window};
use super::setup::{MODEL, open_model, open_vae, scheduler, transformer_geometry, vae_geometry};
use crate::config::VaeConfig;
use crate::data::latents::{Latents, Posteriors};
use crate::data::{Dataset, pictures_from_tensor};
use crate::folder::{Component, Folder};
use crate::pipeline::Pipeline;
use crate::shapes::Picture;
use crate::vae::{self, AutoencoderKl};
use crate::weights::Inventory;
use crate::mmdit;
