//! The straight path between data and noise, and what can be read off its velocity.

use std::ops::{Add, Mul};

use tensor::{DType, Element, Error, Result, Tensor};

/// Noisy data `x_σ = (1 − σ)·x₀ + σ·ε`, with a noise level of its own for each sample.
///
/// Source: the paper's equation (1) with α = 1 − σ.
///
/// Shapes: `clean` x₀, `noise` ε \[B, …\]; `sigma` one per sample, or one for all → \[B, …\].
/// Cost: 3 flop an element.
/// Errors: shapes or types differ; not F32 or F64; the number of levels is neither 1 nor B.
#[track_caller]
pub fn interpolate(clean: &Tensor, noise: &Tensor, sigma: &[f32]) -> Result<Tensor> {
    let batch = clean.shape().first().copied().unwrap_or(1);
    if sigma.len() != 1 && sigma.len() != batch {
        let message = format!("{} noise levels for {batch} samples", sigma.len());
        return Err(Error::shape("interpolate", message).operand("clean", clean));
    }
    let weights: Vec<_> = sigma.iter().map(|&s| [1.0 - f64::from(s), f64::from(s)]).collect();
    weighted_sum("interpolate", clean, noise, &weights)
}

/// What the network regresses, `v = ε − x₀`: the velocity `dx_σ/dσ` of the straight path.
///
/// Source: the paper's equation (2).
///
/// Shapes: both \[B, …\] → \[B, …\].   Cost: 1 flop an element.
/// Errors: shapes or types differ; not F32 or F64.
#[track_caller]
pub fn velocity_target(clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
    weighted_sum("velocity_target", noise, clean, &[[1.0, -1.0]])
}

/// The data a velocity points at, `x̂₀ = x_σ − σ·v`: exact for the true path, and for a network its
/// expectation of x₀. What a preview shows.
///
/// Shapes: both \[B, …\] → \[B, …\].   Cost: 2 flop an element.
/// Errors: shapes or types differ; not F32 or F64.
#[track_caller]
pub fn estimate_clean(state: &Tensor, velocity: &Tensor, sigma: f32) -> Result<Tensor> {
    weighted_sum("estimate_clean", state, velocity, &[[1.0, -f64::from(sigma)]])
}

/// Which error the image loss squares; as a weight on the squared velocity error.
///
/// With `x̂₀ = x_σ − σ·v̂`, the error of the clean estimate is `x̂₀ − x₀ = −σ·(v̂ − v)`. So
/// regressing clean data *is* regressing the velocity with weight σ², which all but ignores the
/// low noise levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageLoss {
    /// `‖v̂ − v‖²`: the paper's equation (3).
    #[default]
    Velocity,
    /// `‖x̂₀ − x₀‖² = σ²·‖v̂ − v‖²`: what the released training code computes.
    CleanEstimate,
}

impl ImageLoss {
    /// The weight on the squared velocity error of a sample at noise level `sigma`.
    pub fn weight(self, sigma: f32) -> f32 {
        match self {
            Self::Velocity => 1.0,
            Self::CleanEstimate => sigma * sigma,
        }
    }
}

/// `a·x + b·y` with a pair of weights for each of equally many elements, each product and the sum
/// rounded to the tensors' type: what `a * x + b * y` gives in any array library.
#[track_caller]
pub(super) fn weighted_sum(
    op: &'static str,
    x: &Tensor,
    y: &Tensor,
    weights: &[[f64; 2]],
) -> Result<Tensor> {
    if x.shape() != y.shape() || x.dtype() != y.dtype() {
        let message = "shapes and types must be equal";
        return Err(Error::shape(op, message).operand("left", x).operand("right", y));
    }
    match x.dtype() {
        DType::F32 => typed_weighted_sum::<f32>(x, y, weights),
        DType::F64 => typed_weighted_sum::<f64>(x, y, weights),
        _ => Err(Error::dtype(op, "integration needs f32 or f64").operand("input", x)),
    }
}

fn typed_weighted_sum<T>(x: &Tensor, y: &Tensor, weights: &[[f64; 2]]) -> Result<Tensor>
where
    T: Element + Mul<Output = T> + Add<Output = T>,
{
    let (x, y) = (x.contiguous(), y.contiguous());
    let (from_x, from_y) = (x.slice::<T>()?, y.slice::<T>()?);
    let block = from_x.len() / weights.len().max(1);
    Ok(Tensor::build(x.shape(), |sum: &mut [T]| {
        for (sample, &[a, b]) in weights.iter().enumerate() {
            let (a, b) = (T::from_f64(a), T::from_f64(b));
            let range = sample * block..(sample + 1) * block;
            let inputs = from_x[range.clone()].iter().zip(&from_y[range.clone()]);
            for (sum, (&x, &y)) in sum[range].iter_mut().zip(inputs) {
                *sum = a * x + b * y;
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Tensor, Tensor) {
        let clean = Tensor::from_slice(&[1.5_f32, -2.0, 0.1, 3.0], [2, 2]).unwrap();
        let noise = Tensor::from_slice(&[0.25_f32, 7.0, -0.3, 1e-3], [2, 2]).unwrap();
        (clean, noise)
    }

    #[test]
    fn equation_1_endpoints_are_exact() {
        let (clean, noise) = pair();
        let at = |sigma: &[f32]| interpolate(&clean, &noise, sigma).unwrap().to_f64_vec();
        assert_eq!(at(&[0.0]), clean.to_f64_vec());
        assert_eq!(at(&[1.0]), noise.to_f64_vec());
        assert_eq!(at(&[0.0, 1.0])[..2], clean.to_f64_vec()[..2]);
        assert_eq!(at(&[0.0, 1.0])[2..], noise.to_f64_vec()[2..]);
    }

    #[test]
    fn true_velocity_points_at_the_data() {
        let (clean, noise) = pair();
        let (clean, noise) = (clean.to_dtype(DType::F64), noise.to_dtype(DType::F64));
        let velocity = velocity_target(&clean, &noise).unwrap();
        let state = interpolate(&clean, &noise, &[0.3]).unwrap();
        let estimate = estimate_clean(&state, &velocity, 0.3).unwrap();
        for (a, b) in estimate.to_f64_vec().into_iter().zip(clean.to_f64_vec()) {
            assert!((a - b).abs() < 1e-14, "{a} is not {b}");
        }
    }

    #[test]
    fn clean_loss_is_velocity_loss_times_sigma_squared() {
        let (clean, noise) = pair();
        let (sigma, guess) = (0.625, Tensor::full([2, 2], 0.5, DType::F32));
        let state = interpolate(&clean, &noise, &[sigma]).unwrap();
        let estimate = estimate_clean(&state, &guess, sigma).unwrap();
        let squares = |a: &Tensor, b: &Tensor| -> f64 {
            a.to_f64_vec().iter().zip(b.to_f64_vec()).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let target = velocity_target(&clean, &noise).unwrap();
        let weighted = f64::from(ImageLoss::CleanEstimate.weight(sigma)) * squares(&guess, &target);
        assert!((weighted - squares(&estimate, &clean)).abs() < 1e-5 * weighted);
        assert_eq!(ImageLoss::Velocity.weight(sigma), 1.0);
    }

    #[test]
    fn mistakes_are_errors() {
        let (clean, noise) = pair();
        assert!(interpolate(&clean, &noise, &[0.1, 0.2, 0.3]).is_err());
        assert!(velocity_target(&clean, &noise.reshape([4]).unwrap()).is_err());
        let half = |x: &Tensor| x.to_dtype(DType::BF16);
        assert!(velocity_target(&half(&clean), &half(&noise)).is_err());
    }
}
