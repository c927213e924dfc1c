//! The gradients of the operands of linear layers.

use kernels::gemm::{Add, KC, Reader, Size, Store, Writer, gemm};
use kernels::par;
use tensor::{DType, Result, Tensor};

use super::super::product::{Float, rows};
use crate::backward::Gradient;
use crate::profile::lists_events;
use crate::{Kept, Var, anomaly, no_grad, scope};

/// The gradient of what a layer made, and which operands its weight and bias are.
#[derive(Clone, Copy)]
pub(super) struct Made<'a> {
    pub dy: &'a Var,
    pub weight: usize,
    pub bias: Option<usize>,
}

/// The gradients of x and the layers' weights and biases, of those operands that are needed.
pub(super) fn gradients<A: Sync>(
    kept: Kept<'_, A>,
    layers: &[Made<'_>],
    needs: &[bool],
) -> Result<Vec<Option<Gradient>>> {
    let dx = || needs[0].then(|| input_gradient(kept, layers).map(Gradient::Whole)).transpose();
    let of_layers = || {
        let mut all = vec![None; needs.len()];
        for Made { dy, weight, bias } in layers {
            let flat = |v: &Var| v.reshape(rows(v.shape()));
            if needs[*weight] {
                all[*weight] = Some(weight_gradient(kept, *weight, &flat(dy)?, &flat(kept.x(0))?)?);
            }
            if let Some(bias) = bias.filter(|&bias| needs[bias]) {
                all[bias] = Some(Gradient::Whole(dy.sum_to(kept.shape(bias))?));
            }
        }
        Ok(all)
    };
    // Products beside others, at 50 GFLOP/s a core.
    let both = layers.iter().filter(|made| needs[0] && needs[made.weight]);
    let ns = both.map(|made| made.dy.numel()).sum::<usize>() * rows(kept.shape(0))[1] / 25;
    let (dx, all) = at_once(layers[0].dy, ns, dx, of_layers);
    let mut all: Vec<Option<Gradient>> = all?;
    all[0] = dx?;
    Ok(all)
}

/// W̄ = ȳᵀ·x of operand `i`. Sums of one block are made where what has arrived before is, with the
/// bits of a product that is added; more blocks would need room.
fn weight_gradient<A>(kept: Kept<'_, A>, i: usize, dy: &Var, x: &Var) -> Result<Gradient> {
    fn add<T: Float>(dy: &Tensor, x: &Tensor, sum: &mut Tensor) -> Result<()> {
        let ([k, m], [_, n]) = (rows(dy.shape()), rows(x.shape()));
        let (left, right) = (T::reader(dy)?, T::reader(x)?);
        gemm(Size::new(m, n, k), left.transposed(), right.plain(), &Add, sum.slice_mut()?);
        Ok(())
    }
    let before = if dy.shape()[0] <= KC { kept.take_before(i) } else { None };
    let Some(mut sum) = before else { return Gradient::product(dy, x) };
    match sum.dtype() {
        DType::F64 => add::<f64>(&dy.value(), &x.value(), &mut sum)?,
        _ => add::<f32>(&dy.value(), &x.value(), &mut sum)?,
    }
    Ok(Gradient::Whole(Var::constant(sum)))
}

/// x̄ = Σᵢ ȳᵢ·Wᵢ, from the last layer to the first, as a backward pass would add up what separate
/// layers send. Where it is [plain](is_plain), products are added where the first one is.
fn input_gradient<A>(kept: Kept<'_, A>, layers: &[Made<'_>]) -> Result<Var> {
    fn add<T: Float>(dy: &Tensor, weight: &Tensor, i: usize, dx: &mut Tensor) -> Result<()> {
        let ([m, k], [_, n]) = (rows(dy.shape()), rows(weight.shape()));
        let dy = dy.reshape([m, k])?;
        let (left, right) = (T::reader(&dy)?, T::reader(weight)?);
        let writer: &dyn Writer<T> = if i == 0 { &Store } else { &Add };
        gemm(Size::new(m, n, k), left.plain(), right.plain(), writer, dx.slice_mut()?);
        Ok(())
    }
    let last_first = layers.iter().rev().map(|made| (made.dy, kept.x(made.weight)));
    let dtype = layers[0].dy.dtype();
    if layers.len() == 1 || !is_plain(layers[0].dy) {
        let mut products = last_first.map(|(dy, weight)| dy.matmul(weight));
        let last = products.next().expect("a backward pass comes from some output")?;
        return products.try_fold(last, |sum, product| sum.add(&product?));
    }
    let mut dx = Tensor::uninit(kept.shape(0), dtype);
    for (i, (dy, weight)) in last_first.enumerate() {
        match dtype {
            DType::F64 => add::<f64>(&dy.value(), &weight.value(), i, &mut dx)?,
            _ => add::<f32>(&dy.value(), &weight.value(), i, &mut dx)?,
        }
    }
    Ok(Var::constant(dx))
}

/// Whether nobody sees how a gradient is made of this one: on the CPU, neither recorded, watched
/// nor listed.
pub(super) fn is_plain(dy: &Var) -> bool {
    let is_seen = anomaly::is_watching() || lists_events();
    !(scope::is_recording() || is_seen || dy.value().cuda().is_some())
}

/// Runs both, at once where they are [plain](is_plain): at the end of a product threads wait for
/// its last tile, and so they do it once for both. `ns` is the time of the shorter one, 0 if it has
/// nothing to do.
pub(super) fn at_once<A: Send, B: Send>(
    dy: &Var,
    ns: usize,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    // Switches are a thread's own: another one records, and watches nothing, until it is told.
    if !is_plain(dy) {
        return (a(), b());
    }
    par::join(ns, || no_grad(a), || no_grad(b))
}
