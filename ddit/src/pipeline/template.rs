//! Texts with holes: `_` is one masked token, `_{n}` is n of them.

use tensor::{Error, Result};

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
/// A `_` after a letter or a digit, as in `snake_case`, is text.
///
/// Errors: `_{` without a number of at least 1 and `}` to follow.
pub fn parse_template(template: &str) -> Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    let mut in_word = false;
    while let Some(letter) = rest.chars().next() {
        if letter == '_' && !in_word {
            let (count, length) = hole(rest)?;
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
    Ok(pieces)
}

/// The number of tokens of the hole that `text` begins with, and how many bytes say so.
///
/// Errors: those of [`parse_template`].
fn hole(text: &str) -> Result<(usize, usize)> {
    let Some(rest) = text.strip_prefix("_{") else {
        return Ok((1, 1));
    };
    if let Some((digits, _)) = rest.split_once('}')
        && let Ok(count @ 1..) = digits.parse()
    {
        return Ok((count, digits.len() + 3));
    }
    let message = format!("`{text}`: no number of missing tokens, as in `_{{3}}`");
    Err(Error::value("template", message))
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
        let parse = |template| parse_template(template).unwrap();
        let pieces = parse("a _ circle left of _{3}");
        let expected = [text("a"), Piece::Holes(1), text("circle left of"), Piece::Holes(3)];
        assert_eq!(pieces, expected);
        assert_eq!(parse("_ _ _{2}"), [Piece::Holes(4)]);
        assert_eq!(parse("__"), [Piece::Holes(2)]);
        assert_eq!(parse("(_)"), [text("("), Piece::Holes(1), text(")")]);
        assert_eq!(
            parse("a _, a _."),
            [text("a"), Piece::Holes(1), text(", a"), Piece::Holes(1), text(".")]
        );
        assert_eq!(parse("snake_case größe_{x}"), [text("snake_case größe_{x}")]);
        assert!(parse(" ").is_empty());
    }

    #[test]
    fn a_hole_of_no_number_is_an_error() {
        for wrong in ["_{x}", "_{}", "_{0}", "_{-1}", "a _{3", "_ _{99999999999999999999} b"] {
            let error = parse_template(wrong).unwrap_err().to_string();
            assert!(error.contains("no number") && error.contains("`_{"), "{wrong}: {error}");
        }
    }
}
