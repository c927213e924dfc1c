use super::*;
use crate::elementwise::exprs::*;
use crate::elementwise::{Binary, Chain, Partial, Unary};
use crate::num::Dual;

/// Values without pattern in ±3, none near 0.
fn values(n: usize, salt: u32) -> Vec<f64> {
    (0..n as u32)
        .map(|i| {
            let word = crate::random::philox4x32([salt, 0], [i, 0, 0, 0])[0];
            let x = f64::from(word) / f64::from(u32::MAX) * 5.8 - 2.9;
            if x.abs() < 0.05 { x + 0.1 } else { x }
        })
        .collect()
}

fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Lanes, scalars and the derivative agree with float64 for one formula over its domain.
fn check<U: Unary>(u: U) {
    let domain = u.domain();
    let middle = 0.5 * (domain.low + domain.high);
    let x: Vec<f64> =
        values(1003, 7).iter().map(|x| middle + x / 6.0 * (domain.high - domain.low)).collect();
    let x32 = to_f32(&x);
    let mut y = vec![0.0f32; x.len()];
    map(&u, &[x.len()], [(&x32, &[1])], &mut y);
    for (&x, &y) in x32.iter().zip(&y) {
        let want = u.f(f64::from(x));
        assert!((f64::from(y) - want).abs() < 2e-6 * want.abs().max(1.0), "{u:?} at {x}: {y}");
        assert_eq!(u.f(x).to_bits(), y.to_bits(), "{u:?}: a scalar is a lane");
    }
    let h = 1e-4;
    for &x in x.iter().filter(|x| domain.kinks.iter().all(|k| !((*x - k).abs() < 1e-2))) {
        let f = |step: f64| u.f(x + step * h);
        let slope = (f(-2.0) - 8.0 * f(-1.0) + 8.0 * f(1.0) - f(2.0)) / (12.0 * h);
        let at = if U::SLOPE_OF == crate::elementwise::SlopeOf::Output { u.f(x) } else { x };
        assert!((u.slope(at) - slope).abs() < 1e-9 * slope.abs().max(1.0), "{u:?} at {x}");
    }
}

#[test]
fn formulas_and_slopes() {
    check(Neg);
    check(MulScalar(-1.7));
    check(AddScalar(0.3));
    check(Clamp { low: -1.0, high: 0.5 });
    check(Exp);
    check(Ln);
    check(Sqrt);
    check(Square);
    check(Recip);
    check(Abs);
    check(Relu);
    check(Tanh);
    check(Sigmoid);
    check(Silu);
    check(GeluTanh);
    check(Softplus);
}

/// Against values computed elsewhere, to twelve digits.
#[test]
fn formulas_have_their_textbook_values() {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    near(GeluTanh.f(1.0), 0.841_191_990_608_3);
    near(Silu.f(1.0), 0.731_058_578_630_0);
    near(Sigmoid.f(-2.0), 0.119_202_922_022_1);
    near(Softplus.f(0.5), 0.974_076_984_180_1);
    near(Partial::<_, 1>(Div).at([3.0, 2.0, 1.0]), -0.75);
}

#[test]
fn extremes_stay_finite() {
    for x in [-1e4f32, -89.0, -88.0, 88.0, 1e4] {
        assert!(Chain(Silu).at([x, 1.0]).is_finite(), "silu'({x})");
        assert!(Chain(GeluTanh).at([x, 1.0]).is_finite(), "gelu'({x})");
        assert!(Softplus.f(x).is_finite() && Sigmoid.f(x).is_finite());
    }
    for (x, slope) in [(-1e12f32, 0.0), (f32::MIN, 0.0), (f32::NEG_INFINITY, 0.0), (f32::MAX, 1.0)]
    {
        assert!((GeluTanh.f(x) - x.max(0.0)).abs() < 1e-30, "gelu({x})");
        assert!((Chain(GeluTanh).at([x, 1.0]) - slope).abs() < 1e-30, "gelu'({x})");
    }
    for x in [-10.0f32, -9.9, -9.85, 9.85, 9.9, 10.0, 1e3] {
        assert!((GeluTanh.f(x) - x.max(0.0)).abs() < 1e-35, "gelu({x})");
        assert!((GeluTanh.slope(x) - x.clamp(0.0, 1.0)).abs() < 1e-33, "gelu'({x})");
        assert!(GeluTanh.slope(Dual::variable(x)).d.abs() < 1e-31, "gelu''({x})");
    }
    for x in [80.0f32, 81.0, 89.0, 1e4, f32::MAX, f32::INFINITY] {
        assert_eq!((Sigmoid.f(x), Silu.f(x), Silu.slope(x)), (1.0, x, 1.0), "{x}");
        assert_eq!(Sigmoid.f(f64::from(x)), 1.0);
        let (least, silu) = (Sigmoid.f(-x), Silu.f(-x));
        assert!(least > 0.0 && least < 2e-35 && silu.abs() < 2e-33, "{least:e} {silu:e} at -{x}");
        assert!(Silu.slope(-x).abs() < 2e-33, "silu'(-{x})");
    }
    assert!(Silu.f(f32::NAN).is_nan() && Silu.slope(f32::NAN).is_nan());
    assert!(Sigmoid.f(f32::NAN).is_nan() && Chain(GeluTanh).at([f32::NAN, 1.0]).is_nan());
    assert!(Relu.f(f32::NAN).is_nan() && Clamp { low: 0.0, high: 1.0 }.f(f32::NAN).is_nan());
    assert_eq!((Relu.slope(0.0f32), Abs.slope(0.0f32)), (0.0, 0.0));
}

/// Every combination of strides against index arithmetic, with a length that leaves a tail.
#[test]
fn broadcasting_is_index_arithmetic() {
    let shape = [3, 5, 37];
    let (a, b) = (values(600, 1), values(600, 2));
    let layouts: [[usize; 3]; 7] =
        [[185, 37, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 3, 15], [37, 0, 1]];
    for left in layouts {
        for right in layouts {
            let mut y = vec![0.0; 3 * 5 * 37];
            map(&Sub, &shape, [(&a, &left), (&b, &right)], &mut y);
            for (position, &y) in y.iter().enumerate() {
                let index = [position / 185, position / 37 % 5, position % 37];
                let at = |s: [usize; 3]| (0..3).map(|k| index[k] * s[k]).sum::<usize>();
                assert_eq!(y, Sub.f(a[at(left)], b[at(right)]), "{left:?} {right:?} {index:?}");
            }
        }
    }
}

#[test]
fn chunks_and_threads_change_no_bit() {
    let n = 3 * CHUNK + 5;
    let (a, b) = (to_f32(&values(n, 3)), to_f32(&values(7, 4)));
    let mut want = vec![0.0f32; n - 1];
    for (i, y) in want.iter_mut().enumerate() {
        *y = Mul.f(a[i], b[i % 7]);
    }
    let shape = [(n - 1) / 7, 7];
    for threads in [1, 2] {
        let mut y = vec![0.0f32; shape[0] * 7];
        par::with_threads(threads, || {
            map(&Mul, &shape, [(&a, &[7, 1]), (&b, &[0, 1])], &mut y);
        });
        assert_eq!(y, want[..y.len()]);
    }
}

#[test]
fn regions_are_added_where_they_belong() {
    let mut y = vec![1.0f64; 2 * 4 * 3];
    add_region(&mut y, [2, 4, 3], 1, &[10.0; 12], 2);
    let want = [[1.0; 3], [11.0; 3], [11.0; 3], [1.0; 3]].concat();
    assert_eq!(y, [want.clone(), want].concat());
    add_assign(&mut y, &[1.0; 24]);
    assert_eq!((y[0], y[4]), (2.0, 12.0));
}

#[test]
fn empty_and_single() {
    map::<1, f32, _>(&Exp, &[0, 3], [(&[], &[3, 1])], &mut []);
    let mut y = [0.0];
    map(&Add, &[], [(&[1.0f64], &[]), (&[2.0], &[])], &mut y);
    assert_eq!(y, [3.0]);
}
