//! `.reg` and `.shared`.

use super::lex::Token;
use super::module::Registers;
use super::operand::{Symbol, Symbols};
use super::reader::Reader;
use crate::fault::ParseError;
use crate::isa::Ty;
use std::borrow::Cow;

/// Names declared in a scope, and the shared memory laid out for them.
#[derive(Clone, Default)]
pub(super) struct Declarations<'a> {
    pub symbols: Symbols<'a>,
    pub registers: Registers,
    pub static_shared: usize,
    /// Arrays of unspecified length, whose place is known once the static ones are: name, alignment.
    dynamic: Vec<(&'a str, usize)>,
}

impl<'a> Declarations<'a> {
    /// `.reg .f32 %f<8>, %x;`
    pub fn registers(&mut self, reader: &mut Reader<'a, '_>) -> Result<(), ParseError> {
        let ty = declared_type(reader)?;
        loop {
            let name = reader.name()?;
            if reader.eat('<') {
                let count = reader.number()?;
                reader.expect('>')?;
                for i in 0..count {
                    self.register(format!("{name}{i}").into(), ty, reader)?;
                }
            } else {
                self.register(name.into(), ty, reader)?;
            }
            if !reader.eat(',') {
                return Ok(());
            }
        }
    }

    fn register(
        &mut self,
        name: Cow<'a, str>,
        ty: Ty,
        reader: &Reader<'a, '_>,
    ) -> Result<(), ParseError> {
        let (count, make): (_, fn(u16) -> Symbol) = match ty {
            Ty::Pred => (&mut self.registers.predicates, Symbol::Pred),
            _ if ty.wide() => (&mut self.registers.wide, Symbol::R64),
            _ => (&mut self.registers.narrow, Symbol::R32),
        };
        let index = u16::try_from(*count).map_err(|_| reader.error("too many registers"))?;
        *count += 1;
        self.symbols.insert(name, make(index));
        Ok(())
    }

    /// `.shared .align 16 .b8 tile[4096];`, or `tile[]` for dynamic memory.
    pub fn shared(&mut self, reader: &mut Reader<'a, '_>) -> Result<(), ParseError> {
        let align = alignment(reader)?;
        let ty = declared_type(reader)?;
        let align = align.unwrap_or(ty.bytes());
        let name = reader.name()?;
        let mut count = Some(1);
        while reader.eat('[') {
            count = if reader.peek() == Some(Token::Punct(']')) {
                None
            } else {
                let n = reader.number()? as usize;
                count.map(|c: usize| c.saturating_mul(n))
            };
            reader.expect(']')?;
        }
        match count {
            None => self.dynamic.push((name, align)),
            Some(count) => {
                self.static_shared = self.static_shared.next_multiple_of(align);
                self.symbols.insert(name.into(), Symbol::Address(self.static_shared as u64));
                let end =
                    count.checked_mul(ty.bytes()).and_then(|n| n.checked_add(self.static_shared));
                let fits = end.filter(|end| *end <= 1 << 24);
                self.static_shared = fits.ok_or_else(|| reader.error("too much shared memory"))?;
            }
        }
        Ok(())
    }

    /// Places dynamic shared memory behind the static; returns where it begins.
    pub fn place_dynamic(&mut self) -> usize {
        let align = self.dynamic.iter().map(|d| d.1).max().unwrap_or(1);
        let offset = self.static_shared.next_multiple_of(align);
        for (name, _) in std::mem::take(&mut self.dynamic) {
            self.symbols.insert(name.into(), Symbol::Address(offset as u64));
        }
        offset
    }
}

pub(super) fn alignment(reader: &mut Reader<'_, '_>) -> Result<Option<usize>, ParseError> {
    if reader.peek() != Some(Token::Word(".align")) {
        return Ok(None);
    }
    reader.next();
    let align = reader.number()? as usize;
    if align.is_power_of_two() {
        Ok(Some(align))
    } else {
        Err(reader.error("alignment must be a power of 2"))
    }
}

pub(super) fn declared_type(reader: &mut Reader<'_, '_>) -> Result<Ty, ParseError> {
    let error = reader.error("a type was expected");
    reader.word().and_then(|w| Ty::named(w.strip_prefix('.')?)).ok_or(error)
}
