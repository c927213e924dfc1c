//! Denoisers that are tables: small, arbitrary, and exactly enumerable.

use samplers::masked::Query;
use tensor::rng::Rng;
use tensor::{DType, Result, Tensor};

/// Token ids 0, 2 and 3; the mask in their midst.
pub const VOCAB: usize = 4;
/// The mask.
pub const MASK: i64 = 1;

/// Arbitrary logits for a row, at one position, on behalf of a batch item: a fixed function of
/// these, so it depends on every token seen. → \[V\].
pub fn logits(row: &[i64], position: usize, item: usize) -> Vec<f64> {
    let code = row.iter().fold(item as u64, |code, &token| code * 7 + token as u64 + 1);
    let rng = Rng::new(code).stream(position as u64);
    // Rounded to what f32 holds, so that a denoiser may answer in either type.
    (0..VOCAB as u64).map(|v| f64::from((1.5 * rng.normal_at(v)) as f32)).collect()
}

/// The clean tokens' probabilities: softmax without the mask.
pub fn probabilities(row: &[i64], position: usize, item: usize) -> Vec<f64> {
    let mut p: Vec<f64> = logits(row, position, item).into_iter().map(f64::exp).collect();
    p[MASK as usize] = 0.0;
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
    p
}

/// The table as a denoiser that answers everywhere, in single precision; where nothing should be
/// read it answers NaN.
///
/// Errors: the question is not about rows of tokens.
pub fn everywhere(query: &Query) -> Result<Tensor> {
    let [rows, length] = query.ids.dims()?;
    let ids = query.ids.to_vec::<i64>()?;
    let mut all = vec![f32::NAN; rows * length * VOCAB];
    for &cell in query.masked {
        let (slot, position) = (cell / length, cell % length);
        let row = &ids[slot * length..][..length];
        let line = &mut all[cell * VOCAB..][..VOCAB];
        let answer = logits(row, position, query.items[slot]);
        line.iter_mut().zip(answer).for_each(|(out, logit)| *out = logit as f32);
    }
    Tensor::from_vec(all, [rows, length, VOCAB])
}

/// The table as a denoiser that answers at masked positions alone, in double precision.
///
/// Errors: as [`everywhere`].
pub fn at_masks(query: &Query) -> Result<Tensor> {
    let every = everywhere(query)?.to_dtype(DType::F64);
    let [rows, length] = query.ids.dims()?;
    every.reshape([rows * length, VOCAB])?.index_rows(query.masked)
}

/// A denoiser of items all alike.
///
/// Errors: as [`everywhere`].
pub fn same_for_all(query: &Query) -> Result<Tensor> {
    at_masks(&Query { items: &vec![0; query.items.len()], ..*query })
}
