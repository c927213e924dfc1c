//! Numbers of rows, as the device reads them that looks the rows up.

use kernels::gather::ptx::Groups;
use tensor::{Error, Result, Tensor};

/// Numbers of rows of a table, checked once.
///
/// They are tensors, so that whoever records what a GPU does can hand it others of the same count:
/// [`map`](Self::map) goes through these. [`Var::index_rows`](crate::Var::index_rows) makes them
/// where the rows are known beforehand.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Rows of the table.
    table: usize,
    /// n, int32.
    numbers: Tensor,
    /// What a GPU adds gradients by: the [`Groups`]' order, starts and rows, 3 n + 1, int32.
    groups: Option<Tensor>,
}

impl Rows {
    /// Numbers of rows of a table of so many.
    ///
    /// Errors: no such row.
    #[track_caller]
    pub fn new(rows: &[usize], table: usize) -> Result<Self> {
        if let Some(row) = rows.iter().find(|&&row| row >= table) {
            return Err(Error::value("rows", format!("no row {row} among {table}")));
        }
        Ok(Self { table, numbers: int32(rows)?, groups: None })
    }

    /// The same, with what a GPU adds gradients by: sorted here, once.
    ///
    /// Errors: the numbers are not in this machine's memory.
    #[track_caller]
    pub fn grouped(self) -> Result<Self> {
        let Groups { order, starts, rows } = Groups::of(&self.here()?);
        Ok(Self { groups: Some(int32(&[order, starts, rows].concat())?), ..self })
    }

    /// The same with other tensors of the same shapes in the place of its own: moved to a device,
    /// or the numbers of another step.
    ///
    /// Errors: those of `f`.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let (numbers, groups) = (f(&self.numbers)?, self.groups.as_ref().map(f).transpose()?);
        Ok(Self { table: self.table, numbers, groups })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.numbers.numel()
    }

    /// Rows of the table that they are of.
    pub(crate) fn table(&self) -> usize {
        self.table
    }

    /// Whether a GPU can add gradients by them.
    pub(crate) fn is_grouped(&self) -> bool {
        self.groups.is_some()
    }

    /// The numbers, where the device has them.
    pub(crate) fn numbers(&self) -> &Tensor {
        &self.numbers
    }

    /// Order, starts and rows of the groups, where the device has them.
    pub(crate) fn groups(&self) -> Result<[Tensor; 3]> {
        let Some(groups) = &self.groups else {
            return Err(Error::value("scatter_rows", "the rows are not grouped"));
        };
        let n = self.count();
        Ok([groups.narrow(0, 0, n)?, groups.narrow(0, n, n + 1)?, groups.narrow(0, 2 * n + 1, n)?])
    }

    /// The numbers as the CPU's kernels take them.
    pub(crate) fn here(&self) -> Result<Vec<usize>> {
        Ok(self.numbers.slice::<i32>()?.iter().map(|&row| row as usize).collect())
    }
}

/// Numbers as a GPU takes them.
fn int32(numbers: &[usize]) -> Result<Tensor> {
    let fits = |&n| i32::try_from(n).map_err(|_| Error::value("rows", format!("{n} is too many")));
    let numbers = numbers.iter().map(fits).collect::<Result<Vec<i32>>>()?;
    let shape = [numbers.len()];
    Tensor::from_vec(numbers, shape)
}
