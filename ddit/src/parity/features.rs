//! Features of times and places.

use autograd::Var;
use tensor::{DType, Error, Result, Tensor};

use super::Trial;
use crate::mmdit::{self, centre};
use crate::t5::bucket::bucket;
use crate::t5::{T5Config, relative_bias};

/// `out.emb{width}`, and `aux.emb{width}_f64` in double precision.
pub fn timestep_features(trial: &mut Trial) -> Result<()> {
    trial.expect("max_period", 10_000)?;
    trial.expect("flip_sin_to_cos", true)?;
    trial.expect("downscale_freq_shift", 0)?;
    let times = trial.floats("in.t")?;
    for (prefix, suffix, dtype) in [("out.emb", "", DType::F32), ("aux.emb", "_f64", DType::F64)] {
        for (name, width) in trial.names(prefix) {
            if let Some(Ok(width)) = width.strip_suffix(suffix).map(str::parse) {
                if trial.get(&name)?.shape().last() != Some(&width) {
                    let message = format!("its rows are not the {width} numbers its name says");
                    return Err(Error::value("parity", message).key(&name));
                }
                trial.compare(&name, &mmdit::time_features(&times, width, dtype)?)?;
            }
        }
    }
    Ok(())
}

/// `out.table`, and `out.crop_{rows}x{columns}`, its middle.
pub fn position_table(trial: &mut Trial) -> Result<()> {
    let table = table(trial)?;
    trial.compare("out.table", &table.flatten(0, 1)?.unsqueeze(0)?)?;
    for (name, size) in trial.names("out.crop_") {
        let sides = size.split_once('x').map(|(rows, columns)| (rows.parse(), columns.parse()));
        if let Some((Ok(rows), Ok(columns))) = sides {
            trial.compare(&name, &centre(&table, rows, columns)?.unsqueeze(0)?)?;
        }
    }
    Ok(())
}

/// `out.rows`, the places of the table whose row and column `in.row_col` names.
pub fn position_rows(trial: &mut Trial) -> Result<()> {
    let table = table(trial)?;
    let [side, ..] = table.dims::<3>()?;
    let places = trial.ids("in.row_col")?;
    let place = |cell: &[u32]| match *cell {
        [row, column] if (row as usize) < side && (column as usize) < side => {
            Ok(row as usize * side + column as usize)
        }
        _ => Err(Error::value("position table", format!("no place {cell:?} of {side} x {side}"))),
    };
    let places = places.chunks(2).map(place).collect::<Result<Vec<_>>>()?;
    trial.compare("out.rows", &table.flatten(0, 1)?.index_rows(&places)?)
}

/// The buckets of relative positions, and `out.bias_{length}`, what the table makes of them.
pub fn relative_positions(trial: &mut Trial) -> Result<()> {
    let (buckets, distance) = (trial.config("num_buckets")?, trial.config("max_distance")?);
    T5Config::check_positions(buckets, distance)
        .map_err(|error| trial.malformed("config", error.message()))?;
    let relative = trial.get("in.rel")?.to_dtype(DType::I64).to_vec::<i64>()?;
    let found: Vec<i64> =
        relative.iter().map(|&r| bucket(r as isize, buckets, distance) as i64).collect();
    trial.compare_numbers("out.bucket", &found)?;
    let table = Var::constant(trial.get("in.table")?);
    let [rows, _] = table.dims()?;
    if rows != buckets {
        let message = format!("{rows} rows for {buckets} buckets");
        return Err(trial.malformed("tensors.in.table", message));
    }
    for (name, length) in trial.names("out.bias_") {
        if let Ok(length) = length.parse() {
            let bias = relative_bias(&table, distance, length)?.value();
            trial.compare(&name, &bias.unsqueeze(0)?)?;
        }
    }
    Ok(())
}

/// The table \[M, M, C\] that the configuration describes.
fn table(trial: &Trial) -> Result<Tensor> {
    let [width, side, base] = ["dim", "pos_embed_max_size", "base_size"].map(|key| {
        let number: usize = trial.config(key)?;
        if number == 0 {
            Err(trial.malformed(&format!("config.{key}"), "is 0"))
        } else {
            Ok(number)
        }
    });
    let (width, side, base) = (width?, side?, base?);
    if !width.is_multiple_of(4) {
        return Err(trial.malformed("config.dim", format!("{width} is no multiple of 4")));
    }
    mmdit::check_table(width, side)
        .map_err(|error| trial.malformed("config.pos_embed_max_size", error.message()))?;
    mmdit::position_table(width, side, base).reshape([side, side, width])
}
