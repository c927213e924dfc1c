//! Group norm of pictures, alone or followed by SiLU.
//!
//! A group may have millions of elements: half-warps add up blocks of it, and one thread the
//! blocks' sums, in order. Then every element is on its own.

use crate::elementwise::{Unary, exprs::Silu};
use crate::norm::statistics::BLOCK;
use crate::num::{Dual, Num};
use crate::ptx::rows::{ROW_THREADS, ROWS_PER_BLOCK, RowLane};
use crate::ptx::{Body, F32, F64, Global, Kernel, Reg, U32};

/// Threads of a block that goes along elements.
const THREADS: u32 = 256;

/// Elements of a group that a half-warp of [`group_parts`] adds up.
pub const PART: u32 = BLOCK as u32;

/// Sums of blocks of [`PART`] elements of each group (float64): of x, or of (x − μ)² where `squares`.
/// Parameters: x, mean where `squares`, parts, groups (of the batch), len (of a group), blocks =
/// ⌈len / PART⌉. The extent of the grid is groups·blocks.
pub fn group_parts(squares: bool) -> Kernel {
    let name = if squares { "group_norm_squares" } else { "group_norm_sums" };
    Kernel::new(name, ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| {
        let x = k.global::<F32>("x");
        let mean = squares.then(|| k.global::<F32>("mean"));
        let parts = k.global::<F64>("parts");
        let [groups, len, blocks] = ["groups", "len", "blocks"].map(|name| k.u32(name));
        let lane = RowLane::new(k, groups * blocks);
        let (group, first) = (lane.row / blocks, lane.row % blocks * PART);
        let x = x.at(group.mad(len, first));
        let mean = mean.map(|mean| mean.at(group).load());
        let sum = k.var::<F32>(0.0);
        lane.each((len - first).min(PART), |c| match mean {
            Some(mean) => {
                let d = x.at(c).load() - mean;
                sum.fma(d, d);
            }
            None => sum.add(x.at(c).load()),
        });
        let sum = lane.sum(sum.get());
        k.if_(lane.valid & lane.lane.eq(0), || parts.at(lane.row).store(sum.to_f64()));
    })
}

/// μ of each group, or 1/σ where the parts are `squares`. Parameters: parts, out (float32), groups,
/// len, blocks, and eps (float64) where `squares`. The extent of the grid is the groups.
pub fn group_statistics(squares: bool) -> Kernel {
    let name = if squares { "group_norm_rstd" } else { "group_norm_mean" };
    Kernel::new(name, THREADS, [THREADS, 1, 1], |k| {
        let (parts, out) = (k.global::<F64>("parts"), k.global::<F32>("out"));
        let [groups, len, blocks] = ["groups", "len", "blocks"].map(|name| k.u32(name));
        let eps = squares.then(|| k.f64("eps"));
        let group = k.block(0).mad(THREADS, k.thread());
        k.if_(group.lt(groups), || {
            let total = k.var::<F64>(0.0);
            let parts = parts.at(group * blocks);
            k.for_(0, blocks, 1, |i| total.add(parts.at(i).load()));
            let mean = total.get() / len.to_f64();
            let answer = match eps {
                Some(eps) => k.value::<F64>(1.0) / (mean + eps).sqrt(),
                None => mean,
            };
            out.at(group).store(answer.to_f32());
        });
    })
}

/// The place of an element, and what its group and channel say of it.
struct Element<'k> {
    index: Reg<'k, U32>,
    group: Reg<'k, U32>,
    mean: Reg<'k, F32>,
    rstd: Reg<'k, F32>,
    weight: Reg<'k, F32>,
    bias: Reg<'k, F32>,
}

/// The arrays that an [`Element`] is made of.
struct Arrays<'k> {
    mean: Global<'k, F32>,
    rstd: Global<'k, F32>,
    weight: Global<'k, F32>,
    bias: Global<'k, F32>,
    /// Elements of a group, channels, pixels.
    sizes: [Reg<'k, U32>; 3],
}

impl<'k> Arrays<'k> {
    fn parameters(k: &'k Body) -> Self {
        let [mean, rstd, weight, bias] =
            ["mean", "rstd", "weight", "bias"].map(|name| k.global(name));
        let sizes = ["len", "channels", "pixels"].map(|name| k.u32(name));
        Arrays { mean, rstd, weight, bias, sizes }
    }

    fn element(&self, index: Reg<'k, U32>) -> Element<'k> {
        let [len, channels, pixels] = self.sizes;
        let (group, channel) = (index / len, index / pixels % channels);
        let [mean, rstd] = [self.mean, self.rstd].map(|array| array.at(group).load());
        let [weight, bias] = [self.weight, self.bias].map(|array| array.at(channel).load());
        Element { index, group, mean, rstd, weight, bias }
    }
}

impl<'k> Element<'k> {
    /// x̂ and weight·x̂ + bias.
    fn normalize(&self, x: Reg<'k, F32>) -> (Reg<'k, F32>, Reg<'k, F32>) {
        let normal = (x - self.mean) * self.rstd;
        (normal, normal.mul_add(self.weight, self.bias))
    }

    /// x̂, and the gradient of weight·x̂ + bias.
    fn slopes(
        &self,
        x: Reg<'k, F32>,
        dy: Reg<'k, F32>,
        silu: bool,
    ) -> (Reg<'k, F32>, Reg<'k, F32>) {
        let (normal, z) = self.normalize(x);
        (normal, if silu { dy * Silu.f(Dual::variable(z)).d } else { dy })
    }
}

fn silu_name(name: &str, silu: bool) -> String {
    format!("{name}{}", if silu { "_silu" } else { "" })
}

/// y of every element. Parameters: x, y, mean, rstd, weight, bias, len (of a group), channels,
/// pixels, n. The extent of the grid is n.
pub fn group_apply(silu: bool) -> Kernel {
    Kernel::new(&silu_name("group_norm", silu), THREADS, [THREADS, 1, 1], |k| {
        let (x, y) = (k.global::<F32>("x"), k.global::<F32>("y"));
        let (arrays, n) = (Arrays::parameters(k), k.u32("n"));
        let index = k.block(0).mad(THREADS, k.thread());
        k.if_(index.lt(n), || {
            let (_, z) = arrays.element(index).normalize(x.at(index).load());
            y.at(index).store(if silu { Silu.f(z) } else { z });
        });
    })
}

/// Σ e·x̂ and Σ e of each channel of each picture, where e is the gradient before SiLU. Parameters:
/// x, dy, sums \[B·C, 2\], those of [`group_apply`] from mean to pixels, rows = B·C. The extent of
/// the grid is the rows.
pub fn group_channel_sums(silu: bool) -> Kernel {
    let name = silu_name("group_norm_channel_sums", silu);
    Kernel::new(&name, ROW_THREADS, [ROWS_PER_BLOCK, 1, 1], |k| {
        let [x, dy, sums] = ["x", "dy", "sums"].map(|name| k.global::<F32>(name));
        let (arrays, rows) = (Arrays::parameters(k), k.u32("rows"));
        let lane = RowLane::new(k, rows);
        let pixels = arrays.sizes[2];
        let channel = arrays.element(lane.row * pixels);
        let [x, dy] = [x, dy].map(|array| array.at(channel.index));
        let [product, sum] = [k.var::<F32>(0.0), k.var::<F32>(0.0)];
        lane.each(pixels, |c| {
            let (normal, e) = channel.slopes(x.at(c).load(), dy.at(c).load(), silu);
            product.fma(e, normal);
            sum.add(e);
        });
        let sums = sums.at(lane.row * 2);
        lane.store_one(sums, lane.sum(product.get()));
        lane.store_one(sums.plus(1), lane.sum(sum.get()));
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
/// extent of the grid is n.
pub fn group_backward(silu: bool) -> Kernel {
    Kernel::new(&silu_name("group_norm_backward", silu), THREADS, [THREADS, 1, 1], |k| {
        let [x, dy, dx, means] = ["x", "dy", "dx", "means"].map(|name| k.global::<F32>(name));
        let (arrays, n) = (Arrays::parameters(k), k.u32("n"));
        let index = k.block(0).mad(THREADS, k.thread());
        k.if_(index.lt(n), || {
            let element = arrays.element(index);
            let (normal, e) = element.slopes(x.at(index).load(), dy.at(index).load(), silu);
            let means = means.at(element.group * 2);
            let (product, sum) = (means.load(), means.plus(1).load());
            dx.at(index).store((e * element.weight - sum - normal * product) * element.rstd);
        });
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
