//! The two layers of a transformer's MLP, with GELU between them, as one operation.

use kernels::elementwise::{Chain, Unary, exprs::GeluTanh};
use kernels::gemm::{
    Activated, Add, Bias, KC, Mapped, Operand, Reader, Size, Sloped, Store, Writer, gemm,
};
use tensor::{Cuda, DType, Result, Tensor};

use super::super::elementwise::pointwise;
use super::super::product::{Float, rows};
use super::gate_residual::{check_gate, join_again, join_gradients};
use super::gradients::{Made, at_once, gradients};
use super::{Layer, layer_sizes};
use crate::backward::{FEW_ROWS, Gradient};
use crate::{Keep, Kept, OpMany, Var, compute_dtype};

#[derive(Debug)]
pub(super) struct MlpGateResidualOp {
    /// Whether a backward pass will want h, and the branch before its gate.
    pub keep: [bool; 2],
}

/// The operands after x, W₁ and b₁.
const DOWN: usize = 3;
const GATE: usize = 5;
const RESIDUAL: usize = 6;

impl OpMany for MlpGateResidualOp {
    const NAME: &'static str = "mlp_gate_residual";
    const HALF: bool = true;
    const CUDA: bool = true;
    /// h, and the branch before its gate.
    type Aux = [Option<Tensor>; 2];

    fn keeps(&self, i: usize) -> Keep {
        let (x, up, gate) = (Keep::x(0), Keep::x(1), Keep::x(GATE));
        let hidden = gate.and(Keep::x(DOWN));
        [hidden.and(up), hidden.and(x), hidden, gate, gate, Keep::NOTHING, Keep::NOTHING][i]
    }

    fn again_from(&self) -> Option<Keep> {
        self.keep[1].then_some(Keep::x(GATE).and(Keep::x(RESIDUAL)))
    }

    fn again(&self, kept: Kept<'_, Self::Aux>) -> Result<Vec<Tensor>> {
        join_again(kept.aux[1].as_ref(), kept.x(GATE), kept.x(RESIDUAL))
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Self::Aux)> {
        let (_, hidden) = up(x).check()?;
        let hidden = ("hidden", &hidden, compute_dtype(x[0].dtype()));
        let (_, branch) = layer_sizes(Self::NAME, hidden, x[DOWN], Some(x[DOWN + 1]))?;
        check_gate(Self::NAME, x[0], &branch, x[GATE], x[RESIDUAL])?;
        match (x[0].cuda(), x[0].dtype()) {
            (Some(gpu), _) => self.run_on(gpu, x),
            (None, DType::F64) => self.run::<f64>(x),
            (None, _) => self.run::<f32>(x),
        }
    }

    fn vjp(
        &self,
        kept: Kept<'_, Self::Aux>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let dy = dy[0].as_ref().expect("the only output is used");
        join_gradients(kept, dy, needs, kept.aux[1].as_ref(), |d_branch| {
            let through = needs[..DOWN].contains(&true);
            let dh = || through.then(|| hidden_gradient(kept, &d_branch.value())).transpose();
            let down = || {
                let dw = needs[DOWN].then(|| down_gradient(kept, d_branch)).transpose();
                let db = needs[DOWN + 1].then(|| d_branch.sum_to(kept.shape(DOWN + 1))).transpose();
                [dw, db.map(|db| db.map(Gradient::Whole))]
            };
            // One product beside another, at 50 GFLOP/s a core.
            let size = if through && needs[DOWN] { kept.shape(DOWN)[1] } else { 0 };
            let (dh, down) = at_once(d_branch, d_branch.numel() * size / 25, dh, down);
            let mut all = match dh? {
                Some(dh) => {
                    let made = Made { dy: &Var::constant(dh), weight: 1, bias: Some(2) };
                    gradients(kept, &[made], &needs[..DOWN])?
                }
                None => vec![None; DOWN],
            };
            for gradient in down {
                all.push(gradient?);
            }
            Ok(all)
        })
    }
}

fn up<'a>(x: &[&'a Tensor]) -> Layer<'a> {
    Layer { name: MlpGateResidualOp::NAME, x: x[0], weight: x[1], bias: Some(x[2]) }
}

fn down<'a>(x: &[&'a Tensor], hidden: &'a Tensor) -> Layer<'a> {
    let [weight, bias] = [x[DOWN], x[DOWN + 1]];
    Layer { name: MlpGateResidualOp::NAME, x: hidden, weight, bias: Some(bias) }
}

/// h, which the forward pass has kept.
fn hidden<'a>(kept: Kept<'a, [Option<Tensor>; 2]>) -> &'a Tensor {
    kept.aux[0].as_ref().expect("kept where a gradient may be asked for")
}

impl MlpGateResidualOp {
    fn run<T: Float>(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, [Option<Tensor>; 2])> {
        let join = |down: Layer, rows: Operand<T>| {
            down.run_gate_residual(rows, x[GATE], x[RESIDUAL], self.keep[1])
        };
        if self.keep[0] {
            let h = up(x).run_plain::<T>()?;
            let (y, branch) = join(down(x, &h), gelu_of::<T>(&h)?.plain())?;
            return Ok((vec![y], [Some(h), branch]));
        }
        // Nobody wants h, and its GELU need not be packed.
        let gelu = up(x).run_gelu::<T>()?;
        let down = down(x, &gelu);
        let (y, branch) = join(down, T::reader(&down.rows()?)?.plain())?;
        Ok((vec![y], [None, branch]))
    }

    fn run_on(&self, gpu: &Cuda, x: &[&Tensor]) -> Result<(Vec<Tensor>, [Option<Tensor>; 2])> {
        let ((gelu, hidden), keep) = (up(x).run_gelu_on(gpu)?, self.keep[1]);
        let down = down(x, &gelu);
        let (y, branch) = down.run_gate_residual_on(gpu, x[GATE], x[RESIDUAL], keep)?;
        Ok((vec![y], [self.keep[0].then_some(hidden), branch]))
    }
}

impl Layer<'_> {
    /// gelu(x·Wᵀ + b).
    fn run_gelu<T: Float>(&self) -> Result<Tensor> {
        let bias = self.bias();
        let bias = bias.as_ref().map(Tensor::slice::<T>).transpose()?;
        let writer = Activated { f: GeluTanh, bias: Bias(bias) };
        Ok(self.run(self.check()?, T::reader(&self.rows()?)?.plain(), &writer, false)?.0)
    }
}

/// gelu(h), as rows on their way into a product.
fn gelu_of<T: Float>(h: &Tensor) -> Result<Mapped<'_, T, GeluTanh>> {
    let [_, cols] = rows(h.shape());
    Ok(Mapped { f: GeluTanh, x: h.slice()?, cols })
}

/// W̄₂ = d_branchᵀ·gelu(h).
fn down_gradient(kept: Kept<'_, [Option<Tensor>; 2]>, d_branch: &Var) -> Result<Gradient> {
    fn run<T: Float>(
        [d_branch, h]: [&Tensor; 2],
        writer: &dyn Writer<T>,
        dw: &mut Tensor,
    ) -> Result<()> {
        let ([k, n], m) = (rows(h.shape()), dw.shape()[0]);
        let (left, right) = (T::reader(d_branch)?, gelu_of::<T>(h)?);
        gemm(Size::new(m, n, k), left.transposed(), right.plain(), writer, dw.slice_mut()?);
        Ok(())
    }
    let h = hidden(kept);
    let shape = rows(h.shape());
    let d_branch = d_branch.reshape(rows(d_branch.shape()))?;
    if h.cuda().is_some() || shape[0] <= FEW_ROWS {
        let gelu = pointwise(&GeluTanh, GeluTanh::NAME, [h])?.reshape(shape)?;
        return Gradient::product(&d_branch, &Var::constant(gelu));
    }
    // As in `weight_gradient`.
    let before = if shape[0] <= KC { kept.take_before(DOWN) } else { None };
    let adds = before.is_some();
    let mut dw = before.unwrap_or_else(|| Tensor::uninit(*kept.shape(DOWN), h.dtype()));
    let from = [&d_branch.value(), h];
    match h.dtype() {
        DType::F64 => run::<f64>(from, if adds { &Add } else { &Store }, &mut dw)?,
        _ => run::<f32>(from, if adds { &Add } else { &Store }, &mut dw)?,
    }
    Ok(Gradient::Whole(Var::constant(dw)))
}

/// h̄ = (d_branch·W₂)∘gelu′(h).
fn hidden_gradient(kept: Kept<'_, [Option<Tensor>; 2]>, d_branch: &Tensor) -> Result<Tensor> {
    fn run<T: Float>(d_branch: &Tensor, weight: &Tensor, h: &Tensor) -> Result<Tensor> {
        let ([m, k], [_, n]) = (rows(d_branch.shape()), rows(h.shape()));
        let mut dh = Tensor::uninit(*h.shape(), h.dtype());
        let (left, right) = (T::reader(d_branch)?, T::reader(weight)?);
        let writer = Sloped { f: GeluTanh, x: h.slice()?, cols: n };
        gemm(Size::new(m, n, k), left.plain(), right.plain(), &writer, dh.slice_mut()?);
        Ok(dh)
    }
    let (h, weight) = (hidden(kept), kept.x(DOWN));
    if h.cuda().is_some() {
        let d_gelu = Var::constant(d_branch.clone()).matmul(weight)?.value();
        return pointwise(&Chain(GeluTanh), GeluTanh::NAME, [h, &d_gelu]);
    }
    let d_branch = d_branch.reshape(rows(d_branch.shape()))?;
    match h.dtype() {
        DType::F64 => run::<f64>(&d_branch, &weight.value(), h),
        _ => run::<f32>(&d_branch, &weight.value(), h),
    }
}
