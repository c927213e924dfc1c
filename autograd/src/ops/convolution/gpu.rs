//! Convolutions on a GPU: launches of `kernels::conv::ptx`. Outputs and gradients of x have the
//! CPU's bits; gradients of w are summed in another order.

use kernels::conv::{Conv, Upsample, ptx};
use tensor::{Cuda, DType, Result, Tensor};

use super::super::reduce::add_on_gpu;

/// Blocks that a gradient of weights is cut into where these are few: some for each of a large
/// card's multiprocessors.
const BLOCKS: usize = 512;

/// The kernels of a convolution of x with w, on packed float32 of one GPU. Results are flat.
pub trait OnGpu: Copy {
    /// y of x and w.
    fn forward_on(self, gpu: &Cuda, x_w: [&Tensor; 2], bias: Option<&Tensor>) -> Result<Tensor>;
    /// x̄ of w and ȳ.
    fn along_x_on(self, gpu: &Cuda, w_dy: [&Tensor; 2]) -> Result<Tensor>;
    /// w̄ of x and ȳ.
    fn along_w_on(self, gpu: &Cuda, x_dy: [&Tensor; 2]) -> Result<Tensor>;
}

impl OnGpu for Conv {
    fn forward_on(self, gpu: &Cuda, [x, w]: [&Tensor; 2], bias: Option<&Tensor>) -> Result<Tensor> {
        let [x_len, w_len, y_len] = self.lens();
        let mut y = new(gpu, y_len);
        if y_len == 0 {
            return Ok(y);
        }
        let family = ptx::Convolution { taps: taps(&self), bias: bias.is_some() };
        let launch = gpu.kernel(&format!("{family:?}"), || family.exact())?;
        let launch = launch.input(w).input(x).output(&mut y);
        let launch = bias.into_iter().fold(launch, |launch, bias| launch.input(bias));
        let (pixels, depth) = (y_len / self.batch / self.filters, w_len / self.filters);
        let next_x = x_len / self.batch;
        let launch = launch.numbers([self.filters, pixels, depth, depth, 0, 0, next_x, 1, depth]);
        let launch = launch.numbers(wide(&ptx::map_numbers(&self)));
        launch.run([pixels, self.filters, self.batch])?;
        Ok(y)
    }

    fn along_x_on(self, gpu: &Cuda, w_dy: [&Tensor; 2]) -> Result<Tensor> {
        transposed(gpu, self, w_dy, None)
    }

    fn along_w_on(self, gpu: &Cuda, [x, dy]: [&Tensor; 2]) -> Result<Tensor> {
        let [_, len, _] = self.lens();
        if self.lens().contains(&0) {
            return Ok(Tensor::zeros_on(Some(gpu), [len], DType::F32));
        }
        let cut = ptx::WeightLaunch::new(&self, BLOCKS);
        let mut parts = new(gpu, cut.parts * len);
        let family = ptx::WeightGradient { taps: taps(&self) };
        let launch = gpu.kernel(&format!("{family:?}"), || family.kernel())?;
        let launch = launch.input(x).input(dy).output(&mut parts);
        launch.numbers(wide(&cut.numbers)).run(cut.extent)?;
        if cut.parts == 1 { Ok(parts) } else { add_on_gpu(gpu, &parts, [1, cut.parts, len]) }
    }
}

impl OnGpu for Upsample {
    fn forward_on(self, gpu: &Cuda, [x, w]: [&Tensor; 2], bias: Option<&Tensor>) -> Result<Tensor> {
        transposed(gpu, self.halving(), [&sums(gpu, self, w)?, x], bias)
    }

    fn along_x_on(self, gpu: &Cuda, [w, dy]: [&Tensor; 2]) -> Result<Tensor> {
        self.halving().forward_on(gpu, [dy, &sums(gpu, self, w)?], None)
    }

    fn along_w_on(self, gpu: &Cuda, [x, dy]: [&Tensor; 2]) -> Result<Tensor> {
        let gradient = self.halving().along_w_on(gpu, [dy, x])?;
        let len = self.of_enlarged().lens()[1];
        let mut dw = new(gpu, len);
        let launch = gpu.kernel("fold filters", ptx::fold_filters)?;
        let launch = launch.input(&gradient).output(&mut dw).numbers(lengths(&self));
        launch.number(len).run([len, 1, 1])?;
        Ok(dw)
    }
}

/// x̄ of w and ȳ, plus a number for each channel: the transposed convolution of ȳ, phase by phase.
fn transposed(
    gpu: &Cuda,
    conv: Conv,
    [w, dy]: [&Tensor; 2],
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut dx = new(gpu, conv.lens()[0]);
    for phase in ptx::phases(&conv) {
        let (taps, strided) = (phase.taps, conv.stride > 1);
        let family = ptx::Transposed { taps, strided, bias: bias.is_some() };
        let launch = gpu.kernel(&format!("{family:?}"), || family.kernel())?;
        let launch = launch.input(w).input(dy).output(&mut dx);
        let launch = bias.into_iter().fold(launch, |launch, bias| launch.input(bias));
        launch.numbers(wide(&phase.numbers)).run(phase.extent)?;
    }
    Ok(dx)
}

/// The sums of weights that enlarge and convolve at once.
fn sums(gpu: &Cuda, upsample: Upsample, w: &Tensor) -> Result<Tensor> {
    let len = upsample.halving().lens()[1];
    let mut sums = new(gpu, len);
    let launch = gpu.kernel("sum filters", ptx::sum_filters)?;
    let launch = launch.input(w).output(&mut sums).numbers(lengths(&upsample));
    launch.number(len).run([len, 1, 1])?;
    Ok(sums)
}

/// Channels, filters, rows and columns of a filter.
fn lengths(upsample: &Upsample) -> [usize; 4] {
    let [rows, columns] = upsample.kernel;
    [upsample.channels, upsample.filters, rows, columns]
}

fn taps(conv: &Conv) -> [u32; 2] {
    conv.kernel.map(|length| length as u32)
}

fn wide(numbers: &[u32]) -> impl Iterator<Item = usize> {
    numbers.iter().map(|&n| n as usize)
}

fn new(gpu: &Cuda, len: usize) -> Tensor {
    Tensor::uninit_on(Some(gpu), [len], DType::F32)
}
