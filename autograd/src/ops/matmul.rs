//! Products of matrices.

use kernels::gemm::{Reader, Size, Store, gemm};
use tensor::{Cuda, DType, Error, Result, Shape, Tensor};

use super::product::{End, Float, check_floats, multiply_on};
use crate::spec::{Case, Draw};
use crate::{Keep, Kept, Op, Spec, Var, apply, compute_dtype};

/// Products of matrices.
impl Var {
    /// The matrix product of the last two axes; those before are a batch and are broadcast.
    ///
    /// yᵢⱼ = Σₖ aᵢₖ·bₖⱼ, in one order of k whatever the shapes (see [`kernels::gemm`]).
    /// Source: elementary.
    ///
    /// Shapes: a \[.., M, K\] and b \[.., K, N\] → \[.., M, N\]. Operands may be views, such as
    /// transposes, and halves: both are read as they are. Saves: a, b. Cost: 2·MNK flop a
    /// matrix; twice that backward. Errors: fewer than two axes; K differs; batches do not
    /// broadcast; not floats.
    #[track_caller]
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        apply(MatmulOp, [self, other])
    }
}

#[derive(Debug)]
struct MatmulOp;

/// The axes before the last two.
fn batch_of(shape: &Shape) -> Shape {
    Shape::from(&shape[..shape.rank() - 2])
}

/// `batch` and two more axes.
fn matrices(batch: Shape, rows: usize, columns: usize) -> Result<Shape> {
    Shape::new(&[&batch[..], &[rows, columns]].concat())
}

impl MatmulOp {
    /// The batch of the result, and the sizes of a product.
    fn check(a: &Tensor, b: &Tensor) -> Result<(Shape, Size)> {
        let error = |message: &str, left: String, right: String| {
            Error::shape("matmul", message).operand("left", (a, left)).operand("right", (b, right))
        };
        if a.rank() < 2 || b.rank() < 2 {
            return Err(error("operands are matrices", String::new(), String::new()));
        }
        let [m, k] = [a.shape()[a.rank() - 2], a.shape()[a.rank() - 1]];
        let [inner, n] = [b.shape()[b.rank() - 2], b.shape()[b.rank() - 1]];
        if k != inner {
            let (left, right) = (format!("k = {k}"), format!("k = {inner}"));
            return Err(error("inner dimensions differ", left, right));
        }
        check_floats("matmul", &[("left", a), ("right", b)])?;
        match batch_of(a.shape()).broadcast(&batch_of(b.shape())) {
            Some(batch) => Ok((batch, Size::new(m, n, k))),
            None => Err(error("batches do not broadcast", String::new(), String::new())),
        }
    }
}

/// a·b in this machine's memory.
///
/// Errors: as [`Var::matmul`].
pub(crate) fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (batch, size) = MatmulOp::check(a, b)?;
    match compute_dtype(a.dtype()) {
        DType::F64 => product::<f64>(a, b, batch, size),
        _ => product::<f32>(a, b, batch, size),
    }
}

fn product<T: Float>(a: &Tensor, b: &Tensor, batch: Shape, size: Size) -> Result<Tensor> {
    let shape = matrices(batch, size.m, size.n)?;
    let mut y = Tensor::uninit(shape, compute_dtype(a.dtype()));
    if batch_of(b.shape()).numel() == 1 {
        // One right operand for all: their rows are one tall matrix.
        let rows = batch.numel() * size.m;
        let tall = a.broadcast_to(matrices(batch, size.m, size.k)?)?.reshape([rows, size.k])?;
        let b = b.reshape([size.k, size.n])?;
        let (a, b) = (T::reader(&tall)?, T::reader(&b)?);
        gemm(Size::new(rows, size.n, size.k), a.plain(), b.plain(), &Store, y.slice_mut::<T>()?);
    } else {
        let a = a.broadcast_to(matrices(batch, size.m, size.k)?)?;
        let b = b.broadcast_to(matrices(batch, size.k, size.n)?)?;
        let (a, b) = (T::reader(&a)?, T::reader(&b)?);
        gemm(size.batched(batch.numel()), a.plain(), b.plain(), &Store, y.slice_mut::<T>()?);
    }
    Ok(y)
}

fn product_on(gpu: &Cuda, a: &Tensor, b: &Tensor, batch: Shape, size: Size) -> Result<Tensor> {
    let mut y = Tensor::uninit_on(Some(gpu), matrices(batch, size.m, size.n)?, DType::F32);
    let a = a.broadcast_to(matrices(batch, size.m, size.k)?)?;
    let b = b.broadcast_to(matrices(batch, size.k, size.n)?)?;
    multiply_on(gpu, [&a, &b], &mut y, End::Store)?;
    Ok(y)
}

impl Op<2> for MatmulOp {
    const NAME: &'static str = "matmul";
    const KEEPS: [Keep; 2] = [Keep::x(1), Keep::x(0)];
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [a, b]: [&Tensor; 2]) -> Result<(Tensor, ())> {
        let Some(gpu) = a.cuda() else { return Ok((multiply(a, b)?, ())) };
        let (batch, size) = Self::check(a, b)?;
        Ok((product_on(gpu, a, b, batch, size)?, ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, needs: [bool; 2]) -> Result<[Option<Var>; 2]> {
        let along_a = || dy.matmul(&kept.x(1).transpose(-1, -2)?)?.sum_to(kept.shape(0));
        let along_b = || {
            let (a, shape) = (kept.x(0), kept.shape(1));
            if batch_of(shape).numel() > 1 || batch_of(a.shape()) != batch_of(dy.shape()) {
                return a.transpose(-1, -2)?.matmul(dy)?.sum_to(shape);
            }
            // The sum over the batch is one over the rows of tall matrices.
            let tall = |x: &Var| x.flatten(0, -2);
            tall(a)?.transpose(0, 1)?.matmul(&tall(dy)?)?.reshape(*shape)
        };
        Ok([needs[0].then(along_a).transpose()?, needs[1].then(along_b).transpose()?])
    }
}

/// The registry's entry for `matmul`.
pub struct Matmul;

impl Spec for Matmul {
    fn name(&self) -> &'static str {
        MatmulOp::NAME
    }

    fn equation(&self) -> &'static str {
        "yᵢⱼ = Σₖ aᵢₖ·bₖⱼ"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let batch = Shape::from(&[2, 3][..draw.below(3)]);
        let [m, k, n] = [draw.dim(), draw.dim(), draw.dim()];
        let (a_batch, b_batch) = (draw.broadcastable(batch), draw.broadcastable(batch));
        let a = draw.uniform(matrices(a_batch, m, k)?, -1.0, 1.0)?;
        let b = draw.uniform(matrices(b_batch, k, n)?, -1.0, 1.0)?;
        let batch = a_batch.broadcast(&b_batch).expect("both broadcast to one shape");
        let a_places = draw.broadcast_index(&a, matrices(batch, m, k)?)?;
        let b_places = draw.broadcast_index(&b, matrices(batch, k, n)?)?;
        let size = Size::new(m, n, k).batched(batch.numel());
        let reference = move |x: &[Vec<f64>]| {
            let a = |matrix, i, j| x[0][a_places[(matrix * m + i) * k + j]];
            let b = |matrix, i, j| x[1][b_places[(matrix * k + i) * n + j]];
            kernels::gemm::reference(size, a, b)
        };
        let magnitude = ((batch.numel() * m.max(n)).max(k) as f64).sqrt();
        let case = Case::new("", [a, b], |x| x[0].matmul(&x[1]), reference);
        Ok(case.magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let a = draw.uniform([24, 333, 64], -1.0, 1.0)?;
        let b = draw.uniform([24, 64, 333], -1.0, 1.0)?;
        let case = Case::new("heads", [a, b], |x| x[0].matmul(&x[1]), |_| Vec::new());
        Ok(case.flops(2.0 * 24.0 * 333.0 * 333.0 * 64.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misfits_say_what_differs() {
        let ones = |shape: &[usize]| Var::constant(Tensor::ones(shape, DType::F32));
        let error = ones(&[2, 3, 4]).matmul(&ones(&[5, 6])).unwrap_err().to_string();
        assert!(error.contains("inner dimensions differ") && error.contains("k = 4"), "{error}");
        assert!(ones(&[2, 3, 4]).matmul(&ones(&[3, 4, 5])).is_err());
        assert!(ones(&[4]).matmul(&ones(&[4, 5])).is_err());
        let words = Var::constant(Tensor::zeros([3, 4], DType::I64));
        assert!(words.matmul(&words).is_err());
        let mixed = Var::constant(Tensor::ones([4, 5], DType::F64));
        assert!(ones(&[3, 4]).matmul(&mixed).is_err());
    }

    #[test]
    fn empty_axes_give_zeros_or_nothing() {
        let a = Var::parameter(Tensor::ones([2, 3, 0], DType::F32));
        let b = Var::parameter(Tensor::ones([0, 4], DType::F32));
        let y = a.matmul(&b).unwrap();
        assert_eq!(y.value().to_f64_vec(), [0.0; 24]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&a).unwrap().numel() + grads.get(&b).unwrap().numel(), 0);
    }
}
