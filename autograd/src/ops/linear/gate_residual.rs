//! A linear layer that joins a residual stream through a gate, and what that takes of any branch.

use kernels::gemm::{GateResidual, Gated, Operand, Reader};
use kernels::reduce;
use tensor::{DType, Error, Result, Shape, Tensor};

use super::super::elementwise::pointwise;
use super::super::product::{Float, WIDE, check_floats};
use super::Layer;
use super::gradients::{Made, at_once, gradients, is_plain};
use crate::backward::Gradient;
use crate::{Keep, Kept, OpMany, Var, compute_dtype};

impl Layer<'_> {
    /// residual + gate·(x·Wᵀ + b) for these rows x, and the branch before its gate, if it is
    /// wanted.
    pub(super) fn run_gate_residual<T: Float>(
        &self,
        rows: Operand<T>,
        gate: &Tensor,
        residual: &Tensor,
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (size, shape) = self.check()?;
        let (gate, residual) = self.gate_and_residual(&shape, gate, residual)?;
        let bias = self.bias();
        let writer = GateResidual {
            bias: bias.as_ref().map(Tensor::slice::<T>).transpose()?,
            gate: gate.raw_slice()?.0,
            gate_stride: gate.strides()[0],
            rows_per_sample: (size.m / shape[0].max(1)).max(1),
            residual: residual.slice()?,
            cols: size.n,
        };
        self.run((size, shape), rows, &writer, keep)
    }

    /// Gate and residual as the writers take them. Errors: as [`check_gate`].
    pub(super) fn gate_and_residual(
        &self,
        shape: &Shape,
        gate: &Tensor,
        residual: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        check_gate(self.name, self.x, shape, gate, residual)?;
        let dtype = compute_dtype(self.x.dtype());
        let mut gate = gate.to_dtype(dtype);
        let wide = WIDE as usize;
        let is_aligned = gate.is_aligned(WIDE) && gate.strides()[0].is_multiple_of(wide);
        if gate.strides()[1] != 1 || (gate.cuda().is_some() && !is_aligned) {
            gate = gate.contiguous().aligned(WIDE);
        }
        Ok((gate, residual.to_dtype(dtype).aligned(WIDE)))
    }
}

/// Errors unless gate and residual fit a branch of this shape, made of x.
pub(super) fn check_gate(
    name: &'static str,
    x: &Tensor,
    shape: &Shape,
    gate: &Tensor,
    residual: &Tensor,
) -> Result<()> {
    let samples_and_outputs = [shape[0], shape[shape.rank() - 1]];
    if shape.rank() < 2 || gate.shape()[..] != samples_and_outputs || residual.shape() != shape {
        return Err(Error::shape(name, format!("expected an output {shape}"))
            .operand("x", x)
            .operand("gate", (gate, format!("should be {samples_and_outputs:?}")))
            .operand("residual", (residual, format!("should be {shape}"))));
    }
    check_floats(name, &[("gate", gate), ("residual", residual)])
}

#[derive(Debug)]
pub(super) struct LinearGateResidualOp {
    /// Whether a backward pass will want x·Wᵀ + b.
    pub keep: bool,
}

impl OpMany for LinearGateResidualOp {
    const NAME: &'static str = "linear_gate_residual";
    const HALF: bool = true;
    const CUDA: bool = true;
    /// x·Wᵀ + b.
    type Aux = Option<Tensor>;

    fn keeps(&self, i: usize) -> Keep {
        let (x, weight, gate) = (Keep::x(0), Keep::x(1), Keep::x(3));
        [weight.and(gate), x.and(gate), gate, Keep::NOTHING, Keep::NOTHING][i]
    }

    fn again_from(&self) -> Option<Keep> {
        self.keep.then_some(Keep::x(3).and(Keep::x(4)))
    }

    fn again(&self, kept: Kept<'_, Option<Tensor>>) -> Result<Vec<Tensor>> {
        join_again(kept.aux.as_ref(), kept.x(3), kept.x(4))
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let layer = Layer { name: Self::NAME, x: x[0], weight: x[1], bias: Some(x[2]) };
        let (y, branch) = match (layer.x.cuda(), layer.x.dtype()) {
            (Some(gpu), _) => layer.run_gate_residual_on(gpu, x[3], x[4], self.keep)?,
            (None, DType::F64) => self.run::<f64>(&layer, x[3], x[4])?,
            (None, _) => self.run::<f32>(&layer, x[3], x[4])?,
        };
        Ok((vec![y], branch))
    }

    fn vjp(
        &self,
        kept: Kept<'_, Option<Tensor>>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let dy = dy[0].as_ref().expect("the only output is used");
        join_gradients(kept, dy, needs, kept.aux.as_ref(), |d_branch| {
            let made = Made { dy: d_branch, weight: 1, bias: Some(2) };
            gradients(kept, &[made], &needs[..3])
        })
    }
}

impl LinearGateResidualOp {
    fn run<T: Float>(
        &self,
        layer: &Layer,
        gate: &Tensor,
        residual: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let rows = layer.rows()?;
        layer.run_gate_residual(T::reader(&rows)?.plain(), gate, residual, self.keep)
    }
}

/// The shape of a gate that broadcasts over what is between samples and channels.
fn wide(shape: &Shape) -> Shape {
    let mut wide = *shape;
    wide[1..shape.rank() - 1].fill(1);
    wide
}

/// How many tokens a sample has.
fn tokens(shape: &Shape) -> usize {
    shape[1..shape.rank() - 1].iter().product()
}

/// The branch before its gate.
fn kept_branch(branch: Option<&Tensor>) -> &Tensor {
    branch.expect("kept where a gradient may be asked for")
}

/// residual + gate·branch once more.
pub(super) fn join_again(
    branch: Option<&Tensor>,
    gate: &Var,
    residual: &Var,
) -> Result<Vec<Tensor>> {
    let branch = kept_branch(branch);
    let [gate, residual] = [gate, residual].map(|x| x.value().to_dtype(branch.dtype()));
    let gate = gate.reshape(wide(branch.shape()))?;
    Ok(vec![pointwise(&Gated, LinearGateResidualOp::NAME, [&residual, &gate, branch])?])
}

/// The gradients of all operands of residual + gate·branch, whose last two are gate and residual:
/// those of the others are made by `before`, if one is needed, of the branch's.
pub(super) fn join_gradients<A: Sync>(
    kept: Kept<'_, A>,
    dy: &Var,
    needs: &[bool],
    branch: Option<&Tensor>,
    before: impl FnOnce(&Var) -> Result<Vec<Option<Gradient>>> + Send,
) -> Result<Vec<Option<Gradient>>> {
    let (wide, gate) = (wide(dy.shape()), needs.len() - 2);
    let before = || {
        if !needs[..gate].contains(&true) {
            return Ok(vec![None; gate]);
        }
        let gate = kept.x(gate).to_dtype(dy.dtype())?;
        before(&dy.mul(&gate.reshape(wide)?)?)
    };
    let d_gate = || {
        let sum = gate_gradient(dy, kept_branch(branch), &wide)?;
        sum.reshape(*kept.shape(gate)).map(Gradient::Whole)
    };
    let ns = if needs[gate] { dy.numel() } else { 0 };
    let (before, d_gate) = at_once(dy, ns, before, || needs[gate].then(d_gate).transpose());
    let mut all = before?;
    all.push(d_gate?);
    all.push(Some(Gradient::Whole(dy.clone())));
    Ok(all)
}

/// Σ ȳ∘branch over the tokens of each sample. Where it is [plain](is_plain), the products are never
/// in memory; if there is something to add, by columns.
fn gate_gradient(dy: &Var, branch: &Tensor, wide: &Shape) -> Result<Var> {
    fn sum<T: Float>(dy: &Tensor, branch: &Tensor, wide: &Shape) -> Result<Tensor> {
        let (dy, mut sum) = (dy.contiguous(), Tensor::uninit(*wide, dy.dtype()));
        let [outer, inner] = [wide[0], wide[wide.rank() - 1]];
        let parts = [outer, tokens(dy.shape()), inner];
        reduce::sum_products([dy.slice()?, branch.slice()?], parts, sum.slice_mut::<T>()?);
        Ok(sum)
    }
    if !is_plain(dy) || tokens(dy.shape()) == 1 || wide[wide.rank() - 1] == 1 {
        return dy.mul(&Var::constant(branch.clone()))?.sum_to(wide);
    }
    let sum = match dy.dtype() {
        DType::F64 => sum::<f64>(&dy.value(), branch, wide)?,
        _ => sum::<f32>(&dy.value(), branch, wide)?,
    };
    Ok(Var::constant(sum))
}
