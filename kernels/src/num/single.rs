//! Elementary functions in float32, by polynomials, the same bits for scalar and every lane type.
//!
//! Coefficients are those of the Cephes library (Moshier), of [`exp2_normal`] our own; the stated
//! errors are measured on dense grids by the tests below.

use super::Single;

/// eˣ to 1 ulp; the result may be denormal.
#[inline(always)]
pub fn exp<N: Single>(x: N) -> N {
    // A NaN passes both bounds: `max` and `min` answer their second operand.
    let x = x.lift(-104.0).max(x.lift(89.0).min(x));
    let (m, n) = exp_parts(x);
    m.scale(n)
}

/// The same bits as [`exp`] for x in [-87.33, 88.37], where the result is a normal number.
#[inline(always)]
pub fn exp_normal<N: Single>(x: N) -> N {
    let (m, n) = exp_parts(x);
    m.scale_normal(n)
}

/// 2ˣ to 1 ulp for x in [-126, 127], where the result is a normal number: x = n + r, and a
/// polynomial of degree 6 in r whose relative error on [-½, ½] is least (2e-9, before coefficients
/// are rounded) among those that are 1 at 0.
#[inline(always)]
pub fn exp2_normal<N: Single>(x: N) -> N {
    let c = |v: f64| x.lift(v);
    let n = x.round_ties_even();
    let r = x - n;
    let p = c(1.535_336_1e-4)
        .mul_add(r, c(1.339_887_5e-3))
        .mul_add(r, c(9.618_437e-3))
        .mul_add(r, c(5.550_332_5e-2))
        .mul_add(r, c(2.402_264_8e-1))
        .mul_add(r, c(6.931_472e-1))
        .mul_add(r, c(1.0));
    p.scale_normal(n)
}

/// (m, n) with eˣ = m·2ⁿ and m about in [√½, √2]: x = n·ln 2 + r by Cody and Waite's two-part ln 2,
/// m by a degree-6 polynomial in r.
#[inline(always)]
fn exp_parts<N: Single>(x: N) -> (N, N) {
    let c = |v: f64| x.lift(v);
    let n = (x * c(std::f64::consts::LOG2_E)).round_ties_even();
    let r = n.mul_add(c(-0.693_359_375), x);
    let r = n.mul_add(c(2.121_944_4e-4), r);
    let p = c(1.987_569_15e-4)
        .mul_add(r, c(1.398_199_95e-3))
        .mul_add(r, c(8.333_451_9e-3))
        .mul_add(r, c(4.166_579_6e-2))
        .mul_add(r, c(1.666_666_55e-1))
        .mul_add(r, c(5.000_000_1e-1));
    (p.mul_add(r * r, r) + c(1.0), n)
}

/// ln x to 1 ulp; −∞ at 0, NaN below.
#[inline(always)]
pub fn ln<N: Single>(x: N) -> N {
    let c = |v: f64| x.lift(v);
    let tiny = x.lt(c(f32::MIN_POSITIVE as f64));
    let normal = N::select(tiny, x * c(8_388_608.0), x);
    let (m, e) = normal.split();
    let e = e - N::select(tiny, c(23.0), c(0.0));
    let f = m - c(1.0);
    let z = f * f;
    let p = c(7.037_683_6e-2)
        .mul_add(f, c(-1.151_461_03e-1))
        .mul_add(f, c(1.167_699_9e-1))
        .mul_add(f, c(-1.242_014_1e-1))
        .mul_add(f, c(1.424_932_3e-1))
        .mul_add(f, c(-1.666_805_8e-1))
        .mul_add(f, c(2.000_071_5e-1))
        .mul_add(f, c(-2.499_999_4e-1))
        .mul_add(f, c(3.333_333_1e-1));
    let y = p * f * z;
    let y = e.mul_add(c(-2.121_944_4e-4), y);
    let y = z.mul_add(c(-0.5), y) + f;
    let y = e.mul_add(c(0.693_359_375), y);
    let y = N::select(x.lt(c(f64::INFINITY)), y, x);
    let y = N::select(c(0.0).lt(x), y, c(f64::NEG_INFINITY));
    let y = N::select(x.lt(c(0.0)), c(f64::NAN), y);
    // A NaN fails every comparison above: give it back.
    N::select(x.abs().lt(c(f64::INFINITY)), y, N::select(c(0.0).lt(x), x, y + x))
}

/// tanh x to 3 ulp: an odd polynomial below 0.625, 1 − 2/(e²ˣ + 1) above.
#[inline(always)]
pub fn tanh<N: Single>(x: N) -> N {
    let c = |v: f64| x.lift(v);
    let z = x * x;
    let p = c(-5.704_988_7e-3)
        .mul_add(z, c(2.063_908_9e-2))
        .mul_add(z, c(-5.373_971_5e-2))
        .mul_add(z, c(1.333_144_2e-1))
        .mul_add(z, c(-3.333_328_1e-1));
    let small = (p * z).mul_add(x, x);
    let large = c(1.0) - c(2.0) / (exp(x + x) + c(1.0));
    N::select(x.abs().lt(c(0.625)), small, large)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against `exact`, in units in the last place, over `inputs`.
    fn worst_ulp(
        f: fn(f32) -> f32,
        exact: fn(f64) -> f64,
        inputs: impl Iterator<Item = f32>,
    ) -> f64 {
        let mut worst = 0.0f64;
        for x in inputs {
            let want = exact(x as f64);
            let ulp = f64::from((want.abs() as f32).next_up()) - f64::from(want.abs() as f32);
            worst = worst.max((f(x) as f64 - want).abs() / ulp.max(f64::from(f32::from_bits(1))));
        }
        worst
    }

    fn grid(lo: f32, hi: f32, n: usize) -> impl Iterator<Item = f32> {
        (0..=n).map(move |i| lo + (hi - lo) * i as f32 / n as f32)
    }

    #[test]
    fn elementary_functions_are_within_their_stated_ulp() {
        assert!(worst_ulp(exp, f64::exp, grid(-103.0, 88.7, 2_000_003)) < 1.0);
        assert!(worst_ulp(ln, f64::ln, grid(1e-6, 4.0, 2_000_003)) < 1.0);
        assert!(worst_ulp(ln, f64::ln, grid(1.0, 3e38, 200_003)) < 1.0);
        assert!(worst_ulp(tanh, f64::tanh, grid(-10.0, 10.0, 2_000_003)) < 3.0);
    }

    #[test]
    fn a_normal_exponential_is_the_exponential() {
        for x in grid(-87.33, 88.37, 2_000_003) {
            assert_eq!(exp_normal(x).to_bits(), exp(x).to_bits(), "{x}");
        }
        assert!(exp_normal(-87.33f32).is_normal() && exp_normal(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two_are_within_their_stated_ulp() {
        assert!(worst_ulp(exp2_normal, f64::exp2, grid(-126.0, 127.0, 2_000_003)) < 1.0);
        assert!((-126..=127).all(|n| exp2_normal(n as f32) == f32::exp2(n as f32)));
        assert!(exp2_normal(f32::NAN).is_nan());
    }

    #[test]
    fn special_values_follow_ieee() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0f32), 1.0);
        assert_eq!(ln(0.0f32), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert_eq!(ln(1.0f32), 0.0);
        assert!(ln(-1.0f32).is_nan());
        assert!(ln(f32::NAN).is_nan());
        assert!((ln(1e-40f32) as f64 - (1e-40f32 as f64).ln()).abs() < 1e-5);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert!(tanh(f32::NAN).is_nan());
    }
}
