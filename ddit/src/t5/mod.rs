//! The T5 v1.1 encoder: from token ids to the states that the transformer reads a text by.
//!
//! There is no attention mask anywhere: padding is a token like others, and the model has learnt
//! with it. Weights may be in half precision; they are read as they are and computed in f32, in
//! which the activations of the largest encoder have room. Source: Raffel et al. 2020; Shazeer
//! 2020.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | the geometry |
//! | [`mod@bucket`] | relative positions |
//! | `embedding` | tokens, and rows of the table that are learnt alone |
//! | `block` | attention and feed-forward |
//! | `encoder` | the whole, and the inventory of its tensors |

mod block;
pub mod bucket;
mod config;
mod embedding;
mod encoder;

pub use block::Block;
pub use config::T5Config;
pub use embedding::{Embedding, load_row, save_row, with_row};
pub use encoder::{T5Encoder, inventory, relative_bias};
