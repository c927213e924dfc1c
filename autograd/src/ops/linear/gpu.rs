//! Linear layers on a GPU: one product each, whose writer does the rest.

use tensor::{Cuda, Result, Shape, Tensor};

use super::super::product::{End, multiply_on, rows};
use super::Layer;

impl Layer<'_> {
    /// y = end(x·Wᵀ).
    fn multiply_on(&self, gpu: &Cuda, y: &mut Tensor, end: End<'_>) -> Result<()> {
        let x = self.x.reshape(rows(self.x.shape()))?;
        multiply_on(gpu, [&x, &self.weight.transpose(0, 1)?], y, end)
    }

    pub(super) fn run_on(&self, gpu: &Cuda) -> Result<Tensor> {
        let mut y = self.new_like(self.check()?.1);
        let bias = self.bias();
        self.multiply_on(gpu, &mut y, bias.as_ref().map_or(End::Store, End::Bias))?;
        Ok(y)
    }

    /// y, and what it is the GELU of.
    pub(super) fn run_gelu_on(&self, gpu: &Cuda) -> Result<(Tensor, Tensor)> {
        let (mut y, mut kept) = self.outputs(self.check()?.1);
        let bias = self.bias().expect("this layer has one");
        self.multiply_on(gpu, &mut y, End::BiasGelu { bias: &bias, kept: &mut kept })?;
        Ok((y, kept))
    }

    /// y, and what its gate was multiplied with, if that is wanted.
    pub(super) fn run_gate_residual_on(
        &self,
        gpu: &Cuda,
        gate: &Tensor,
        residual: &Tensor,
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let shape = self.check()?.1;
        let (gate, residual) = self.gate_and_residual(&shape, gate, residual)?;
        let (mut y, mut kept) = self.outputs(shape);
        let bias = self.bias().expect("this layer has one");
        let (bias, gate, residual) = (&bias, &gate, &residual);
        let end = End::GateResidual { bias, kept: &mut kept, gate, residual };
        self.multiply_on(gpu, &mut y, end)?;
        Ok((y, keep.then_some(kept)))
    }

    fn outputs(&self, shape: Shape) -> (Tensor, Tensor) {
        (self.new_like(shape), self.new_like(shape))
    }
}
