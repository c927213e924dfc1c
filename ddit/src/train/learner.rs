//! Weights, their optimiser and their moving average, as one thing that learns and is saved.

use std::collections::{HashMap, HashSet};

use autograd::optim::{AdamW, AdamWConfig, Clipped, Ema};
use autograd::{Grads, Params};
use tensor::{DType, Result};

use super::checkpoint::Named;
use super::schedule::OptimizerConfig;
use crate::weights::Inventory;

/// Weights that follow a gradient.
pub struct Learner {
    params: Params,
    optimizer: AdamW,
}

impl Learner {
    /// These weights of a network, in float32; those that its inventory calls buffers stay as they
    /// are.
    ///
    /// Errors: a name twice.
    pub fn new(weights: Named, inventory: &Inventory, config: &OptimizerConfig) -> Result<Self> {
        let buffers: HashSet<&str> =
            inventory.iter().filter(|w| w.buffer).map(|w| w.name.as_str()).collect();
        let weights = weights.into_iter().map(|(name, w)| (name, w.to_dtype(DType::F32)));
        let params = Params::from_tensors(weights, |name| !buffers.contains(name))?;
        let config = AdamWConfig {
            betas: config.betas,
            eps: config.epsilon,
            weight_decay: config.weight_decay,
            clip: Some(config.clip),
            ema: Some(Ema::Rising(config.ema)),
        };
        Ok(Self { optimizer: AdamW::new(&params, config)?, params })
    }

    /// The weights, to build a network on.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Moves the weights against the gradient, and the average with them. Where the gradient's
    /// norm is no finite number, nothing moves.
    ///
    /// Errors: a gradient that is not like its weight.
    pub fn update(&mut self, grads: &Grads, learning_rate: f64) -> Result<Clipped> {
        self.optimizer.step(grads, learning_rate)
    }

    /// All weights by name, in the network's order.
    pub fn weights(&self) -> Named {
        self.params.tensors()
    }

    /// All weights, averaged over the steps: what inference gets.
    pub fn average(&self) -> Named {
        let mut average: HashMap<String, _> = self.optimizer.average().into_iter().collect();
        let averaged = |(name, weight)| match average.remove(&name) {
            Some(mean) => (name, mean),
            None => (name, weight),
        };
        self.weights().into_iter().map(averaged).collect()
    }

    /// What the optimiser remembers, the average included.
    pub fn memory(&self) -> Named {
        self.optimizer.state()
    }

    /// Goes back, or forward, to where [`weights`](Self::weights) and [`memory`](Self::memory)
    /// were taken.
    ///
    /// Errors: they are not those of this network.
    pub fn restore(&mut self, weights: Named, memory: Named) -> Result<()> {
        let trained: HashSet<&str> = self.params.trained().map(|(name, _)| name).collect();
        let weights = weights.into_iter().filter(|(name, _)| trained.contains(name.as_str()));
        self.params.set(weights)?;
        self.optimizer.restore(memory)
    }
}

#[cfg(test)]
mod tests {
    use autograd::Var;
    use tensor::Tensor;

    use super::*;
    use crate::weights::Start;

    fn learner() -> Learner {
        let mut list = Inventory::default();
        list.tensor("w", [2], Start::Ones);
        list.tensor("idle", [1], Start::Ones);
        list.buffer("table", [3], Start::Ones);
        let config = OptimizerConfig { weight_decay: 0.1, ema: 0.9, ..Default::default() };
        Learner::new(list.fresh(0, DType::F32).unwrap(), &list, &config).unwrap()
    }

    fn step(learner: &mut Learner) {
        let w = learner.params().get("w").unwrap();
        let target = Var::constant(Tensor::zeros([2], DType::F32));
        let grads = w.mse(&target).unwrap().backward().unwrap();
        learner.update(&grads, 0.5).unwrap();
    }

    #[test]
    fn the_average_follows_the_weights_after_they_moved() {
        let mut learner = learner();
        step(&mut learner);
        let value = |named: Named, name: &str| {
            named.into_iter().find(|(n, _)| n == name).unwrap().1.to_f64_vec()[0]
        };
        // Decay by 0.5·0.1, then AdamW's first step, which is the learning rate's size.
        let moved = 1.0 - 0.05 - 0.5;
        assert!((value(learner.weights(), "w") - moved).abs() < 1e-6);
        // After step 1, d = (1 + 1)/(10 + 1).
        let d = 2.0 / 11.0;
        assert!((value(learner.average(), "w") - (d + (1.0 - d) * moved)).abs() < 1e-6);
        assert_eq!(value(learner.weights(), "idle"), 1.0, "no gradient, no decay");
        let names: Vec<String> = learner.average().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["w", "idle", "table"]);
    }

    #[test]
    fn restores_to_the_last_bit() {
        let (mut one, mut two) = (learner(), learner());
        step(&mut one);
        let (weights, memory) = (one.weights(), one.memory());
        step(&mut one);
        two.restore(weights, memory).unwrap();
        step(&mut two);
        let bits =
            |named: Named| named.iter().flat_map(|(_, t)| t.to_f64_vec()).collect::<Vec<_>>();
        assert_eq!(bits(one.weights()), bits(two.weights()));
        assert_eq!(bits(one.memory()), bits(two.memory()));
        assert!(two.restore(Vec::new(), Vec::new()).is_err());
    }
}
