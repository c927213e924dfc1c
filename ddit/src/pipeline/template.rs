//! Texts with holes: `_` is one masked token, `_{n}` is n of them.

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text that is given.
    Text(String),
    /// So many tokens to be found.
    Holes(usize),
}

/// The parts of a template, in order; neighbouring holes are one part.
///
/// A `_` after a letter or a digit, as in `snake_case`, is text. So is a `{` after a hole without
/// a number and `}` to follow.
pub fn parse_template(template: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    let mut in_word = false;
    while let Some(letter) = rest.chars().next() {
        if letter == '_' && !in_word {
            let (count, length) = hole(rest);
            push_text(&mut pieces, &mut text);
            match pieces.last_mut() {
                Some(Piece::Holes(before)) => *before = before.saturating_add(count),
                _ => pieces.push(Piece::Holes(count)),
            }
            rest = &rest[length..];
        } else {
            text.push(letter);
            in_word = letter.is_alphanumeric();
            rest = &rest[letter.len_utf8()..];
        }
    }
    push_text(&mut pieces, &mut text);
    pieces
}

/// The number of tokens of the hole that `text` begins with, and how many bytes say so.
fn hole(text: &str) -> (usize, usize) {
    let count = text.strip_prefix("_{").and_then(|rest| rest.split_once('}'));
    match count.and_then(|(digits, _)| Some((digits.parse().ok()?, digits.len() + 3))) {
        Some((count, length)) => (count, length),
        None => (1, 1),
    }
}

/// Text between holes is a piece if there is more of it than white space.
fn push_text(pieces: &mut Vec<Piece>, text: &mut String) {
    let text = std::mem::take(text);
    if !text.trim().is_empty() {
        pieces.push(Piece::Text(text.trim().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn holes_and_text() {
        let pieces = parse_template("a _ circle left of _{3}");
        let expected = [text("a"), Piece::Holes(1), text("circle left of"), Piece::Holes(3)];
        assert_eq!(pieces, expected);
        assert_eq!(parse_template("_ _ _{2}"), [Piece::Holes(4)]);
        assert_eq!(parse_template("__"), [Piece::Holes(2)]);
        assert_eq!(parse_template("(_)"), [text("("), Piece::Holes(1), text(")")]);
        assert_eq!(
            parse_template("a _, a _."),
            [text("a"), Piece::Holes(1), text(", a"), Piece::Holes(1), text(".")]
        );
    }

    #[test]
    fn what_is_no_hole_is_text() {
        assert_eq!(parse_template("snake_case"), [text("snake_case")]);
        assert_eq!(parse_template("größe _{x}"), [text("größe"), Piece::Holes(1), text("{x}")]);
        assert!(parse_template(" ").is_empty());
    }
}
