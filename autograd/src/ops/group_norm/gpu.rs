//! Group norm on a GPU: launches of `kernels::norm::ptx`, which have the CPU's bits.

use kernels::norm::ptx;
use tensor::cuda::Launch;
use tensor::{Cuda, DType, Result, Shape, Tensor};

use super::{GroupNormOp, Statistics};

/// The sizes of a norm of an input that is not empty.
struct Sizes {
    batch: usize,
    channels: usize,
    pixels: usize,
    /// Groups of the whole batch, and channels of each.
    groups: usize,
    channels_each: usize,
}

impl Sizes {
    fn of(op: &GroupNormOp, shape: &Shape) -> Self {
        let (batch, channels, pixels) = (shape[0], shape[1], shape[2..].iter().product());
        let (groups, channels_each) = (batch * op.groups, channels / op.groups);
        Self { batch, channels, pixels, groups, channels_each }
    }

    /// The extent of a kernel that goes along pixels.
    fn each_pixel(&self) -> [usize; 3] {
        [self.batch * self.channels, self.pixels, 1]
    }

    /// Adds what every element is normalised with.
    fn arguments<'a>(
        &self,
        launch: Launch<'a>,
        [mean, rstd]: &'a Statistics,
        [weight, bias]: [&'a Tensor; 2],
    ) -> Launch<'a> {
        let launch = launch.input(mean).input(rstd).input(weight).input(bias);
        launch.numbers([self.channels, self.channels_each, self.pixels])
    }
}

impl GroupNormOp {
    /// y of packed operands, and the statistics of their groups.
    pub(super) fn forward_on(
        &self,
        gpu: &Cuda,
        [x, weight, bias]: [&Tensor; 3],
    ) -> Result<(Tensor, Statistics)> {
        let new = |shape: Shape, dtype| Tensor::uninit_on(Some(gpu), shape, dtype);
        let groups = Shape::from([x.shape()[0], self.groups]);
        let [mut y, mut mean, mut rstd] =
            [*x.shape(), groups, groups].map(|shape| new(shape, DType::F32));
        if x.numel() == 0 {
            return Ok((y, [mean, rstd]));
        }
        let sizes = Sizes::of(self, x.shape());
        let len = sizes.channels_each * sizes.pixels;
        let blocks = len.div_ceil(ptx::PART as usize);
        let mut parts = new([sizes.groups * blocks].into(), DType::F64);
        let numbers = [len, blocks];
        let (each_part, each_group) = ([sizes.groups * blocks, 1, 1], [sizes.groups, 1, 1]);

        let launch = gpu.kernel("group norm sums", || ptx::group_parts(false))?;
        launch.input(x).output(&mut parts).numbers(numbers).run(each_part)?;
        let launch = gpu.kernel("group norm mean", || ptx::group_statistics(false))?;
        launch.input(&parts).output(&mut mean).numbers(numbers).run(each_group)?;
        let launch = gpu.kernel("group norm squares", || ptx::group_parts(true))?;
        launch.input(x).input(&mean).output(&mut parts).numbers(numbers).run(each_part)?;
        let launch = gpu.kernel("group norm rstd", || ptx::group_statistics(true))?;
        let launch = launch.input(&parts).output(&mut rstd).numbers(numbers);
        launch.double(self.eps).run(each_group)?;

        let (statistics, silu) = ([mean, rstd], self.silu);
        let launch = gpu.kernel(&format!("group norm, silu {silu}"), || ptx::group_apply(silu))?;
        let launch = launch.input(x).output(&mut y);
        let launch = sizes.arguments(launch, &statistics, [weight, bias]);
        launch.run(sizes.each_pixel())?;
        Ok((y, statistics))
    }

    /// The gradients of x, weight and bias, from packed operands.
    pub(super) fn backward_on(
        &self,
        gpu: &Cuda,
        statistics: &Statistics,
        [x, weight, bias, dy]: [&Tensor; 4],
    ) -> Result<[Tensor; 3]> {
        let shapes = [x, weight, bias].map(Tensor::shape);
        if x.numel() == 0 {
            return Ok(shapes.map(|shape| Tensor::zeros_on(Some(gpu), shape, DType::F32)));
        }
        let new = |shape: &Shape| Tensor::uninit_on(Some(gpu), shape, DType::F32);
        let ([mut dx, mut dweight, mut dbias], sizes) =
            (shapes.map(new), Sizes::of(self, x.shape()));
        let Sizes { batch, channels, pixels, groups, channels_each } = sizes;
        let (rows, silu, affine) = (batch * channels, self.silu, [weight, bias]);
        let (mut sums, mut means) = (new(&[rows, 2].into()), new(&[groups, 2].into()));

        let name = format!("group norm channel sums, silu {silu}");
        let launch = gpu.kernel(&name, || ptx::group_channel_sums(silu))?;
        let launch = launch.input(x).input(dy).output(&mut sums);
        sizes.arguments(launch, statistics, affine).run([rows, 1, 1])?;

        let launch = gpu.kernel("group norm means", ptx::group_backward_sums)?;
        let launch = launch.input(&sums).output(&mut means).input(weight);
        let launch = launch.numbers([groups, channels, channels_each, pixels]);
        launch.run([groups, 1, 1])?;

        let name = format!("group norm backward, silu {silu}");
        let launch = gpu.kernel(&name, || ptx::group_backward(silu))?;
        let launch = launch.input(x).input(dy).output(&mut dx).input(&means);
        sizes.arguments(launch, statistics, affine).run(sizes.each_pixel())?;

        let launch = gpu.kernel("group norm slopes", ptx::group_slopes)?;
        let launch = launch.input(&sums).output(&mut dweight).output(&mut dbias);
        launch.numbers([batch, channels]).run([channels, 1, 1])?;
        Ok([dx, dweight, dbias])
    }
}
