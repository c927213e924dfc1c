//! Linear layers, alone and joined with what follows them.

use kernels::elementwise::exprs::GeluTanh;
use kernels::elementwise::{Chain, Unary};
use kernels::gemm::{Bias, BiasGelu, GateResidual, Gated, Reader, Size, Writer, gemm_keeping};
use tensor::{DType, Error, Result, Shape, Tensor};

use super::elementwise::pointwise;
use super::product::{Float, WIDE, check_floats, rows};
use crate::backward::Gradient;
use crate::{Keep, Kept, OpMany, Var, apply_many, compute_dtype, scope};

mod cases;
mod gpu;
mod gradients;

pub use cases::{Linear, LinearGateResidual, LinearGelu};
use gradients::{at_once, gradients};

/// Linear layers. Weights are \[outputs, inputs\], as checkpoints have them, and may be halves:
/// they are read as they are.
impl Var {
    /// A linear layer.
    ///
    /// y = x·Wᵀ + b.
    /// Source: elementary.
    ///
    /// Shapes: x \[.., C\], W \[O, C\], b \[O\] → \[.., O\]. Saves: x, W. Cost: 2·OC flop a row,
    /// twice that backward. Errors: other shapes; not floats.
    #[track_caller]
    pub fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        match bias {
            Some(bias) => one(apply_many(LinearOp, &[self, weight, bias])?),
            None => one(apply_many(LinearOp, &[self, weight])?),
        }
    }

    /// A linear layer and GELU in its tanh form, in one pass.
    ///
    /// y = gelu(x·Wᵀ + b).
    /// Source: Hendrycks & Gimpel 2016, §2.
    ///
    /// Shapes: as [`linear`](Self::linear). Saves: x, W, x·Wᵀ + b \[.., O\]. Cost: as there, and a
    /// GELU an element. Errors: as there.
    #[track_caller]
    pub fn linear_gelu(&self, weight: &Self, bias: &Self) -> Result<Self> {
        let operands = [self, weight, bias];
        one(apply_many(LinearGeluOp { keep: is_recorded(&operands) }, &operands)?)
    }

    /// A linear layer that joins a residual stream through a gate for each sample and channel.
    ///
    /// y = residual + gate·(x·Wᵀ + b).
    /// Source: Peebles & Xie 2023, §3.2 (adaLN-Zero).
    ///
    /// Shapes: x \[B, .., C\], W \[O, C\], b \[O\], gate \[B, O\] (a chunk of a modulation is read
    /// in place), residual \[B, .., O\] → like residual. Saves: x, W, gate, residual, x·Wᵀ + b
    /// \[B, .., O\] (both if the gate wants a gradient). Cost: as [`linear`](Self::linear), and a read
    /// of the residual. Errors: other shapes; not floats.
    #[track_caller]
    pub fn linear_gate_residual(
        &self,
        weight: &Self,
        bias: &Self,
        gate: &Self,
        residual: &Self,
    ) -> Result<Self> {
        let keep = is_recorded(&[gate]);
        let operands = [self, weight, bias, gate, residual];
        one(apply_many(LinearGateResidualOp { keep }, &operands)?)
    }
}

/// The output of an operation that has one.
fn one(mut outputs: Vec<Var>) -> Result<Var> {
    Ok(outputs.pop().expect("a linear layer has one output"))
}

/// Whether a backward pass may ask for the gradient of one of these.
fn is_recorded(x: &[&Var]) -> bool {
    scope::is_recording() && x.iter().any(|x| x.is_tracked())
}

/// x·Wᵀ + b: the operands and sizes of all three layers.
struct Layer<'a> {
    name: &'static str,
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
}

impl Layer<'_> {
    /// Rows, outputs and inputs, and the shape of y.
    fn check(&self) -> Result<(Size, Shape)> {
        let Layer { name, x, weight, bias } = self;
        let fits = match (x.shape().last(), &weight.shape()[..]) {
            (Some(width), &[outputs, inputs]) => {
                inputs == *width && bias.is_none_or(|bias| bias.shape()[..] == [outputs])
            }
            _ => false,
        };
        if !fits {
            let error = Error::shape(*name, "expected x [.., C], weight [O, C], bias [O]")
                .operand("x", *x)
                .operand("weight", *weight);
            return Err(match bias {
                Some(bias) => error.operand("bias", *bias),
                None => error,
            });
        }
        check_floats(name, &[("x", x), ("weight", weight), ("bias", bias.unwrap_or(x))])?;
        let mut shape = *x.shape();
        let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
        shape[x.rank() - 1] = outputs;
        Ok((Size::new(rows(x.shape())[0], outputs, inputs), shape))
    }

    /// The layer, finished by a writer; and what the writer keeps, if that is wanted.
    fn run<T: Float>(
        &self,
        (size, shape): (Size, Shape),
        writer: &dyn Writer<T>,
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut y = self.new_like(shape);
        let mut kept = keep.then(|| self.new_like(shape));
        let x = self.x.reshape(rows(self.x.shape()))?;
        let (x, weight) = (T::reader(&x)?, T::reader(self.weight)?);
        let kept_slice = kept.as_mut().map_or(Ok(&mut [][..]), Tensor::slice_mut)?;
        gemm_keeping(size, x.plain(), weight.transposed(), writer, y.slice_mut()?, kept_slice);
        Ok((y, kept))
    }

    /// A tensor for what is computed, of this shape.
    fn new_like(&self, shape: Shape) -> Tensor {
        Tensor::uninit_on(self.x.cuda(), shape, compute_dtype(self.x.dtype()))
    }

    /// The bias as the writers take it.
    fn bias(&self) -> Option<Tensor> {
        self.bias.map(|bias| bias.to_dtype(compute_dtype(bias.dtype())).aligned(WIDE))
    }
}

#[derive(Debug)]
struct LinearOp;

impl OpMany for LinearOp {
    const NAME: &'static str = "linear";
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn keeps(&self, i: usize) -> Keep {
        [Keep::x(1), Keep::x(0), Keep::NOTHING][i]
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        fn run<T: Float>(layer: &Layer) -> Result<Tensor> {
            let bias = layer.bias();
            let bias = bias.as_ref().map(Tensor::slice::<T>).transpose()?;
            Ok(layer.run(layer.check()?, &Bias(bias), false)?.0)
        }
        let layer = Layer { name: Self::NAME, x: x[0], weight: x[1], bias: x.get(2).copied() };
        let y = match (layer.x.cuda(), layer.x.dtype()) {
            (Some(gpu), _) => layer.run_on(gpu)?,
            (None, DType::F64) => run::<f64>(&layer)?,
            (None, _) => run::<f32>(&layer)?,
        };
        Ok((vec![y], ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        gradients(kept, dy[0].as_ref().expect("the only output is used"), needs)
    }
}

#[derive(Debug)]
struct LinearGeluOp {
    /// Whether a backward pass will want x·Wᵀ + b.
    keep: bool,
}

impl OpMany for LinearGeluOp {
    const NAME: &'static str = "linear_gelu";
    const HALF: bool = true;
    const CUDA: bool = true;
    /// x·Wᵀ + b.
    type Aux = Option<Tensor>;

    fn keeps(&self, i: usize) -> Keep {
        [Keep::x(1), Keep::x(0), Keep::NOTHING][i]
    }

    fn again_from(&self) -> Option<Keep> {
        self.keep.then_some(Keep::NOTHING)
    }

    fn again(&self, kept: Kept<'_, Option<Tensor>>) -> Result<Vec<Tensor>> {
        Ok(vec![pointwise(&GeluTanh, GeluTanh::NAME, [before(kept)])?])
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        fn run<T: Float>(layer: &Layer, keep: bool) -> Result<(Tensor, Option<Tensor>)> {
            let bias = layer.bias();
            let bias = bias.as_ref().map(Tensor::slice::<T>).transpose()?;
            layer.run(layer.check()?, &BiasGelu(bias), keep)
        }
        let layer = Layer { name: Self::NAME, x: x[0], weight: x[1], bias: Some(x[2]) };
        let (y, before) = match (layer.x.cuda(), layer.x.dtype()) {
            (Some(gpu), _) => layer.run_gelu_on(gpu)?,
            (None, DType::F64) => run::<f64>(&layer, self.keep)?,
            (None, _) => run::<f32>(&layer, self.keep)?,
        };
        Ok((vec![y], before))
    }

    fn vjp(
        &self,
        kept: Kept<'_, Option<Tensor>>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let dy = dy[0].as_ref().expect("the only output is used").value();
        let slope = pointwise(&Chain(GeluTanh), Self::NAME, [before(kept), &dy])?;
        gradients(kept, &Var::constant(slope), needs)
    }
}

/// The shape of a gate that broadcasts over what is between samples and channels.
fn wide(shape: &Shape) -> Shape {
    let mut wide = *shape;
    wide[1..shape.rank() - 1].fill(1);
    wide
}

/// x·Wᵀ + b, before GELU or gate.
fn before<'a>(kept: Kept<'a, Option<Tensor>>) -> &'a Tensor {
    kept.aux.as_ref().expect("kept where a gradient may be asked for")
}

#[derive(Debug)]
struct LinearGateResidualOp {
    /// Whether a backward pass will want x·Wᵀ + b.
    keep: bool,
}

impl LinearGateResidualOp {
    /// Errors unless gate and residual fit the layer's output.
    fn check(layer: &Layer, shape: &Shape, gate: &Tensor, residual: &Tensor) -> Result<()> {
        let samples_and_outputs = [shape[0], shape[shape.rank() - 1]];
        if shape.rank() < 2 || gate.shape()[..] != samples_and_outputs || residual.shape() != shape
        {
            return Err(Error::shape(layer.name, format!("expected an output {shape}"))
                .operand("x", layer.x)
                .operand("gate", (gate, format!("should be {samples_and_outputs:?}")))
                .operand("residual", (residual, format!("should be {shape}"))));
        }
        check_floats(layer.name, &[("gate", gate), ("residual", residual)])
    }

    /// Gate and residual as the writers take them. Errors: as [`check`](Self::check).
    fn operands(
        layer: &Layer,
        shape: &Shape,
        gate: &Tensor,
        residual: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        Self::check(layer, shape, gate, residual)?;
        let dtype = compute_dtype(layer.x.dtype());
        let mut gate = gate.to_dtype(dtype);
        let wide = WIDE as usize;
        let is_aligned = gate.is_aligned(WIDE) && gate.strides()[0].is_multiple_of(wide);
        if gate.strides()[1] != 1 || (gate.cuda().is_some() && !is_aligned) {
            gate = gate.contiguous().aligned(WIDE);
        }
        Ok((gate, residual.to_dtype(dtype).aligned(WIDE)))
    }

    fn run<T: Float>(
        &self,
        layer: &Layer,
        gate: &Tensor,
        residual: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (size, shape) = layer.check()?;
        let (gate, residual) = Self::operands(layer, &shape, gate, residual)?;
        let bias = layer.bias();
        let writer = GateResidual {
            bias: bias.as_ref().map(Tensor::slice::<T>).transpose()?,
            gate: gate.raw_slice()?.0,
            gate_stride: gate.strides()[0],
            rows_per_sample: (size.m / shape[0].max(1)).max(1),
            residual: residual.slice()?,
            cols: size.n,
        };
        layer.run((size, shape), &writer, self.keep)
    }
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
        let branch = before(kept);
        let [gate, residual] = [3, 4].map(|i| kept.x(i).value().to_dtype(branch.dtype()));
        let gate = gate.reshape(wide(branch.shape()))?;
        Ok(vec![pointwise(&Gated, Self::NAME, [&residual, &gate, branch])?])
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let layer = Layer { name: Self::NAME, x: x[0], weight: x[1], bias: Some(x[2]) };
        let (y, branch) = match (layer.x.cuda(), layer.x.dtype()) {
            (Some(gpu), _) => layer.run_gate_residual_on(gpu, x[3], x[4])?,
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
        let wide = wide(dy.shape());
        let layer = || {
            if !needs[..3].contains(&true) {
                return Ok(vec![None, None, None]);
            }
            let gate = kept.x(3).to_dtype(dy.dtype())?;
            gradients(kept, &dy.mul(&gate.reshape(wide)?)?, &needs[..3])
        };
        let gate = || {
            let branch = Var::constant(before(kept).clone());
            dy.mul(&branch)?.sum_to(&wide)?.reshape(*kept.shape(3)).map(Gradient::Whole)
        };
        let ns = if needs[3] { dy.numel() } else { 0 };
        let (layer, gate) = at_once(dy, ns, layer, || needs[3].then(gate).transpose());
        let mut all = layer?;
        all.push(gate?);
        all.push(Some(Gradient::Whole(dy.clone())));
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
