//! Elementwise operations: the list, and what follows from it.
//!
//! Formulas live in [`kernels::elementwise::exprs`]. A line of the lists below makes a method of
//! [`Var`], its gradient and second derivative, and an entry of the registry.

use std::any::TypeId;

use kernels::elementwise::exprs::*;
use kernels::elementwise::{
    Binary, Chain, ChainSlope, Partial, PartialSlope, Pointwise, SlopeOf, Unary, map, ptx,
};
use kernels::ptx::Storage;
use tensor::cuda::Launch;
use tensor::{Cuda, DType, Element, Error, Result, Tensor};

use crate::{Keep, Kept, Op, Spec, Var, apply};

mod cases;

use cases::{OfOne, OfTwo};

/// One line for each operation of one operand: method, its arguments (with the values that tests
/// try), formula.
macro_rules! unary {
    ($($name:ident ( $($arg:ident : $type:ty = $tried:expr),* )
        => $formula:ident $({ $($field:ident),* })? $(( $value:ident ))?;)*) => {
        /// Elementwise operations of one operand.
        impl Var {$(
            #[doc = concat!(
                "[`", stringify!($formula), "`](kernels::elementwise::exprs::",
                stringify!($formula), ") of every element: its equation, its source, and which of ",
                "x and y it saves are there.\n\nShapes: any → the same. Saves: what the formula ",
                "says. Cost: one read and one write.\nErrors: elements are not floating-point ",
                "numbers.",
            )]
            #[track_caller]
            pub fn $name(&self, $($arg: $type),*) -> Result<Self> {
                apply(Map($formula $({ $($field),* })? $(( $value ))?), [self])
            }
        )*}

        /// Operations of one operand.
        pub static UNARY: &[&dyn Spec] = &[$(
            &OfOne(|| {
                $(let $arg: $type = $tried;)*
                $formula $({ $($field),* })? $(( $value ))?
            }),
        )*];
    };
}

/// One line for each operation of two operands.
macro_rules! binary {
    ($($name:ident => $formula:ident;)*) => {
        /// Elementwise operations of two operands, which are broadcast against each other: axes
        /// are matched from the last, lengths of one stretch.
        impl Var {$(
            #[doc = concat!(
                "[`", stringify!($formula), "`](kernels::elementwise::exprs::",
                stringify!($formula), ") of every pair of elements: its equation, its source, and ",
                "which of a and b it saves are there.\n\nShapes: any two that broadcast → their ",
                "common shape. Saves: what the formula says. Cost: two reads and one write.\n",
                "Errors: shapes do not broadcast; elements are not floating-point numbers, ",
                "or of two precisions.",
            )]
            #[allow(clippy::should_implement_trait, reason = "the traits cannot return errors")]
            #[track_caller]
            pub fn $name(&self, other: &Self) -> Result<Self> {
                apply(Zip($formula), [self, other])
            }
        )*}

        /// Operations of two operands.
        pub static BINARY: &[&dyn Spec] = &[$(&OfTwo($formula)),*];
    };
}

unary! {
    neg() => Neg;
    mul_scalar(factor: f64 = -1.7) => MulScalar(factor);
    add_scalar(summand: f64 = 0.3) => AddScalar(summand);
    clamp(low: f64 = -1.0, high: f64 = 0.5) => Clamp { low, high };
    exp() => Exp;
    ln() => Ln;
    sqrt() => Sqrt;
    square() => Square;
    recip() => Recip;
    abs() => Abs;
    relu() => Relu;
    tanh() => Tanh;
    sigmoid() => Sigmoid;
    silu() => Silu;
    gelu_tanh() => GeluTanh;
    softplus() => Softplus;
}

binary! {
    add => Add;
    sub => Sub;
    mul => Mul;
    div => Div;
    maximum => Maximum;
    minimum => Minimum;
}

/// `f` at every index of the operands' common shape.
///
/// Errors: shapes do not broadcast; elements other than f32 or, on the CPU, f64, or of both.
pub(crate) fn pointwise<const K: usize, F: Pointwise<K> + 'static>(
    f: &F,
    name: &'static str,
    x: [&Tensor; K],
) -> Result<Tensor> {
    let kernels = Kernels {
        single: &|s, x, y| map(f, s, x, y),
        double: &|s, x, y| map(f, s, x, y),
        gpu: &|layout| ptx::kernel(name, f, [Storage::F32; 2], layout),
        formula: TypeId::of::<F>(),
        parameters: &|| ptx::parameters(f),
    };
    pointwise_by(name, x, &kernels)
}

/// A kernel for `K` operands: of a shape, slices with strides, and the result.
type Kernel<'f, const K: usize, T> = &'f dyn Fn(&[usize], [(&[T], &[usize]); K], &mut [T]);

/// A formula's kernels.
struct Kernels<'f, const K: usize> {
    single: Kernel<'f, K, f32>,
    double: Kernel<'f, K, f64>,
    gpu: &'f dyn Fn(ptx::Layout) -> kernels::ptx::Kernel,
    /// What tells its GPU kernels from those of all other formulas, whatever its parameters.
    formula: TypeId,
    parameters: &'f dyn Fn() -> Vec<f32>,
}

/// What [`pointwise`] does for every formula alike, compiled once for all of them.
fn pointwise_by<const K: usize>(
    name: &'static str,
    x: [&Tensor; K],
    kernels: &Kernels<'_, K>,
) -> Result<Tensor> {
    let mut shape = *x[0].shape();
    for other in &x[1..] {
        let Some(common) = shape.broadcast(other.shape()) else {
            return Err(Error::shape(name, "shapes do not broadcast")
                .operand("left", x[0])
                .operand("right", *other));
        };
        shape = common;
    }
    let mut y = Tensor::uninit_on(x[0].cuda(), shape, x[0].dtype());
    match (x[0].cuda(), x[0].dtype()) {
        (Some(gpu), DType::F32) => launch(gpu, name, kernels, x, &mut y)?,
        (None, DType::F32) => run(kernels.single, x, &mut y)?,
        (None, DType::F64) => run(kernels.double, x, &mut y)?,
        _ => {
            return Err(Error::dtype(name, "elements are not numbers to compute with")
                .operand("input", x[0]));
        }
    }
    Ok(y)
}

fn run<const K: usize, T: Element>(
    kernel: Kernel<'_, K, T>,
    x: [&Tensor; K],
    y: &mut Tensor,
) -> Result<()> {
    let shape = *y.shape();
    let mut views = x.map(Clone::clone);
    for view in &mut views {
        *view = view.broadcast_to(shape)?;
    }
    let mut operands = [(&[][..], &[][..]); K];
    for (operand, view) in operands.iter_mut().zip(&views) {
        *operand = view.raw_slice::<T>()?;
    }
    kernel(&shape, operands, y.slice_mut::<T>()?);
    Ok(())
}

fn launch<const K: usize>(
    gpu: &Cuda,
    name: &str,
    kernels: &Kernels<'_, K>,
    x: [&Tensor; K],
    y: &mut Tensor,
) -> Result<()> {
    let shape = *y.shape();
    let mut views = x.map(Clone::clone);
    for view in &mut views {
        *view = view.broadcast_to(shape)?;
    }
    let aligned = views.iter().all(|view| view.is_aligned(ptx::VECTOR));
    let launch = ptx::Launch::new(&shape, views.each_ref().map(Tensor::strides), aligned);
    let ptx::Launch { layout, numbers, len } = launch.map_err(|text| Error::shape("gpu", text))?;
    let name = format!("{name} {:?} {layout:?}", kernels.formula);
    let kernel = gpu.kernel(&name, || (kernels.gpu)(layout))?;
    let kernel = views.iter().fold(kernel, |kernel, view| kernel.view(view)).output(y);
    let kernel = kernel.numbers(numbers.into_iter().map(|n| n as usize));
    (kernels.parameters)().into_iter().fold(kernel, Launch::float).run([len, 1, 1])
}

/// y = f(x).
#[derive(Debug)]
struct Map<U>(U);

impl<U: Unary> Op<1> for Map<U> {
    const NAME: &'static str = U::NAME;
    const KEEPS: [Keep; 1] = [match U::SLOPE_OF {
        SlopeOf::Input => Keep::x(0),
        SlopeOf::Output => Keep::Y,
        SlopeOf::Nothing => Keep::NOTHING,
    }];
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, x: [&Tensor; 1]) -> Result<(Tensor, ())> {
        Ok((pointwise(&self.0, U::NAME, x)?, ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        let at = match U::SLOPE_OF {
            SlopeOf::Input => kept.x(0),
            SlopeOf::Output => kept.y(),
            SlopeOf::Nothing => return Ok([Some(scaled(dy, self.0.slope(0.0))?)]),
        };
        Ok([Some(apply(ChainRule(self.0), [at, dy])?)])
    }
}

/// c·x, and x itself for c = 1.
fn scaled(x: &Var, c: f64) -> Result<Var> {
    if c == 1.0 { Ok(x.clone()) } else { x.mul_scalar(c) }
}

/// x̄ = ȳ·f′: the vjp of [`Map`] as an operation, so that it has a derivative too.
#[derive(Debug)]
struct ChainRule<U>(U);

impl<U: Unary> Op<2> for ChainRule<U> {
    const NAME: &'static str = U::NAME;
    const KEEPS: [Keep; 2] = [Keep::x(0).and(Keep::x(1)), Keep::x(0)];
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, x: [&Tensor; 2]) -> Result<(Tensor, ())> {
        Ok((pointwise(&Chain(self.0), U::NAME, x)?, ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dz: &Var, needs: [bool; 2]) -> Result<[Option<Var>; 2]> {
        let along_at = || {
            let operands = [&kept.x(0).value(), &kept.x(1).value(), &dz.value()];
            pointwise(&ChainSlope(self.0), U::NAME, operands).map(Var::constant)
        };
        let along_dy = || apply(ChainRule(self.0), [kept.x(0), dz]);
        Ok([needs[0].then(along_at).transpose()?, needs[1].then(along_dy).transpose()?])
    }
}

/// y = f(a, b).
#[derive(Debug)]
struct Zip<B>(B);

/// What slopes along either operand of `B` are computed from.
const fn keeps<B: Binary>() -> [Keep; 2] {
    let mut keeps = [Keep::NOTHING; 2];
    let mut i = 0;
    while i < 2 {
        if B::SLOPE_OF[i][0] {
            keeps[i] = keeps[i].and(Keep::x(0));
        }
        if B::SLOPE_OF[i][1] {
            keeps[i] = keeps[i].and(Keep::x(1));
        }
        i += 1;
    }
    keeps
}

impl<B: Binary> Op<2> for Zip<B> {
    const NAME: &'static str = B::NAME;
    const KEEPS: [Keep; 2] = keeps::<B>();
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, x: [&Tensor; 2]) -> Result<(Tensor, ())> {
        Ok((pointwise(&self.0, B::NAME, x)?, ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dy: &Var, needs: [bool; 2]) -> Result<[Option<Var>; 2]> {
        let along = |i: usize| {
            let dx = if B::SLOPE_OF[i] == [false, false] {
                scaled(dy, self.0.slope(i, 0.0, 0.0))?
            } else {
                // An operand that the slope is not of was not kept: any number will do.
                let operand = |j: usize| {
                    Ok(match B::SLOPE_OF[i][j] {
                        true => kept.x(j).clone(),
                        false => {
                            let one = Tensor::scalar(1.0, dy.dtype());
                            Var::constant(one.to_device(&dy.value().device())?)
                        }
                    })
                };
                let (a, b): (Var, Var) = (operand(0)?, operand(1)?);
                match i {
                    0 => apply(PartialRule::<B, 0>(self.0), [&a, &b, dy])?,
                    _ => apply(PartialRule::<B, 1>(self.0), [&a, &b, dy])?,
                }
            };
            dx.sum_to(kept.shape(i))
        };
        Ok([needs[0].then(|| along(0)).transpose()?, needs[1].then(|| along(1)).transpose()?])
    }
}

/// ȳ·∂f/∂xᵢ: one half of the vjp of [`Zip`] as an operation.
#[derive(Debug)]
struct PartialRule<B, const I: usize>(B);

impl<B: Binary, const I: usize> Op<3> for PartialRule<B, I> {
    const NAME: &'static str = B::NAME;
    const KEEPS: [Keep; 3] = {
        let operands = Keep::x(0).and(Keep::x(1));
        [operands.and(Keep::x(2)), operands.and(Keep::x(2)), operands]
    };
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, x: [&Tensor; 3]) -> Result<(Tensor, ())> {
        Ok((pointwise(&Partial::<B, I>(self.0), B::NAME, x)?, ()))
    }

    fn vjp(&self, kept: Kept<'_, ()>, dz: &Var, needs: [bool; 3]) -> Result<[Option<Var>; 3]> {
        let [a, b] = [kept.x(0), kept.x(1)];
        let along = |j: usize| {
            let operands = [&a.value(), &b.value(), &kept.x(2).value(), &dz.value()];
            let slope = match j {
                0 => pointwise(&PartialSlope::<B, I, 0>(self.0), B::NAME, operands)?,
                _ => pointwise(&PartialSlope::<B, I, 1>(self.0), B::NAME, operands)?,
            };
            Var::constant(slope).sum_to(kept.shape(j))
        };
        let along_dy = || apply(PartialRule::<B, I>(self.0), [a, b, dz])?.sum_to(kept.shape(2));
        Ok([
            needs[0].then(|| along(0)).transpose()?,
            needs[1].then(|| along(1)).transpose()?,
            needs[2].then(along_dy).transpose()?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_do_not_broadcast_are_named() {
        let a = Var::constant(Tensor::zeros([2, 3], DType::F32));
        let b = Var::constant(Tensor::zeros([4], DType::F32));
        let here = line!() + 1;
        let text = a.add(&b).unwrap_err().to_string();
        assert!(text.contains("add: shapes do not broadcast"), "{text}");
        assert!(text.contains(&format!("elementwise.rs:{here}")), "{text}");
        let c = Var::constant(Tensor::zeros([2, 3], DType::F64));
        assert!(a.mul(&c).unwrap_err().to_string().contains("to_dtype"));
        assert!(Var::constant(Tensor::zeros([2], DType::I64)).exp().is_err());
    }

    #[test]
    fn halves_are_widened_and_their_gradients_are_f32() {
        let x = Var::parameter(Tensor::full([3], 1.5, DType::BF16));
        let y = x.square().unwrap();
        assert_eq!((y.dtype(), y.value().to_f64_vec()[0]), (DType::F32, 2.25));
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().dtype(), DType::F32);
        assert_eq!(grads.get(&x).unwrap().to_f64_vec(), [3.0; 3]);
    }
}
