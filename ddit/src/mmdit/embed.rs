//! From latents, times and texts to the tokens and the vector that the blocks work on.

use autograd::{Params, Var, compute_dtype};
use tensor::{DType, Error, Result, Tensor};

use crate::config::TransformerConfig;
use crate::layers::Linear;
use crate::text::Tokens;

/// Width of the time features.
pub const TIME_FEATURES: usize = 256;

/// Cuts latents into patches, embeds each, and adds the embedding of its place.
///
/// A patch is a row of C_in·P·P numbers, and the convolution of stride P that the checkpoint
/// stores is a linear map of such rows.
#[derive(Debug)]
pub struct PatchEmbed {
    /// The convolution: weight \[C, C_in, P, P\].
    proj: Linear,
    /// The table of places \[M, M, C\].
    table: Tensor,
    patch: usize,
}

impl PatchEmbed {
    /// The embedding whose parameters stand at `params`.
    pub fn new(config: &TransformerConfig, params: &Params) -> Result<Self> {
        let side = config.pos_embed_max_size;
        let table = params.get("pos_embed")?.value().reshape([side, side, config.width()])?;
        Ok(Self { proj: Linear::new(&params.scope("proj"))?, table, patch: config.patch_size })
    }

    /// The tokens of latents, row by row, and their rows and columns; what remains of a side
    /// that is no multiple of P is left out.
    ///
    /// Shapes: `latents` \[B, C_in, height, width\] → \[B, N, C\].
    /// Errors: not that many axes; sides shorter than a patch or longer than the table.
    #[track_caller]
    pub fn forward(&self, latents: &Var) -> Result<(Var, [usize; 2])> {
        let latents = latents.to_device(&self.proj.weight.device())?;
        let [batch, channels, height, width] = latents.dims()?;
        let (patch, patch_size) = (self.patch, channels * self.patch * self.patch);
        let (rows, columns) = (height / patch, width / patch);
        let places = centre(&self.table, rows, columns)?.to_dtype(latents.dtype());
        let patches = latents
            .narrow(2, 0, rows * patch)?
            .narrow(3, 0, columns * patch)?
            .reshape([batch, channels, rows, patch, columns, patch])?
            .permute(&[0, 2, 4, 1, 3, 5])?
            .reshape([batch, rows * columns, patch_size])?;
        let weight = self.proj.weight.reshape([self.proj.weight.shape()[0], patch_size])?;
        let tokens = patches.linear(&weight, Some(&self.proj.bias))?;
        Ok((tokens.add(&Var::constant(places))?, [rows, columns]))
    }
}

/// The middle of a table of places, row by row: so a larger picture keeps the places of the smaller
/// one in its centre.
///
/// Shapes: `table` \[M, M, C\] → \[rows·columns, C\].
/// Errors: no rows or columns, or more than M.
#[track_caller]
pub fn centre(table: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    let [side, _, width] = table.dims()?;
    if rows == 0 || columns == 0 || rows > side || columns > side {
        let message = format!("{rows} x {columns} patches; 1 to {side} a side are possible");
        return Err(Error::value("patch embedding", message));
    }
    let (top, left) = ((side - rows) / 2, (side - columns) / 2);
    table.narrow(0, top, rows)?.narrow(1, left, columns)?.reshape([rows * columns, width])
}

/// Numbers in the largest table of places, 2 GiB of them: nine times as many as SD3-medium has.
const LARGEST_TABLE: usize = 1 << 29;

/// Refuses a table of `side` × `side` places of `width` numbers that is too large to be meant.
///
/// Errors: it has more than 2²⁹ numbers.
pub fn check_table(width: usize, side: usize) -> Result<()> {
    let numbers = side.checked_mul(side).and_then(|places| places.checked_mul(width));
    if numbers.is_none_or(|numbers| numbers > LARGEST_TABLE) {
        let message = format!("{side} x {side} places of {width} numbers are too many");
        return Err(Error::value("position table", message));
    }
    Ok(())
}

/// The table of places \[1, M·M, C\]: sines and cosines of the column, then of the row.
///
/// With ωᵢ = 10000^(−4i/C) and p(k) = k · base / M, a column k has the C/2 numbers
/// \[sin p(k)ω₀ .., cos p(k)ω₀ ..\], and so has a row; base is the side that counts in whole steps.
/// Positions are rounded to `f32` first, as they were for the published weights.
/// Their mean square is ½. Source: Vaswani et al. 2017, §3.5, in two dimensions.
pub fn position_table(width: usize, side: usize, base: usize) -> Tensor {
    let quarter = width / 4;
    let axis = |k: usize| {
        let position = f64::from(k as f32 / (side as f64 / base as f64) as f32);
        let angle = move |i: usize| position * 1e4_f64.powf(-(i as f64) / quarter as f64);
        let sines = (0..quarter).map(move |i| angle(i).sin() as f32);
        sines.chain((0..quarter).map(move |i| angle(i).cos() as f32)).collect::<Vec<_>>()
    };
    let axes: Vec<Vec<f32>> = (0..side).map(axis).collect();
    Tensor::build([1, side * side, width], |table: &mut [f32]| {
        for (place, entry) in table.chunks_exact_mut(width).enumerate() {
            let (of_column, of_row) = entry.split_at_mut(width / 2);
            of_column.copy_from_slice(&axes[place % side]);
            of_row.copy_from_slice(&axes[place / side]);
        }
    })
}

/// Turns a time into the vector that modulates every block.
#[derive(Debug)]
pub struct TimeEmbed {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbed {
    /// The embedding whose parameters stand at `params`.
    pub fn new(params: &Params) -> Result<Self> {
        let linear = |name| Linear::new(&params.scope(name));
        Ok(Self { linear_1: linear("linear_1")?, linear_2: linear("linear_2")? })
    }

    /// The [features](time_features) of times, as [`forward`](Self::forward) takes them.
    ///
    /// Shapes: B times → \[B, 256\].
    #[track_caller]
    pub fn features(&self, times: &[f32]) -> Result<Var> {
        let dtype = compute_dtype(self.linear_1.weight.dtype());
        Ok(Var::constant(time_features(times, TIME_FEATURES, dtype)?))
    }

    /// Shapes: `features` \[B, 256\] → \[B, C\].
    #[track_caller]
    pub fn forward(&self, features: &Var) -> Result<Var> {
        let features = features.to_device(&self.linear_1.weight.device())?;
        self.linear_2.forward(&self.linear_1.forward(&features)?.silu()?)
    }
}

/// Sinusoidal features of times: all cosines of `t fᵢ`, then all sines, with
/// fᵢ = 10000^(−2i/width). Angles are computed in `f64`: at t = 1000 an `f32` angle is off by 6e-5.
///
/// Shapes: B times → \[B, width\].
pub fn time_features(times: &[f32], width: usize, dtype: DType) -> Result<Tensor> {
    let half = width / 2;
    let angle = |t: f32, i: usize| f64::from(t) * 1e4_f64.powf(-(i as f64) / half as f64);
    let features = times.iter().flat_map(|&t| {
        let cosines = (0..half).map(move |i| angle(t, i).cos());
        cosines.chain((0..half).map(move |i| angle(t, i).sin()))
    });
    let features: Vec<f64> = features.collect();
    Ok(Tensor::from_vec(features, [times.len(), 2 * half])?.to_dtype(dtype))
}

/// A text on its way into the model.
#[derive(Clone, Copy, Debug)]
pub enum TextInput<'a> {
    /// States of a text encoder \[B, L, E\].
    States(&'a Var),
    /// Token ids, L to a sample, for a model that embeds them itself.
    Ids(&'a [u32], usize),
    /// The same, looked up before.
    Tokens(&'a Tokens),
}

/// Makes text tokens, from a text encoder's states or from ids.
#[derive(Debug)]
pub enum TextEmbed {
    /// A linear map of states. The encoder has told them of their order.
    States(Linear),
    /// A row for every id, and one for every place.
    Ids {
        /// \[V, C\].
        embedding: Var,
        /// \[1, L_max, C\].
        places: Var,
    },
}

impl TextEmbed {
    /// The embedding whose parameters stand in the model's own store.
    pub fn new(config: &TransformerConfig, params: &Params) -> Result<Self> {
        if config.text_embedding {
            let embedding = params.scope("token_embedding").get("weight")?;
            return Ok(Self::Ids { embedding, places: params.get("text_pos_embed")? });
        }
        Ok(Self::States(Linear::new(&params.scope("context_embedder"))?))
    }

    /// Texts of `length` tokens, as a model that embeds ids looks them up.
    ///
    /// Errors: a model of states; more tokens than there are places; a word beyond the table.
    #[track_caller]
    pub fn tokens(&self, ids: &[u32], length: usize) -> Result<Tokens> {
        let Self::Ids { embedding, places } = self else { return Err(takes_states()) };
        let [_, most, _] = places.dims()?;
        if length == 0 || length > most || !ids.len().is_multiple_of(length) {
            let message =
                format!("{} ids in texts of {length}; texts have 1 to {most} tokens", ids.len());
            return Err(Error::value("text embedding", message));
        }
        Tokens::new(ids, length, embedding.shape()[0])
    }

    /// Shapes: B texts of L tokens → \[B, L, C\].
    /// Errors: ids for a model of states, or the reverse; those of [`tokens`](Self::tokens).
    #[track_caller]
    pub fn forward(&self, text: TextInput) -> Result<Var> {
        match (self, text) {
            (Self::States(linear), TextInput::States(states)) => {
                linear.forward(&states.to_device(&linear.weight.device())?)
            }
            (_, TextInput::Ids(ids, length)) => {
                self.forward(TextInput::Tokens(&self.tokens(ids, length)?))
            }
            (Self::Ids { embedding, places }, TextInput::Tokens(tokens)) => {
                let embedded = embedding.embedding(&tokens.table, tokens.shape())?;
                embedded.add(&places.narrow(1, 0, tokens.length)?)
            }
            (Self::States(_), TextInput::Tokens(_)) => Err(takes_states()),
            (Self::Ids { .. }, TextInput::States(_)) => Err(Error::value(
                "text embedding",
                "this model embeds token ids itself, and takes no states",
            )),
        }
    }
}

fn takes_states() -> Error {
    Error::value("text embedding", "this model takes a text encoder's states, not token ids")
}
