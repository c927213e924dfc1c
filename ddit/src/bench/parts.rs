//! The networks around the transformer alone: a text encoder, an autoencoder, and reading a model.
//!
//! Sizes and counts are those of the baseline script in PyTorch that ours is compared with.

use autograd::{Params, Var, no_grad};
use serde_json::Map;
use tensor::rng::Rng;
use tensor::{DType, Result};

use crate::config::VaeConfig;
use crate::folder::{Component, Folder};
use crate::t5::{self, T5Config, T5Encoder};
use crate::vae::{self, AutoencoderKl};
use crate::weights::Inventory;

/// An autoencoder that decodes one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaeCase {
    /// What the command line calls it.
    pub name: &'static str,
    /// Channels of the levels, from the picture's resolution to the latents'.
    pub levels: &'static [usize],
    /// Channels of the latents.
    pub latents: usize,
    /// Side of the latents.
    pub side: usize,
}

/// SD3's autoencoder at 512 x 512, and one to try the command with.
#[rustfmt::skip]
pub const VAES: [VaeCase; 2] = [
    VaeCase { name: "sd3", levels: &[128, 256, 512, 512], latents: 16, side: 64 },
    VaeCase { name: "tiny", levels: &[32, 32], latents: 4, side: 4 },
];

/// A text encoder that reads one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct T5Case {
    /// What the command line calls it.
    pub name: &'static str,
    /// Model width, C.
    pub width: usize,
    /// Width inside the feed-forward, F.
    pub inner: usize,
    /// Heads of width 64, H.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Tokens of the text, L.
    pub tokens: usize,
}

/// One block of T5-XXL, all of T5-small, and one to try the command with.
#[rustfmt::skip]
pub const T5S: [T5Case; 3] = [
    T5Case { name: "xxl-layer", width: 4096, inner: 10_240, heads: 64, blocks: 1, tokens: 256 },
    T5Case { name: "small", width: 512, inner: 1024, heads: 6, blocks: 8, tokens: 256 },
    T5Case { name: "tiny", width: 32, inner: 64, heads: 1, blocks: 1, tokens: 8 },
];

/// Words of an encoder that is timed: a look-up costs nothing, however long the table.
const WORDS: usize = 128;

/// Random weights of a network, as constants.
fn constants(inventory: &Inventory) -> Result<Params> {
    let weights = inventory.fresh(0, DType::F32)?.into_iter();
    Params::from_vars(weights.map(|(name, weight)| (name, Var::constant(weight))))
}

impl VaeCase {
    /// The network with random weights, as something that decodes one random picture.
    ///
    /// Errors: none that a case could cause.
    pub fn prepare(&self) -> Result<impl FnMut() -> Result<()> + use<>> {
        let config = VaeConfig {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: self.levels.to_vec(),
            layers_per_block: 2,
            latent_channels: self.latents,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            scaling_factor: 1.0,
            shift_factor: None,
            other: Map::new(),
        };
        let network = AutoencoderKl::new(config.clone(), &constants(&vae::inventory(&config))?)?;
        let shape = [1, self.latents, self.side, self.side];
        let latents = Var::constant(Rng::new(1).normal(shape, DType::F32)?);
        Ok(move || no_grad(|| network.decode(&latents)).map(drop))
    }
}

impl T5Case {
    /// Arithmetic of a run as the baseline script counts it: per block and token four maps of the
    /// attention and three of the feed-forward, and the attention's own products.
    pub fn counted(&self) -> f64 {
        let [c, f, l] = [self.width, self.inner, self.tokens].map(|n| n as f64);
        let attended = (64 * self.heads) as f64;
        let block = 2.0 * l * (4.0 * c * attended + 3.0 * c * f) + 4.0 * l * l * attended;
        self.blocks as f64 * block
    }

    /// The network with random weights, as something that reads one random text.
    ///
    /// Errors: none that a case could cause.
    pub fn prepare(&self) -> Result<impl FnMut() -> Result<()> + use<>> {
        let config = T5Config {
            vocab_size: WORDS,
            d_model: self.width,
            d_kv: 64,
            d_ff: self.inner,
            num_layers: self.blocks,
            num_heads: self.heads,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".to_owned(),
            other: Map::new(),
        };
        let network = T5Encoder::new(config.clone(), &constants(&t5::inventory(&config))?)?;
        let mut rng = Rng::new(1);
        let tokens = self.tokens;
        let ids: Vec<u32> = (0..tokens).map(|_| rng.below(WORDS) as u32).collect();
        Ok(move || no_grad(|| network.forward(&ids, tokens)).map(drop))
    }
}

/// Reads every weight of a folder once, which is what its first use costs; answers their bytes.
///
/// Errors: none that a folder which was read could cause.
pub fn read_weights(folder: &Folder) -> Result<usize> {
    fn of<C>(component: &Component<C>) -> Result<usize> {
        let mut bytes = 0;
        for (_, weight) in &component.weights {
            let stored = weight.bytes()?;
            std::hint::black_box(stored.iter().fold(0_u8, |all, byte| all ^ byte));
            bytes += stored.len();
        }
        Ok(bytes)
    }
    let transformer = of(&folder.transformer)?;
    let text = folder.text_encoder.as_ref().map_or(Ok(0), of)?;
    Ok(transformer + text + folder.vae.as_ref().map_or(Ok(0), of)?)
}

#[cfg(test)]
mod tests {
    use kernels::count;

    use super::*;

    #[test]
    fn small_cases_run_and_are_counted() {
        let [.., tiny] = T5S;
        let mut read = tiny.prepare().unwrap();
        let before = count::flops();
        read().unwrap();
        // Other tests count at the same time.
        assert!((count::flops() - before) as f64 >= tiny.counted());
        let [.., tiny] = VAES;
        tiny.prepare().unwrap()().unwrap();
    }

    /// One block of T5-XXL, as the baseline script writes it down.
    #[test]
    fn the_count_is_the_baselines() {
        let [xxl, ..] = T5S;
        let (projections, products) =
            (4.0 * 4096.0 * 4096.0 + 3.0 * 4096.0 * 10240.0, 256.0 * 4096.0);
        assert_eq!(xxl.counted(), 2.0 * 256.0 * projections + 4.0 * 256.0 * products);
    }
}
