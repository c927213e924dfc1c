//! A denoiser's answer, checked, and readable by row and position.

use tensor::{DType, Error, Result, Tensor};

/// Logits at the masked positions of the rows that were asked about.
pub(super) struct Predictions {
    /// Contiguous, \[R·L, V\] or \[M, V\].
    logits: Tensor,
    /// Where the masks are, ascending, if the logits are those of masked positions alone.
    compact: Option<Vec<usize>>,
    length: usize,
    mask: usize,
}

impl Predictions {
    /// Errors: a shape other than \[R, L, V\] and \[M, V\]; not F32 or F64; the mask is not one of
    /// the V tokens.
    pub(super) fn new(logits: Tensor, ids: &Tensor, masked: Vec<usize>, mask: i64) -> Result<Self> {
        let [rows, length] = ids.dims()?;
        let (compact, vocab) = match **logits.shape() {
            [r, l, vocab] if [r, l] == [rows, length] => (None, vocab),
            [m, vocab] if m == masked.len() => (Some(masked), vocab),
            _ => {
                let message = "the denoiser must answer with [R, L, V] or [M, V]";
                let holes = format!("M = {}", masked.len());
                return Err(Error::shape("denoiser", message)
                    .operand("ids", (ids, holes))
                    .operand("answer", &logits));
            }
        };
        if !matches!(logits.dtype(), DType::F32 | DType::F64) {
            let message = "logits must be f32 or f64";
            return Err(Error::dtype("denoiser", message).operand("answer", &logits));
        }
        match usize::try_from(mask) {
            Ok(mask) if mask < vocab => {
                Ok(Self { logits: logits.contiguous(), compact, length, mask })
            }
            _ => Err(Error::value("denoiser", format!("the mask {mask} is not one of the tokens"))
                .operand("answer", &logits)),
        }
    }

    /// The mask as an index into a row of logits.
    pub(super) fn mask(&self) -> usize {
        self.mask
    }

    /// Reads the logits at a masked position of the `slot`-th row asked about.
    pub(super) fn read(&self, slot: usize, position: usize, row: &mut Vec<f64>) -> Result<()> {
        let cell = slot * self.length + position;
        let line = match &self.compact {
            None => cell,
            Some(masked) => masked.binary_search(&cell).expect("only masked positions are read"),
        };
        let vocab = self.logits.shape().last().copied().unwrap_or(0);
        let range = line * vocab..(line + 1) * vocab;
        row.clear();
        if self.logits.dtype() == DType::F64 {
            row.extend_from_slice(&self.logits.slice::<f64>()?[range]);
        } else {
            row.extend(self.logits.slice::<f32>()?[range].iter().map(|&logit| f64::from(logit)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Tensor {
        Tensor::from_slice(&[9_i64, 1, 1, 9], [2, 2]).unwrap()
    }

    fn read(logits: Tensor, slot: usize, position: usize) -> Vec<f64> {
        let mut row = Vec::new();
        let predictions = Predictions::new(logits, &ids(), vec![0, 3], 1).unwrap();
        predictions.read(slot, position, &mut row).unwrap();
        row
    }

    #[test]
    fn full_and_compact_answers_read_alike() {
        let full = Tensor::arange(8, DType::F32).reshape([2, 2, 2]).unwrap();
        let compact = full.reshape([4, 2]).unwrap().index_rows(&[0, 3]).unwrap();
        for logits in [full, compact] {
            assert_eq!(read(logits.clone(), 0, 0), [0.0, 1.0]);
            assert_eq!(read(logits.to_dtype(DType::F64), 1, 1), [6.0, 7.0]);
        }
    }

    #[test]
    fn wrong_answers_are_errors() {
        let refused = |logits: Tensor, mask| Predictions::new(logits, &ids(), vec![0, 3], mask);
        assert!(refused(Tensor::zeros([2, 3, 2], DType::F32), 1).is_err());
        assert!(refused(Tensor::zeros([3, 2], DType::F32), 1).is_err());
        assert!(refused(Tensor::zeros([2, 2, 2], DType::BF16), 1).is_err());
        assert!(refused(Tensor::zeros([2, 2, 2], DType::F32), 2).is_err());
        assert!(refused(Tensor::zeros([2, 2, 2], DType::F32), -1).is_err());
    }
}
