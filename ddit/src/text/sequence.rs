//! Rows of a fixed number of tokens, and which of them are to be learnt.

use tensor::Result;

use super::Tokenizer;

/// One row of a training batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Token ids, as many as the row is long.
    pub ids: Vec<u32>,
    /// Per token, whether the model learns to write it: all of a caption, the answer to a
    /// question and what follows it, but not the question.
    pub learn: Vec<bool>,
}

impl Tokenizer {
    /// A caption as a row: cut to `length` with its `</s>` kept, or filled up with `pad`.
    /// Every token is learnt, padding included: that is how a model learns to end its text.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn caption_row(&self, caption: &str, length: usize, pad: u32) -> Result<Row> {
        let mut ids = self.encode_open(caption)?;
        ids.truncate(length.saturating_sub(1));
        ids.push(self.end());
        ids.resize(length, pad);
        Ok(Row { ids, learn: vec![true; length] })
    }

    /// A question and its answer as a row, `Q: {question} A: {answer}`: the question is given, the
    /// answer with its `</s>` and the padding are learnt. What does not fit is cut off.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn answer_row(&self, question: &str, answer: &str, length: usize, pad: u32) -> Result<Row> {
        let question = self.encode_open(&question_prompt(question))?;
        Ok(Row::pack(&question, &self.encode(answer)?, length, pad))
    }
}

impl Row {
    /// Given ids, then those to learn, then `pad`, which is learnt too; cut off at `length`.
    pub fn pack(given: &[u32], learnt: &[u32], length: usize, pad: u32) -> Self {
        let mut ids = [given, learnt].concat();
        ids.resize(length, pad);
        Self { ids, learn: (0..length).map(|i| i >= given.len()).collect() }
    }
}

/// The prompt a question is put in; the model writes the answer after it.
pub fn question_prompt(question: &str) -> String {
    format!("Q: {question} A: ")
}
