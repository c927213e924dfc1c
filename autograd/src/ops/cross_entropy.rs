//! Weighted cross-entropy over a vocabulary, from scores or fused with the layer that makes them.

use kernels::{Real, xent};
use tensor::{DType, Element, Error, Result, Tensor};

use crate::spec::{Case, Draw};
use crate::{Gradient, Keep, Kept, Op, OpMany, Spec, Targets, Var, apply, apply_many};

mod gpu;

/// Cross-entropy.
impl Var {
    /// The weighted cross-entropy of scores, with one word possibly impossible.
    ///
    /// y = Σᵣ wᵣ·(log Σᵥ exp xᵣᵥ − xᵣ,targetᵣ), where the forbidden word counts as −∞: the
    /// SUBS parametrisation of masked diffusion.
    /// Source: Sahoo et al. 2024, §3.2.
    ///
    /// Shapes: x \[R, V\], R targets among V words → \[\]. Saves: x, log Σ exp \[R\]. Cost: two
    /// reads. Errors: shapes; not floats.
    #[track_caller]
    pub fn cross_entropy(&self, targets: &Targets) -> Result<Self> {
        apply(CrossEntropy(targets.to_device(&self.device())?), [self])
    }

    /// [`cross_entropy`](Self::cross_entropy) of the scores x·Wᵀ + b, of which the CPU never holds
    /// more than 256 rows; and, for whoever wants to know where it comes from, the part of each row
    /// in the sum. The parts are values in float64, which nothing is learnt from.
    ///
    /// y = cross_entropy(x·Wᵀ + b).
    /// Source: Sahoo et al. 2024, §3.2.
    ///
    /// Shapes: x \[R, C\], W \[V, C\], b \[V\] → \[\], \[R\]. Saves: x, W, b, log Σ exp \[R\]. Cost:
    /// 2·RVC flop, and 6·RVC backward, where the scores are made again. Errors: as there.
    #[track_caller]
    pub fn linear_cross_entropy(
        &self,
        weight: &Self,
        bias: &Self,
        targets: &Targets,
    ) -> Result<(Self, Tensor)> {
        let targets = targets.to_device(&self.device())?;
        let [loss, parts] = linear_cross_entropy(targets, [self, weight, bias])?;
        Ok((loss, parts.value()))
    }
}

/// The error of operands with the wrong axes.
fn misfit(name: &'static str, operands: &[(&'static str, &Tensor)]) -> Error {
    let error = Error::shape(name, "expected rows [R, C], words [V, C] and a number a word [V]");
    operands.iter().fold(error, |error, (name, x)| error.operand(*name, *x))
}

/// Cross-entropy of scores.
#[derive(Debug)]
struct CrossEntropy(Targets);

impl Op<1> for CrossEntropy {
    const NAME: &'static str = "cross_entropy";
    const KEEPS: [Keep; 1] = [Keep::x(0)];
    const CUDA: bool = true;
    /// log Σ exp of each row.
    type Aux = Tensor;

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, Tensor)> {
        fn run<T: Real + Element>(x: &Tensor, targets: &Targets) -> Result<(Tensor, Tensor)> {
            let [rows, words] = x.dims()?;
            let mut lse = Tensor::uninit([rows], x.dtype());
            let scores = x.contiguous();
            let (scores, each) = (scores.slice::<T>()?, lse.slice_mut::<T>()?);
            let parts = &mut vec![0.0; rows];
            let loss = targets.with(|t| xent::forward(scores, words, t, parts, each))?;
            Ok((Tensor::scalar(loss, x.dtype()), lse))
        }
        let [_, words] = x.dims()?;
        self.0.check(Self::NAME, x, words)?;
        match (x.cuda(), x.dtype()) {
            (Some(gpu), DType::F32) => {
                let ([loss, _], lse) = self.0.forward_on(gpu, x)?;
                Ok((loss, lse))
            }
            (None, DType::F64) => run::<f64>(x, &self.0),
            (None, DType::F32) => run::<f32>(x, &self.0),
            _ => Err(Error::dtype(Self::NAME, "scores are not floats").operand("scores", x)),
        }
    }

    fn vjp(&self, kept: Kept<'_, Tensor>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        fn run<T: Real + Element>(
            x: &Tensor,
            lse: &Tensor,
            dy: f64,
            targets: &Targets,
        ) -> Result<Tensor> {
            // `contiguous` shares the elements with x; writing to them copies.
            let mut dx = x.contiguous();
            let words = x.shape()[1];
            let scores = dx.slice_mut::<T>()?;
            let lse = lse.slice::<T>()?;
            targets.with(|t| xent::backward(scores, words, t, lse, dy))?;
            Ok(dx)
        }
        let x = kept.x(0).value();
        let dx = match (x.cuda(), x.dtype()) {
            (Some(gpu), _) => self.0.backward_on(gpu, &x, kept.aux, &dy.value())?,
            (None, DType::F64) => run::<f64>(&x, kept.aux, dy.item()?, &self.0)?,
            (None, _) => run::<f32>(&x, kept.aux, dy.item()?, &self.0)?,
        };
        Ok([Some(Var::constant(dx))])
    }
}

/// Cross-entropy of x·Wᵀ + b; and the parts that rows have in it, which have no gradient.
#[derive(Debug)]
struct LinearCrossEntropy(Targets);

/// The loss, and the part of each row.
#[track_caller]
fn linear_cross_entropy(targets: Targets, x: [&Var; 3]) -> Result<[Var; 2]> {
    let outputs = apply_many(LinearCrossEntropy(targets), &x)?;
    Ok(outputs.try_into().expect("there are two outputs"))
}

impl OpMany for LinearCrossEntropy {
    const NAME: &'static str = "linear_cross_entropy";
    const CUDA: bool = true;
    /// log Σ exp of each row.
    type Aux = Tensor;

    fn keeps(&self, _: usize) -> Keep {
        Keep::x(0).and(Keep::x(1)).and(Keep::x(2))
    }

    fn forward(&self, x: &[&Tensor]) -> Result<(Vec<Tensor>, Tensor)> {
        fn run<T: Real + Element>(
            x: [&Tensor; 3],
            targets: &Targets,
        ) -> Result<([Tensor; 2], Tensor)> {
            let [x, weight, bias] = x.map(Tensor::contiguous);
            let rows = x.shape()[0];
            let mut lse = Tensor::uninit([rows], x.dtype());
            let mut parts = Tensor::uninit([rows], DType::F64);
            let linear = linear::<T>([&x, &weight, &bias])?;
            let (each, of_each) = (lse.slice_mut::<T>()?, parts.slice_mut::<f64>()?);
            let loss = targets.with(|t| xent::linear_forward(linear, t, of_each, each))?;
            Ok(([Tensor::scalar(loss, x.dtype()), parts], lse))
        }
        let x @ [rows, weight, bias] = three(x);
        match (&rows.shape()[..], &weight.shape()[..], &bias.shape()[..]) {
            ([_, width], [words, w], [b]) if width == w && words == b => {
                self.0.check(Self::NAME, rows, *words)?;
            }
            _ => {
                let operands = [("rows", rows), ("weight", weight), ("bias", bias)];
                return Err(misfit(Self::NAME, &operands));
            }
        }
        let (outputs, lse) = match (rows.cuda(), rows.dtype()) {
            (Some(gpu), DType::F32) => self.0.forward_on(gpu, &self.0.scores_on(x)?)?,
            (None, DType::F64) => run::<f64>(x, &self.0)?,
            (None, DType::F32) => run::<f32>(x, &self.0)?,
            _ => return Err(Error::dtype(Self::NAME, "rows are not floats").operand("rows", rows)),
        };
        Ok((outputs.into(), lse))
    }

    fn vjp(
        &self,
        kept: Kept<'_, Tensor>,
        dy: &[Option<Var>],
        needs: &[bool],
    ) -> Result<Vec<Option<Gradient>>> {
        let x = [0, 1, 2].map(|i| kept.x(i).value());
        let dy = dy[0].as_ref().expect("the parts are given away as values");
        let needs = [needs[0], needs[1], needs[2]];
        let gradients = match (x[0].cuda(), x[0].dtype()) {
            (Some(gpu), _) => self.0.gradients_on(gpu, &x, kept.aux, &dy.value(), needs),
            (None, DType::F64) => gradients::<f64>(&x, kept.aux, dy.item()?, &self.0, needs),
            (None, _) => gradients::<f32>(&x, kept.aux, dy.item()?, &self.0, needs),
        };
        Ok(gradients?.map(|gradient| gradient.map(Gradient::Whole)).into())
    }
}

/// Rows, weight and bias.
fn three<'a>(x: &[&'a Tensor]) -> [&'a Tensor; 3] {
    x.try_into().expect("it is applied to three operands")
}

/// The kernel's view of contiguous operands.
fn linear<'a, T: Real + Element>(x: [&'a Tensor; 3]) -> Result<xent::Linear<'a, T>> {
    let [x, weight, bias] = x;
    let width = x.shape()[1];
    Ok(xent::Linear { x: x.slice()?, weight: weight.slice()?, bias: bias.slice()?, width })
}

fn gradients<T: Real + Element>(
    x: &[Tensor; 3],
    lse: &Tensor,
    dy: f64,
    targets: &Targets,
    needs: [bool; 3],
) -> Result<[Option<Var>; 3]> {
    let packed = x.each_ref().map(Tensor::contiguous);
    let wanted = |i: usize| needs[i].then(|| Tensor::uninit(x[i].shape(), x[i].dtype()));
    let [mut dx, mut dw, mut db] = [wanted(0), wanted(1), wanted(2)];
    let mut slices: [&mut [T]; 3] = Default::default();
    for (slice, gradient) in slices.iter_mut().zip([&mut dx, &mut dw, &mut db]) {
        if let Some(gradient) = gradient {
            *slice = gradient.slice_mut::<T>()?;
        }
    }
    let linear = linear(packed.each_ref())?;
    let lse = lse.slice()?;
    targets.with(|t| xent::linear_backward(linear, t, lse, dy, slices))?;
    Ok([dx, dw, db].map(|gradient| gradient.map(Var::constant)))
}

/// Targets below `words` − 1, weights, and the last word forbidden or not, for so many rows.
fn targets(draw: &mut Draw, rows: usize, words: usize) -> Result<Targets> {
    let ids: Vec<u32> = (0..rows).map(|_| draw.below(words - 1) as u32).collect();
    let weights: Vec<f64> = (0..rows).map(|_| draw.number(0.1, 1.0)).collect();
    Targets::new(&ids, &weights, words, (draw.below(2) == 0).then_some(words as u32 - 1))
}

/// The registry's entry for `cross_entropy`.
pub struct FromScores;

impl Spec for FromScores {
    fn name(&self) -> &'static str {
        CrossEntropy::NAME
    }

    fn equation(&self) -> &'static str {
        "Σᵣ wᵣ·(log Σᵥ exp xᵣᵥ − xᵣ,targetᵣ)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [rows, words] = [draw.dim(), draw.dim().max(1) + 1];
        let targets = targets(draw, rows, words)?;
        let x = draw.uniform([rows, words], -2.0, 2.0)?;
        let (label, wanted) = (format!("[{rows}, {words}]"), targets.clone());
        let forward = move |x: &[Var]| x[0].cross_entropy(&targets);
        let reference = move |x: &[Vec<f64>]| {
            vec![wanted.with(|t| xent::reference(&x[0], words, t)).expect("they are here")]
        };
        Ok(Case::new(label, [x], forward, reference).magnitude(rows as f64))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let targets = targets(draw, 512, 4096)?;
        let x = draw.uniform([512, 4096], -2.0, 2.0)?;
        let forward = move |x: &[Var]| x[0].cross_entropy(&targets);
        Ok(Case::new("[512, 4096]", [x], forward, |_| Vec::new()))
    }
}

/// The registry's entry for `linear_cross_entropy`.
pub struct FromRows;

impl Spec for FromRows {
    fn name(&self) -> &'static str {
        LinearCrossEntropy::NAME
    }

    fn equation(&self) -> &'static str {
        "cross_entropy(x·Wᵀ + b)"
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let [rows, words, width] = [draw.dim(), draw.dim().max(1) + 1, draw.dim()];
        let targets = targets(draw, rows, words)?;
        let x = draw.uniform([rows, width], -1.0, 1.0)?;
        let weight = draw.uniform([words, width], -0.5, 0.5)?;
        let bias = draw.uniform([words], -1.0, 1.0)?;
        let (label, wanted) = (format!("[{rows}, {width}] of {words}"), targets.clone());
        let forward = move |x: &[Var]| {
            let (loss, _) = x[0].linear_cross_entropy(&x[1], &x[2], &targets)?;
            Ok(loss)
        };
        let reference = move |x: &[Vec<f64>]| {
            let score = |r: usize, v: usize| {
                x[2][v] + (0..width).map(|c| x[0][r * width + c] * x[1][v * width + c]).sum::<f64>()
            };
            let scores: Vec<f64> = (0..rows * words).map(|i| score(i / words, i % words)).collect();
            vec![wanted.with(|t| xent::reference(&scores, words, t)).expect("they are here")]
        };
        let magnitude = (rows * width) as f64;
        Ok(Case::new(label, [x, weight, bias], forward, reference).magnitude(magnitude))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let (rows, words, width) = (256, 32_100, 384);
        let targets = targets(draw, rows, words)?;
        let x = draw.uniform([rows, width], -1.0, 1.0)?;
        let weight = draw.uniform([words, width], -0.1, 0.1)?;
        let bias = draw.uniform([words], -1.0, 1.0)?;
        let forward = move |x: &[Var]| {
            let (loss, _) = x[0].linear_cross_entropy(&x[1], &x[2], &targets)?;
            Ok(loss)
        };
        Ok(Case::new("[256, 384] of 32100", [x, weight, bias], forward, |_| Vec::new())
            .flops(2.0 * (rows * words * width) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certain_right_answer_costs_nothing_and_mistakes_are_named() {
        let x = Var::constant(Tensor::from_vec(vec![50.0, 0.0, 99.0], [1, 3]).unwrap());
        let loss = |id, forbidden| x.cross_entropy(&Targets::new(&[id], &[2.0], 3, forbidden)?);
        assert!(loss(0, Some(2)).unwrap().item().unwrap() < 1e-20);
        assert!((loss(0, None).unwrap().item().unwrap() - 98.0).abs() < 1e-12);
        assert!(loss(2, Some(2)).unwrap_err().to_string().contains("target 2 is impossible"));
        assert!(loss(3, None).is_err() && loss(0, Some(3)).is_err());
        assert!(Targets::new(&[0, 1], &[1.0], 3, None).is_err());
        let w = Var::constant(Tensor::zeros([4, 2], DType::F64));
        let b = Var::constant(Tensor::zeros([4], DType::F64));
        let targets = |words| Targets::new(&[0], &[1.0], words, None).unwrap();
        assert!(x.cross_entropy(&targets(4)).is_err());
        assert!(x.linear_cross_entropy(&w, &b, &targets(4)).is_err());
    }
}
