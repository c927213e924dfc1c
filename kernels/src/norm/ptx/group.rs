//! Group norm of pictures, alone or followed by SiLU.
//!
//! A group may have millions of elements: a block of threads adds up each part of it, and a thread
//! the parts' sums, in order. Then every element is on its own.

use crate::elementwise::{Unary, exprs::Silu};
use crate::norm::statistics::BLOCK;
use crate::num::{Dual, Num};
use crate::ptx::rows::{TOGETHER, in_batches};
use crate::ptx::teams::RowBlock;
use crate::ptx::{Body, F32, F64, Kernel, Reg, Team, U32};
use crate::reduce::ptx::in_order;

/// Threads of a block that goes along elements or groups.
const THREADS: u32 = 256;

/// Pixels of a channel that such a block takes.
const PIXELS: u32 = THREADS * TOGETHER;

/// Elements of a group that a block of [`group_parts`] adds up.
pub const PART: u32 = BLOCK as u32;

/// Sums of blocks of [`PART`] elements of each group (float64): of x, or of (x − μ)² where
/// `squares`. Parameters: x, mean where `squares`, parts, len (of a group), blocks = ⌈len / PART⌉.
/// The extent of the grid is groups·blocks.
pub fn group_parts(squares: bool) -> Kernel {
    let name = if squares { "group_norm_squares" } else { "group_norm_sums" };
    blocks(name, |k| write_parts(k, squares))
}

fn write_parts<'k>(k: &'k Body, squares: bool) {
    let x = k.global::<F32>("x");
    let mean = squares.then(|| k.global::<F32>("mean"));
    let parts = k.global::<F64>("parts");
    let [len, blocks] = ["len", "blocks"].map(|name| k.u32(name));
    let (part, block) = (k.block(0), RowBlock::new(k, 1));
    let (group, first) = (part / blocks, part % blocks * PART);
    let x = x.at(group.mad(len, first));
    let len = (len - first).min(PART);
    let [sum] = match mean.map(|mean| mean.at(group).load()) {
        Some(mean) => {
            let from_mean = |x: Reg<'k, F32>| [x - mean];
            block.sums(len, |at| at.of(x), from_mean, |[sum], [d]| sum.fma(d, d), |sum| sum)
        }
        None => block.sums(len, |at| at.of(x), |x| [x], |[sum], [x]| sum.add(x), |sum| sum),
    };
    k.if_(k.thread().eq(0), || parts.at(part).store(sum.to_f64()));
}

/// A kernel whose blocks of threads take a row each.
fn blocks(name: &str, write: impl FnOnce(&Body)) -> Kernel {
    Kernel::new(name, Team::Block.threads(), Team::Block.per_block(), write)
}

/// μ of each group, or 1/σ where the parts are `squares`. Parameters: parts, out (float32), len,
/// blocks, and eps (float64) where `squares`. The extent of the grid is the groups.
pub fn group_statistics(squares: bool) -> Kernel {
    let name = if squares { "group_norm_rstd" } else { "group_norm_mean" };
    Kernel::new(name, THREADS, [1, 1, 1], |k| {
        let (parts, out) = (k.global::<F64>("parts"), k.global::<F32>("out"));
        let [len, blocks] = ["len", "blocks"].map(|name| k.u32(name));
        let eps = squares.then(|| k.f64("eps"));
        let (group, total) = (k.block(0), k.var::<F64>(0.0));
        let parts = parts.at(group * blocks);
        in_order(k, THREADS, blocks, |i| parts.at(i).load(), |_, part| total.add(part));
        k.if_(k.thread().eq(0), || {
            let mean = total.get() / len.to_f64();
            let answer = match eps {
                Some(eps) => k.value::<F64>(1.0) / (mean + eps).sqrt(),
                None => mean,
            };
            out.at(group).store(answer.to_f32());
        });
    })
}

/// What all pixels of a channel of a picture have in common.
struct Channel<'k> {
    group: Reg<'k, U32>,
    mean: Reg<'k, F32>,
    rstd: Reg<'k, F32>,
    weight: Reg<'k, F32>,
    bias: Reg<'k, F32>,
    pixels: Reg<'k, U32>,
}

impl<'k> Channel<'k> {
    /// That of the row of this number, of parameters that are declared here.
    fn parameters(k: &'k Body, row: Reg<'k, U32>) -> Self {
        let [mean, rstd, weight, bias] =
            ["mean", "rstd", "weight", "bias"].map(|name| k.global::<F32>(name));
        let [channels, each, pixels] =
            ["channels", "channels_each", "pixels"].map(|name| k.u32(name));
        let (group, channel) = (row / each, row % channels);
        let [mean, rstd] = [mean, rstd].map(|array| array.at(group).load());
        let [weight, bias] = [weight, bias].map(|array| array.at(channel).load());
        Channel { group, mean, rstd, weight, bias, pixels }
    }

    /// x̂ and weight·x̂ + bias.
    fn normalize(&self, x: Reg<'k, F32>) -> (Reg<'k, F32>, Reg<'k, F32>) {
        let normal = (x - self.mean) * self.rstd;
        (normal, normal.mul_add(self.weight, self.bias))
    }

    /// x̂, and the gradient of weight·x̂ + bias.
    fn slopes(&self, [x, dy]: [Reg<'k, F32>; 2], silu: bool) -> [Reg<'k, F32>; 2] {
        let (normal, z) = self.normalize(x);
        [normal, if silu { dy * Silu.f(Dual::variable(z)).d } else { dy }]
    }

    /// Of the pixels of a block that goes along them, which is the first of all and how many there
    /// are.
    fn pixels_of_block(&self, k: &'k Body) -> [Reg<'k, U32>; 2] {
        let skipped = k.block(1) * PIXELS;
        [k.block(0).mad(self.pixels, skipped), (self.pixels - skipped).min(PIXELS)]
    }
}

fn silu_name(name: &str, silu: bool) -> String {
    format!("{name}{}", if silu { "_silu" } else { "" })
}

/// y of every element. Parameters: x, y, mean, rstd, weight, bias, channels, channels_each (of a
/// group), pixels. The extent of the grid is the channels of all pictures by the pixels.
pub fn group_apply(silu: bool) -> Kernel {
    pixels(&silu_name("group_norm", silu), |k| {
        let [x, y] = ["x", "y"].map(|name| k.global::<F32>(name));
        let channel = Channel::parameters(k, k.block(0));
        let [first, count] = channel.pixels_of_block(k);
        let [x, y] = [x, y].map(|array| array.at(first));
        in_batches(
            k,
            [k.thread(), count],
            THREADS,
            |at| at.of(x),
            |at, x| {
                let (_, z) = channel.normalize(x);
                at.in_row(y).store(if silu { Silu.f(z) } else { z });
            },
        );
    })
}

/// A kernel whose blocks of threads each take some pixels of a channel.
fn pixels(name: &str, write: impl FnOnce(&Body)) -> Kernel {
    Kernel::new(name, THREADS, [1, PIXELS, 1], write)
}

/// Σ e·x̂ and Σ e of each channel of each picture, where e is the gradient before SiLU. Parameters:
/// x, dy, sums \[B·C, 2\], those of [`group_apply`] from mean on. The extent of the grid is B·C.
pub fn group_channel_sums(silu: bool) -> Kernel {
    blocks(&silu_name("group_norm_channel_sums", silu), |k| {
        let [x, dy, sums] = ["x", "dy", "sums"].map(|name| k.global::<F32>(name));
        let (row, block) = (k.block(0), RowBlock::new(k, 2));
        let channel = Channel::parameters(k, row);
        let [x, dy] = [x, dy].map(|array| array.at(row * channel.pixels));
        let answers = block.sums(
            channel.pixels,
            |at| [at.of(x), at.of(dy)],
            |operands| channel.slopes(operands, silu),
            |[product, sum], [normal, e]| {
                product.fma(e, normal);
                sum.add(e);
            },
            |sums| sums,
        );
        k.if_(k.thread().eq(0), || sums.at(row * 2).store_n(&answers));
    })
}

/// The means of d·x̂ and d over each group, d = weight·e. Parameters: sums (of
/// [`group_channel_sums`]), means \[B·G, 2\], weight, groups (of the batch), channels,
/// channels_each (of a group), pixels. The extent of the grid is the groups of the batch.
pub fn group_backward_sums() -> Kernel {
    Kernel::new("group_norm_backward_means", THREADS, [THREADS, 1, 1], |k| {
        let [sums, means, weight] = ["sums", "means", "weight"].map(|name| k.global::<F32>(name));
        let [groups, channels, each, pixels] =
            ["groups", "channels", "channels_each", "pixels"].map(|name| k.u32(name));
        let group = k.block(0).mad(THREADS, k.thread());
        k.if_(group.lt(groups), || {
            let first = group * each;
            let n = (each * pixels).to_f32();
            let totals = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
            k.for_(0, each, 1, |c| {
                let weight = weight.at((first + c) % channels).load();
                let sums = sums.at((first + c) * 2);
                for (which, total) in totals.into_iter().enumerate() {
                    total.fma(sums.plus(which).load(), weight);
                }
            });
            for (which, total) in totals.into_iter().enumerate() {
                means.at(group * 2).plus(which).store(total.get() / n);
            }
        });
    })
}

/// The gradient of x. Parameters: x, dy, dx, means, those of [`group_apply`] from mean on. The
/// extent of the grid is that of [`group_apply`].
pub fn group_backward(silu: bool) -> Kernel {
    pixels(&silu_name("group_norm_backward", silu), |k| {
        let [x, dy, dx, means] = ["x", "dy", "dx", "means"].map(|name| k.global::<F32>(name));
        let channel = Channel::parameters(k, k.block(0));
        let [first, count] = channel.pixels_of_block(k);
        let [x, dy, dx] = [x, dy, dx].map(|array| array.at(first));
        let means = means.at(channel.group * 2);
        let (product, sum) = (means.load(), means.plus(1).load());
        let mine = [k.thread(), count];
        in_batches(
            k,
            mine,
            THREADS,
            |at| [at.of(x), at.of(dy)],
            |at, operands| {
                let [normal, e] = channel.slopes(operands, silu);
                let d = e * channel.weight - sum - normal * product;
                at.in_row(dx).store(d * channel.rstd);
            },
        );
    })
}

/// The gradients of weight and bias: sums over the batch in order. Parameters: sums (of
/// [`group_channel_sums`]), dweight, dbias, batch, channels. The extent of the grid is C.
pub fn group_slopes() -> Kernel {
    Kernel::new("group_norm_slopes", THREADS, [THREADS, 1, 1], |k| {
        let [sums, dweight, dbias] = ["sums", "dweight", "dbias"].map(|name| k.global::<F32>(name));
        let (batch, channels) = (k.u32("batch"), k.u32("channels"));
        let channel = k.block(0).mad(THREADS, k.thread());
        k.if_(channel.lt(channels), || {
            let totals = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
            k.for_(0, batch, 1, |b| {
                let sums = sums.at(b.mad(channels, channel) * 2);
                for (which, total) in totals.into_iter().enumerate() {
                    total.add(sums.plus(which).load());
                }
            });
            dweight.at(channel).store(totals[0].get());
            dbias.at(channel).store(totals[1].get());
        });
    })
}
