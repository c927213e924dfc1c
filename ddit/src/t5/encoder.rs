//! The whole encoder.

use std::sync::Arc;

use autograd::{Params, Var, checkpoint, scope};
use tensor::Result;

use crate::text::Tokens;
use crate::weights::{Inventory, Start};

use super::bucket::bucket;
use super::{Block, Embedding, T5Config};

/// The table of biases by relative position, which the first block holds for all.
const POSITIONS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";

/// The tensors of an encoder of this geometry, and how they begin.
///
/// A file may carry the embedding under a second name, instead or as well.
/// Source of the beginnings: those of the published models' own code, Raffel et al. 2020, §3.1.1.
pub fn inventory(config: &T5Config) -> Inventory {
    let mut list = Inventory::default();
    let (width, heads) = (config.d_model, config.num_heads);
    list.tensor("shared.weight", [config.vocab_size, width], Start::Normal { deviation: 1.0 });
    list.alias("encoder.embed_tokens.weight", "shared.weight");
    let deviation = (width as f64).sqrt().recip();
    let buckets = config.relative_attention_num_buckets;
    list.tensor(POSITIONS, [buckets, heads], Start::Normal { deviation });
    for i in 0..config.num_layers {
        Block::list(&mut list, &format!("encoder.block.{i}"), config);
    }
    list.tensor("encoder.final_layer_norm.weight", [width], Start::Ones);
    list
}

/// The encoder.
#[derive(Debug)]
pub struct T5Encoder {
    config: T5Config,
    embedding: Embedding,
    /// \[buckets, H\].
    positions: Var,
    /// Shared with the graphs of checkpointed passes, which run them again.
    blocks: Vec<Arc<Block>>,
    final_norm: Var,
    checkpointing: bool,
    /// What the blocks are made of, if they let go of it when they have run.
    streamed: Option<Params>,
}

impl T5Encoder {
    /// The encoder of this geometry on these parameters, which are those of [`inventory`].
    ///
    /// Errors: the geometry is impossible; a parameter is missing.
    pub fn new(config: T5Config, params: &Params) -> Result<Self> {
        config.check()?;
        let block = |i: usize| {
            let params = params.scope("encoder.block").scope(&i.to_string());
            Ok(Arc::new(Block::new(&config, &params)?))
        };
        Ok(Self {
            embedding: Embedding::new(&params.scope("shared"))?,
            positions: params.get(POSITIONS)?,
            blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            final_norm: params.scope("encoder.final_layer_norm").get("weight")?,
            checkpointing: false,
            streamed: None,
            config,
        })
    }

    /// Sets whether a training pass keeps only the stream between blocks, and runs each block
    /// again on the way back: a third more arithmetic for a fraction of the memory.
    pub fn with_checkpointing(mut self, on: bool) -> Self {
        self.checkpointing = on;
        self
    }

    /// Makes every block give back the memory of its weights as soon as it has run, as
    /// [`Mmdit::streaming`](crate::mmdit::Mmdit::streaming) does. `params` are the encoder's.
    pub fn streaming(mut self, params: &Params) -> Self {
        self.streamed = Some(params.scope("encoder.block"));
        self
    }

    /// The geometry.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The embedding of the tokens.
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// The blocks, for whoever looks at the stream between them.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().map(Arc::as_ref)
    }

    /// Makes the embedding of token `id` a parameter, and the only thing of a frozen encoder that
    /// learns; the table itself stays as it is. Returns the parameter \[C\].
    ///
    /// Errors: no such token.
    #[track_caller]
    pub fn train_row(&mut self, id: u32) -> Result<Var> {
        let row = Var::parameter(self.embedding.row(id)?);
        self.embedding.set_row(id, row.clone())?;
        Ok(row)
    }

    /// Lets `row` \[C\] stand in for the embedding of token `id`: one that was learnt before.
    ///
    /// Errors: as [`Embedding::set_row`].
    #[track_caller]
    pub fn set_row(&mut self, id: u32, row: Var) -> Result<()> {
        self.embedding.set_row(id, row)
    }

    /// What is added to the scores of texts of `length` tokens in every block.
    ///
    /// Shapes: → \[H, L, L\], of queries and keys.
    #[track_caller]
    pub fn relative_bias(&self, length: usize) -> Result<Var> {
        relative_bias(&self.positions, self.config.relative_attention_max_distance, length)
    }

    /// The states of texts of `length` tokens each.
    ///
    /// Shapes: `ids` B · L → \[B, L, C\]. Cost: 2 flop a weight and token outside the embedding,
    /// and the attentions'. Errors: `ids` are no whole number of texts; an id beyond the table.
    #[track_caller]
    pub fn forward(&self, ids: &[u32], length: usize) -> Result<Var> {
        self.states(&self.embedding.tokens(ids, length)?)
    }

    /// The states of texts that were [looked up](Embedding::tokens) before.
    ///
    /// Shapes, cost: as [`forward`](Self::forward). Errors: they are of another table.
    #[track_caller]
    pub fn states(&self, tokens: &Tokens) -> Result<Var> {
        let length = tokens.length;
        let mut x = self.embedding.embed(tokens)?;
        let bias = self.relative_bias(length)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = scope(&format!("encoder.block.{i}"), || {
                // Nothing leads back through a stream that is not tracked.
                if !(self.checkpointing && x.is_tracked()) {
                    return block.forward(&x, &bias);
                }
                let block = block.clone();
                let run = move |[x, bias]: [Var; 2]| Ok([block.forward(&x, &bias)?]);
                checkpoint([&x, &bias], run).map(|[x]| x)
            })?;
            if let Some(params) = &self.streamed {
                params.scope(&i.to_string()).unload();
            }
        }
        x.rms_norm(&self.final_norm, self.config.layer_norm_epsilon)
    }
}

/// biasₕqk = table\[bucket(k − q), h\].
///
/// Shapes: `table` \[buckets, H\] → \[H, L, L\].
#[track_caller]
pub fn relative_bias(table: &Var, max_distance: usize, length: usize) -> Result<Var> {
    let [buckets, heads] = table.dims()?;
    let place = |i: usize| {
        let [query, key] = [i / length, i % length].map(usize::cast_signed);
        bucket(key - query, buckets, max_distance)
    };
    let places: Vec<usize> = (0..length * length).map(place).collect();
    table.index_rows(&places)?.reshape([length, length, heads])?.permute(&[2, 0, 1])
}

#[cfg(test)]
mod tests;
