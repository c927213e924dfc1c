//! The registry's entries of views, joins and conversions.

use tensor::{DType, Result};

use crate::spec::{Case, Draw};
use crate::{Spec, Var};

/// The registry's entries.
macro_rules! moves {
    ($($name:ident, $op:literal, $equation:literal, |$draw:ident| $case:expr;)*) => {$(
        #[doc = concat!("The registry's entry for `", $op, "`.")]
        pub struct $name;

        impl Spec for $name {
            fn name(&self) -> &'static str {
                $op
            }
            fn equation(&self) -> &'static str {
                $equation
            }
            fn case(&self, $draw: &mut Draw) -> Result<Case> {
                $case
            }
            fn bench(&self, draw: &mut Draw) -> Result<Case> {
                self.case(draw)
            }
        }
    )*};
}

moves! {
    Reshape, "reshape", "yₖ = xₖ, in row-major order", |draw| {
        let [a, b, c] = [draw.dim(), draw.dim(), draw.dim()];
        let x = draw.uniform([a, b, c], -2.0, 2.0)?;
        Ok(Case::new("join two axes", [x], move |x| x[0].reshape([a * b, c]), |x| x[0].clone()))
    };
    Permute, "permute", "y[i, k, j] = x[i, j, k]", |draw| {
        let [a, b, c] = [draw.dim(), draw.dim(), draw.dim()];
        let x = draw.uniform([a, b, c], -2.0, 2.0)?;
        let reference = move |x: &[Vec<f64>]| {
            let at = |i: usize| x[0][(i % a * b + i / a % b) * c + i / a / b];
            (0..a * b * c).map(at).collect()
        };
        Ok(Case::new("[2, 1, 0]", [x], |x| x[0].permute(&[2, 1, 0]), reference))
    };
    BroadcastTo, "broadcast_to", "y[i, j, k] = x[j, 0]", |draw| {
        let [a, b, c] = [draw.dim(), draw.dim(), draw.dim()];
        let x = draw.uniform([b, 1], -2.0, 2.0)?;
        let reference =
            move |x: &[Vec<f64>]| (0..a * b * c).map(|i| x[0][i / c % b]).collect();
        Ok(Case::new("[b, 1]", [x], move |x| x[0].broadcast_to([a, b, c]), reference))
    };
    Narrow, "narrow", "y[i, j] = x[i, start + j]", |draw| {
        let [a, b, c, start] = [draw.dim(), draw.dim(), draw.dim(), draw.below(3)];
        let n = b + start + 1;
        let x = draw.uniform([a, n, c], -2.0, 2.0)?;
        let reference = move |x: &[Vec<f64>]| {
            let at = |i: usize| x[0][(i / c / b * n + start + i / c % b) * c + i % c];
            (0..a * b * c).map(at).collect()
        };
        Ok(Case::new("middle axis", [x], move |x| x[0].narrow(1, start, b), reference))
    };
    Cat, "cat", "y = (a, b, a) along an axis", |draw| {
        let [a, b, c, d] = [draw.dim(), draw.dim(), draw.dim(), draw.dim()];
        let (x, z) = (draw.uniform([a, b, d], -2.0, 2.0)?, draw.uniform([a, c, d], -2.0, 2.0)?);
        let reference = move |x: &[Vec<f64>]| {
            let rows = (0..a).map(|i| (&x[0][i * b * d..][..b * d], &x[1][i * c * d..][..c * d]));
            rows.flat_map(|(x, z)| [x, z, x].concat()).collect()
        };
        let forward = |x: &[Var]| Var::cat(&[&x[0], &x[1], &x[0]], 1);
        Ok(Case::new("middle axis", [x, z], forward, reference))
    };
    ToDType, "to_dtype", "x rounded to another float type", |draw| {
        let shape = draw.shape(0..=3);
        let x = draw.uniform(shape, -2.0, 2.0)?;
        let (from, to) = (x.dtype(), if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 });
        let forward = move |x: &[Var]| x[0].to_dtype(to);
        Ok(Case::new(format!("{from} to {to}"), [x], forward, |x| x[0].clone()))
    };
}
