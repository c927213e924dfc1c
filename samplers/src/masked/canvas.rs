//! Token sequences with holes, and the question a sampler asks about them.

use tensor::{Error, Result, Tensor};

use super::predictions::Predictions;

/// A batch of token sequences of one length, in which masks stand for tokens to be found.
///
/// Masks may stand anywhere: a prompt in front makes a question, text on both sides of a hole makes
/// infilling, nothing but masks makes free generation. Tokens that are not the mask are given, and
/// no sampler moves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    /// Row by row.
    tokens: Vec<i64>,
    length: usize,
    mask: i64,
}

impl Canvas {
    /// Rows of tokens and masks.
    ///
    /// Errors: rows differ in length, or there are none.
    #[track_caller]
    pub fn new<R: AsRef<[i64]>>(rows: &[R], mask: i64) -> Result<Self> {
        let length = rows.first().map_or(0, |row| row.as_ref().len());
        if length == 0 || rows.iter().any(|row| row.as_ref().len() != length) {
            let lengths: Vec<_> = rows.iter().map(|row| row.as_ref().len()).collect();
            let message = format!("rows must have one length, not {lengths:?}");
            return Err(Error::shape("Canvas", message));
        }
        Ok(Self {
            tokens: rows.iter().flat_map(|row| row.as_ref()).copied().collect(),
            length,
            mask,
        })
    }

    /// Rows of which only the tokens marked `keep` are given; masks take the place of the others.
    ///
    /// Errors: rows or marks differ in length, or there are none.
    #[track_caller]
    pub fn keeping<R, K>(rows: &[R], keep: &[K], mask: i64) -> Result<Self>
    where
        R: AsRef<[i64]>,
        K: AsRef<[bool]>,
    {
        let mut canvas = Self::new(rows, mask)?;
        let marks: Vec<bool> = keep.iter().flat_map(|row| row.as_ref()).copied().collect();
        let same = keep.iter().all(|row| row.as_ref().len() == canvas.length);
        if !same || marks.len() != canvas.tokens.len() {
            let message = format!("{} marks for {} tokens", marks.len(), canvas.tokens.len());
            return Err(Error::shape("Canvas", message));
        }
        let hidden = canvas.tokens.iter_mut().zip(marks).filter(|(_, keep)| !keep);
        hidden.for_each(|(token, _)| *token = mask);
        Ok(canvas)
    }

    /// The rows of a tensor of tokens and masks.
    ///
    /// Shapes: `tokens` \[B, L\] I64.   Errors: another shape or type; B or L is 0.
    #[track_caller]
    pub fn from_tensor(tokens: &Tensor, mask: i64) -> Result<Self> {
        let [_, length] = tokens.dims()?;
        let flat = tokens.to_vec::<i64>()?;
        if flat.is_empty() {
            return Err(Error::shape("Canvas", "there are no tokens").operand("tokens", tokens));
        }
        Ok(Self { tokens: flat, length, mask })
    }

    /// The tokens as a tensor \[B, L\] I64.
    pub fn to_tensor(&self) -> Tensor {
        let shape = [self.batch(), self.length];
        Tensor::from_slice(&self.tokens, shape).expect("rows are equally long")
    }

    /// The number of rows, B.
    pub fn batch(&self) -> usize {
        self.tokens.len() / self.length
    }

    /// The length of each row, L.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The token that stands for a hole.
    pub fn mask(&self) -> i64 {
        self.mask
    }

    /// The tokens of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[i64] {
        &self.tokens[row * self.length..][..self.length]
    }

    /// The positions of a row's masks, in order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn masked(&self, row: usize) -> impl Iterator<Item = usize> {
        let tokens = self.row(row).iter().enumerate();
        tokens.filter(|&(_, &token)| token == self.mask).map(|(position, _)| position)
    }

    /// The rows that still have masks.
    pub(super) fn unfinished(&self) -> Vec<usize> {
        (0..self.batch()).filter(|&row| self.row(row).contains(&self.mask)).collect()
    }

    /// Puts a token in the place of a mask.
    pub(super) fn reveal(&mut self, row: usize, position: usize, token: usize) {
        let cell = &mut self.tokens[row * self.length + position];
        debug_assert_eq!(*cell, self.mask, "given tokens stay");
        *cell = token as i64;
    }

    /// Asks the denoiser about some rows, each on behalf of the batch item beside it.
    pub(super) fn ask(
        &self,
        rows: &[usize],
        items: &[usize],
        denoiser: &mut impl FnMut(&Query) -> Result<Tensor>,
    ) -> Result<Predictions> {
        let tokens: Vec<i64> = rows.iter().flat_map(|&row| self.row(row)).copied().collect();
        let holes = tokens.iter().enumerate().filter(|&(_, &token)| token == self.mask);
        let masked: Vec<usize> = holes.map(|(cell, _)| cell).collect();
        let ids = Tensor::from_vec(tokens, [rows.len(), self.length])?;
        let logits = denoiser(&Query { ids: &ids, items, masked: &masked })?;
        Predictions::new(logits, &ids, masked, self.mask)
    }
}

/// What a sampler asks a denoiser: which clean tokens may stand behind these masks?
///
/// The answer is logits of type F32 or F64, in either of two layouts:
///
/// * \[R, L, V\], of which only those at masked positions are read;
/// * \[M, V\] at the `masked` positions alone, in their order. A model whose vocabulary is large
///   saves most of its head this way.
///
/// Given the same row the denoiser must give the same logits, whatever rows come with it: samplers
/// ask only about rows that changed, and remember the answers about the others. Time is no part of
/// the question: in masked diffusion the number of masks tells it.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// The rows asked about, \[R, L\] I64. Finished rows and rows whose answer is known are absent.
    pub ids: &'a Tensor,
    /// For each of them, which item of the caller's batch it belongs to: the picture to look at.
    pub items: &'a [usize],
    /// Where the M masks are: position `l` of the `r`-th row asked about is `r·L + l`. Ascending.
    pub masked: &'a [usize],
}

/// A step just taken, for traces and progress.
#[derive(Clone, Copy)]
pub struct TextStep<'a> {
    /// The number of the step, from 0.
    pub index: usize,
    /// The number of steps in all; a sampler that is done sooner stops sooner.
    pub steps: usize,
    /// The tokens after the step.
    pub canvas: &'a Canvas,
    /// The rows the denoiser was asked about; none if it was not called.
    pub asked: &'a [usize],
    /// The (row, position) pairs that became tokens.
    pub revealed: &'a [(usize, usize)],
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: i64 = 9;

    #[test]
    fn holes_anywhere() {
        let keep = [[true, false, true], [false, false, true]];
        let canvas = Canvas::keeping(&[[1, 2, 3], [4, 5, 6]], &keep, MASK).unwrap();
        assert_eq!((canvas.row(0), canvas.row(1)), (&[1, 9, 3][..], &[9, 9, 6][..]));
        assert_eq!(canvas.masked(1).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(canvas.unfinished(), [0, 1]);
        assert_eq!(Canvas::from_tensor(&canvas.to_tensor(), MASK).unwrap(), canvas);
    }

    #[test]
    fn a_question_names_rows_and_holes() {
        let canvas = Canvas::new(&[[1, 2], [9, 4], [5, 9]], MASK).unwrap();
        let mut denoiser = |query: &Query| {
            assert_eq!(query.ids.to_vec::<i64>().unwrap(), [5, 9, 9, 4]);
            assert_eq!((query.items, query.masked), (&[2, 1][..], &[1, 2][..]));
            Ok(Tensor::zeros([2, 2, 10], tensor::DType::F32))
        };
        assert!(canvas.ask(&[2, 1], &[2, 1], &mut denoiser).is_ok());
    }

    #[test]
    fn mistakes_are_errors() {
        assert!(Canvas::new(&[vec![1, 2], vec![3]], MASK).is_err());
        assert!(Canvas::new::<Vec<i64>>(&[], MASK).is_err());
        assert!(Canvas::keeping(&[[1, 2]], &[vec![true]], MASK).is_err());
        assert!(Canvas::from_tensor(&Tensor::zeros([2], tensor::DType::I64), MASK).is_err());
    }
}
