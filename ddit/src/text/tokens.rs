//! Token ids as networks look them up.

use autograd::Rows;
use tensor::{Error, Result, Tensor};

/// Texts of one length, as rows of the table that embeds them.
///
/// They are tensors, so that they may be the inputs of what a GPU has recorded: see
/// [`map`](Self::map).
#[derive(Clone, Debug)]
pub struct Tokens {
    /// A row of the table for each of B·L tokens.
    pub(crate) table: Rows,
    /// Where single rows learn, each token's place among those of the table and after them the
    /// rows that learn.
    pub(crate) places: Option<Rows>,
    /// L.
    pub(crate) length: usize,
}

impl Tokens {
    /// Texts of `length` tokens each, which are rows of a table of so many.
    ///
    /// Errors: they are no whole number of texts; an id beyond the table.
    #[track_caller]
    pub(crate) fn new(ids: &[u32], length: usize, table: usize) -> Result<Self> {
        if length == 0 || !ids.len().is_multiple_of(length) {
            let message = format!("{} ids are no texts of {length} tokens", ids.len());
            return Err(Error::value("embedding", message));
        }
        let rows: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        Ok(Self { table: Rows::new(&rows, table)?, places: None, length })
    }

    /// The same, with what a GPU adds gradients by.
    ///
    /// Errors: they are on a GPU already.
    pub fn grouped(self) -> Result<Self> {
        let places = self.places.map(Rows::grouped).transpose()?;
        Ok(Self { table: self.table.grouped()?, places, length: self.length })
    }

    /// The same with other tensors of the same shapes in the place of its own.
    ///
    /// Errors: those of `f`.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let table = self.table.map(f)?;
        let places = self.places.as_ref().map(|places| places.map(f)).transpose()?;
        Ok(Self { table, places, length: self.length })
    }

    /// B and L.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.table.count() / self.length, self.length]
    }
}
