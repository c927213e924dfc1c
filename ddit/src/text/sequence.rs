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
        let mut ids = self.encode_short(caption, length)?;
        ids.resize(length, pad);
        Ok(Row { ids, learn: vec![true; length] })
    }

    /// A question and its answer as a row, `Q: {question} A: {answer}`: the question is given, the
    /// answer with its `</s>` and the padding are learnt. What does not fit is cut off.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn answer_row(&self, question: &str, answer: &str, length: usize, pad: u32) -> Result<Row> {
        let question = self.encode_short(&question_prompt(question), length)?;
        Ok(Row::pack(&question, &self.encode_short(answer, length)?, length, pad))
    }

    /// The same two the other way round, `{answer} … Q: {question}`: the answer and the padding
    /// after it are learnt, the question with its `</s>` is given at the very end.
    ///
    /// Errors: those of the `tokenizers` crate.
    pub fn reverse_row(
        &self,
        question: &str,
        answer: &str,
        length: usize,
        pad: u32,
    ) -> Result<Row> {
        let question = self.encode_short(&format!(" Q: {question}"), length)?;
        Ok(Row::pack_reverse(&question, &self.encode_short(answer, length)?, length, pad))
    }

    /// The ids of `text` and their `</s>`, of which no more than `length` are left, the `</s>`
    /// among them.
    fn encode_short(&self, text: &str, length: usize) -> Result<Vec<u32>> {
        let mut ids = self.encode_open(text)?;
        ids.truncate(length.saturating_sub(1));
        ids.push(self.end());
        Ok(ids)
    }
}

impl Row {
    /// The question without its `</s>`, the answer, then `pad`; the question is given, everything
    /// else learnt. Cut off at `length`.
    ///
    /// Both texts come with their `</s>`. Source: Li et al. 2025, their code for instruction tuning.
    pub fn pack(question: &[u32], answer: &[u32], length: usize, pad: u32) -> Self {
        let given = &question[..question.len().saturating_sub(1)];
        let mut ids = [given, answer].concat();
        ids.resize(length, pad);
        Self { ids, learn: (0..length).map(|i| i >= given.len()).collect() }
    }

    /// The answer without its `</s>`, then `pad`, both learnt; at the end the question, which is
    /// given. Cut off at `length`.
    ///
    /// Both texts come with their `</s>`. Source: as [`pack`](Self::pack).
    pub fn pack_reverse(question: &[u32], answer: &[u32], length: usize, pad: u32) -> Self {
        let mut ids = answer[..answer.len().saturating_sub(1)].to_vec();
        let learnt = ids.len().max(length.saturating_sub(question.len()));
        ids.resize(learnt, pad);
        ids.extend(question);
        ids.resize(length, pad);
        Self { ids, learn: (0..length).map(|i| i < learnt).collect() }
    }
}

/// The prompt a question is put in; the model writes the answer after it.
pub fn question_prompt(question: &str) -> String {
    format!("Q: {question} A: ")
}
