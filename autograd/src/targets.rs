//! What rows are scored against, as the device reads it that scores them.

use kernels::xent;
use tensor::{Device, Error, Result, Tensor};

/// What rows are scored against: the right word of each and its weight, checked once.
///
/// They are tensors, so that whoever records what a GPU does can hand it others of as many rows:
/// [`map`](Self::map) goes through these.
#[derive(Clone, Debug)]
pub struct Targets {
    /// \[R\], int32.
    pub(crate) ids: Tensor,
    /// \[R\], float64.
    pub(crate) weights: Tensor,
    words: usize,
    pub(crate) forbidden: Option<u32>,
}

impl Targets {
    /// The right words, of so many, and their weights; `forbidden` is a word that is impossible.
    ///
    /// Errors: not as many of both; a target, or the forbidden word, that is none; a target that is
    /// forbidden.
    #[track_caller]
    pub fn new(ids: &[u32], weights: &[f64], words: usize, forbidden: Option<u32>) -> Result<Self> {
        if ids.len() != weights.len() {
            let message = format!("{} targets and {} weights", ids.len(), weights.len());
            return Err(Error::shape("targets", message));
        }
        let is_wrong = |&&id: &&u32| id as usize >= words || Some(id) == forbidden;
        if let Some(id) = ids.iter().find(is_wrong) {
            let message = format!("target {id} is impossible among {words} words");
            let forbidden = forbidden.map_or(String::new(), |id| format!("{id} is forbidden"));
            return Err(Error::value("targets", message).note(forbidden));
        }
        if forbidden.is_some_and(|id| id as usize >= words) {
            return Err(Error::value("targets", "the forbidden word is not one of them"));
        }
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let (shape, weights) = ([ids.len()], Tensor::from_slice(weights, [weights.len()])?);
        Ok(Self { ids: Tensor::from_vec(ids, shape)?, weights, words, forbidden })
    }

    /// The same with other tensors of the same shapes in the place of its own: moved to a device,
    /// or those of another step.
    ///
    /// Errors: those of `f`.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { ids: f(&self.ids)?, weights: f(&self.weights)?, ..*self })
    }

    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        self.map(&mut |x| x.to_device(device))
    }

    /// Calls `f` with what the CPU's kernels take.
    pub(crate) fn with<T>(&self, f: impl FnOnce(xent::Targets<'_>) -> T) -> Result<T> {
        let ids: Vec<u32> = self.ids.slice::<i32>()?.iter().map(|id| id.cast_unsigned()).collect();
        let (weights, forbidden) = (self.weights.slice()?, self.forbidden);
        Ok(f(xent::Targets { ids: &ids, weights, forbidden }))
    }

    /// Errors unless there is one for each row, of these words.
    pub(crate) fn check(&self, name: &'static str, x: &Tensor, words: usize) -> Result<()> {
        let ([rows, targets], of) = ([x.shape()[0], self.ids.numel()], self.words);
        if rows == targets && words == of {
            return Ok(());
        }
        let message = format!("{targets} targets among {of} words for {rows} rows and {words}");
        Err(Error::shape(name, message).operand("input", x))
    }
}
