//! Accuracy of answers as VQA counts it: agreement with several people.
//!
//! Source: Antol et al. 2015, §4, and the public evaluation code, whose normalisation of answers
//! decides what counts as the same.

/// How far a prediction agrees with the answers of several people, between 0 and 1: the mean over
/// them of min(1, matches among the others / 3), after [`normalise`].
pub fn vqa_accuracy<S: AsRef<str>>(prediction: &str, answers: &[S]) -> f64 {
    let prediction = normalise(prediction);
    let matches: Vec<bool> =
        answers.iter().map(|answer| normalise(answer.as_ref()) == prediction).collect();
    let all = matches.iter().filter(|&&m| m).count();
    let others = |&own: &bool| ((all - usize::from(own)) as f64 / 3.0).min(1.0);
    matches.iter().map(others).sum::<f64>() / answers.len().max(1) as f64
}

/// An answer in the form in which answers are compared.
///
/// Punctuation goes, or becomes a space where it stands between letters; so do full stops that no
/// digit follows. Then lower case, digits for number words, no articles, and contractions with
/// their apostrophes.
pub fn normalise(text: &str) -> String {
    let text = text.replace(['\n', '\t'], " ");
    let text = text.trim();
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    let grouped = (1..bytes.len())
        .any(|i| bytes[i] == b',' && digit(bytes.get(i - 1)) && digit(bytes.get(i + 1)));
    let mut plain = text.to_owned();
    for mark in PUNCTUATION.chars() {
        // The spaces that count are those of the text as it was.
        let loose = text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        plain = plain.replace(mark, if grouped || loose { "" } else { " " });
    }
    let plain = without_stops(&plain).to_lowercase();
    let words = plain.split_whitespace().map(digits);
    let words = words.filter(|word| !["a", "an", "the"].contains(word)).map(with_apostrophe);
    words.collect::<Vec<_>>().join(" ")
}

const PUNCTUATION: &str = ";/[]\"{}()=+\\_-><@`,?!";

/// The most full stops that are removed, as in the public code.
const STOPS: usize = 32;

/// The text without the full stops that no digit follows.
fn without_stops(text: &str) -> String {
    let (mut plain, mut removed) = (String::with_capacity(text.len()), 0);
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let decimal = rest.peek().is_some_and(char::is_ascii_digit);
        if letter == '.' && !decimal && removed < STOPS {
            removed += 1;
        } else {
            plain.push(letter);
        }
    }
    plain
}

/// A number word as digits. The spelling `twelth` is the public code's.
fn digits(word: &str) -> &str {
    const NUMBERS: [(&str, &str); 24] = [
        ("none", "0"),
        ("zero", "0"),
        ("one", "1"),
        ("two", "2"),
        ("three", "3"),
        ("four", "4"),
        ("five", "5"),
        ("six", "6"),
        ("seven", "7"),
        ("eight", "8"),
        ("nine", "9"),
        ("ten", "10"),
        ("first", "1st"),
        ("second", "2nd"),
        ("third", "3rd"),
        ("fourth", "4th"),
        ("fifth", "5th"),
        ("sixth", "6th"),
        ("seventh", "7th"),
        ("eighth", "8th"),
        ("ninth", "9th"),
        ("tenth", "10th"),
        ("eleventh", "11th"),
        ("twelth", "12th"),
    ];
    NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits)
}

/// A contraction that lacks exactly one of its apostrophes, with it.
fn with_apostrophe(word: &str) -> &str {
    // A slip of the public table, which takes this apostrophe away.
    if word == "somebody'd" {
        return "somebodyd";
    }
    let lacks_one = |whole: &&str| {
        let (word, whole) = (word.as_bytes(), whole.as_bytes());
        word.len() + 1 == whole.len()
            && (0..whole.len()).any(|i| {
                whole[i] == b'\'' && word[..i] == whole[..i] && word[i..] == whole[i + 1..]
            })
    };
    CONTRACTIONS.split_whitespace().find(lacks_one).unwrap_or(word)
}

const CONTRACTIONS: &str = "\
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't \
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't \
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've \
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've \
    someone'll someone's something'd something'd've something'll that's there'd there'd've \
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't \
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's \
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd \
    you'd've you'll you're you've";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_in_one_form() {
        for (text, normal) in [
            ("  The\tRed\nCar. ", "red car"),
            ("It's 3,000 dollars!", "it's 3000 dollars"),
            ("no-one", "no 1"),
            ("left/ right", "left right"),
            ("3.5 of the U.S.A.", "3.5 of usa"),
            ("twelth", "12th"),
            ("couldnt've", "couldn't've"),
            ("couldntve", "couldntve"),
            ("", ""),
        ] {
            assert_eq!(normalise(text), normal, "{text}");
        }
    }

    #[test]
    fn three_others_are_enough() {
        let answers = ["two", "2", "2.", "3", "three"];
        // Of five people three agree: each of them has two others, the rest have three.
        assert!((vqa_accuracy("Two", &answers) - (3.0 * 2.0 / 3.0 + 2.0) / 5.0).abs() < 1e-15);
        assert_eq!(vqa_accuracy("4", &answers), 0.0);
        assert_eq!(vqa_accuracy("4", &[""; 0]), 0.0);
    }
}
