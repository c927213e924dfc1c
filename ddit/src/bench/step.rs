//! A training step and a forward pass of a whole model, on random numbers.

use autograd::optim::{AdamW, AdamWConfig};
use autograd::{Grads, Params, Targets, Var, no_grad};
use tensor::cuda::Repeat;
use tensor::rng::Rng;
use tensor::{DType, Device, Result, Tensor};

use super::clock::{Times, time};
use super::workload::{Mode, Workload};
use crate::mmdit::{self, Mmdit, TextInput};

/// Standard deviation of the weights: none are 0, as those of a fresh model partly are.
const WEIGHTS: f64 = 0.02;

/// Learning rate; its value costs nothing.
const LEARNING_RATE: f64 = 1e-4;

/// The norm to which gradients are clipped.
const CLIP: f64 = 2.0;

/// Weight of the text loss.
const TEXT_WEIGHT: f64 = 0.2;

/// A model with its optimiser and one batch of data.
pub struct Bench {
    workload: Workload,
    mode: Mode,
    device: Device,
    batch: Batch,
    optimizer: AdamW,
    /// What a GPU repeats once it has been recorded, as in training.
    repeat: Repeat,
}

/// A model and what it is given.
struct Batch {
    model: Mmdit,
    /// \[B, C_in, height, width\].
    latents: Var,
    /// What the velocity should be; of the same shape.
    target: Var,
    /// \[B, L, E\].
    states: Var,
    /// A time for every sample.
    times: Vec<f32>,
    /// Which of the B·L tokens carry a text loss, about half of them.
    rows: Vec<usize>,
    /// What they should be.
    words: Vec<u32>,
}

impl Bench {
    /// The model of a workload on a device, with random weights and data.
    ///
    /// Errors: none that a workload could cause; those of the device.
    pub fn new(workload: Workload, mode: Mode, device: &Device) -> Result<Self> {
        let Workload { batch, channels, side, text, context, .. } = workload;
        let mut rng = Rng::new(0);
        let inventory = mmdit::inventory(&workload.config());
        let mut weights = Vec::new();
        for weight in inventory.iter() {
            let values = rng.normal(weight.shape, DType::F32)?;
            weights.push((weight.name.clone(), Var::constant(values).mul_scalar(WEIGHTS)?.value()));
        }
        let is_buffer = |name: &str| inventory.iter().any(|w| w.name == name && w.buffer);
        let params = Params::from_tensors(weights, |name| !is_buffer(name))?.to_device(device)?;
        let config = AdamWConfig { clip: Some(CLIP), ..AdamWConfig::default() };
        let mut data =
            |shape: &[usize]| Var::constant(rng.normal(shape, DType::F32)?).to_device(device);
        let picture = [batch, channels, side, side];
        let (latents, target) = (data(&picture)?, data(&picture)?);
        let states = data(&[batch, text, context])?;
        let rows: Vec<usize> = (0..batch * text).filter(|_| rng.below(2) == 0).collect();
        let words = rows.iter().map(|_| rng.below(workload.words) as u32).collect();
        let times = (0..batch).map(|_| (1000.0 * rng.next_uniform()) as f32).collect();
        let model = Mmdit::new(workload.config(), &params)?;
        Ok(Self {
            workload,
            mode,
            device: device.clone(),
            batch: Batch { model, latents, target, states, times, rows, words },
            optimizer: AdamW::new(&params, config)?,
            repeat: Repeat::default(),
        })
    }

    /// Arithmetic of a run that is really executed, matrix products only.
    pub fn executed(&self) -> f64 {
        self.workload.executed(self.mode, self.batch.rows.len())
    }

    /// Times `runs` runs, each to its end.
    ///
    /// Errors: none that a workload could cause; the device's.
    pub fn time(&mut self, runs: usize) -> Result<Times> {
        time(runs, || {
            self.run()?;
            match &self.device {
                Device::Cpu => Ok(()),
                Device::Cuda(gpu) => gpu.synchronize(),
            }
        })
    }

    /// Whether a GPU repeats what was recorded: if not, it is asked for kernel by kernel.
    pub fn is_recorded(&self) -> bool {
        self.repeat.is_recorded()
    }

    /// Runs once. A GPU repeats what it did the first time, and a forward pass may still be under
    /// way there.
    ///
    /// Errors: none that a workload could cause; the device's.
    pub fn run(&mut self) -> Result<()> {
        match self.mode {
            Mode::Train => self.step().map(drop),
            Mode::Forward => self.forward(),
        }
    }

    /// A training step; its loss.
    fn step(&mut self) -> Result<f64> {
        let Self { device, batch, optimizer, repeat, .. } = self;
        let losses = match device {
            Device::Cpu => {
                let (grads, losses) = batch.descend()?;
                optimizer.step(&grads, LEARNING_RATE)?;
                losses
            }
            Device::Cuda(gpu) => {
                let numbers = optimizer.numbers(LEARNING_RATE)?;
                let mut found = repeat.run(gpu, &[&numbers], |inputs| {
                    let (grads, mut found) = batch.descend()?;
                    found.push(optimizer.queue(&grads, &inputs[0])?);
                    Ok(found)
                })?;
                optimizer.finish(&found.pop().expect("the norms are last"))?;
                found
            }
        };
        losses.iter().map(Tensor::item).sum()
    }

    /// Velocity and the scores of all words at every text token.
    fn forward(&mut self) -> Result<()> {
        match &self.device {
            Device::Cpu => self.batch.forward().map(drop),
            Device::Cuda(gpu) => {
                let run = |_: &[Tensor]| Ok(vec![self.batch.forward()?]);
                self.repeat.run(gpu, &[], run).map(drop)
            }
        }
    }
}

impl Batch {
    /// The gradients of both losses, and the losses. As in training, one pass goes backward before
    /// the next begins.
    fn descend(&self) -> Result<(Grads, Vec<Tensor>)> {
        let (mut grads, mut losses) = (Grads::default(), Vec::new());
        for loss in [Self::image_loss, Self::text_loss] {
            let loss = loss(self)?;
            loss.backward_into(&mut grads)?;
            losses.push(loss.value());
        }
        Ok((grads, losses))
    }

    fn image_loss(&self) -> Result<Var> {
        self.model.velocity(&self.latents, self.text(), &self.times)?.mse(&self.target)
    }

    fn text_loss(&self) -> Result<Var> {
        // Text is learned beside pictures without noise.
        let times = vec![0.0; self.times.len()];
        let tokens = self.model.text_tokens(Some(&self.latents), self.text(), &times)?;
        let [batch, text, width] = tokens.dims()?;
        let tokens = tokens.reshape([batch * text, width])?.index_rows(&self.rows)?;
        let head = self.model.text_head();
        let weights = vec![TEXT_WEIGHT / (batch * text) as f64; self.rows.len()];
        let targets = Targets::new(&self.words, &weights, head.bias.numel(), None)?;
        let (loss, _) = tokens.linear_cross_entropy(&head.weight, &head.bias, &targets)?;
        Ok(loss)
    }

    /// The velocity, once the words' scores have been made too.
    fn forward(&self) -> Result<Tensor> {
        no_grad(|| {
            let [velocity, text] =
                self.model.both(Some(&self.latents), self.text(), &self.times)?;
            self.model.text_logits(&text)?;
            Ok(velocity.value())
        })
    }

    fn text(&self) -> TextInput<'_> {
        TextInput::States(&self.states)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_losses_fall_and_time_passes() {
        let small = Workload {
            name: "test",
            width: 16,
            heads: 2,
            blocks: 2,
            channels: 3,
            side: 4,
            patch: 2,
            text: 5,
            context: 7,
            words: 11,
            batch: 3,
        };
        let mut bench = Bench::new(small, Mode::Train, &Device::Cpu).unwrap();
        let first = bench.step().unwrap();
        let last = (0..60).map(|_| bench.step().unwrap()).last().unwrap();
        assert!(last < first, "{first} to {last}");
        assert!(bench.time(1).unwrap().min() > 0.0 && bench.executed() > 0.0);
        let mut forward = Bench::new(small, Mode::Forward, &Device::Cpu).unwrap();
        assert!(forward.time(1).unwrap().min() > 0.0);
    }
}
