//! Mixtures of Gaussians on the line: data whose flow is known in closed form.

use crate::stats::normal_cdf;

/// Weight, mean and standard deviation of the parts of a mixture.
pub type Mixture = &'static [(f64, f64, f64)];

/// Two parts, unlike in everything.
pub const TWO_PEAKS: Mixture = &[(0.4, -1.5, 0.6), (0.6, 1.0, 0.8)];

/// The marginal velocity `E[ε − x₀ | x_σ = x]`. Within a part all is jointly Gaussian:
/// `x_σ ~ N(aμ, a²s² + σ²)` with a = 1 − σ, and the conditional means are linear in x.
pub fn marginal_velocity(mixture: Mixture, x: f64, sigma: f64) -> f64 {
    let a = 1.0 - sigma;
    let (mut weight, mut velocity) = (0.0, 0.0);
    for &(share, mean, deviation) in mixture {
        let variance = (a * deviation).powi(2) + sigma * sigma;
        let offset = x - a * mean;
        let likelihood = share * (-0.5 * offset * offset / variance).exp() / variance.sqrt();
        let clean = mean + a * deviation * deviation / variance * offset;
        let noise = sigma / variance * offset;
        weight += likelihood;
        velocity += likelihood * (noise - clean);
    }
    velocity / weight
}

/// Where the flow has taken noise `x` by the time σ. On the line a flow cannot let points overtake
/// one another, so it keeps the share of probability to their left: Φ(x) = F_σ(y). Solved by
/// bisection.
pub fn exact_flow(mixture: Mixture, x: f64, sigma: f64) -> f64 {
    let a = 1.0 - sigma;
    let below = |y: f64, (w, m, s): (f64, f64, f64)| {
        w * normal_cdf((y - a * m) / ((a * s).powi(2) + sigma * sigma).sqrt())
    };
    let share = |y: f64| mixture.iter().map(|&part| below(y, part)).sum::<f64>();
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        *(if share(middle) < normal_cdf(x) { &mut low } else { &mut high }) = middle;
    }
    0.5 * (low + high)
}

/// Where the flow takes noise `x` in the end.
pub fn exact_end(mixture: Mixture, x: f64) -> f64 {
    exact_flow(mixture, x, 0.0)
}
