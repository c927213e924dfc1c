//! The optimiser alone: AdamW, warm-up, moving average, clipping.

use autograd::optim::{AdamW, AdamWConfig, Clipped, Ema};
use autograd::{Params, Var, backward_with};
use tensor::{Result, Tensor};

use super::Trial;
use crate::train::schedule::{Decay, OptimizerConfig};

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
        ema: decay(trial)?.map(Ema::Constant),
    };
    let gradients = trial.there("in.grads")?;
    let steps = gradients.shape().first().copied().unwrap_or(0);
    let params = Params::from_tensors([("p".to_owned(), trial.there("in.param")?)], |_| true)?;
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
    if trial.find("out.ema").is_some() {
        trial.compare("out.ema", &stacked(&averages)?)?;
    }
    trial.compare_numbers("out.lr", &learning_rates)?;

    let (a, b) = (trial.there("in.clip_a")?, trial.there("in.clip_b")?);
    let [of_a, of_b] = [&a, &b].map(|gradient| Var::parameter(gradient.clone()));
    let grads = backward_with(&[(of_a.clone(), a.clone()), (of_b.clone(), b.clone())])?;
    let clipped = Clipped::of(&grads, [&of_a, &of_b], Some(trial.config("grad_clip")?))?;
    trial.compare_numbers("out.norm", &[clipped.norm])?;
    for (name, gradient) in [("out.clip_a", a), ("out.clip_b", b)] {
        trial.compare(name, &Var::constant(gradient).mul_scalar(clipped.factor)?.value())?;
    }
    Ok(())
}

/// The decay of the moving average: what the configuration says or else, if an average is stored,
/// what that follows from.
fn decay(trial: &Trial) -> Result<Option<f64>> {
    match (trial.find_config("ema_decay")?, trial.find("out.ema")) {
        (None, Some(averages)) => {
            let [start, params] = [trial.get("in.param")?, trial.get("out.params")?];
            let fitted = fit(&start.to_f64_vec(), &params.to_f64_vec(), &averages.to_f64_vec());
            Ok(Some(fitted))
        }
        (told, _) => Ok(told),
    }
}

/// The d that comes nearest to every step e → d·e + (1 − d)·p of stored averages:
/// Σ (e − p)·(next e − p) / Σ (e − p)². One number cannot make a wrong average fit.
fn fit(start: &[f64], params: &[f64], averages: &[f64]) -> f64 {
    let (mut across, mut squares) = (0.0, 0.0);
    let before = start.iter().chain(averages);
    for ((p, next), e) in params.iter().zip(averages).zip(before) {
        across += (e - p) * (next - p);
        squares += (e - p) * (e - p);
    }
    // Where no parameter ever moved, any will do.
    if squares > 0.0 { (across / squares).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decay_is_found_in_rounded_averages() {
        for decay in [0.0, 0.75, 0.9, 0.999, 1.0] {
            let start = [2.5, -0.7];
            let (mut average, mut params, mut averages) = (start, Vec::new(), Vec::new());
            for step in 0..6 {
                for (i, e) in average.iter_mut().enumerate() {
                    let p = start[i] + 1e-3 * f64::from(step * (2 * i as i32 - 1));
                    *e = decay * *e + (1.0 - decay) * p;
                    params.push(f64::from(p as f32));
                    averages.push(f64::from(*e as f32));
                }
            }
            let found = fit(&start, &params, &averages);
            assert!((found - decay).abs() < 1e-4, "{found} for {decay}");
        }
        assert_eq!(fit(&[1.0], &[1.0], &[1.0]), 0.0);
    }
}
