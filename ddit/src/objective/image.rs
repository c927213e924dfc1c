//! The image loss: flow matching under a clean caption.
//!
//! ```text
//! x_σ = (1 − σ) x₀ + σ ε        v = ε − x₀        L = E |v_θ(x_σ, t = 1000 σ, text) − v|²
//! ```
//!
//! The released code regresses x₀ instead, which weights the same error by σ².
//! Source: Li et al. 2025, eq. (3); Esser et al. 2024, §3.1 for the distribution of σ.

use autograd::{Var, no_grad};
use samplers::flow::{
    ImageLoss, interpolate, logit_normal_level, shift, timestep, training_sigma, velocity_target,
};
use tensor::{Error, Result, Tensor};

use super::noise::Loss;
use crate::config::Recipe;
use crate::mmdit::{Mmdit, TextInput};

/// The random choices behind the loss of B pictures.
#[derive(Clone, Debug)]
pub struct ImageDraws {
    /// Noise level of each picture.
    pub sigma: Vec<f32>,
    /// Standard normal \[B, C_in, height, width\].
    pub noise: Tensor,
    /// Whether each picture's caption gives way to the null text, for guidance.
    pub drop: Vec<bool>,
}

impl ImageDraws {
    /// The same choices with every noise level moved towards 1 by a [`shift`] above 1, or towards
    /// 0 by one below; a shift of 1 changes no bit.
    ///
    /// What a picture is of, and how many there are, is settled at levels near 1, which the
    /// logit-normal density seldom draws. Source: Esser et al. 2024, §5.3.2, eq. (23).
    pub fn shifted(mut self, by: f64) -> Self {
        for sigma in &mut self.sigma {
            *sigma = shift(f64::from(*sigma), by) as f32;
        }
        self
    }
}

/// What the network is given and asked for in one pass.
#[derive(Clone, Debug)]
pub struct Noised {
    /// Latents at their noise levels \[B, C_in, height, width\].
    pub state: Var,
    /// The velocity of the straight path, of the same shape.
    pub target: Var,
    /// Noise level of each picture.
    pub sigma: Vec<f32>,
    /// What a [clean estimate](ImageLoss::CleanEstimate)'s errors are weighted with \[B, 1, 1, 1\].
    weights: Var,
}

/// The noise level that a standard normal number selects.
///
/// Both recipes draw from the logit-normal density; the released code rounds to its table of 1000
/// levels, noisiest first.
pub fn noise_level(recipe: Recipe, z: f32) -> f32 {
    match recipe {
        Recipe::Paper => (1.0 / (1.0 + f64::from(-z).exp())) as f32,
        Recipe::Release => training_sigma(logit_normal_level(z)),
    }
}

/// Which error a recipe squares.
pub fn image_loss_form(recipe: Recipe) -> ImageLoss {
    match recipe {
        Recipe::Paper => ImageLoss::Velocity,
        Recipe::Release => ImageLoss::CleanEstimate,
    }
}

impl Noised {
    /// Clean latents \[B, C_in, height, width\] brought to the drawn noise levels.
    ///
    /// Errors: shapes or types differ; another number of levels than of latents.
    #[track_caller]
    pub fn new(latents: &Tensor, draws: &ImageDraws) -> Result<Self> {
        let noise = draws.noise.to_dtype(latents.dtype());
        let weight = |&sigma: &f32| f64::from(ImageLoss::CleanEstimate.weight(sigma));
        let weights: Vec<f64> = draws.sigma.iter().map(weight).collect();
        let weights = Tensor::from_vec(weights, [draws.sigma.len(), 1, 1, 1])?;
        Ok(Self {
            state: Var::constant(interpolate(latents, &noise, &draws.sigma)?),
            target: Var::constant(velocity_target(latents, &noise)?),
            sigma: draws.sigma.clone(),
            weights: Var::constant(weights.to_dtype(latents.dtype())),
        })
    }

    /// The same with other tensors of the same shapes in the place of its own.
    ///
    /// Errors: those of `f`.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut of = |x: &Var| f(&x.value()).map(Var::constant);
        let [state, target, weights] = [of(&self.state)?, of(&self.target)?, of(&self.weights)?];
        Ok(Self { state, target, sigma: self.sigma.clone(), weights })
    }

    /// The time the network is given for each picture.
    pub fn times(&self) -> Vec<f32> {
        self.sigma.iter().map(|&sigma| timestep(sigma)).collect()
    }

    /// The network's velocity.
    ///
    /// Errors: those of the network.
    #[track_caller]
    pub fn velocity(&self, model: &Mmdit, text: TextInput) -> Result<Var> {
        model.velocity(&self.state, text, &self.times())
    }

    /// The mean squared error of a velocity, and the part of each picture in it.
    ///
    /// Errors: as [`velocity_loss`](Self::velocity_loss).
    #[track_caller]
    pub fn loss(&self, velocity: &Var, form: ImageLoss) -> Result<Loss> {
        let squares = self.squares(velocity, form)?;
        let share = 1.0 / squares.numel() as f64;
        let parts = no_grad(|| squares.sum(&[1, 2, 3], false)?.mul_scalar(share))?;
        Ok(Loss {
            mean: squares.mean_all()?,
            parts: parts.value(),
            samples: (0..self.sigma.len()).collect(),
            levels: self.sigma.iter().map(|&sigma| f64::from(sigma)).collect(),
        })
    }

    /// The mean squared error of a velocity, one number. The velocity may lack what is left of the
    /// sides when they are divided into patches.
    ///
    /// Errors: another batch size or number of channels than the target's; larger sides.
    #[track_caller]
    pub fn velocity_loss(&self, velocity: &Var, form: ImageLoss) -> Result<Var> {
        self.squares(velocity, form)?.mean_all()
    }

    /// The squared errors of a velocity, weighted by form.
    #[track_caller]
    fn squares(&self, velocity: &Var, form: ImageLoss) -> Result<Var> {
        let [_, _, height, width] = velocity.dims()?;
        let target = self.target.to_device(&velocity.device())?;
        let target = target.narrow(2, 0, height)?.narrow(3, 0, width)?;
        if velocity.shape() != target.shape() {
            return Err(Error::shape("image loss", "velocity and target differ")
                .operand("velocity", velocity)
                .operand("target", &target));
        }
        let error = velocity.sub(&target)?;
        if form == ImageLoss::Velocity {
            return error.square();
        }
        error.square()?.mul(&self.weights.to_device(&velocity.device())?)
    }
}

/// The captions' token ids, L to a picture, with the null text's in place of the dropped ones.
///
/// Errors: the lengths do not fit each other.
#[track_caller]
pub fn drop_captions(ids: &[u32], null: &[u32], drop: &[bool]) -> Result<Vec<u32>> {
    if ids.len() != null.len() * drop.len() {
        let message = format!(
            "{} ids are not {} captions as long as the null text, {}",
            ids.len(),
            drop.len(),
            null.len()
        );
        return Err(Error::shape("drop_captions", message));
    }
    let rows = ids.chunks_exact(null.len().max(1)).zip(drop);
    Ok(rows.flat_map(|(caption, &drop)| if drop { null } else { caption }).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;

    #[test]
    fn the_release_weights_the_same_error_by_sigma_squared() {
        let latents = Tensor::from_slice(&[1.0_f64, 2.0, -1.0, 0.5], [2, 1, 1, 2]).unwrap();
        let noise = Tensor::from_slice(&[0.3_f64, -1.0, 2.0, 0.1], [2, 1, 1, 2]).unwrap();
        let draws = ImageDraws { sigma: vec![0.25, 0.5], noise, drop: vec![false; 2] };
        let noised = Noised::new(&latents, &draws).unwrap();
        let state = noised.state.value().to_f64_vec();
        assert!((state[0] - (0.75 + 0.25 * 0.3)).abs() < 1e-15);
        // A velocity of 0 is off by the target: −0.7, −3 at σ = ¼ and 3, −0.4 at σ = ½.
        let zero = Var::constant(Tensor::zeros([2, 1, 1, 2], DType::F64));
        let loss = |form| noised.velocity_loss(&zero, form).unwrap().item().unwrap();
        let (first, second) = (0.49 + 9.0, 9.0 + 0.16);
        assert!((loss(ImageLoss::Velocity) - (first + second) / 4.0).abs() < 1e-14);
        let weighted = (first / 16.0 + second / 4.0) / 4.0;
        assert!((loss(ImageLoss::CleanEstimate) - weighted).abs() < 1e-14);
    }

    #[test]
    fn noise_levels_are_logit_normal() {
        assert_eq!(noise_level(Recipe::Paper, 0.0), 0.5);
        assert_eq!(noise_level(Recipe::Release, 0.0), 0.5);
        // The release counts its table from the noisy end, so the sign of z is the other one.
        assert!((noise_level(Recipe::Paper, 1.0) - 0.731_058_6).abs() < 1e-7);
        assert_eq!(noise_level(Recipe::Release, -1.0), 0.732);
    }

    #[test]
    fn a_shift_moves_levels_and_one_moves_none() {
        let noise = Tensor::zeros([3, 1, 1, 1], DType::F32);
        let draws = ImageDraws { sigma: vec![0.1, 0.5, 1.0], noise, drop: vec![false; 3] };
        assert_eq!(draws.clone().shifted(1.0).sigma, draws.sigma);
        assert_eq!(draws.shifted(3.0).sigma, [0.25, 0.75, 1.0]);
    }

    #[test]
    fn dropped_captions_become_the_null_text() {
        let ids = drop_captions(&[5, 6, 7, 8], &[1, 1], &[false, true]).unwrap();
        assert_eq!(ids, [5, 6, 1, 1]);
        assert!(drop_captions(&[5, 6, 7], &[1, 1], &[false, true]).is_err());
    }
}
