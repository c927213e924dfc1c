//! A formula of several vectors at once.
//!
//! GELU is a chain of two dozen instructions, each of which waits for the one before. A processor
//! goes on with the next vector's meanwhile, but no further than its scheduler has room for what
//! waits: four such chains. So four vectors go through a formula one operation after the other,
//! where there are registers for that.

use super::formula::Pointwise;
use crate::lane::Array;
use crate::{Real, Simd};

/// Vectors that go through a formula together.
const TOGETHER: usize = 4;

/// f at N vectors of each operand.
#[inline(always)]
pub(crate) fn together<const K: usize, const N: usize, S: Simd>(
    _: S,
    f: &impl Pointwise<K>,
    x: [[S::V; N]; K],
) -> [S::V; N] {
    if const { S::MANY_REGISTERS } {
        let mut v = [Array(x[0]); K];
        for k in 0..K {
            v[k] = Array(x[k]);
        }
        return f.at(v).0;
    }
    let mut y = x[0];
    for n in 0..N {
        let mut v = [y[n]; K];
        for k in 0..K {
            v[k] = x[k][n];
        }
        y[n] = f.at(v);
    }
    y
}

/// f at so many vectors: `load` answers the operands of the i-th, `store` takes its value.
#[inline(always)]
pub(crate) fn each_vector<const K: usize, S: Simd>(
    isa: S,
    f: &impl Pointwise<K>,
    vectors: usize,
    load: impl Fn(usize) -> [S::V; K],
    mut store: impl FnMut(usize, S::V),
) {
    let mut done = 0;
    if const { S::MANY_REGISTERS } {
        while done + TOGETHER <= vectors {
            let mut x = [[isa.splat(S::T::ZERO); TOGETHER]; K];
            for n in 0..TOGETHER {
                let operands = load(done + n);
                for k in 0..K {
                    x[k][n] = operands[k];
                }
            }
            let y = together(isa, f, x);
            for n in 0..TOGETHER {
                store(done + n, y[n]);
            }
            done += TOGETHER;
        }
    }
    for i in done..vectors {
        store(i, f.at(load(i)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::exprs::{Clamp, GeluTanh, Softplus};
    use crate::elementwise::{Chain, Unary, map};
    use crate::lane::{LANES, on_every_isa};

    const UNIT: Clamp = Clamp { low: 0.0, high: 1.0 };

    /// Every branch of a `max`, a `min` and a selection.
    fn special() -> Vec<f32> {
        let special = [f32::NAN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 10.0, -10.0];
        (0..9 * LANES + 5)
            .map(|i| special.get(i % 11).map_or(i as f32 / 20.0 - 4.0, |&x| x))
            .collect()
    }

    fn bits<const K: usize>(f: &impl Pointwise<K>) -> Vec<u32> {
        let x = special();
        let (n, mut y) = (x.len() - K + 1, vec![0.0; x.len() - K + 1]);
        map(f, &[n], std::array::from_fn(|k| (&x[k..k + n], &[1][..])), &mut y);
        y.into_iter().map(f32::to_bits).collect()
    }

    /// Beside one element at a time.
    #[test]
    fn formulas_have_one_value_alone_and_in_company() {
        let x = special();
        on_every_isa("four vectors together", |isa| {
            let alone = |i: usize| [GeluTanh.f(x[i]), Softplus.f(x[i]), UNIT.f(x[i])];
            let together = [bits(&GeluTanh), bits(&Softplus), bits(&UNIT)];
            let slopes = bits(&Chain(GeluTanh));
            for i in 0..x.len() {
                let alone = alone(i).map(f32::to_bits);
                assert_eq!(together.each_ref().map(|bits| bits[i]), alone, "{isa:?} {}", x[i]);
                if i + 1 < x.len() {
                    let slope = Chain(GeluTanh).at([x[i], x[i + 1]]).to_bits();
                    assert_eq!(slopes[i], slope, "{isa:?} {}", x[i]);
                }
            }
        });
    }
}
