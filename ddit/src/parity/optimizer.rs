//! The optimiser alone: AdamW, warm-up, moving average, clipping.

use autograd::optim::{AdamW, AdamWConfig, Clipped, Ema};
use autograd::{Params, Var, backward_with};
use tensor::{Result, Tensor};

use super::Trial;
use crate::train::schedule::{Decay, OptimizerConfig};

/// Decay of the moving average where the configuration does not tell it.
const DECAY: f64 = 0.9;

/// A parameter after every step of given gradients, its average, the learning rates; and two
/// gradients clipped by their common norm.
pub fn adamw(trial: &mut Trial) -> Result<()> {
    let rates = OptimizerConfig {
        learning_rate: trial.config("lr")?,
        warmup: trial.config("warmup_steps")?,
        decay: Decay::Constant,
        ..OptimizerConfig::default()
    };
    let config = AdamWConfig {
        betas: trial.config("betas")?,
        eps: trial.config("eps")?,
        weight_decay: trial.config("weight_decay")?,
        clip: None,
        ema: Some(Ema::Constant(trial.find_config("ema_decay")?.unwrap_or(DECAY))),
    };
    let gradients = trial.get("in.grads")?;
    let steps = gradients.shape().first().copied().unwrap_or(0);
    let params = Params::from_tensors([("p".to_owned(), trial.get("in.param")?)], |_| true)?;
    let (p, mut optimizer) = (params.get("p")?, AdamW::new(&params, config)?);
    let (mut values, mut averages, mut learning_rates) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..steps {
        let rate = rates.rate(k as u64, steps as u64);
        // The gradient of a parameter by itself, times a given one, is the given one.
        optimizer.step(&backward_with(&[(p.clone(), gradients.select(0, k)?)])?, rate)?;
        values.push(p.value());
        averages.extend(optimizer.average().into_iter().map(|(_, average)| average));
        learning_rates.push(rate);
    }
    let stacked = |values: &[Tensor]| Tensor::stack(&values.iter().collect::<Vec<_>>(), 0);
    trial.compare("out.params", &stacked(&values)?)?;
    trial.compare("out.ema", &stacked(&averages)?)?;
    trial.compare_numbers("out.lr", &learning_rates)?;

    let (a, b) = (trial.get("in.clip_a")?, trial.get("in.clip_b")?);
    let [of_a, of_b] = [&a, &b].map(|gradient| Var::parameter(gradient.clone()));
    let grads = backward_with(&[(of_a.clone(), a.clone()), (of_b.clone(), b.clone())])?;
    let clipped = Clipped::of(&grads, [&of_a, &of_b], Some(trial.config("grad_clip")?))?;
    trial.compare_numbers("out.norm", &[clipped.norm])?;
    for (name, gradient) in [("out.clip_a", a), ("out.clip_b", b)] {
        trial.compare(name, &Var::constant(gradient).mul_scalar(clipped.factor)?.value())?;
    }
    Ok(())
}
