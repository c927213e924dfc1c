//! Weights, their optimiser and their moving average, as one thing that learns and is saved.
//!
//! All of it lies on one device, and so do the tensors that are given out.

use std::collections::HashMap;

use autograd::optim::{AdamW, Clipped};
use autograd::{Grads, Params, Var};
use tensor::{DType, Device, Result, Tensor};

use super::checkpoint::Named;
use super::schedule::OptimizerConfig;
use super::trainable::MASK_EMBEDDING;

/// Weights that follow a gradient, among others that are frozen.
pub struct Learner {
    params: Params,
    optimizer: AdamW,
}

impl Learner {
    /// These weights on a device, of which those that `trains` names learn, in float32. The others
    /// stay as they are, in the type (and, on the CPU, the memory) they have; they cost no gradient
    /// and nothing of AdamW's.
    ///
    /// The [embedding of the mask](MASK_EMBEDDING) is no part of the gradient's norm, and its
    /// gradient is not clipped.
    ///
    /// Errors: a name twice; the device's memory does not suffice.
    pub fn new(
        weights: Named,
        trains: impl Fn(&str) -> bool,
        config: &OptimizerConfig,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::from_vars(weights.into_iter().map(|(name, weight)| {
            let var = match trains(&name) {
                true => Var::parameter(weight.to_dtype(DType::F32)),
                false => Var::constant(weight),
            };
            (name, var)
        }))?;
        let params = params.to_device(device)?;
        let optimizer = AdamW::new(&params, config.adamw())?;
        let optimizer = optimizer.without_clipping(|name| name == MASK_EMBEDDING);
        Ok(Self { params, optimizer })
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

    /// What a GPU is told of its next step: see [`AdamW::numbers`].
    pub fn numbers(&self, learning_rate: f64) -> Result<Tensor> {
        self.optimizer.numbers(learning_rate)
    }

    /// Queues an [update](Self::update) on a GPU: see [`AdamW::queue`].
    ///
    /// Errors: a gradient that is not like its weight; the GPU's.
    pub fn queue(&mut self, grads: &Grads, numbers: &Tensor) -> Result<Tensor> {
        self.optimizer.queue(grads, numbers)
    }

    /// Ends what was queued, or repeated: see [`AdamW::finish`].
    ///
    /// Errors: the GPU's.
    pub fn finish(&mut self, norms: &Tensor) -> Result<Clipped> {
        self.optimizer.finish(norms)
    }

    /// All weights by name, in the order they were given.
    pub fn weights(&self) -> Named {
        self.params.tensors()
    }

    /// The weights that learn.
    pub fn trained(&self) -> Named {
        self.params.trained().map(|(name, var)| (name.to_owned(), var.value())).collect()
    }

    /// The weights that learn, averaged over the steps: what inference gets.
    pub fn average(&self) -> Named {
        self.optimizer.average()
    }

    /// The weights of one network for inference, by its own names: those that learn averaged, and
    /// stored in the type `stored`; the others as they were given, bit for bit.
    pub fn network(&self, network: &str, stored: DType) -> Named {
        let average: HashMap<String, _> = self.average().into_iter().collect();
        let scope = self.params.scope(network);
        let weight = |(name, var): (&str, &Var)| {
            let weight = average.get(name).map(|mean| mean.to_dtype(stored));
            (name[network.len() + 1..].to_owned(), weight.unwrap_or_else(|| var.value()))
        };
        scope.named().map(weight).collect()
    }

    /// What the optimiser remembers, the average included.
    pub fn memory(&self) -> Named {
        self.optimizer.state()
    }

    /// Goes back, or forward, to where [`trained`](Self::trained) and [`memory`](Self::memory)
    /// were taken.
    ///
    /// Errors: they are not those of the weights that learn here.
    pub fn restore(&mut self, weights: Named, memory: Named) -> Result<()> {
        self.params.set(weights)?;
        self.optimizer.restore(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learner() -> Learner {
        let ones = |name: &str, n, dtype| (name.to_owned(), Tensor::ones([n], dtype));
        let weights = vec![
            ones("net.w", 2, DType::BF16),
            ones("net.idle", 1, DType::F32),
            ones("net.frozen", 3, DType::BF16),
            ones("network.w", 1, DType::F32),
        ];
        let config = OptimizerConfig { weight_decay: 0.1, ema: 0.9, ..Default::default() };
        let trains = |name: &str| ["net.w", "net.idle"].contains(&name);
        Learner::new(weights, trains, &config, &Device::Cpu).unwrap()
    }

    fn step(learner: &mut Learner) {
        let w = learner.params().get("net.w").unwrap();
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
        assert!((value(learner.weights(), "net.w") - moved).abs() < 1e-6);
        // After step 1, d = (1 + 1)/(10 + 1).
        let d = 2.0 / 11.0;
        assert!((value(learner.average(), "net.w") - (d + (1.0 - d) * moved)).abs() < 1e-6);
        assert_eq!(value(learner.weights(), "net.idle"), 1.0, "no gradient, no decay");
    }

    #[test]
    fn what_is_frozen_has_no_memory_and_keeps_its_type() {
        let mut learner = learner();
        step(&mut learner);
        let memory: Vec<String> = learner.memory().into_iter().map(|(name, _)| name).collect();
        assert!(memory.contains(&"m.net.w".into()) && memory.contains(&"ema.net.idle".into()));
        assert!(memory.iter().all(|name| !name.contains("frozen")), "{memory:?}");
        let network = learner.network("net", DType::F16);
        let told: Vec<_> = network.iter().map(|(name, w)| (name.as_str(), w.dtype())).collect();
        assert_eq!(told, [("w", DType::F16), ("idle", DType::F16), ("frozen", DType::BF16)]);
        let trained: Vec<_> = learner.trained().into_iter().map(|(name, _)| name).collect();
        assert_eq!(trained, ["net.w", "net.idle"]);
    }

    #[test]
    fn restores_to_the_last_bit() {
        let (mut one, mut two) = (learner(), learner());
        step(&mut one);
        let (weights, memory) = (one.trained(), one.memory());
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
