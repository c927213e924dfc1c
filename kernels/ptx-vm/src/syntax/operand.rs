//! Operands of one statement.

use super::lex::Token;
use crate::isa::{Address, Order, Special, Src};
use std::borrow::Cow;
use std::collections::HashMap;

/// What a declared name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    R32(u16),
    R64(u16),
    Pred(u16),
    /// An offset in shared memory.
    Address(u64),
    /// An offset in the parameter block.
    Param(usize),
}

/// Names in scope.
pub(crate) type Symbols<'a> = HashMap<Cow<'a, str>, Symbol>;

/// One operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    Value(Src),
    /// `[register + offset]`.
    Memory(Address),
    /// `[parameter + offset]`.
    Param(usize),
    /// `{a, b, …}`.
    Vector(Vec<Operand<'a>>),
    /// `_`.
    Sink,
    /// A name that is none of the above: a label.
    Name(&'a str),
}

/// Reads a comma-separated list; `d|p`, two destinations, counts as two operands.
pub(super) fn operands<'a>(
    tokens: &[Token<'a>],
    symbols: &Symbols<'a>,
) -> Result<Vec<Operand<'a>>, String> {
    let mut cursor = Cursor { tokens, at: 0, symbols };
    let mut out = Vec::new();
    while cursor.at < tokens.len() {
        out.push(cursor.operand()?);
        match cursor.next() {
            None | Some(Token::Punct(',' | '|')) => {}
            Some(other) => return Err(format!("`,` was expected, not {other:?}")),
        }
    }
    Ok(out)
}

struct Cursor<'a, 't> {
    tokens: &'t [Token<'a>],
    at: usize,
    symbols: &'t Symbols<'a>,
}

impl<'a> Cursor<'a, '_> {
    fn next(&mut self) -> Option<Token<'a>> {
        self.at += 1;
        self.tokens.get(self.at - 1).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Punct(c));
        self.at += usize::from(found);
        found
    }

    fn operand(&mut self) -> Result<Operand<'a>, String> {
        if self.eat('{') {
            self.vector()
        } else if self.eat('[') {
            self.memory()
        } else {
            self.scalar()
        }
    }

    fn scalar(&mut self) -> Result<Operand<'a>, String> {
        match self.next() {
            Some(Token::Word(word)) => self.word(word),
            Some(Token::Punct(sign @ ('!' | '-'))) => {
                let Some(Token::Word(word)) = self.next() else {
                    return Err(format!("a name or number was expected after `{sign}`"));
                };
                match (sign, self.word(word)?) {
                    ('!', Operand::Value(Src::Pred(p, false))) => {
                        Ok(Operand::Value(Src::Pred(p, true)))
                    }
                    ('-', Operand::Value(Src::Imm(v))) => {
                        Ok(Operand::Value(Src::Imm(v.wrapping_neg())))
                    }
                    _ => Err(format!("`{sign}` does not belong before `{word}`")),
                }
            }
            other => Err(format!("an operand was expected, not {other:?}")),
        }
    }

    fn vector(&mut self) -> Result<Operand<'a>, String> {
        let mut parts = Vec::new();
        while !self.eat('}') {
            parts.push(self.scalar()?);
            if !self.eat(',') && self.tokens.get(self.at) != Some(&Token::Punct('}')) {
                return Err("`}` was expected".into());
            }
        }
        Ok(Operand::Vector(parts))
    }

    fn memory(&mut self) -> Result<Operand<'a>, String> {
        let base = self.scalar()?;
        let mut offset = 0i64;
        while !self.eat(']') {
            // `+4`, `-4` and, as some compilers write it, `+-4`.
            let plus = self.eat('+');
            let minus = self.eat('-');
            let value = match self.next() {
                Some(Token::Word(word)) if plus || minus => integer(word),
                _ => None,
            };
            let value = value.ok_or("an offset was expected in the address")? as i64;
            offset = offset.wrapping_add(if minus { value.wrapping_neg() } else { value });
        }
        match base {
            Operand::Param(start) => start
                .checked_add_signed(offset as isize)
                .map(Operand::Param)
                .ok_or_else(|| "an offset before the parameters".into()),
            Operand::Value(base @ (Src::R32(_) | Src::R64(_) | Src::Imm(_))) => {
                Ok(Operand::Memory(Address { base, offset }))
            }
            _ => Err("this cannot be an address".into()),
        }
    }

    fn word(&self, word: &'a str) -> Result<Operand<'a>, String> {
        if let Some(symbol) = self.symbols.get(word) {
            return Ok(match *symbol {
                Symbol::R32(r) => Operand::Value(Src::R32(r)),
                Symbol::R64(r) => Operand::Value(Src::R64(r)),
                Symbol::Pred(p) => Operand::Value(Src::Pred(p, false)),
                Symbol::Address(a) => Operand::Value(Src::Imm(a)),
                Symbol::Param(offset) => Operand::Param(offset),
            });
        }
        if word == "_" {
            return Ok(Operand::Sink);
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let value = float_bits(word).or_else(|| integer(word));
            return value.map(|v| Operand::Value(Src::Imm(v))).ok_or_else(|| {
                format!("`{word}` is no number this machine reads (write floats as 0fXXXXXXXX)")
            });
        }
        if word.starts_with('%') {
            let known = special(word).ok_or_else(|| format!("`{word}` was never declared"))?;
            return Ok(Operand::Value(Src::Special(known)));
        }
        Ok(Operand::Name(word))
    }
}

/// `0fXXXXXXXX` and `0dXXXXXXXXXXXXXXXX`: floats by their bits.
fn float_bits(word: &str) -> Option<u64> {
    let (prefix, digits) = word.split_at_checked(2)?;
    let length = match prefix {
        "0f" | "0F" => 8,
        "0d" | "0D" => 16,
        _ => return None,
    };
    (digits.len() == length).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Decimal, `0x`, `0b` and octal integers; a trailing `U` is allowed.
fn integer(word: &str) -> Option<u64> {
    let digits = word.strip_suffix('U').unwrap_or(word);
    match digits.split_at_checked(2) {
        Some(("0x" | "0X", hex)) => u64::from_str_radix(hex, 16).ok(),
        Some(("0b" | "0B", binary)) => u64::from_str_radix(binary, 2).ok(),
        _ if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8).ok(),
        _ => digits.parse().ok(),
    }
}

fn special(word: &str) -> Option<Special> {
    let (name, axis) = match word.split_once('.') {
        Some((name, axis)) => (name, ["x", "y", "z"].iter().position(|a| *a == axis)? as u8),
        None => (word, u8::MAX),
    };
    Some(match (name, axis) {
        ("%tid", 0..=2) => Special::Tid(axis),
        ("%ntid", 0..=2) => Special::Ntid(axis),
        ("%ctaid", 0..=2) => Special::Ctaid(axis),
        ("%nctaid", 0..=2) => Special::Nctaid(axis),
        ("%laneid", u8::MAX) => Special::LaneId,
        ("%warpid", u8::MAX) => Special::WarpId,
        ("%nwarpid", u8::MAX) => Special::NWarpId,
        ("%lanemask_eq", u8::MAX) => Special::LaneMask(Order::Eq),
        ("%lanemask_lt", u8::MAX) => Special::LaneMask(Order::Lt),
        ("%lanemask_le", u8::MAX) => Special::LaneMask(Order::Le),
        ("%lanemask_gt", u8::MAX) => Special::LaneMask(Order::Gt),
        ("%lanemask_ge", u8::MAX) => Special::LaneMask(Order::Ge),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::lex::tokens;
    use super::*;

    fn read(text: &str) -> Result<Vec<Operand<'_>>, String> {
        let symbols = Symbols::from([
            ("%r1".into(), Symbol::R32(1)),
            ("%p".into(), Symbol::Pred(0)),
            ("%rd".into(), Symbol::R64(2)),
            ("x".into(), Symbol::Param(8)),
        ]);
        let found: Vec<_> = tokens(text).unwrap().iter().map(|l| l.token).collect();
        operands(&found, &symbols)
    }

    #[test]
    fn every_form_of_operand_is_read() {
        use Operand::*;
        assert_eq!(
            read("%r1|%p, -1, {%r1, _}, [ %rd + -16 ], [x+4], !%p, 0f3F800000, $L2").unwrap(),
            [
                Value(Src::R32(1)),
                Value(Src::Pred(0, false)),
                Value(Src::Imm(u64::MAX)),
                Vector(vec![Value(Src::R32(1)), Sink]),
                Memory(Address { base: Src::R64(2), offset: -16 }),
                Param(12),
                Value(Src::Pred(0, true)),
                Value(Src::Imm(0x3F80_0000)),
                Name("$L2"),
            ]
        );
        for wrong in
            ["%r9", "1.0", "[%p]", "%r1 %r1", "{%r1", "[%r1 4]", "!%r1", "-%r1", "!!%p", "{{%r1}}"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
