//! Token embeddings of which single rows can be learnt while the table stays as it is.
//!
//! The paper's second stage trains one vector of the whole text encoder: the embedding of the
//! mask token, which T5 knows as an ordinary word. The row is then a variable of its own, \[C\];
//! the table, which may be mapped from a file in half precision, is neither copied nor touched.
//! Source: Li et al. 2025, §4.

use std::collections::BTreeMap;
use std::path::Path;

use autograd::{Params, Rows, Var, compute_dtype};
use tensor::io::safetensors::{self, SafeTensors};
use tensor::{Error, Result, Tensor};

use crate::text::Tokens;
use crate::weights::source;

/// A table of embeddings \[V, C\] and the rows that stand in for some of its own.
#[derive(Debug)]
pub struct Embedding {
    table: Var,
    rows: Vec<(u32, Var)>,
}

impl Embedding {
    /// The embedding whose table is `weight` at `params`.
    pub fn new(params: &Params) -> Result<Self> {
        Ok(Self { table: params.get("weight")?, rows: Vec::new() })
    }

    /// Row `id` as it is now, in the type it is computed in.
    ///
    /// Shapes: → \[C\]. Errors: no such row.
    #[track_caller]
    pub fn row(&self, id: u32) -> Result<Tensor> {
        match self.rows.iter().find(|(own, _)| *own == id) {
            Some((_, row)) => Ok(row.value()),
            None => self.table.detach().index_rows(&[id as usize])?.value().select(0, 0),
        }
    }

    /// Lets `row` \[C\] stand in for row `id` of the table.
    ///
    /// Errors: no such row; another shape; not of the type that the table is computed in.
    #[track_caller]
    pub fn set_row(&mut self, id: u32, row: Var) -> Result<()> {
        let [rows, width] = self.table.dims()?;
        let fits = (id as usize) < rows
            && row.shape()[..] == [width]
            && row.dtype() == compute_dtype(self.table.dtype());
        if !fits {
            let message = format!("this cannot be row {id} of a table of embeddings");
            return Err(Error::shape("embedding", message)
                .operand("row", &row)
                .operand("table", &self.table));
        }
        self.rows.retain(|(own, _)| *own != id);
        self.rows.push((id, row));
        Ok(())
    }

    /// The table with the rows put in, rounded to its type; all other bits are the table's.
    ///
    /// Shapes: → \[V, C\].
    pub fn table(&self) -> Result<Tensor> {
        let mut rows = self.rows.iter();
        rows.try_fold(self.table.value(), |table, (id, row)| with_row(&table, *id, &row.value()))
    }

    /// Texts of `length` tokens, as they are looked up here.
    ///
    /// Errors: `ids` are no whole number of texts; an id beyond the table.
    #[track_caller]
    pub fn tokens(&self, ids: &[u32], length: usize) -> Result<Tokens> {
        let tokens = Tokens::new(ids, length, self.table.shape()[0])?;
        if self.rows.is_empty() {
            return Ok(tokens);
        }
        let place = |(i, &id): (usize, &u32)| {
            let own = self.rows.iter().position(|(own, _)| *own == id);
            own.map_or(i, |row| ids.len() + row)
        };
        let places: Vec<usize> = ids.iter().enumerate().map(place).collect();
        Ok(Tokens { places: Some(Rows::new(&places, ids.len() + self.rows.len())?), ..tokens })
    }

    /// The embeddings of texts of `length` tokens.
    ///
    /// Shapes: `ids` B · L → \[B, L, C\]. Errors: those of [`tokens`](Self::tokens).
    #[track_caller]
    pub fn forward(&self, ids: &[u32], length: usize) -> Result<Var> {
        self.embed(&self.tokens(ids, length)?)
    }

    /// The embeddings of [tokens](Self::tokens).
    ///
    /// Shapes: → \[B, L, C\]. A gradient of a row is the sum over the tokens that it stands for.
    /// Errors: they are of another table.
    #[track_caller]
    pub fn embed(&self, tokens: &Tokens) -> Result<Var> {
        let ([batch, length], width) = (tokens.shape(), self.table.shape()[1]);
        let Some(places) = &tokens.places else {
            return self.table.embedding(&tokens.table, [batch, length]);
        };
        // The tokens by the table, then one token for each row; from these the right ones.
        let mut parts = vec![self.table.embedding(&tokens.table, [batch * length])?];
        for (_, row) in &self.rows {
            parts.push(row.reshape([1, width])?);
        }
        let tokens = Var::cat(&parts.iter().collect::<Vec<_>>(), 0)?.rows(places)?;
        tokens.reshape([batch, length, width])
    }
}

/// A table with `row` as its row `id`, rounded to the table's type; all other bits are the table's.
///
/// Shapes: `table` \[V, C\], `row` \[C\] → \[V, C\]. Errors: no such row; another width.
pub fn with_row(table: &Tensor, id: u32, row: &Tensor) -> Result<Tensor> {
    let ([rows, _], id) = (table.dims()?, id as usize);
    let row = row.to_dtype(table.dtype()).unsqueeze(0)?;
    let after = rows.saturating_sub(id + 1);
    Tensor::cat(&[&table.narrow(0, 0, id)?, &row, &table.narrow(0, id + 1, after)?], 0)
}

/// Writes a row \[C\] as the only tensor, `mask_embedding`, of a file.
///
/// Errors: the operating system's.
pub fn save_row(path: impl AsRef<Path>, row: &Tensor) -> Result<()> {
    safetensors::save(path, [("mask_embedding", source(row))], &BTreeMap::new())
}

/// Reads a row from a file of one tensor, \[C\] or \[1, C\], whatever its name.
///
/// Errors: no such file; not one tensor; another width.
pub fn load_row(path: impl AsRef<Path>, width: usize) -> Result<Tensor> {
    let path = path.as_ref();
    let file = SafeTensors::open(path)?;
    let names: Vec<&str> = file.names().collect();
    let [name] = names[..] else {
        let message = format!("a file of one embedding holds one tensor, not {}", names.len());
        return Err(Error::file("embedding", path, message));
    };
    let row = file.get(name)?;
    match row.shape()[..] {
        [found] | [1, found] if found == width => row.reshape([width]),
        _ => Err(Error::file("embedding", path, format!("the tensor is not [{width}]"))
            .operand("tensor", &row)
            .key(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::DType;
    use tensor::rng::Rng;

    fn embedding(dtype: DType) -> Embedding {
        let table = Rng::new(1).normal([5, 3], DType::F32).unwrap().to_dtype(dtype);
        let params = [("weight".to_owned(), Var::constant(table))];
        Embedding::new(&Params::from_vars(params).unwrap()).unwrap()
    }

    #[test]
    fn rows_stand_in_where_their_token_is() {
        let mut embedding = embedding(DType::BF16);
        let ids = [4, 2, 0, 2];
        let plain = embedding.forward(&ids, 2).unwrap().value();
        let row = Var::parameter(embedding.row(2).unwrap());
        embedding.set_row(2, row.clone()).unwrap();
        let tokens = embedding.forward(&ids, 2).unwrap();
        assert_eq!(tokens.value().to_f64_vec(), plain.to_f64_vec(), "the row begins as it was");
        let grads = tokens.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&row).unwrap().to_f64_vec(), [2.0; 3], "its token is there twice");

        let before = embedding.table().unwrap();
        row.set_value(Tensor::from_vec(vec![1.0_f32, 2.0, 3.0], [3]).unwrap()).unwrap();
        let tokens = embedding.forward(&ids, 2).unwrap().value().to_f64_vec();
        assert_eq!(tokens[3..6], [1.0, 2.0, 3.0]);
        assert_eq!(tokens[9..], [1.0, 2.0, 3.0]);
        assert_eq!(
            (&tokens[..3], &tokens[6..9]),
            (&plain.to_f64_vec()[..3], &plain.to_f64_vec()[6..9])
        );
        let after = embedding.table().unwrap();
        assert_eq!(after.dtype(), DType::BF16);
        let [mut before, after] = [before, after].map(|table| table.to_f64_vec());
        before[6..9].copy_from_slice(&[1.0, 2.0, 3.0]);
        assert_eq!(after, before);
    }

    #[test]
    fn rows_are_files_of_one_tensor() {
        let (folder, row) = (tempfile::tempdir().unwrap(), Tensor::arange(3, DType::F32));
        let path = folder.path().join("mask.safetensors");
        save_row(&path, &row).unwrap();
        assert_eq!(load_row(&path, 3).unwrap().to_f64_vec(), [0.0, 1.0, 2.0]);
        let error = load_row(&path, 4).unwrap_err().to_string();
        assert!(error.contains("mask_embedding") && error.contains("[4]"), "{error}");
        safetensors::save(&path, [("any", &row.unsqueeze(0).unwrap())], &BTreeMap::new()).unwrap();
        assert_eq!(*load_row(&path, 3).unwrap().shape(), [3]);
        safetensors::save(&path, [("a", &row), ("b", &row)], &BTreeMap::new()).unwrap();
        assert!(load_row(&path, 3).unwrap_err().to_string().contains("not 2"));
    }

    #[test]
    fn misfits_are_errors() {
        let mut embedding = embedding(DType::F32);
        let row = |width, dtype| Var::constant(Tensor::zeros([width], dtype));
        assert!(embedding.set_row(5, row(3, DType::F32)).is_err());
        assert!(embedding.set_row(0, row(4, DType::F32)).is_err());
        assert!(embedding.set_row(0, row(3, DType::F64)).is_err());
        assert!(embedding.row(5).is_err());
        assert!(embedding.forward(&[0, 1, 2], 2).is_err());
        assert!(embedding.forward(&[], 0).is_err());
        assert!(embedding.forward(&[5], 1).is_err());
    }
}
