//! The dual diffusion transformer (D-DiT), from latents and text to velocity and words.
//!
//! It computes where its weights lie: latents, states, times and ids are brought there.
//!
//! | file | what it holds |
//! |---|---|
//! | `embed` | tokens from patches, ids or states; the vector of a time |
//! | `block` | the joint block, and what of it can be left out |
//! | `model` | the whole: embeddings, blocks, the two heads |
//! | `inventory` | names, shapes and beginnings of the tensors |

mod block;
mod embed;
mod inventory;
mod model;

pub use embed::{TextInput, centre, check_table, position_table, time_features};
pub use inventory::{NULL_IMAGE_TOKENS, inventory};
pub use model::{Mmdit, Observer};

#[cfg(test)]
mod tests;
