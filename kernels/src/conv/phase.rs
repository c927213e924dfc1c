//! Convolution the other way: the gradient of its input, which is the transposed convolution.
//!
//! Solved for the input pixel, `y[o] ← x[stride·o + tap − pad]` says that the pixel u meets the
//! outputs (u + pad − tap)/stride where that is whole. Pixels a stride apart meet the same taps, a
//! stride apart: they are a *phase*. With stride 2 there are four phases of a picture, and a filter
//! of 3 × 3 falls apart into 1 × 1, 1 × 2, 2 × 1 and 2 × 2: each phase is a convolution of stride 1
//! by its part of the filter, and no zero is multiplied.

use super::{AxisMap, Conv, Patches};
use crate::gemm::{self, Reader, RowBias, Size, Store, Strided};
use crate::{Real, par, scratch};

/// The pixels `first`, `first + stride`, .. of the input along one axis.
#[derive(Clone, Copy)]
pub(super) struct Phase {
    pub first: usize,
    /// The first tap that meets them; the others follow a stride apart.
    pub tap: usize,
    /// Which output each of them meets at each of those taps.
    pub map: AxisMap,
}

impl Phase {
    pub fn new(conv: &Conv, axis: usize, first: usize) -> Self {
        let along = first + conv.pad[2 * axis];
        let (tap, offset) = (along % conv.stride, along / conv.stride);
        let part = |whole: usize, first| whole.saturating_sub(first).div_ceil(conv.stride);
        let map = AxisMap {
            from: conv.sizes()[axis],
            to: part(conv.input[axis], first),
            taps: part(conv.kernel[axis], tap),
            step: 1,
            tap: -1,
            offset: offset as isize,
        };
        Phase { first, tap, map }
    }
}

/// `dx = Σ over outputs that saw it of w · dy`, plus `bias[channel]`: the gradient of the input, or
/// the transposed convolution of `dy`.
///
/// # Panics
/// If a slice does not have the length that [`Conv::lens`] says, or `bias` one number a channel.
pub fn transposed<T: Real>(conv: Conv, w: &[T], bias: Option<&[T]>, dy: &[T], dx: &mut [T]) {
    conv.check(dx.len(), w.len(), dy.len());
    if conv.stride == 1 {
        return product(conv, [0, 1].map(|axis| Phase::new(&conv, axis, 0)), w, bias, dy, dx);
    }
    for first in (0..conv.stride).flat_map(|row| (0..conv.stride).map(move |column| [row, column]))
    {
        let phases = [0, 1].map(|axis| Phase::new(&conv, axis, first[axis]));
        let pixels = phases[0].map.to * phases[1].map.to;
        scratch::with([conv.batch * conv.channels * pixels], |[part]| {
            product(conv, phases, w, bias, dy, part);
            interleave(conv, phases, part, dx);
        });
    }
}

/// The pixels of a phase: `dx` \[batch, channel, pixel of the phase\].
fn product<T: Real>(
    conv: Conv,
    phases: [Phase; 2],
    w: &[T],
    bias: Option<&[T]>,
    dy: &[T],
    dx: &mut [T],
) {
    let axes = phases.map(|phase| phase.map);
    let taps = conv.filters * axes[0].taps * axes[1].taps;
    let size = Size::new(conv.channels, axes[0].to * axes[1].to, taps).batched(conv.batch);
    let patches = Patches { x: dy, channels: conv.filters, axes };
    scratch::with([conv.channels * taps], |[weights]| {
        by_channel(conv, phases, w, weights);
        let weights = Strided::<T>::rows(weights, taps);
        match bias {
            Some(bias) => gemm::gemm(size, weights.plain(), patches.plain(), &RowBias(bias), dx),
            None => gemm::gemm(size, weights.plain(), patches.plain(), &Store, dx),
        }
    });
}

/// The weights that a phase meets, as the matrix \[channel, (filter, tap)\].
fn by_channel<T: Real>(conv: Conv, phases: [Phase; 2], w: &[T], out: &mut [T]) {
    let [rows, columns] = conv.kernel;
    let [down, across] = phases;
    let len = conv.filters * down.map.taps * across.map.taps;
    par::chunks_mut(out, len.max(1), out.len(), |channel, out| {
        let mut out = out.iter_mut();
        for filter in 0..conv.filters {
            let w = &w[(filter * conv.channels + channel) * rows * columns..][..rows * columns];
            for w in w.chunks(columns).skip(down.tap).step_by(conv.stride) {
                let w = w.iter().skip(across.tap).step_by(conv.stride);
                w.zip(out.by_ref()).for_each(|(&w, out)| *out = w);
            }
        }
    });
}

/// Puts the pixels of a phase to where they belong among the others.
fn interleave<T: Real>(conv: Conv, [down, across]: [Phase; 2], part: &[T], x: &mut [T]) {
    let [rows, columns] = conv.input;
    let [part_rows, part_columns] = [down, across].map(|phase| phase.map.to);
    if part.is_empty() {
        return;
    }
    par::chunks_mut(x, rows * columns, part.len(), |plane, x| {
        let part = part[plane * part_rows * part_columns..].chunks(part_columns);
        let x = x.chunks_mut(columns).skip(down.first).step_by(conv.stride);
        for (x, part) in x.zip(part) {
            let x = x.iter_mut().skip(across.first).step_by(conv.stride);
            x.zip(part).for_each(|(x, &part)| *x = part);
        }
    });
}
