//! The registry's entries of elementwise formulas.

use kernels::elementwise::{Binary, Unary};
use tensor::Result;

use super::{Map, Zip};
use crate::spec::{Case, Draw};
use crate::{Spec, Var, apply};

/// The registry's entry for a formula of one operand, made with arguments to try.
pub(super) struct OfOne<U>(pub(super) fn() -> U);

impl<U: Unary> Spec for OfOne<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn equation(&self) -> &'static str {
        U::EQUATION
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let (u, shape) = ((self.0)(), draw.shape(0..=4));
        let x = draw.within(shape, u.domain())?;
        Ok(Case::new(
            format!("{u:?}"),
            [x],
            move |x| apply(Map(u), [&x[0]]),
            move |x| x[0].iter().map(|&x| u.f(x)).collect(),
        ))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let u = (self.0)();
        let x = draw.within([1280, 1536], u.domain())?;
        Ok(Case::new("[1280, 1536]", [x], move |x| apply(Map(u), [&x[0]]), |_| Vec::new())
            .flops(1280.0 * 1536.0))
    }
}

/// The registry's entry for a formula of two operands.
pub(super) struct OfTwo<B>(pub(super) B);

impl<B: Binary> Spec for OfTwo<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn equation(&self) -> &'static str {
        B::EQUATION
    }

    fn case(&self, draw: &mut Draw) -> Result<Case> {
        let b = self.0;
        let shape = draw.shape(0..=4);
        let [left, right] = [draw.broadcastable(shape), draw.broadcastable(shape)];
        let [low, high] = b.domains();
        let (left, right) = (draw.staggered(left, low, 0)?, draw.staggered(right, high, 1)?);
        let common = left.shape().broadcast(right.shape()).expect("drawn to broadcast");
        let [i, j] = [draw.broadcast_index(&left, common)?, draw.broadcast_index(&right, common)?];
        let label = format!("{b:?} {} {}", left.shape(), right.shape());
        Ok(Case::new(
            label,
            [left, right],
            move |x| apply(Zip(b), [&x[0], &x[1]]),
            move |x| i.iter().zip(&j).map(|(&i, &j)| b.f(x[0][i], x[1][j])).collect(),
        ))
    }

    fn bench(&self, draw: &mut Draw) -> Result<Case> {
        let b = self.0;
        let [low, high] = b.domains();
        let (left, right) = (draw.within([1280, 1536], low)?, draw.within([1536], high)?);
        let forward = move |x: &[Var]| apply(Zip(b), [&x[0], &x[1]]);
        Ok(Case::new("[1280, 1536] [1536]", [left, right], forward, |_| Vec::new())
            .flops(1280.0 * 1536.0))
    }
}
