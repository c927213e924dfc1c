//! PTX text to tokens.

use crate::fault::ParseError;

/// One token of a PTX text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name, number, register, directive or dotted mnemonic: `ld.global.v4.f32`, `%r1`, `0f3F80`.
    Word(&'a str),
    /// A single character of punctuation.
    Punct(char),
    /// A quoted string, without its quotes.
    Quoted,
}

/// A token and the line it stands on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// Splits a text into tokens; comments vanish.
pub(crate) fn tokens(text: &str) -> Result<Vec<Lexeme<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let c = bytes[at];
        let rest = &text[at..];
        let length = if c.is_ascii_whitespace() {
            1
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(inside) = rest.strip_prefix("/*") {
            4 + inside.find("*/").ok_or_else(|| ParseError::new(line, "unclosed comment"))?
        } else if c == b'"' {
            let end =
                rest[1..].find('"').ok_or_else(|| ParseError::new(line, "unclosed string"))?;
            out.push(Lexeme { token: Token::Quoted, line });
            end + 2
        } else if is_word(c) {
            let n = word_length(&bytes[at..]);
            out.push(Lexeme { token: Token::Word(&rest[..n]), line });
            n
        } else if c.is_ascii_punctuation() {
            out.push(Lexeme { token: Token::Punct(c as char), line });
            1
        } else {
            return Err(ParseError::new(line, "only ASCII may stand outside comments"));
        };
        line += bytes[at..at + length].iter().filter(|&&b| b == b'\n').count() as u32;
        at += length;
    }
    Ok(out)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Length of the word at the head; `::` belongs to it (`shared::cta`), a lone `:` ends a label.
fn word_length(bytes: &[u8]) -> usize {
    let mut n = 0;
    while n < bytes.len() {
        if is_word(bytes[n]) {
            n += 1;
        } else if bytes[n..].starts_with(b"::") {
            n += 2;
        } else {
            break;
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_dots_and_double_colons_and_lines_count_through_comments() {
        let text = "ld.shared::cta.b32 /* a\nb */ %r1;\n$L1: // end\n\"s\"";
        let found = tokens(text).unwrap();
        let words: Vec<_> = found.iter().map(|l| (l.token, l.line)).collect();
        use Token::*;
        assert_eq!(
            words,
            [
                (Word("ld.shared::cta.b32"), 1),
                (Word("%r1"), 2),
                (Punct(';'), 2),
                (Word("$L1"), 3),
                (Punct(':'), 3),
                (Quoted, 4),
            ]
        );
        assert_eq!(tokens("\n/* never closed").unwrap_err().line, 2);
    }
}
