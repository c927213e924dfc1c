//! How likely the model finds a text beside a picture.

use samplers::masked::Likelihood;
use tensor::{Error, Result};

use super::{Pipeline, Progress, WriteOptions};
use crate::shapes::Picture;

impl Pipeline {
    /// `ln p(text | picture)` of each pair, in nats: the text's words and its `</s>` are revealed
    /// one by one from left to right, and what follows stays unknown. Exact for that order of
    /// revealing; see [`Likelihood::chain_rule`]. A text longer than `options.length` is cut.
    ///
    /// The model draws and describes with the same weights, so this is also its own judgement of a
    /// picture it has drawn: [`GenerateOptions::candidates`](super::GenerateOptions::candidates).
    ///
    /// Cost: as many rows of the text pass as the text has tokens, `options.batch` at a time.
    /// Errors: those of tokenizer, networks and `progress`.
    pub fn likelihood(
        &self,
        pairs: &[(&Picture, &str)],
        options: &WriteOptions,
        progress: Progress,
    ) -> Result<Vec<f64>> {
        let one = |(i, &(picture, text)): (usize, &(&Picture, &str))| {
            let seed = options.seed.wrapping_add(i as u64);
            let likelihood = self.likelihood_of(picture, text, seed, options)?;
            progress(i + 1, pairs.len())?;
            Ok(likelihood)
        };
        pairs.iter().enumerate().map(one).collect()
    }

    fn likelihood_of(
        &self,
        picture: &Picture,
        text: &str,
        seed: u64,
        options: &WriteOptions,
    ) -> Result<f64> {
        let tokenizer = &self.folder.tokenizer;
        let row = tokenizer.caption_row(text, options.length, tokenizer.pad())?.ids;
        let Some(end) = row.iter().position(|&id| id == tokenizer.end()) else {
            let message = format!("{} tokens have no room for a text", options.length);
            return Err(Error::value("likelihood", message));
        };
        let mask = i64::from(tokenizer.mask());
        let mut tokens: Vec<i64> = row.iter().map(|&id| i64::from(id)).collect();
        tokens[end + 1..].fill(mask);
        let scored: Vec<usize> = (0..=end).collect();
        let judged = Likelihood { tokens: &tokens, scored: &scored, mask, batch: options.batch };
        Ok(-judged.chain_rule(&scored, self.denoiser(&[picture], &[seed], options)?)?)
    }
}
