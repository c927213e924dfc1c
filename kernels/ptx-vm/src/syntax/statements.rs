//! Raw statements to decoded instructions.

use super::lex::Token;
use super::mnemonic::Mnemonic;
use super::operand::{Symbol, Symbols, operands};
use crate::decode::decode;
use crate::fault::ParseError;
use crate::isa::{Instruction, Op};
use std::collections::HashMap;

/// The tokens of one statement, without its `;`.
pub(super) struct Statement<'a> {
    pub tokens: Vec<Token<'a>>,
    pub line: u32,
}

/// Decodes a body; returns the code and the distinct mnemonics it uses.
pub(super) fn assemble<'a>(
    statements: &[Statement<'a>],
    symbols: &Symbols<'a>,
    labels: &HashMap<&'a str, usize>,
) -> Result<(Vec<Instruction>, Vec<String>), ParseError> {
    let mut opcodes: HashMap<&str, u16> = HashMap::new();
    let mut code = Vec::with_capacity(statements.len());
    let mut mnemonics = Vec::new();
    for statement in statements {
        let error = |message: String| ParseError::new(statement.line, message);
        let (guard, rest) = guard(&statement.tokens, symbols).map_err(error)?;
        let [Token::Word(text), rest @ ..] = rest else {
            return Err(error("an instruction was expected".into()));
        };
        let mnemonic = Mnemonic::new(text);
        let op = operands(rest, symbols)
            .and_then(|operands| decode(&mnemonic, &operands, labels))
            .map_err(|e| error(format!("`{text}`: {e}")))?;
        let opcode = *opcodes.entry(text).or_insert_with(|| {
            mnemonics.push((*text).to_owned());
            mnemonics.len() as u16 - 1
        });
        code.push(Instruction { op, guard, opcode, line: statement.line });
    }
    // Falling off the end is leaving, as in ptxas.
    code.push(Instruction { op: Op::Exit, guard: None, opcode: mnemonics.len() as u16, line: 0 });
    mnemonics.push("(end)".to_owned());
    Ok((code, mnemonics))
}

type Guarded<'a, 't> = (Option<(u16, bool)>, &'t [Token<'a>]);

/// Splits off `@p` or `@!p`.
fn guard<'a, 't>(
    tokens: &'t [Token<'a>],
    symbols: &Symbols<'a>,
) -> Result<Guarded<'a, 't>, String> {
    let [Token::Punct('@'), rest @ ..] = tokens else { return Ok((None, tokens)) };
    let (negated, rest) = match rest {
        [Token::Punct('!'), rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    let [Token::Word(name), rest @ ..] = rest else {
        return Err("a predicate was expected after `@`".into());
    };
    match symbols.get(*name) {
        Some(Symbol::Pred(p)) => Ok((Some((*p, negated)), rest)),
        _ => Err(format!("`{name}` is not a predicate")),
    }
}
