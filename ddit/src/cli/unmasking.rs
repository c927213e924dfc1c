//! A text on its way from masks to words, as a terminal shows it.
//!
//! ```text
//! step
//!    0    ·  ·    circle  ·
//!    3    a  ·    circle  ·
//!    7    a  red  circle  </s>
//! ```

use anyhow::Result;
use ddit::demo::unmasking::{Step, words};
use ddit::pipeline::Written;
use ddit::text::Tokenizer;
use serde_json::{Value, json};

/// What stands for a token not yet found.
const MASK: &str = "·";

/// The steps of a text, as [`columns`].
///
/// Errors: those of the tokenizer.
pub fn table(tokenizer: &Tokenizer, written: &Written) -> Result<String> {
    Ok(columns(&words(tokenizer, written)?))
}

/// The same as JSON: the number of each such step, and its tokens.
///
/// Errors: those of the tokenizer.
pub fn json(tokenizer: &Tokenizer, written: &Written) -> Result<Value> {
    let steps = words(tokenizer, written)?.into_iter();
    Ok(steps.map(|(step, tokens)| json!({ "step": step, "tokens": tokens })).collect())
}

/// Numbered steps and their tokens, one line each, tokens in columns.
pub fn columns(rows: &[Step]) -> String {
    let shown = |token: &Option<String>| token.as_deref().unwrap_or(MASK).to_owned();
    let count = rows.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|(_, tokens)| tokens.get(column));
        cells.map(|token| shown(token).chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = "step\n".to_owned();
    for (number, tokens) in rows {
        let mut line = format!("{number:>4}  ");
        for (token, width) in tokens.iter().zip(&widths) {
            line.push_str(&format!("  {:<width$}", shown(token)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_in_columns() {
        let row =
            |words: [&str; 3]| words.map(|word| (word != MASK).then(|| word.to_owned())).to_vec();
        let rows = [(0, row([MASK, "größe", MASK])), (12, row(["an", "größe", "</s>"]))];
        let expected = "step\n   0    ·   größe  ·\n  12    an  größe  </s>\n";
        assert_eq!(columns(&rows), expected);
    }
}
