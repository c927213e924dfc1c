//! Weights, their optimiser and their moving average, as one thing that learns and is saved.

use autograd::optim::{AdamW, Clipped};
use autograd::{Grads, Params, Var};
use tensor::{DType, Result};

use super::checkpoint::{Checkpoint, Named};
use super::schedule::OptimizerConfig;
use crate::weights::Inventory;

/// Weights that follow a gradient.
pub struct Learner {
    params: Params,
    optimizer: AdamW,
}
