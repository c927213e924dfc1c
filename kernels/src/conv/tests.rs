//! Forward and both gradients against loops over all that meets.

use super::*;
use crate::random::philox4x32;

/// Uniform in [-1, 1); element i of stream `seed`.
fn values(seed: u32, n: usize) -> Vec<f64> {
    let value = |i| f64::from(philox4x32([seed, 0], [i, 0, 0, 0])[0] >> 16) / 32768.0 - 1.0;
    (0..n as u32).map(value).collect()
}

#[track_caller]
fn assert_close<T: Real>(got: &[T], want: &[f64], terms: usize) {
    // Rounding of a sum of `terms` products at most 1 in size.
    let epsilon = if size_of::<T>() == 4 { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let tolerance = epsilon * (terms + 4) as f64;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.to_f64() - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "{i}: {got} for {want}");
    }
}

fn check<T: Real>(conv: Conv) {
    let [nx, nw, ny] = conv.lens();
    let (x, w, b, dy) = (values(1, nx), values(2, nw), values(3, conv.filters), values(4, ny));
    let real = |v: &[f64]| -> Vec<T> { v.iter().map(|&v| T::from_f64(v)).collect() };
    let (xt, wt, bt, dyt) = (real(&x), real(&w), real(&b), real(&dy));
    let nan = |n: usize| vec![T::from_f64(f64::NAN); n];

    let mut y = nan(ny);
    forward(conv, &xt, &wt, Some(&bt), &mut y);
    assert_close(&y, &reference(conv, &x, &w, Some(&b)), conv.taps());
    forward(conv, &xt, &wt, None, &mut y);
    assert_close(&y, &reference(conv, &x, &w, None), conv.taps());
    let mut dx = nan(nx);
    transposed(conv, &wt, None, &dyt, &mut dx);
    let meetings = conv.filters * conv.kernel[0] * conv.kernel[1];
    let mut want = reference_input_gradient(conv, &w, &dy);
    assert_close(&dx, &want, meetings);
    let bias = values(5, conv.channels);
    transposed(conv, &wt, Some(&real(&bias)), &dyt, &mut dx);
    let plane = (conv.input[0] * conv.input[1]).max(1);
    want.iter_mut().enumerate().for_each(|(i, dx)| *dx += bias[i / plane % conv.channels]);
    assert_close(&dx, &want, meetings);
    let mut dw = nan(nw);
    weight_gradient(conv, &xt, &dyt, &mut dw);
    assert_close(&dw, &reference_weight_gradient(conv, &x, &dy), ny / conv.filters.max(1));
}

/// A random convolution that has an output.
fn random_conv(round: u32) -> Conv {
    let r = |i: u32, n: usize| philox4x32([7, round], [i, 0, 0, 0])[0] as usize % n;
    let conv = Conv {
        batch: 1 + r(0, 3),
        channels: 1 + r(1, 20),
        input: [1 + r(2, 21), 1 + r(3, 40)],
        filters: 1 + r(4, 20),
        kernel: [1 + r(5, 4), 1 + r(6, 4)],
        stride: 1 + r(7, 3),
        pad: [r(8, 3), r(9, 3), r(10, 3), r(11, 3)],
    };
    if conv.output().is_some() { conv } else { Conv { kernel: [1, 1], ..conv } }
}

#[test]
fn random_convolutions_and_their_gradients() {
    for round in 0..60 {
        check::<f32>(random_conv(round));
        check::<f64>(random_conv(1000 + round));
    }
}

/// Convolutions of enlarged images against loops over the enlarged images.
#[test]
fn enlarged_images_are_never_made_but_seen() {
    fn check<T: Real>(sizes: Upsample) {
        let conv = sizes.of_enlarged();
        let [nx, nw, ny] = conv.lens();
        let (x, w, b, dy) =
            (values(1, nx / 4), values(2, nw), values(3, sizes.filters), values(4, ny));
        let real = |v: &[f64]| -> Vec<T> { v.iter().map(|&v| T::from_f64(v)).collect() };
        let (xt, wt, bt, dyt) = (real(&x), real(&w), real(&b), real(&dy));
        let nan = |n: usize| vec![T::from_f64(f64::NAN); n];
        // Where pixel `at` of the enlarged images comes from.
        let [rows, columns] = conv.input;
        let source = |at: usize| {
            let (line, column) = (at / columns, at % columns);
            (line / rows * (rows / 2) + line % rows / 2) * (columns / 2) + column / 2
        };
        let large: Vec<f64> = (0..nx).map(|at| x[source(at)]).collect();

        let mut y = nan(ny);
        sizes.forward(&xt, &wt, Some(&bt), &mut y);
        assert_close(&y, &reference(conv, &large, &w, Some(&b)), 4 * conv.taps());
        let mut dx = nan(nx / 4);
        sizes.input_gradient(&wt, &dyt, &mut dx);
        let mut want = vec![0.0; nx / 4];
        for (at, dx) in reference_input_gradient(conv, &w, &dy).into_iter().enumerate() {
            want[source(at)] += dx;
        }
        assert_close(&dx, &want, 4 * nw / sizes.channels);
        let mut dw = nan(nw);
        sizes.weight_gradient(&xt, &dyt, &mut dw);
        assert_close(&dw, &reference_weight_gradient(conv, &large, &dy), 4 * ny / sizes.filters);
    }
    for round in 0..40 {
        let r = |i: u32, n: usize| philox4x32([9, round], [i, 0, 0, 0])[0] as usize % n;
        let sizes = Upsample {
            batch: 1 + r(0, 2),
            channels: 1 + r(1, 20),
            input: [1 + r(2, 12), 1 + r(3, 24)],
            filters: 1 + r(4, 20),
            kernel: [1 + 2 * r(5, 3), 1 + 2 * r(6, 3)],
        };
        check::<f32>(sizes);
        check::<f64>(sizes);
    }
}

#[test]
fn the_convolutions_of_the_autoencoder() {
    let same = Conv {
        batch: 2,
        channels: 32,
        input: [16, 16],
        filters: 32,
        kernel: [3, 3],
        stride: 1,
        pad: [1; 4],
    };
    check::<f32>(same);
    // Downsampling pads right and bottom only.
    check::<f32>(Conv { stride: 2, pad: [0, 1, 0, 1], ..same });
    // Patch embedding.
    check::<f32>(Conv { kernel: [2, 2], stride: 2, pad: [0; 4], ..same });
}

#[test]
fn threads_do_not_change_a_bit() {
    let sizes = Upsample { batch: 2, channels: 40, input: [20, 24], filters: 24, kernel: [3, 3] };
    let conv = Conv { stride: 2, pad: [0, 1, 0, 1], ..sizes.of_enlarged() };
    let real = |seed, n| -> Vec<f32> { values(seed, n).into_iter().map(|v| v as f32).collect() };
    let [nx, nw, ny] = conv.lens();
    let (x, w, dy) = (real(1, nx / 4), real(2, nw), real(3, ny));
    let both = |threads| {
        let (mut y, mut dx) = (vec![0.0; 4 * ny], vec![0.0; nx]);
        crate::par::with_threads(threads, || {
            sizes.forward(&x, &w, None, &mut y);
            transposed(conv, &w, None, &dy, &mut dx);
        });
        (y, dx)
    };
    assert_eq!(both(1), both(3));
}

#[test]
fn nothing_comes_of_nothing() {
    let conv = Conv {
        batch: 0,
        channels: 2,
        input: [5, 5],
        filters: 3,
        kernel: [3, 3],
        stride: 1,
        pad: [0; 4],
    };
    check::<f64>(conv);
    check::<f64>(Conv { batch: 1, channels: 0, ..conv });
    assert_eq!(Conv { kernel: [6, 1], ..conv }.output(), None);
    assert_eq!(Conv { stride: 0, ..conv }.output(), None);
    assert_eq!(Conv { kernel: [6, 1], pad: [1, 0, 0, 0], ..conv }.output(), Some([1, 5]));
}
