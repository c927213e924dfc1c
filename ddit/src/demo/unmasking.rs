//! A text on its way from masks to words, token by token.

use tensor::Result;

use crate::pipeline::Written;
use crate::text::Tokenizer;

/// The tokens of a text after every step that revealed any; `None` where one is still masked.
/// What follows the final text's first `</s>` is left out.
///
/// Errors: those of the tokenizer.
pub fn words(tokenizer: &Tokenizer, written: &Written) -> Result<Vec<Vec<Option<String>>>> {
    let end = written.ids.iter().position(|&id| id == tokenizer.end());
    let shown = end.map_or(written.ids.len(), |end| end + 1);
    let word = |&id: &u32| match id == tokenizer.mask() {
        true => Ok(None),
        false => tokenizer.decode(&[id]).map(Some),
    };
    written.trace.iter().map(|step| step.ids[..shown].iter().map(word).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::TextTrace;
    use crate::shapes::WORDS;

    #[test]
    fn masks_are_none_and_padding_is_left_out() {
        let tokenizer = Tokenizer::of_words(WORDS).unwrap();
        let (mask, end) = (tokenizer.mask(), tokenizer.end());
        let [a, circle] = ["a", "circle"].map(|word| tokenizer.encode(word).unwrap()[0]);
        let trace = [
            TextTrace { step: 2, ids: vec![mask, circle, mask, end, mask] },
            TextTrace { step: 5, ids: vec![a, circle, end, end, end] },
        ];
        let ids = trace[1].ids.clone();
        let written = Written { text: "a circle".into(), ids, seed: 0, trace: trace.to_vec() };
        let word = |text: &str| Some(text.to_owned());
        let expected =
            [vec![None, word("circle"), None], vec![word("a"), word("circle"), word("</s>")]];
        assert_eq!(words(&tokenizer, &written).unwrap(), expected);
    }
}
