//! A cursor over tokens, with the questions a parser asks.

use super::lex::{Lexeme, Token};
use crate::fault::ParseError;

/// A cursor over tokens.
pub(super) struct Reader<'a, 't> {
    lexemes: &'t [Lexeme<'a>],
    at: usize,
}

impl<'a, 't> Reader<'a, 't> {
    pub fn new(lexemes: &'t [Lexeme<'a>]) -> Self {
        Self { lexemes, at: 0 }
    }

    pub fn peek(&self) -> Option<Token<'a>> {
        self.lexemes.get(self.at).map(|l| l.token)
    }

    pub fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub fn line(&self) -> u32 {
        let last = self.lexemes.len().saturating_sub(1);
        self.lexemes.get(self.at.min(last)).map_or(1, |l| l.line)
    }

    pub fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.line(), message)
    }

    /// Takes the next token if it is a word.
    pub fn word(&mut self) -> Option<&'a str> {
        let Some(Token::Word(word)) = self.peek() else { return None };
        self.at += 1;
        Some(word)
    }

    /// Takes the next token if it is this character.
    pub fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(Token::Punct(c));
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, c: char) -> Result<(), ParseError> {
        let error = self.error(format!("`{c}` was expected"));
        if self.eat(c) { Ok(()) } else { Err(error) }
    }

    pub fn name(&mut self) -> Result<&'a str, ParseError> {
        let error = self.error("a name was expected");
        self.word().ok_or(error)
    }

    pub fn number(&mut self) -> Result<u32, ParseError> {
        let error = self.error("a number was expected");
        self.word().and_then(|w| w.parse().ok()).ok_or(error)
    }

    /// The words left on the line of the token just taken; consumes all its tokens.
    pub fn rest_of_line(&mut self) -> Vec<&'a str> {
        let line = self.lexemes[self.at - 1].line;
        let mut words = Vec::new();
        while let Some(lexeme) = self.lexemes.get(self.at).filter(|l| l.line == line) {
            if let Token::Word(word) = lexeme.token {
                words.push(word);
            }
            self.at += 1;
        }
        words
    }

    /// Skips what is left of a statement, and its `;`.
    pub fn skip_statement(&mut self) {
        while !self.eat(';') && self.next().is_some() {}
    }

    /// Skips to the end of the next `{…}`.
    pub fn skip_block(&mut self) -> Result<(), ParseError> {
        while !self.eat('{') {
            self.next().ok_or_else(|| self.error("a block was expected"))?;
        }
        while !self.eat('}') {
            self.next().ok_or_else(|| self.error("unclosed block"))?;
        }
        Ok(())
    }
}
