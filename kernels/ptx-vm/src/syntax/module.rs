//! Modules, kernels and their declarations.

use super::declarations::{Declarations, alignment, declared_type};
use super::lex::{Token, tokens};
use super::operand::Symbol;
use super::reader::Reader;
use super::statements::{Statement, assemble};
use crate::fault::ParseError;
use crate::isa::Instruction;
use std::collections::HashMap;
use std::sync::Arc;

/// A parsed PTX text.
#[derive(Clone)]
pub struct Module {
    /// `.version`, as written.
    pub version: String,
    /// `.target`, as written: `sm_80`.
    pub target: String,
    /// The entries, in the order of the text.
    pub kernels: Vec<Kernel>,
}

/// A kernel parameter and where it lies in the parameter block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Byte offset.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// How many registers of each class a kernel declares. PTX registers are virtual: ptxas decides how
/// many real ones they become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// 32 bits and less.
    pub narrow: usize,
    /// 64 bits.
    pub wide: usize,
    /// Predicates.
    pub predicates: usize,
}

/// One entry of a module, decoded.
#[derive(Clone)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Declared registers.
    pub registers: Registers,
    /// Bytes of statically declared shared memory.
    pub static_shared: usize,
    /// Where dynamic shared memory begins: `static_shared`, aligned for it.
    pub dynamic_shared_offset: usize,
    /// Most threads of a block: `.maxntid` or `.reqntid`, multiplied out.
    pub max_threads: Option<u32>,
    /// Most registers of a thread, if the kernel says so: `.maxnreg`.
    pub max_registers: Option<u32>,
    /// Whether a block must have exactly that many threads: `.reqntid`.
    pub exact_threads: bool,
    pub(crate) code: Vec<Instruction>,
    pub(crate) mnemonics: Vec<String>,
    source: Arc<[String]>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel {{ {}, {} instructions }}", self.name, self.code.len())
    }
}

impl Module {
    /// Reads a PTX text.
    ///
    /// # Errors
    /// The first thing in it this machine does not understand, with its line.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let lexemes = tokens(text)?;
        let mut reader = Reader::new(&lexemes);
        let mut module =
            Self { version: String::new(), target: String::new(), kernels: Vec::new() };
        let mut outer = Declarations::default();
        let source: Arc<[String]> = text.lines().map(|l| l.trim().to_owned()).collect();
        while let Some(word) = reader.word() {
            match word {
                ".version" => module.version = reader.rest_of_line().join(""),
                ".target" => module.target = reader.rest_of_line().join(" "),
                ".address_size" | ".file" => drop(reader.rest_of_line()),
                ".pragma" => reader.skip_statement(),
                ".visible" | ".weak" | ".extern" => {}
                ".section" => reader.skip_block()?,
                ".shared" => outer.shared(&mut reader)?,
                ".entry" => module.kernels.push(kernel(&mut reader, &outer, source.clone())?),
                other => return Err(reader.error(format!("`{other}` is not supported here"))),
            }
            reader.eat(';');
        }
        match reader.peek() {
            None => Ok(module),
            Some(_) => Err(reader.error("a directive was expected")),
        }
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}

impl Kernel {
    /// Bytes of the parameter block.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.offset + p.size)
    }

    /// The text of a line of the module this kernel was read from, trimmed; lines count from 1.
    pub fn line(&self, line: u32) -> &str {
        (line as usize).checked_sub(1).and_then(|i| self.source.get(i)).map_or("", |s| s.as_str())
    }

    /// Whether it has `atom` or `red`, so that the order of its blocks may show in its results.
    pub fn has_atomics(&self) -> bool {
        self.mnemonics.iter().any(|m| m.starts_with("atom.") || m.starts_with("red."))
    }
}

/// `name(.param …) .maxntid … { … }`
fn kernel<'a>(
    reader: &mut Reader<'a, '_>,
    outer: &Declarations<'a>,
    source: Arc<[String]>,
) -> Result<Kernel, ParseError> {
    let name = reader.name()?.to_owned();
    let mut scope = outer.clone();
    let parameters = parameters(reader, &mut scope)?;
    let (mut max_threads, mut exact_threads, mut max_registers) = (None, false, None);
    while let Some(word) = reader.word() {
        match word {
            ".maxntid" | ".reqntid" => {
                exact_threads = word == ".reqntid";
                max_threads = Some(product(reader)?);
            }
            ".maxnreg" => max_registers = Some(reader.number()?),
            ".minnctapersm" => drop(reader.number()?),
            other => return Err(reader.error(format!("`{other}` is not supported on a kernel"))),
        }
    }
    let (statements, labels) = body(reader, &mut scope)?;
    let dynamic_shared_offset = scope.place_dynamic();
    let (code, mnemonics) = assemble(&statements, &scope.symbols, &labels)?;
    Ok(Kernel {
        name,
        parameters,
        registers: scope.registers,
        static_shared: scope.static_shared,
        dynamic_shared_offset,
        max_threads,
        max_registers,
        exact_threads,
        code,
        mnemonics,
        source,
    })
}

/// `128, 1, 1` multiplied out.
fn product(reader: &mut Reader<'_, '_>) -> Result<u32, ParseError> {
    let mut product = reader.number()?;
    while reader.eat(',') {
        product = product.saturating_mul(reader.number()?);
    }
    Ok(product)
}

fn parameters<'a>(
    reader: &mut Reader<'a, '_>,
    scope: &mut Declarations<'a>,
) -> Result<Vec<Parameter>, ParseError> {
    let mut out: Vec<Parameter> = Vec::new();
    if !reader.eat('(') {
        return Ok(out);
    }
    while !reader.eat(')') {
        if reader.name()? != ".param" {
            return Err(reader.error("`.param` was expected"));
        }
        let mut align = alignment(reader)?;
        let ty = declared_type(reader)?;
        let mut word = reader.name()?;
        while word.starts_with('.') {
            // `.ptr .global .align 16` speaks of what is pointed at.
            if word == ".align" {
                reader.number()?;
            }
            word = reader.name()?;
        }
        let mut size = ty.bytes();
        if reader.eat('[') {
            size *= reader.number()? as usize;
            reader.expect(']')?;
        }
        let end = out.last().map_or(0, |p| p.offset + p.size);
        let offset = end.next_multiple_of(*align.get_or_insert(ty.bytes()));
        scope.symbols.insert(word.into(), Symbol::Param(offset));
        out.push(Parameter { name: word.to_owned(), offset, size });
        reader.eat(',');
    }
    Ok(out)
}

/// Statements of a body and the labels among them.
type Body<'a> = (Vec<Statement<'a>>, HashMap<&'a str, usize>);

/// Reads to the closing brace: declarations into `scope`, the rest as raw statements.
fn body<'a>(
    reader: &mut Reader<'a, '_>,
    scope: &mut Declarations<'a>,
) -> Result<Body<'a>, ParseError> {
    let (mut statements, mut labels) = (Vec::new(), HashMap::new());
    reader.expect('{')?;
    let mut depth = 1;
    while depth > 0 {
        if reader.eat('{') {
            depth += 1;
        } else if reader.eat('}') {
            depth -= 1;
        } else if !reader.eat(';') {
            statement(reader, scope, &mut statements, &mut labels)?;
        }
    }
    Ok((statements, labels))
}

fn statement<'a>(
    reader: &mut Reader<'a, '_>,
    scope: &mut Declarations<'a>,
    statements: &mut Vec<Statement<'a>>,
    labels: &mut HashMap<&'a str, usize>,
) -> Result<(), ParseError> {
    match reader.peek() {
        None => return Err(reader.error("unclosed kernel body")),
        Some(Token::Word(word)) if word.starts_with('.') => {
            reader.next();
            return match word {
                ".reg" => scope.registers(reader),
                ".shared" => scope.shared(reader),
                ".loc" => {
                    reader.rest_of_line();
                    Ok(())
                }
                ".pragma" => {
                    reader.skip_statement();
                    Ok(())
                }
                other => Err(reader.error(format!("`{other}` is not supported in a kernel"))),
            };
        }
        _ => {}
    }
    let line = reader.line();
    let mut found = Vec::new();
    while !reader.eat(';') {
        let token = reader.next().ok_or_else(|| reader.error("`;` was expected"))?;
        if let ([Token::Word(label)], Token::Punct(':')) = (found.as_slice(), token) {
            if labels.insert(*label, statements.len()).is_some() {
                return Err(ParseError::new(line, format!("label `{label}` stands twice")));
            }
            return Ok(());
        }
        found.push(token);
    }
    statements.push(Statement { tokens: found, line });
    Ok(())
}
