//! Classifier-free guidance: away from what the model draws for any caption.

use std::ops::RangeInclusive;

use tensor::{Error, Result, Tensor};

use super::interpolant::weighted_sum;

/// The guided velocity `v = v_∅ + g·(v_c − v_∅)`.
///
/// Source: Ho & Salimans 2022; the paper's equation (10), in the order of the released code: for
/// two velocities nearly alike it rounds less than `g·v_c + (1 − g)·v_∅`. At g = 0 and g = 1 the
/// result is v_∅ and v_c to the last bit.
///
/// Shapes: `null` v_∅, `conditional` v_c \[B, …\] → \[B, …\].   Cost: 3 flop an element.
/// Errors: shapes or types differ; not F32 or F64.
#[track_caller]
pub fn guide(null: &Tensor, conditional: &Tensor, scale: f32) -> Result<Tensor> {
    let difference = weighted_sum("guide", conditional, null, &[[1.0, -1.0]])?;
    if scale == 1.0 {
        return Ok(conditional.clone());
    }
    weighted_sum("guide", null, &difference, &[[1.0, f64::from(scale)]])
}

/// How strongly, and at which noise levels, a sample follows its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// The scale g. At 1 or below the model is asked for the caption's velocity alone.
    pub scale: f32,
    /// The noise levels at which guidance acts. Outside, the caption's velocity alone is taken:
    /// one pass instead of two, and no loss of variety at high noise.
    /// Source: Kynkäänniemi et al. 2024.
    pub interval: RangeInclusive<f32>,
}

/// What the model is asked for at one noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The velocity under the caption: states \[B, …\] → velocities \[B, …\].
    Conditional,
    /// Both velocities at once. The model is given the states twice, \[2B, …\], and returns the
    /// velocities under the null text first, those under the caption after them.
    NullThenConditional,
}

impl Guidance {
    /// Guidance of one scale at all noise levels.
    pub fn new(scale: f32) -> Self {
        Self { scale, interval: 0.0..=1.0 }
    }

    /// The pass that noise level `sigma` takes.
    pub fn pass(&self, sigma: f32) -> Pass {
        if self.scale > 1.0 && self.interval.contains(&sigma) {
            Pass::NullThenConditional
        } else {
            Pass::Conditional
        }
    }

    /// The velocity to integrate at one state, from one call of the model.
    ///
    /// Shapes: `state` \[B, …\] → \[B, …\].
    /// Errors: the model's own; its answer has not the shape or type of what it was given.
    pub fn velocity(
        &self,
        state: &Tensor,
        sigma: f32,
        mut model: impl FnMut(&Tensor, f32, Pass) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let pass = self.pass(sigma);
        if pass == Pass::Conditional {
            return model(state, sigma, pass);
        }
        let both = model(&Tensor::cat(&[state, state], 0)?, sigma, pass)?;
        let batch = state.shape()[0];
        if both.shape().first() != Some(&(2 * batch)) {
            return Err(Error::shape("Guidance", "two velocities are needed for each state")
                .operand("states", state)
                .operand("velocities", &both));
        }
        guide(&both.narrow(0, 0, batch)?, &both.narrow(0, batch, batch)?, self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: [f32; 2]) -> Tensor {
        Tensor::from_slice(&values, [2, 1]).unwrap()
    }

    #[test]
    fn formula() {
        let guided = guide(&rows([1.0, -1.0]), &rows([2.0, 3.0]), 7.0).unwrap();
        assert_eq!(guided.to_f64_vec(), [8.0, 27.0]);
    }

    #[test]
    fn null_comes_first_and_each_state_keeps_its_own() {
        let model = |x: &Tensor, _: f32, pass: Pass| {
            assert_eq!(pass, Pass::NullThenConditional);
            assert_eq!(x.to_f64_vec(), [10.0, 20.0, 10.0, 20.0]);
            Tensor::from_slice(&[1.0_f32, 2.0, 4.0, 8.0], [4, 1])
        };
        let guided = Guidance::new(2.0).velocity(&rows([10.0, 20.0]), 0.5, model).unwrap();
        assert_eq!(guided.to_f64_vec(), [7.0, 14.0]);
    }

    #[test]
    fn one_pass_without_guidance_or_outside_the_interval() {
        let inner = Guidance { scale: 7.0, interval: 0.2..=0.8 };
        let passes = [0.9, 0.8, 0.2, 0.1].map(|sigma| inner.pass(sigma));
        let (one, two) = (Pass::Conditional, Pass::NullThenConditional);
        assert_eq!(passes, [one, two, two, one]);
        assert_eq!(Guidance::new(1.0).pass(0.5), one);
        assert_eq!(Guidance::new(0.0).pass(0.5), one);
        let same = Guidance::new(1.0).velocity(&rows([3.0, 4.0]), 0.5, |x, _, _| Ok(x.clone()));
        assert_eq!(same.unwrap().to_f64_vec(), [3.0, 4.0]);
    }

    #[test]
    fn half_an_answer_is_an_error() {
        let model = |_: &Tensor, _: f32, _: Pass| Ok(rows([0.0, 0.0]));
        assert!(Guidance::new(7.0).velocity(&rows([0.0, 0.0]), 0.5, model).is_err());
    }
}
