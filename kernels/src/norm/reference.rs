//! Normalisation in plain float64 loops: what the fast ones are checked against.

use super::{Affine, Group, Rows};
use crate::Real;
use crate::elementwise::{Unary, exprs::Silu};

/// What a normalisation answers, forward and backward.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// Like x.
    pub y: Vec<f64>,
    /// Like x.
    pub dx: Vec<f64>,
    /// Of the scale \[B, C\] or the weight \[C\].
    pub dgain: Vec<f64>,
    /// Of the shift \[B, C\] or the bias \[C\].
    pub dshift: Vec<f64>,
}

/// The elements of one row: where they are, and which gain and shift (the sample's or the
/// channel's) is theirs.
struct Row<'a> {
    elements: std::ops::Range<usize>,
    eps: f64,
    centered: bool,
    gain: &'a dyn Fn(usize) -> (f64, usize),
    shift: &'a dyn Fn(usize) -> f64,
    silu: bool,
}

impl Reference {
    /// Normalises one row of x and propagates dy through it.
    fn row(&mut self, x: &[f64], dy: &[f64], row: &Row) {
        let n = row.elements.len() as f64;
        let elements = || row.elements.clone();
        let mean = if row.centered { elements().map(|i| x[i]).sum::<f64>() / n } else { 0.0 };
        let variance = elements().map(|i| (x[i] - mean).powi(2)).sum::<f64>() / n;
        let sigma = (variance + row.eps).sqrt();
        let normal = |i: usize| (x[i] - mean) / sigma;
        // The gradient of gain·x̂ + shift, and its products' means over the row.
        let e = |i: usize| {
            let z = (row.gain)(i).0 * normal(i) + (row.shift)(i);
            if row.silu { dy[i] * Silu.slope(z) } else { dy[i] }
        };
        let d = |i: usize| e(i) * (row.gain)(i).0;
        let sum = if row.centered { elements().map(d).sum::<f64>() / n } else { 0.0 };
        let product = elements().map(|i| d(i) * normal(i)).sum::<f64>() / n;
        for i in elements() {
            let z = (row.gain)(i).0 * normal(i) + (row.shift)(i);
            self.y[i] = if row.silu { Silu.f(z) } else { z };
            self.dx[i] = (d(i) - sum - normal(i) * product) / sigma;
            let parameter = (row.gain)(i).1;
            self.dgain[parameter] += e(i) * normal(i);
            self.dshift[parameter] += e(i);
        }
    }
}

fn numbers<T: Real>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// What [`normalize`](super::normalize) and its backward pass should answer.
pub fn rows_reference<T: Real>(norm: &Rows<T>, x: &[T], dy: &[T]) -> Reference {
    let (x, dy, width) = (numbers(x), numbers(dy), norm.width);
    let rows = x.len() / width;
    let samples = match norm.affine {
        Affine::Modulation { .. } => rows.checked_div(norm.rows_per_sample).unwrap_or(0),
        _ => 1,
    };
    let zeros = vec![0.0; x.len()];
    let slopes = vec![0.0; samples * width];
    let mut r = Reference { y: zeros.clone(), dx: zeros, dgain: slopes.clone(), dshift: slopes };
    for row in 0..rows {
        let sample = row.checked_div(norm.rows_per_sample).unwrap_or(0);
        let gain = |i: usize| match norm.affine {
            Affine::Identity => (1.0, i % width),
            Affine::Weight(weight) => (weight[i % width].to_f64(), i % width),
            Affine::Modulation { scale, stride, .. } => {
                (1.0 + scale[sample * stride + i % width].to_f64(), sample * width + i % width)
            }
        };
        let shift = |i: usize| match norm.affine {
            Affine::Modulation { shift, stride, .. } => shift[sample * stride + i % width].to_f64(),
            _ => 0.0,
        };
        let elements = row * width..(row + 1) * width;
        let Rows { eps, centered, .. } = *norm;
        r.row(&x, &dy, &Row { elements, eps, centered, gain: &gain, shift: &shift, silu: false });
    }
    r
}

/// What [`group_norm`](super::group_norm) and its backward pass should answer.
pub fn group_reference<T: Real>(norm: &Group<T>, x: &[T], dy: &[T]) -> Reference {
    let (x, dy, len) = (numbers(x), numbers(dy), norm.channels / norm.groups * norm.pixels);
    let zeros = vec![0.0; x.len()];
    let slopes = vec![0.0; norm.channels];
    let mut r = Reference { y: zeros.clone(), dx: zeros, dgain: slopes.clone(), dshift: slopes };
    let channel = |i: usize| i / norm.pixels % norm.channels;
    let gain = |i: usize| (norm.weight[channel(i)].to_f64(), channel(i));
    let shift = |i: usize| norm.bias[channel(i)].to_f64();
    for group in 0..x.len() / len {
        let elements = group * len..(group + 1) * len;
        let Group { eps, silu, .. } = *norm;
        r.row(&x, &dy, &Row { elements, eps, centered: true, gain: &gain, shift: &shift, silu });
    }
    r
}
