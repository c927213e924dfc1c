//! From PTX text to [`Module`]: tokens, declarations, statements, operands.
//!
//! Decoding what an instruction *means* is [`crate::decode`]'s part.

mod declarations;
mod lex;
mod mnemonic;
mod module;
mod operand;
mod reader;
mod statements;

pub(crate) use mnemonic::Mnemonic;
pub use module::{Kernel, Module, Parameter, Registers};
pub(crate) use operand::Operand;
