//! Convolution of images as matrix products that gather their operand on the way.
//!
//! With the taps of a filter as rows and the pixels of an image as columns, the patches that a
//! convolution looks at are a matrix ([`Patches`]). Then
//!
//! ```text
//! y[o, p]  = Σ over taps    w[o, tap] · patches(x)[tap, p] + b[o]        forward
//! dx[c, p] = Σ over taps    w[c, tap] · patches(dy)[tap, p]              gradient of the input
//! dw[tap, o] = Σ over pixels  patches(x)[tap, p] · dy[o, p]              gradient of the weights
//! ```
//!
//! (the second in parts, where there is a stride: [`transposed`]). That matrix is never in memory:
//! it is a [`Reader`], read a few panels at a time into the second cache. Images are \[batch,
//! channel, row, column\] and weights \[filter, channel, row, column\], as checkpoints have them:
//! neighbouring pixels are neighbours in memory and in a panel.

mod patches;
mod phase;
pub mod ptx;
mod reference;
mod upsample;

pub use patches::{AxisMap, Patches};
pub use phase::transposed;
pub use reference::{reference, reference_input_gradient, reference_weight_gradient};
pub use upsample::Upsample;

use crate::gemm::{self, Reader, RowBias, Size, Store, Strided};
use crate::{Real, scratch};

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Rows and columns of the input.
    pub input: [usize; 2],
    /// Filters: channels of the output.
    pub filters: usize,
    /// Rows and columns of a filter.
    pub kernel: [usize; 2],
    /// Input pixels from one output pixel to the next, in both directions.
    pub stride: usize,
    /// Zeros around the input: top, bottom, left, right.
    pub pad: [usize; 4],
}

impl Conv {
    /// Rows and columns of the output, or `None` where the filter is larger than the padded input
    /// or a length is zero that may not be.
    pub fn output(&self) -> Option<[usize; 2]> {
        let [top, bottom, left, right] = self.pad;
        let along = |input: usize, before: usize, after: usize, kernel: usize| {
            let steps = (input + before + after).checked_sub(kernel)?.checked_div(self.stride)?;
            (kernel > 0).then_some(steps + 1)
        };
        Some([
            along(self.input[0], top, bottom, self.kernel[0])?,
            along(self.input[1], left, right, self.kernel[1])?,
        ])
    }

    /// Elements of the input, the weights and the output.
    ///
    /// # Panics
    /// If there is no output ([`Conv::output`]).
    pub fn lens(&self) -> [usize; 3] {
        let [input, output] = [self.input, self.sizes()].map(|[rows, columns]| rows * columns);
        [
            self.batch * self.channels * input,
            self.filters * self.taps(),
            self.batch * self.filters * output,
        ]
    }

    /// Floating-point operations of the forward pass: two for each tap, filter and output pixel.
    pub fn flops(&self) -> usize {
        2 * self.taps() * self.lens()[2]
    }

    fn sizes(&self) -> [usize; 2] {
        self.output().unwrap_or_else(|| panic!("{self:?} has no output"))
    }

    /// Weights of a filter.
    fn taps(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// The patches of `x` that output pixels look at.
    fn patches<'a, T>(&self, x: &'a [T]) -> Patches<'a, T> {
        let [rows, columns] = self.sizes();
        let axis = |axis: usize, length| AxisMap {
            from: self.input[axis],
            to: length,
            taps: self.kernel[axis],
            step: self.stride as isize,
            tap: 1,
            offset: -(self.pad[2 * axis] as isize),
        };
        Patches { x, channels: self.channels, axes: [axis(0, rows), axis(1, columns)] }
    }

    #[track_caller]
    fn check(&self, x: usize, w: usize, y: usize) {
        assert_eq!([x, w, y], self.lens(), "input, weights and output of {self:?}");
    }
}

/// `y = x ⋆ w + bias`: each filter laid over every `stride`-th place of the padded image.
///
/// # Panics
/// If a slice does not have the length that [`Conv::lens`] says, or `bias` one number a filter.
pub fn forward<T: Real>(conv: Conv, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
    conv.check(x.len(), w.len(), y.len());
    let [rows, columns] = conv.sizes();
    let size = Size::new(conv.filters, rows * columns, conv.taps()).batched(conv.batch);
    let (weights, patches) = (Strided::<T>::rows(w, conv.taps()), conv.patches(x));
    let (a, b) = (weights.plain(), patches.plain());
    match bias {
        Some(bias) => gemm::gemm(size, a, b, &RowBias(bias), y),
        None => gemm::gemm(size, a, b, &Store, y),
    }
}

/// The gradient of the weights: `dw = Σ over output pixels of x · dy`.
///
/// # Panics
/// If a slice does not have the length that [`Conv::lens`] says.
pub fn weight_gradient<T: Real>(conv: Conv, x: &[T], dy: &[T], dw: &mut [T]) {
    conv.check(x.len(), dw.len(), dy.len());
    let [rows, columns] = conv.sizes();
    let (taps, filters) = (conv.taps(), conv.filters);
    let patches = conv.patches(x);
    let gradients = Patches::pixels(dy, filters, [rows, columns]);
    let size = Size::new(taps, filters, conv.batch * rows * columns);
    // Patches as rows of A are runs of pixels; as columns of B they would need a transposition.
    // It is the small result that is transposed.
    scratch::with([taps * filters], |[by_tap]| {
        gemm::gemm(size, patches.plain(), gradients.transposed(), &Store, by_tap);
        Strided::<T>::rows(by_tap, filters).read_transposed(0, 0..taps, 0..filters, dw, taps);
    });
}

#[cfg(test)]
mod tests;
