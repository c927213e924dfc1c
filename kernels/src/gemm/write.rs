//! Writers: what becomes of a finished sum.
//!
//! A product hands a writer rows of finished sums, still in cache. Bias, activation, gate and
//! residual cost nothing there.

use half::bf16;

use crate::elementwise::Unary;
use crate::elementwise::exprs::GeluTanh;
use crate::lane::LANES;
use crate::{Real, Simd, Task};

/// Where a run of sums lies in the product.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Number of the matrix in the batch.
    pub batch: usize,
    /// Its row.
    pub row: usize,
    /// The run's first column.
    pub col: usize,
}

/// Takes finished sums to the output.
pub trait Writer<T: Real, O = T>: Sync {
    /// Writes the output elements that belong to the run `sums`.
    ///
    /// `kept` is the same run of a second output, for what the backward pass needs; it is empty
    /// where nobody asked for it.
    fn write(&self, at: At, sums: &[T], out: &mut [O], kept: &mut [T]);
}

/// `out = sum`.
#[derive(Clone, Copy, Debug)]
pub struct Store;

impl<T: Real> Writer<T> for Store {
    fn write(&self, _: At, sums: &[T], out: &mut [T], _: &mut [T]) {
        out.copy_from_slice(sums);
    }
}

/// `out = sum`, rounded to bfloat16.
impl<T: Real> Writer<T, bf16> for Store {
    fn write(&self, _: At, sums: &[T], out: &mut [bf16], _: &mut [T]) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = bf16::from_f64(sum.to_f64());
        }
    }
}

/// `out += sum`: accumulates gradients.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl<T: Real> Writer<T> for Add {
    fn write(&self, _: At, sums: &[T], out: &mut [T], _: &mut [T]) {
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out += sum;
        }
    }
}

/// `out = sum + bias[col]`; nothing is added where there is no bias.
#[derive(Clone, Copy, Debug)]
pub struct Bias<'a, T>(pub Option<&'a [T]>);

impl<T: Real> Writer<T> for Bias<'_, T> {
    fn write(&self, at: At, sums: &[T], out: &mut [T], _: &mut [T]) {
        let Some(bias) = self.0 else { return out.copy_from_slice(sums) };
        for ((out, &sum), &bias) in out.iter_mut().zip(sums).zip(&bias[at.col..]) {
            *out = sum + bias;
        }
    }
}

/// `out = sum + bias[row]`: a convolution's output channels are rows.
#[derive(Clone, Copy, Debug)]
pub struct RowBias<'a, T>(pub &'a [T]);

impl<T: Real> Writer<T> for RowBias<'_, T> {
    fn write(&self, at: At, sums: &[T], out: &mut [T], _: &mut [T]) {
        let bias = self.0[at.row];
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = sum + bias;
        }
    }
}

/// `out = gelu(sum + bias[col])`, tanh form; keeps `sum + bias`.
#[derive(Clone, Copy, Debug)]
pub struct BiasGelu<'a, T>(pub Option<&'a [T]>);

impl<T: Real> Writer<T> for BiasGelu<'_, T> {
    fn write(&self, at: At, sums: &[T], out: &mut [T], kept: &mut [T]) {
        Bias(self.0).write(at, sums, out, &mut []);
        kept.copy_from_slice(&out[..kept.len()]);
        T::dispatch(Gelu(out));
    }
}

/// GELU in place.
struct Gelu<'a, T>(&'a mut [T]);

impl<T: Real> Task<T> for Gelu<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        for x in self.0.chunks_mut(LANES) {
            let y = GeluTanh.f(isa.load_head(x, T::ZERO));
            isa.store_head(y, x);
        }
    }
}

/// `out = residual + gate[sample, col] · (sum + bias[col])`: how a branch joins the trunk in
/// adaLN-Zero. Keeps `sum + bias`.
///
/// A sample is `rows_per_sample` rows of the product. The residual has the product's shape, with
/// adjacent elements.
#[derive(Clone, Copy, Debug)]
pub struct GateResidual<'a, T> {
    /// One number a column.
    pub bias: Option<&'a [T]>,
    /// One row of numbers a sample,
    pub gate: &'a [T],
    /// so many elements apart.
    pub gate_stride: usize,
    /// Rows of the product in a sample.
    pub rows_per_sample: usize,
    /// What the branch is added to,
    pub residual: &'a [T],
    /// and the length of its rows.
    pub cols: usize,
}

impl<T: Real> Writer<T> for GateResidual<'_, T> {
    fn write(&self, at: At, sums: &[T], out: &mut [T], kept: &mut [T]) {
        Bias(self.bias).write(at, sums, out, &mut []);
        kept.copy_from_slice(&out[..kept.len()]);
        let gate = &self.gate[at.row / self.rows_per_sample * self.gate_stride + at.col..];
        let residual = &self.residual[at.row * self.cols + at.col..];
        for ((out, &gate), &residual) in out.iter_mut().zip(gate).zip(residual) {
            *out = residual + gate * *out;
        }
    }
}
