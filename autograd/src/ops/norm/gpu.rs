//! The norms on a GPU: launches of `kernels::norm::ptx`, which have the CPU's bits.

use kernels::norm::ptx::{Gain, RowNorm};
use kernels::ptx::Team;
use tensor::cuda::Launch;
use tensor::{Cuda, DType, Result, Shape, Tensor};

use super::{Norm, Parameters, Statistics};

/// Rows whose slopes are summed before they meet those of others.
const ROWS: usize = 64;

impl Norm<'_> {
    fn family(&self) -> RowNorm {
        let (centered, gain) = match self.parameters {
            Parameters::None => (true, Gain::Identity),
            Parameters::Modulation { .. } => (true, Gain::Modulation),
            Parameters::Weight(_) => (false, Gain::Weight),
        };
        RowNorm { centered, gain }
    }

    /// Samples, rows of each, and width.
    fn sizes(&self) -> [usize; 3] {
        let shape = self.x.shape();
        let width = shape[shape.rank() - 1];
        let samples = match self.parameters {
            Parameters::Modulation { .. } => shape[0],
            Parameters::None | Parameters::Weight(_) => 1,
        };
        [samples, self.x.numel() / (samples * width), width]
    }

    /// Adds the parameters of the affine map; the shift is the forward pass's alone.
    fn arguments<'a>(
        &self,
        launch: Launch<'a>,
        (parameters, stride): &'a (Parameters, usize),
        with_shift: bool,
    ) -> Launch<'a> {
        match parameters {
            Parameters::None => launch,
            Parameters::Weight(weight) => launch.input(weight),
            Parameters::Modulation { shift, scale } => {
                let launch = launch.view(scale);
                let launch = if with_shift { launch.view(shift) } else { launch };
                launch.numbers([*stride, self.sizes()[1]])
            }
        }
    }

    pub(super) fn forward_on(&self, gpu: &Cuda) -> Result<(Tensor, Statistics)> {
        let new = |shape: Shape| Tensor::uninit_on(Some(gpu), shape, DType::F32);
        let outer = Shape::from(&self.x.shape()[..self.x.rank() - 1]);
        let rows = outer.numel();
        let [mut y, mut mean, mut rstd] = [*self.x.shape(), [rows].into(), [rows].into()].map(new);
        if self.x.numel() == 0 {
            return Ok((y, [mean, rstd]));
        }
        let (x, [_, _, width], family) = (self.x.contiguous(), self.sizes(), self.family());
        let team = Team::of(width);
        let launch =
            gpu.kernel(&format!("forward {family:?} {team:?}"), || family.forward(team))?;
        let parameters = self.packed_parameters();
        let launch = launch.input(&x).output(&mut y).output(&mut mean).output(&mut rstd);
        let launch = self.arguments(launch, &parameters, true).numbers([rows, width]);
        launch.double(self.eps).run([rows, 1, 1])?;
        Ok((y, [mean, rstd]))
    }

    pub(super) fn backward_on(
        &self,
        gpu: &Cuda,
        [mean, rstd]: &Statistics,
        dy: &Tensor,
        slopes: Option<Shape>,
    ) -> Result<(Tensor, Option<[Tensor; 2]>)> {
        let new = |shape: Shape| Tensor::uninit_on(Some(gpu), shape, DType::F32);
        if self.x.numel() == 0 {
            let zeros = |shape: Shape| Tensor::zeros_on(Some(gpu), shape, DType::F32);
            return Ok((zeros(*self.x.shape()), slopes.map(|shape| [shape; 2].map(zeros))));
        }
        let (x, dy, family) = (self.x.contiguous(), dy.contiguous(), self.family());
        let ([samples, per_sample, width], mut dx) = (self.sizes(), new(*self.x.shape()));
        let rows = samples * per_sample;
        let parameters = self.packed_parameters();
        let team = Team::of(width);
        let launch =
            gpu.kernel(&format!("backward {family:?} {team:?}"), || family.backward(team))?;
        let launch = launch.input(&x).input(&dy).output(&mut dx).input(mean).input(rstd);
        let launch = self.arguments(launch, &parameters, false);
        launch.numbers([rows, width]).run([rows, 1, 1])?;
        let Some(shape) = slopes else { return Ok((dx, None)) };

        let chunks = per_sample.div_ceil(ROWS);
        let mut parts = new([samples * chunks * 2 * width].into());
        let launch = gpu.kernel("slope parts", RowNorm::slope_parts)?;
        let launch = launch.input(&x).input(&dy).input(mean).input(rstd).output(&mut parts);
        let launch = launch.numbers([width, per_sample, chunks]);
        launch.run([samples * chunks, width, 1])?;
        let [mut gain, mut shift] = [shape; 2].map(new);
        let launch = gpu.kernel("add slope parts", RowNorm::add_slope_parts)?;
        let launch = launch.input(&parts).output(&mut gain).output(&mut shift);
        launch.numbers([width, chunks]).run([samples, width, 1])?;
        Ok((dx, Some([gain, shift])))
    }
}
