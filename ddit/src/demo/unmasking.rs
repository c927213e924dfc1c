//! A text on its way from masks to words, token by token.

use tensor::Result;

use crate::pipeline::Written;
use crate::text::Tokenizer;

/// The number of a step, and the text's tokens after it; `None` where one is still masked.
pub type Step = (usize, Vec<Option<String>>);

/// The steps that revealed any token of the text up to its first `</s>`, or to the first behind the
/// question that was asked. What follows that is left out, and so are steps that found nothing but
/// padding there; the first stays if tokens were given.
///
/// Errors: those of the tokenizer.
pub fn words(tokenizer: &Tokenizer, written: &Written) -> Result<Vec<Step>> {
    let answer = &written.ids[written.asked..];
    let end = answer.iter().position(|&id| id == tokenizer.end());
    let shown = written.asked + end.map_or(answer.len(), |end| end + 1);
    let word = |&id: &u32| match id == tokenizer.mask() {
        true => Ok(None),
        false => tokenizer.decode(&[id]).map(Some),
    };
    let tokens = written.trace.iter().map(|step| {
        let tokens = step.ids[..shown].iter().map(word).collect::<Result<Vec<_>>>()?;
        Ok((step.step, tokens))
    });
    let mut steps = tokens.collect::<Result<Vec<Step>>>()?;
    // Tokens are never masked again: a step that found none looks like the one before.
    steps.dedup_by(|(_, after), (_, before)| after == before);
    if steps.first().is_some_and(|(_, tokens)| tokens.iter().all(Option::is_none)) {
        steps.remove(0);
    }
    Ok(steps)
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
            (0, [mask, mask, mask, mask, end]),
            (1, [mask, mask, mask, end, end]),
            (2, [mask, circle, mask, end, end]),
            (5, [a, circle, end, end, end]),
        ];
        let trace = trace.map(|(step, ids)| TextTrace { step, ids: ids.to_vec() });
        let ids = trace[3].ids.clone();
        let text = "a circle".into();
        let written = Written { text, ids, asked: 0, seed: 0, trace: trace.to_vec() };
        let word = |text: &str| Some(text.to_owned());
        let expected = [
            (2, vec![None, word("circle"), None]),
            (5, vec![word("a"), word("circle"), word("</s>")]),
        ];
        assert_eq!(words(&tokenizer, &written).unwrap(), expected);
    }

    /// As the released code has it, a question keeps its `</s>`: what it is about comes after that.
    #[test]
    fn the_end_of_a_question_is_not_the_end_of_its_answer() {
        let tokenizer = Tokenizer::of_words(WORDS).unwrap();
        let (mask, end) = (tokenizer.mask(), tokenizer.end());
        let [how, two] = ["how", "two"].map(|word| tokenizer.encode(word).unwrap()[0]);
        let trace = [(0, [how, end, mask, end, end]), (4, [how, end, two, end, end])];
        let trace = trace.map(|(step, ids)| TextTrace { step, ids: ids.to_vec() });
        let ids = trace[1].ids.clone();
        let written = Written { text: "two".into(), ids, asked: 2, seed: 0, trace: trace.to_vec() };
        let word = |text: &str| Some(text.to_owned());
        let [how, end, two] = ["how", "</s>", "two"].map(word);
        let expected = [
            (0, vec![how.clone(), end.clone(), None, end.clone()]),
            (4, vec![how, end.clone(), two, end]),
        ];
        assert_eq!(words(&tokenizer, &written).unwrap(), expected);
    }
}
