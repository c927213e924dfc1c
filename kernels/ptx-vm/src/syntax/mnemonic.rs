//! Instruction names.

use crate::isa::Ty;

/// An instruction's name, taken apart at its dots.
pub(crate) struct Mnemonic<'a> {
    /// The part before the first dot.
    pub name: &'a str,
    parts: Vec<&'a str>,
}

impl<'a> Mnemonic<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or("");
        Self { name, parts: parts.collect() }
    }

    /// The suffixes, in order.
    pub fn parts(&self) -> &[&'a str] {
        &self.parts
    }

    pub fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    /// The types among the suffixes, in order.
    pub fn types(&self) -> Vec<Ty> {
        self.parts.iter().filter_map(|p| Ty::named(p)).collect()
    }
}
