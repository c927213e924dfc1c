//! Group norm of pictures, alone or followed by SiLU.

use super::statistics::statistics;
use crate::elementwise::{Unary, exprs::Silu};
use crate::lane::LANES;
use crate::num::{Dual, Num};
use crate::{Real, Simd, Task, par, scratch};

/// Nanoseconds an element takes, for the decision whether to split the work.
const NS: usize = 2;

/// A group norm of x \[B, C, H·W\]: C/G channels of one sample are normalised together.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a, T> {
    /// C, the channels; a multiple of `groups`.
    pub channels: usize,
    /// G, the groups.
    pub groups: usize,
    /// H·W, the pixels of a channel; at least one.
    pub pixels: usize,
    /// ε.
    pub eps: f64,
    /// \[C\].
    pub weight: &'a [T],
    /// \[C\].
    pub bias: &'a [T],
    /// Whether the answer is silu(weight·x̂ + bias).
    pub silu: bool,
}

impl<T: Real> Group<'_, T> {
    /// Elements normalised together.
    fn len(&self) -> usize {
        self.channels / self.groups * self.pixels
    }

    fn check(&self, x: usize, statistics: [usize; 2]) {
        assert!(self.len() * self.groups == self.channels * self.pixels, "group norm: G divides C");
        assert_eq!([self.weight.len(), self.bias.len()], [self.channels; 2], "group norm: [C]");
        assert_eq!(statistics.map(|n| n * self.len()), [x; 2], "group norm: statistics [B, G]");
    }
}

/// Writes y like x, and μ and 1/σ \[B, G\].
///
/// Cost: 8 flop an element (and a SiLU); a group is read three times, from memory where it exceeds
/// the caches.
/// Panics when the slices do not have the sizes that `norm` implies.
pub fn group_norm<T: Real>(norm: &Group<T>, x: &[T], y: &mut [T], mean: &mut [T], rstd: &mut [T]) {
    norm.check(x.len(), [mean.len(), rstd.len()]);
    assert_eq!(x.len(), y.len(), "group norm: x and y");
    let len = norm.len();
    par::chunks3_mut((y, len), (mean, 1), (rstd, 1), NS * x.len(), |i, y, mean, rstd| {
        let (x, first) = (&x[i * len..][..len], i % norm.groups * (norm.channels / norm.groups));
        [mean[0], rstd[0]] = T::dispatch(Forward { norm, first, x, y });
    });
}

/// One group, whose first channel is `first`.
struct Forward<'a, T> {
    norm: &'a Group<'a, T>,
    first: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Task<T> for Forward<'_, T> {
    type Output = [T; 2];
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) -> [T; 2] {
        let statistics = statistics(isa, self.x, self.norm.eps, true);
        let pixels = self.norm.pixels;
        let channels = self.x.chunks_exact(pixels).zip(self.y.chunks_exact_mut(pixels));
        for (c, (x, y)) in channels.enumerate() {
            let channel = Channel::new(isa, self.norm, self.first + c, statistics);
            for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
                let (_, z) = channel.normalize(isa.load_head(x, T::ZERO));
                let v = if self.norm.silu { Silu.f(z) } else { z };
                isa.store_head(v, y);
            }
        }
        statistics
    }
}

/// The numbers of one channel, in every lane.
struct Channel<V> {
    mean: V,
    rstd: V,
    weight: V,
    bias: V,
    silu: bool,
}

impl<V: Num> Channel<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(isa: S, norm: &Group<S::T>, c: usize, statistics: [S::T; 2]) -> Self {
        let [mean, rstd] = statistics.map(|x| isa.splat(x));
        let [weight, bias] = [norm.weight[c], norm.bias[c]].map(|x| isa.splat(x));
        Channel { mean, rstd, weight, bias, silu: norm.silu }
    }

    /// x̂ and weight·x̂ + bias.
    #[inline(always)]
    fn normalize(&self, x: V) -> (V, V) {
        let normal = (x - self.mean) * self.rstd;
        (normal, normal.mul_add(self.weight, self.bias))
    }

    /// x̂, and the gradient of weight·x̂ + bias.
    #[inline(always)]
    fn slopes(&self, x: V, dy: V) -> (V, V) {
        let (normal, z) = self.normalize(x);
        (normal, if self.silu { dy * Silu.f(Dual::variable(z)).d } else { dy })
    }
}

/// Writes the gradients of x, weight and bias.
///
/// As for rows, where the sums over a group follow from those of its channels: with e = dy, or
/// silu′(z)·dy, a channel's Σ e·x̂ and Σ e are its parts of dweight and dbias (added over the
/// samples in order), and weight times them its parts of Σ d·x̂ and Σ d.
/// Cost: 16 flop an element (and two SiLU slopes); x and dy are read twice.
/// Panics when the slices do not have the sizes that `norm` implies.
pub fn group_norm_backward<T: Real>(
    norm: &Group<T>,
    x: &[T],
    [mean, rstd]: [&[T]; 2],
    dy: &[T],
    dx: &mut [T],
    [dweight, dbias]: [&mut [T]; 2],
) {
    norm.check(x.len(), [mean.len(), rstd.len()]);
    assert_eq!([x.len(), dy.len()], [dx.len(); 2], "group norm: x, dy and dx");
    assert_eq!([dweight.len(), dbias.len()], [norm.channels; 2], "group norm: gradients [C]");
    let (len, channels) = (norm.len(), norm.channels / norm.groups);
    scratch::with([2 * mean.len() * channels], |[sums]| {
        par::chunks2_mut((dx, len), (sums, 2 * channels), 2 * NS * x.len(), |i, dx, sums| {
            let (x, dy) = (&x[i * len..][..len], &dy[i * len..][..len]);
            let (first, statistics) = (i % norm.groups * channels, [mean[i], rstd[i]]);
            T::dispatch(Backward { norm, first, statistics, x, dy, dx, sums });
        });
        dweight.fill(T::ZERO);
        dbias.fill(T::ZERO);
        for sums in sums.chunks(2 * norm.channels) {
            let slopes = dweight.iter_mut().zip(&mut *dbias);
            for ((dweight, dbias), sums) in slopes.zip(sums.as_chunks::<2>().0) {
                *dweight += sums[0];
                *dbias += sums[1];
            }
        }
    });
}

/// One group of the backward pass, whose first channel is `first`.
struct Backward<'a, T> {
    norm: &'a Group<'a, T>,
    first: usize,
    statistics: [T; 2],
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    /// For each channel Σ e·x̂ and Σ e.
    sums: &'a mut [T],
}

impl<T: Real> Task<T> for Backward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd<T = T>>(self, isa: S) {
        let Backward { norm, first, statistics, x, dy, dx, sums } = self;
        let n = T::from_f64(x.len() as f64);
        let [mut product, mut sum] = [T::ZERO; 2];
        let channels = x.chunks_exact(norm.pixels).zip(dy.chunks_exact(norm.pixels));
        for ((c, (x, dy)), sums) in channels.clone().enumerate().zip(sums.as_chunks_mut().0) {
            let channel = Channel::new(isa, norm, first + c, statistics);
            *sums = channel_sums(isa, &channel, x, dy, statistics[0]);
            product = sums[0].mul_add(norm.weight[first + c], product);
            sum = sums[1].mul_add(norm.weight[first + c], sum);
        }
        let (product, sum) = (isa.splat(product / n), isa.splat(sum / n));
        for ((c, (x, dy)), dx) in channels.enumerate().zip(dx.chunks_exact_mut(norm.pixels)) {
            let channel = Channel::new(isa, norm, first + c, statistics);
            for ((x, dy), dx) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(dx.chunks_mut(LANES)) {
                let (x, dy) = (isa.load_head(x, T::ZERO), isa.load_head(dy, T::ZERO));
                let (normal, e) = channel.slopes(x, dy);
                let v = (e * channel.weight - sum - normal * product) * channel.rstd;
                isa.store_head(v, dx);
            }
        }
    }
}

/// Σ e·x̂ and Σ e of one channel; lanes beyond it are at the mean and without gradient.
#[inline(always)]
fn channel_sums<S: Simd>(
    isa: S,
    channel: &Channel<S::V>,
    x: &[S::T],
    dy: &[S::T],
    mean: S::T,
) -> [S::T; 2] {
    let (mut product, mut sum) = (isa.splat(S::T::ZERO), isa.splat(S::T::ZERO));
    for (x, dy) in x.chunks(LANES).zip(dy.chunks(LANES)) {
        let (x, dy) = (isa.load_head(x, mean), isa.load_head(dy, S::T::ZERO));
        let (normal, e) = channel.slopes(x, dy);
        product = e.mul_add(normal, product);
        sum = sum + e;
    }
    [isa.sum(product), isa.sum(sum)]
}
