//! Softmax against its reference and its laws.

use super::*;
use crate::lane::on_every_isa;
use crate::par::with_threads;
use crate::random::philox4x32;

fn numbers<T: Real>(seed: u32, len: usize) -> Vec<T> {
    let word = |i: usize| philox4x32([seed, 2], [i as u32, 0, 0, 0])[0];
    (0..len).map(|i| T::from_f64(f64::from(word(i)) / f64::from(1u32 << 29) - 4.0)).collect()
}

const SHAPES: [[usize; 2]; 8] =
    [[1, 1], [3, 2], [5, 16], [2, 17], [300, 33], [1, 40_000], [0, 5], [4, 0]];

/// y and dx, fast and slow.
fn run<T: Real>([rows, n]: [usize; 2], logarithm: bool) -> [[Vec<f64>; 2]; 2] {
    let (x, dy): (Vec<T>, Vec<T>) = (numbers(1, rows * n), numbers(2, rows * n));
    let [mut y, mut dx] = [(); 2].map(|()| vec![T::from_f64(f64::NAN); rows * n]);
    if logarithm {
        log_softmax(&x, n, &mut y);
        log_softmax_backward(&y, n, &dy, &mut dx);
    } else {
        softmax(&x, n, &mut y);
        softmax_backward(&y, n, &dy, &mut dx);
    }
    let fast = [y, dx].map(|v| v.into_iter().map(T::to_f64).collect());
    [fast, reference(&x, n, &dy, logarithm)]
}

fn assert_close<T: Real>(tolerance: f64) {
    for shape in SHAPES {
        for logarithm in [false, true] {
            let [fast, slow] = run::<T>(shape, logarithm);
            for (fast, slow) in fast.iter().zip(&slow) {
                assert_eq!(fast.len(), slow.len());
                let size = slow.iter().fold(1.0f64, |m, x| m.max(x.abs()));
                let close = |(f, s): (&f64, &f64)| (f - s).abs() <= tolerance * size;
                assert!(fast.iter().zip(slow).all(close), "{shape:?} {logarithm}");
            }
        }
    }
}

#[test]
fn equals_the_reference() {
    assert_close::<f64>(1e-13);
    assert_close::<f32>(3e-6);
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    let fast = || SHAPES.map(|shape| [false, true].map(|l| run::<f32>(shape, l)[0].clone()));
    let want = with_threads(1, fast);
    on_every_isa("softmax", |isa| assert!(with_threads(3, fast) == want, "{isa:?}"));
}

#[test]
fn rows_sum_to_one_and_infinities_are_taken_at_their_word() {
    let x = [1000.0f32, f32::NEG_INFINITY, 999.0, f32::NEG_INFINITY];
    let [mut y, mut z] = [[0.0; 4]; 2];
    softmax(&x, 4, &mut y);
    assert_eq!((y.iter().sum::<f32>(), y[1]), (1.0, 0.0));
    log_softmax(&x, 4, &mut z);
    assert_eq!(z[3], f32::NEG_INFINITY);
    assert!((z[0] as f64 - (y[0] as f64).ln()).abs() < 1e-6);

    softmax(&[f32::NEG_INFINITY; 4], 4, &mut y);
    log_softmax(&[f32::NEG_INFINITY; 4], 4, &mut z);
    assert_eq!((y, z), ([0.0; 4], [f32::NEG_INFINITY; 4]));
}
