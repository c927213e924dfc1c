//! Goodness of fit, and the normal distribution.

use std::f64::consts::PI;

/// The chance at which a test fails though the law is right.
const ONE_IN_A_MILLION: f64 = 1e-6;

/// Pearson's test that `counts` were drawn from `law`. Cells that expect fewer than five are put
/// together; a cell of probability 0 must be empty.
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

#[test]
fn known_values() {
    assert!((normal_cdf(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
    assert!((normal_cdf(-3.0) - 0.001_349_898_031_630_095).abs() < 1e-15);
    // Printed tables: the values exceeded with probability 0.001.
    for (freedom, value) in [(1, 10.828), (2, 13.816), (3, 16.266), (10, 29.588), (25, 52.620)] {
        assert!((chi_square_tail(value, freedom) / 0.001 - 1.0).abs() < 1e-3);
        assert!([100.0, 1e3, 1e5].iter().all(|&x| chi_square_tail(x, freedom) < 1e-6));
    }
}

#[test]
fn a_wrong_law_is_noticed() {
    let counts = [5_150, 4_850];
    assert_drawn_from(&counts, &[0.51, 0.49], "near enough");
    let wrong = || assert_drawn_from(&counts, &[0.485, 0.515], "six sigma away");
    assert!(std::panic::catch_unwind(wrong).is_err());
}
