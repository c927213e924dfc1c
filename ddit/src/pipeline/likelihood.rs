//! How likely the model finds a text beside a picture.

use samplers::masked::Likelihood;
use tensor::{Error, Result};

use super::{Pipeline, Progress, WriteOptions};
use crate::shapes::Picture;

impl Pipeline {
    /// `ln p(text | picture)` of each text, in nats: its words and its `</s>` are revealed one by one
    /// from left to right, and what follows stays unknown. Exact for that order of revealing; see
    /// [`Likelihood::chain_rule`]. A text longer than `options.length` is cut.
    ///
    /// The model draws and describes with the same weights, so this is also part of its own
    /// [judgement](Self::judge) of a picture it has drawn.
    ///
    /// Cost: the picture is looked at once; then as many rows of the text pass as texts have tokens,
    /// `options.batch` at a time. Errors: those of tokenizer, networks and `progress`.
    pub fn likelihood(
        &self,
        picture: &Picture,
        texts: &[impl AsRef<str>],
        options: &WriteOptions,
        progress: Progress,
    ) -> Result<Vec<f64>> {
        let tokenizer = &self.folder.tokenizer;
        let mask = i64::from(tokenizer.mask());
        let denoiser = self.denoiser(&[picture], &[options.seed], options)?;
        let mut likelihoods = Vec::with_capacity(texts.len());
        for text in texts {
            let row = tokenizer.caption_row(text.as_ref(), options.length, tokenizer.pad())?.ids;
            let Some(end) = row.iter().position(|&id| id == tokenizer.end()) else {
                let message = format!("{} tokens have no room for a text", options.length);
                return Err(Error::value("likelihood", message));
            };
            let mut tokens: Vec<i64> = row.iter().map(|&id| i64::from(id)).collect();
            tokens[end + 1..].fill(mask);
            let scored: Vec<usize> = (0..=end).collect();
            let batch = options.batch;
            let judged = Likelihood { tokens: &tokens, scored: &scored, mask, batch };
            likelihoods.push(-judged.chain_rule(&scored, &denoiser)?);
            progress(likelihoods.len(), texts.len())?;
        }
        Ok(likelihoods)
    }
}
