//! Linear layers, alone and joined with what follows them.

use kernels::gemm::{Bias, Operand, Reader, Size, Writer, gemm_keeping};
use kernels::par;
use tensor::{DType, Error, Result, Shape, Tensor};

use super::product::{Float, WIDE, check_floats, rows};
use crate::backward::Gradient;
use crate::{Keep, Kept, OpMany, Var, apply_many, compute_dtype, scope};

mod cases;
mod gate_residual;
mod gpu;
mod gradients;
mod mlp;

pub use cases::{Linear, LinearGateResidual, MlpGateResidual};
use gate_residual::LinearGateResidualOp;
use gradients::{Made, gradients};
use mlp::MlpGateResidualOp;

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
        let [y] = self.linears([(weight, bias)])?;
        Ok(y)
    }

    /// Linear layers of the same rows, each of weight and bias: queries, keys and values of tokens,
    /// say.
    ///
    /// yᵢ = x·Wᵢᵀ + bᵢ. Values have the bits of as many calls of [`linear`](Self::linear), and so
    /// have gradients, unless sums have other terms before: x is used again, or a parameter twice.
    /// One vjp makes all of them: where x is [made again](crate::Op::AGAIN), it is once, and on the
    /// CPU x̄ = Σᵢ ȳᵢ·Wᵢ adds up in place.
    /// Source: elementary.
    ///
    /// Shapes: x \[.., C\], Wᵢ \[Oᵢ, C\], bᵢ \[Oᵢ\] → yᵢ \[.., Oᵢ\]. Saves: x, Wᵢ. Cost: as
    /// [`linear`](Self::linear), of each. Errors: as [`linear`](Self::linear), and
    /// more than 62 weights and biases.
    #[track_caller]
    pub fn linears<const N: usize>(
        &self,
        layers: [(&Self, Option<&Self>); N],
    ) -> Result<[Self; N]> {
        let (mut operands, mut places) = (vec![self], Vec::new());
        for (weight, bias) in layers {
            places.push((operands.len(), bias.map(|_| operands.len() + 1)));
            operands.push(weight);
            operands.extend(bias);
        }
        if operands.len() > Keep::MOST {
            let message = format!("no more than {} weights and biases", Keep::MOST - 1);
            return Err(Error::value(LinearOp::NAME, message).operand("x", self));
        }
        let y = if N == 0 { Vec::new() } else { apply_many(LinearOp { places }, &operands)? };
        Ok(y.try_into().expect("an output of each layer"))
    }

    /// A linear layer that joins a residual stream through a gate for each sample and channel.
    ///
    /// y = residual + gate·(x·Wᵀ + b).
    /// Source: Peebles & Xie 2023, §3.2 (adaLN-Zero).
    ///
    /// Shapes: x \[B, .., C\], W \[O, C\], b \[O\], gate \[B, O\] (a chunk of a modulation is read
    /// in place), residual \[B, .., O\] → like residual. Saves: x, W, gate, residual, x·Wᵀ + b
    /// \[B, .., O\] (both if the gate wants a gradient). Cost: as [`linear`](Self::linear), and a
    /// read of the residual. Errors: other shapes; not floats.
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

    /// An MLP that joins a residual stream through a gate for each sample and channel: a linear
    /// layer `up`, GELU in its tanh form, and another one `down`, each of weight and bias.
    ///
    /// y = residual + gate·(gelu(h)·W₂ᵀ + b₂), h = x·W₁ᵀ + b₁.
    /// Source: Vaswani et al. 2017, §3.3; Hendrycks & Gimpel 2016, §2; Peebles & Xie 2023, §3.2
    /// (adaLN-Zero).
    ///
    /// Shapes: x \[B, .., C\], W₁ \[H, C\], b₁ \[H\], W₂ \[O, H\], b₂ \[O\], gate \[B, O\] (a chunk
    /// of a modulation is read in place), residual \[B, .., O\] → like residual. Saves: x, W₁, W₂,
    /// gate, residual, h \[B, .., H\], gelu(h)·W₂ᵀ + b₂ \[B, .., O\] (the last and residual if the
    /// gate wants a gradient). Cost: 2·H·(C + O) flop and a GELU of h a row, twice that backward.
    /// On the CPU h and gelu(h) are not both written, unless rows are few: if h is saved, its GELU is
    /// made where it goes into a product, else where sums are written. Errors: other shapes; not
    /// floats.
    #[track_caller]
    pub fn mlp_gate_residual(
        &self,
        up: [&Self; 2],
        down: [&Self; 2],
        gate: &Self,
        residual: &Self,
    ) -> Result<Self> {
        let keep = [is_recorded(&[self, up[0], up[1], down[0]]), is_recorded(&[gate])];
        let operands = [self, up[0], up[1], down[0], down[1], gate, residual];
        one(apply_many(MlpGateResidualOp { keep }, &operands)?)
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
#[derive(Clone, Copy)]
struct Layer<'a> {
    name: &'static str,
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
}

/// Rows, outputs and inputs of a layer of rows of this shape, and the shape of what it makes.
///
/// Errors: its operands do not fit each other; `x` is what those rows are called.
fn layer_sizes(
    name: &'static str,
    (x, shape, dtype): (&'static str, &Shape, DType),
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Size, Shape)> {
    let fits = match (shape.last(), &weight.shape()[..]) {
        (Some(width), &[outputs, inputs]) => {
            inputs == *width && bias.is_none_or(|bias| bias.shape()[..] == [outputs])
        }
        _ => false,
    };
    if !fits {
        let message = format!("expected {x} [.., C], weight [O, C], bias [O]");
        let error = Error::shape(name, message);
        let error = error.operand(x, (shape, dtype.name())).operand("weight", weight);
        return Err(match bias {
            Some(bias) => error.operand("bias", bias),
            None => error,
        });
    }
    check_floats(name, &[("weight", weight), ("bias", bias.unwrap_or(weight))])?;
    let mut made = *shape;
    let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
    made[shape.rank() - 1] = outputs;
    Ok((Size::new(rows(shape)[0], outputs, inputs), made))
}

impl Layer<'_> {
    /// Rows, outputs and inputs, and the shape of y. Errors: as [`layer_sizes`]; x is not floats.
    fn check(&self) -> Result<(Size, Shape)> {
        let Layer { name, x, weight, bias } = self;
        let sizes = layer_sizes(name, ("x", x.shape(), x.dtype()), weight, *bias)?;
        check_floats(name, &[("x", x)])?;
        Ok(sizes)
    }

    /// x as a matrix.
    fn rows(&self) -> Result<Tensor> {
        self.x.reshape(rows(self.x.shape()))
    }

    /// The layer of these rows, finished by a writer; and what the writer keeps, if that is wanted.
    fn run<T: Float>(
        &self,
        (size, shape): (Size, Shape),
        rows: Operand<T>,
        writer: &dyn Writer<T>,
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut y = self.new_like(shape);
        let mut kept = keep.then(|| self.new_like(shape));
        let weight = T::reader(self.weight)?;
        let kept_slice = kept.as_mut().map_or(Ok(&mut [][..]), Tensor::slice_mut)?;
        gemm_keeping(size, rows, weight.transposed(), writer, y.slice_mut()?, kept_slice);
        Ok((y, kept))
    }

    /// x·Wᵀ + b.
    fn run_plain<T: Float>(&self) -> Result<Tensor> {
        let bias = self.bias();
        let bias = bias.as_ref().map(Tensor::slice::<T>).transpose()?;
        Ok(self.run(self.check()?, T::reader(&self.rows()?)?.plain(), &Bias(bias), false)?.0)
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
struct LinearOp {
    /// Which operands each layer's weight and bias are.
    places: Vec<(usize, Option<usize>)>,
}

impl OpMany for LinearOp {
    const NAME: &'static str = "linear";
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn keeps(&self, i: usize) -> Keep {
        let weights = || self.places.iter().map(|&(weight, _)| weight);
        match i {
            0 => weights().map(Keep::x).fold(Keep::NOTHING, Keep::and),
            _ if weights().any(|weight| weight == i) => Keep::x(0),
            _ => Keep::NOTHING,
        }
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, ())> {
        let layer = |i: usize| {
            let (weight, bias) = self.places[i];
            Layer { name: Self::NAME, x: x[0], weight: x[weight], bias: bias.map(|bias| x[bias]) }
        };
        let layers = self.places.len();
        if let Some(gpu) = x[0].cuda() {
            return Ok(((0..layers).map(|i| layer(i).run_on(gpu)).collect::<Result<_>>()?, ()));
        }
        let run = |i| match x[0].dtype() {
            DType::F64 => layer(i).run_plain::<f64>(),
            _ => layer(i).run_plain::<f32>(),
        };
        // About 50 GFLOP/s a core.
        let weights = x[1..].iter().map(|x| x.numel()).sum::<usize>();
        let width = x[0].shape().last().map_or(1, |&width| width.max(1));
        let ns = x[0].numel() / width * weights / 25;
        Ok((par::map(layers, ns, run).into_iter().collect::<Result<_>>()?, ()))
    }

    fn vjp(
        &self,
        kept: Kept<'_, ()>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let used = self.places.iter().zip(dy).filter_map(|(place, dy)| Some((place, dy.as_ref()?)));
        let made = used.map(|(&(weight, bias), dy)| Made { dy, weight, bias });
        let layers: Vec<Made> = made.collect();
        gradients(kept, &layers, needs)
    }
}

#[cfg(test)]
mod tests;
