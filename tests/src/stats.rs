//! Goodness of fit, and the normal distribution.

use std::f64::consts::PI;

/// The chance at which a test fails though the law is right.
const ONE_IN_A_MILLION: f64 = 1e-6;

/// Pearson's test that `counts` were drawn from `law`. Cells that expect fewer than five are put
/// together; a cell of probability 0 must be empty.
///
/// # Panics
/// If a right law would be this far off once in a million times.
pub fn assert_drawn_from(counts: &[usize], law: &[f64], what: &str) {
    assert_eq!(counts.len(), law.len());
    assert!((law.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{what}: not a law");
    let total = counts.iter().sum::<usize>() as f64;
    let (mut statistic, mut cells) = (0.0, 0);
    let mut add = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        cells += 1;
    };
    let mut rest = [0.0; 2];
    for (&count, &p) in counts.iter().zip(law) {
        assert!(p > 0.0 || count == 0, "{what}: an impossible outcome");
        let expected = p * total;
        if expected >= 5.0 {
            add(count as f64, expected);
        } else {
            rest = [rest[0] + count as f64, rest[1] + expected];
        }
    }
    if rest[1] >= 1.0 {
        add(rest[0], rest[1]);
    }
    assert!(cells > 1, "{what}: nothing to compare");
    let chance = chi_square_tail(statistic, cells - 1);
    assert!(chance > ONE_IN_A_MILLION, "{what}: χ² = {statistic:.1}, p = {chance:.1e}");
}

/// The test of Kolmogorov and Smirnov that `samples` follow the continuous law with distribution
/// function `cdf`: their largest distance D has P(D > d) ≤ 2·exp(−2nd²).
///
/// # Panics
/// If a right law would be this far off once in a million times.
pub fn assert_follows(mut samples: Vec<f64>, cdf: impl Fn(f64) -> f64, what: &str) {
    samples.sort_unstable_by(f64::total_cmp);
    let n = samples.len() as f64;
    let distance = |(i, &x): (usize, &f64)| {
        let (below, above) = (i as f64 / n, (i + 1) as f64 / n);
        (cdf(x) - below).abs().max((cdf(x) - above).abs())
    };
    let worst = samples.iter().enumerate().map(distance).fold(0.0, f64::max);
    let chance = 2.0 * (-2.0 * n * worst * worst).exp();
    assert!(chance > ONE_IN_A_MILLION, "{what}: D = {worst:.4} of {n}, p = {chance:.1e}");
}

/// Mean of independent values and the standard error of it.
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// The probability that χ² with so many degrees of freedom is larger than `x`.
fn chi_square_tail(x: f64, freedom: usize) -> f64 {
    // Two more degrees of freedom add one more term of a series in x, for odd and even alike.
    let even = freedom.is_multiple_of(2);
    let root = x.sqrt();
    let density = (-0.5 * x).exp();
    let (mut tail, mut term) = match even {
        true => (0.0, density),
        false => (2.0 * normal_cdf(-root), density * (2.0 * x / PI).sqrt()),
    };
    let first = if even { 2 } else { 3 };
    for n in (first..=freedom).step_by(2) {
        tail += term;
        term *= x / n as f64;
    }
    tail
}

/// The distribution function of the standard normal, to about 10⁻¹⁵.
pub fn normal_cdf(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return f64::from(x > 0.0);
    }
    // Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …), Marsaglia 2004.
    let terms = (1..200).scan(x, |term, k| {
        let now = *term;
        *term *= x * x / f64::from(2 * k + 1);
        Some(now)
    });
    0.5 + terms.sum::<f64>() * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((normal_cdf(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((normal_cdf(-3.0) - 0.001_349_898_031_630_095).abs() < 1e-15);
        // Printed tables: the values exceeded with probability 0.001.
        for (freedom, value) in [(1, 10.828), (2, 13.816), (3, 16.266), (10, 29.588), (25, 52.620)]
        {
            assert!((chi_square_tail(value, freedom) / 0.001 - 1.0).abs() < 1e-3);
            assert!([100.0, 1e3, 1e5].iter().all(|&x| chi_square_tail(x, freedom) < 1e-6));
        }
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert!(mean == 2.5 && (error - (5.0_f64 / 12.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn a_wrong_law_is_noticed() {
        let counts = [5_150, 4_850];
        assert_drawn_from(&counts, &[0.51, 0.49], "near enough");
        let wrong = || assert_drawn_from(&counts, &[0.485, 0.515], "six sigma away");
        assert!(std::panic::catch_unwind(wrong).is_err());

        let grid = || (0..1000).map(|i| (f64::from(i) + 0.5) / 1000.0).collect::<Vec<_>>();
        assert_follows(grid(), |x| x, "as even as can be");
        assert_follows(grid(), |x| x.powf(1.1), "near enough");
        let wrong = || assert_follows(grid(), |x| x.powf(1.4), "another power");
        assert!(std::panic::catch_unwind(wrong).is_err());
    }
}
