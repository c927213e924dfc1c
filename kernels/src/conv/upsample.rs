//! Convolution of an image enlarged twofold by repeating pixels, without the large image.
//!
//! Pixel u of the enlarged image is pixel ⌊u/2⌋ of x. Where output pixel v looks at
//! u = v + tap − r = 2i + a, a = 0 or 1, it is v = 2i + (a + K − 1 − tap) − r: output pixels are
//! those of a transposed convolution of stride 2 by a filter one larger, each of whose weights is
//! the sum of all that meet,
//!
//! ```text
//! s[c, o, a + K − 1 − t, b + L − 1 − u] = Σ of w[o, c, t, u]         over a, b in {0, 1}
//! ```
//!
//! With a 3 × 3 filter that is 4 multiplications for each channel of an output pixel instead of 9,
//! forward and for each gradient.

use super::{Conv, forward, transposed, weight_gradient};
use crate::{Real, par, scratch};

/// The sizes of an enlargement and the convolution after it, which pads so that an odd filter
/// leaves the doubled size as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upsample {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Rows and columns of the input; the output has twice as many.
    pub input: [usize; 2],
    /// Filters: channels of the output.
    pub filters: usize,
    /// Rows and columns of a filter, both odd.
    pub kernel: [usize; 2],
}

impl Upsample {
    /// The convolution of enlarged images: what this computes, in more steps.
    pub fn of_enlarged(self) -> Conv {
        let [rows, columns] = self.kernel.map(|length| length / 2);
        Conv {
            batch: self.batch,
            channels: self.channels,
            input: self.input.map(|length| 2 * length),
            filters: self.filters,
            kernel: self.kernel,
            stride: 1,
            pad: [rows, rows, columns, columns],
        }
    }

    /// The convolution that this is the transpose of, by sums of weights: it halves the output to
    /// the input.
    ///
    /// # Panics
    /// With a filter of even sides.
    pub fn halving(self) -> Conv {
        assert!(self.kernel.iter().all(|length| length % 2 == 1), "{self:?} has no middle");
        let large = self.of_enlarged();
        Conv {
            channels: self.filters,
            filters: self.channels,
            kernel: self.kernel.map(|length| length + 1),
            stride: 2,
            ..large
        }
    }

    /// `y = enlarged(x) ⋆ w + bias`.
    ///
    /// # Panics
    /// If a slice does not have the length that the sizes say; with a filter of even sides.
    pub fn forward<T: Real>(self, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
        self.with_sums(w, |halving, sums| transposed(halving, sums, bias, x, y));
    }

    /// The gradient of the input.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn input_gradient<T: Real>(self, w: &[T], dy: &[T], dx: &mut [T]) {
        self.with_sums(w, |halving, sums| forward(halving, dy, sums, None, dx));
    }

    /// The gradient of the weights.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn weight_gradient<T: Real>(self, x: &[T], dy: &[T], dw: &mut [T]) {
        let halving = self.halving();
        scratch::with([halving.lens()[1]], |[sums]| {
            weight_gradient(halving, dy, x, sums);
            let [rows, columns] = self.kernel;
            par::chunks_mut(dw, (rows * columns).max(1), sums.len(), |filter, dw| {
                let sums = self.sums_of(filter / self.channels, filter % self.channels, sums);
                dw.fill(T::ZERO);
                self.meetings(|weight, sum| dw[weight] += sums[sum]);
            });
        });
    }

    /// Calls `f` with the convolution whose transpose this is and its weights.
    fn with_sums<T: Real>(self, w: &[T], f: impl FnOnce(Conv, &[T])) {
        let halving = self.halving();
        let [filter, sum] = [self.kernel, halving.kernel].map(|[rows, columns]| rows * columns);
        scratch::with([halving.lens()[1]], |[sums]| {
            par::chunks_mut(sums, sum, 4 * sums.len(), |at, sums| {
                let (channel, output) = (at / self.filters, at % self.filters);
                let w = &w[(output * self.channels + channel) * filter..][..filter];
                sums.fill(T::ZERO);
                self.meetings(|weight, sum| sums[sum] += w[weight]);
            });
            f(halving, sums);
        });
    }

    /// The sums of one filter's weights for one channel.
    fn sums_of<T>(self, filter: usize, channel: usize, sums: &[T]) -> &[T] {
        let len = (self.kernel[0] + 1) * (self.kernel[1] + 1);
        &sums[(channel * self.filters + filter) * len..][..len]
    }

    /// Calls `f(weight, sum)` for the weights of one filter and one channel, and the four sums that
    /// each of them is part of.
    fn meetings(self, mut f: impl FnMut(usize, usize)) {
        let [rows, columns] = self.kernel;
        for weight in 0..rows * columns {
            let (row, column) = (rows - 1 - weight / columns, columns - 1 - weight % columns);
            for [a, b] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                f(weight, (row + a) * (columns + 1) + column + b);
            }
        }
    }
}
