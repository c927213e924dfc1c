//! Normal numbers from random words, the same to the last bit everywhere.
//!
//! The logarithm, sine and cosine use nothing but `+ − × ÷ √` in float64, which IEEE 754 fixes; a
//! system's own may differ from one version of its library to the next, and a GPU's do.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2, LN_2};
use std::ops::{Add, Div, Mul, Sub};

/// Bits of √½.
pub(super) const ROOT_HALF: u64 = FRAC_1_SQRT_2.to_bits();

/// What normal numbers are computed in: float64, on the CPU or in a GPU's register.
pub(super) trait Double:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// A constant.
    fn lift(self, c: f64) -> Self;
    /// √self.
    fn sqrt(self) -> Self;
    /// Of a normal positive number m·2ᵉ, m and e with m in [√½, √2).
    fn split(self) -> [Self; 2];
}

impl Double for f64 {
    fn lift(self, c: f64) -> f64 {
        c
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    fn split(self) -> [f64; 2] {
        let shifted = self.to_bits().wrapping_sub(ROOT_HALF);
        let mantissa = f64::from_bits((shifted & ((1 << 52) - 1)) + ROOT_HALF);
        [mantissa, ((shifted as i64) >> 52) as f64]
    }
}

/// Two independent standard normal numbers from 128 uniform bits: a point of the plane whose
/// squared radius is exponential, −2·ln u with u in (0, 1], and whose direction is uniform.
/// The largest radius is √(2·53·ln 2) = 8.57.
///
/// Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
pub fn box_muller([first, second]: [u64; 2]) -> [f64; 2] {
    let upper_53 = |word: u64| (word >> 11) as f64;
    let u = (upper_53(first) + 1.0) * 0.5_f64.powi(53);
    // Two bits choose the quadrant, 53 of the others the angle within it, from −π/4 to π/4.
    let [radius, sin, cos] = polar(u, upper_53(second << 2) * 0.5_f64.powi(53));
    let (x, y) = match second >> 62 {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    };
    [radius * x, radius * y]
}

/// √(−2·ln u), and sine and cosine of the angle from −π/4 to π/4 that a fraction in [0, 1) means.
pub(super) fn polar<V: Double>(u: V, fraction: V) -> [V; 3] {
    let radius = (u.lift(-2.0) * ln(u)).sqrt();
    let angle = (fraction - fraction.lift(0.5)) * fraction.lift(FRAC_PI_2);
    let [sin, cos] = sin_cos(angle);
    [radius, sin, cos]
}

/// Natural logarithm of a normal positive number, to a few units in the last place.
///
/// With x = m·2ᵉ and m in [√½, √2): ln x = e·ln 2 + 2·artanh s, s = (m − 1)/(m + 1), |s| < 0.172,
/// by its series 2·Σ s²ᵏ⁺¹/(2k + 1), of which the first dropped term is below 2⁻⁶⁵ of the sum.
fn ln<V: Double>(x: V) -> V {
    const COEFFICIENTS: [f64; 12] = {
        let mut table = [1.0; 12];
        let mut k = 1;
        while k < 12 {
            table[k] = 1.0 / (2 * k + 1) as f64;
            k += 1;
        }
        table
    };
    let [m, exponent] = x.split();
    let s = (m - m.lift(1.0)) / (m + m.lift(1.0));
    exponent * x.lift(LN_2) + x.lift(2.0) * s * polynomial(&COEFFICIENTS, s * s)
}

/// Sine and cosine of an angle in [−π/4, π/4] by their series; the first dropped terms are below
/// 2⁻⁵⁷ of the sums.
fn sin_cos<V: Double>(angle: V) -> [V; 2] {
    /// (−1)ᵏ/(2k + first)!
    const fn coefficients(first: usize) -> [f64; 9] {
        let mut table = [1.0; 9];
        let mut k = 1;
        while k < 9 {
            let n = 2 * k + first;
            table[k] = -table[k - 1] / (n * (n - 1)) as f64;
            k += 1;
        }
        table
    }
    const SIN: [f64; 9] = coefficients(1);
    const COS: [f64; 9] = coefficients(0);
    let square = angle * angle;
    [angle * polynomial(&SIN, square), polynomial(&COS, square)]
}

/// Σ cₖ·xᵏ by Horner's rule.
fn polynomial<V: Double, const N: usize>(coefficients: &[f64; N], x: V) -> V {
    coefficients.iter().rev().fold(x.lift(0.0), |sum, &c| sum * x + x.lift(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_close_to_the_systems() {
        for i in 0..100_000_u32 {
            let word = crate::random::philox4x32([1, 0], [i, 0, 0, 0])[0];
            let x = f64::from(word) / f64::from(u32::MAX) + 1e-300;
            assert!((ln(x) - x.ln()).abs() <= 8e-16 * x.ln().abs(), "ln {x}");
            let angle = (x - 0.5) * FRAC_PI_2;
            let [sin, cos] = sin_cos(angle);
            assert!((sin - angle.sin()).abs() <= 3e-16 * angle.sin().abs(), "sin {angle}");
            assert!((cos - angle.cos()).abs() <= 3e-16, "cos {angle}");
        }
        assert_eq!((ln(1.0), sin_cos(0.0)), (0.0, [0.0, 1.0]));
    }

    #[test]
    fn the_ends_of_the_range_are_finite_and_the_quadrants_those_of_the_plane() {
        let [x, y] = box_muller([0, 0]);
        assert!((x.hypot(y) - (106.0 * LN_2).sqrt()).abs() < 1e-14);
        assert_eq!(box_muller([u64::MAX, 5]), [0.0, -0.0]);
        for quadrant in 0..4 {
            // The middle of a quadrant is on an axis.
            let [x, y] = box_muller([1 << 63, quadrant << 62 | 1 << 61]);
            let want = (2.0 * LN_2).sqrt();
            let [right, up] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]][quadrant as usize];
            assert!((x - want * right).abs() < 1e-14 && (y - want * up).abs() < 1e-14);
        }
    }
}
