//! The models that are timed, and the arithmetic in them.
//!
//! Sizes and counts are those of the baseline script in PyTorch that ours is compared with: one
//! training step is a pass for the image loss and a pass for the text loss through one trunk,
//! backward, clipping and AdamW, all in float32; text enters as an encoder's states.

use serde_json::Map;

use crate::config::TransformerConfig;

/// Width of the features of a time.
const TIME_FEATURES: usize = 256;

/// A model, a batch of it, and a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What the command line calls it.
    pub name: &'static str,
    /// Model width, C.
    pub width: usize,
    /// Attention heads, H.
    pub heads: usize,
    /// Joint blocks.
    pub blocks: usize,
    /// Channels of the latents.
    pub channels: usize,
    /// Side of the latents.
    pub side: usize,
    /// Side of a patch, P.
    pub patch: usize,
    /// Text tokens, L.
    pub text: usize,
    /// Width of the text states.
    pub context: usize,
    /// Words, V.
    pub words: usize,
    /// Samples, B.
    pub batch: usize,
}

/// Everything there is to time.
#[rustfmt::skip]
pub const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "nano", width: 192, heads: 6, blocks: 6, channels: 3, side: 32, patch: 4,
        text: 24, context: 192, words: 512, batch: 32,
    },
    Workload {
        name: "small", width: 384, heads: 6, blocks: 12, channels: 16, side: 32, patch: 2,
        text: 64, context: 512, words: 32_100, batch: 4,
    },
    Workload {
        name: "block", width: 1536, heads: 24, blocks: 2, channels: 16, side: 64, patch: 2,
        text: 256, context: 4096, words: 32_100, batch: 1,
    },
];

/// What is done with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A training step.
    Train,
    /// A forward pass that gives velocity and all words' scores.
    Forward,
}

impl Mode {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Forward => "forward",
        }
    }
}

/// Arithmetic of matrix products, by what a backward pass makes of it.
#[derive(Clone, Copy, Debug, Default)]
struct Products {
    /// Products with weights whose other operand has a gradient too.
    inner: f64,
    /// Products with weights whose other operand is data.
    first: f64,
    /// Attention's.
    attention: f64,
    /// The text head's.
    head: f64,
}

impl Workload {
    /// Image tokens, N.
    pub fn tokens(&self) -> usize {
        (self.side / self.patch).pow(2)
    }

    /// Arithmetic of a forward pass, or of a training step as six of them, as the baseline script
    /// counts it: the blocks, the map of the text states, and the text head on every token.
    pub fn counted(&self, mode: Mode) -> f64 {
        let (c, s) = (self.width as f64, (self.tokens() + self.text) as f64);
        let (text, words) = (self.text as f64, self.words as f64);
        let blocks = self.blocks as f64 * (s * 24.0 * c * c + 4.0 * s * s * c);
        let ends = 2.0 * text * self.context as f64 * c + 2.0 * text * c * words;
        let passes = if mode == Mode::Train { 6.0 } else { 1.0 };
        passes * self.batch as f64 * (blocks + ends)
    }

    /// Arithmetic really executed, matrix products only, where `masked` tokens of the batch carry
    /// a text loss: what the last block need not compute is not, and only masked tokens go through
    /// the text head.
    ///
    /// A product with weights is two more in the backward pass, or one where the other operand is
    /// data. Attention's two are five there: scores once more, and four gradients. The text head
    /// keeps no scores, so it too is computed once more.
    pub fn executed(&self, mode: Mode, masked: usize) -> f64 {
        let head = |tokens: usize| 2.0 * (tokens * self.width * self.words) as f64;
        match mode {
            Mode::Forward => {
                let both = self.pass(true, true);
                let head = head(self.batch * self.text);
                both.inner + both.first + both.attention + head
            }
            Mode::Train => {
                let image = self.pass(true, false);
                let text = Products { head: head(masked), ..self.pass(false, true) };
                [image, text]
                    .map(|p| 3.0 * p.inner + 2.0 * p.first + 3.5 * p.attention + 4.0 * p.head)
                    .iter()
                    .sum()
            }
        }
    }

    /// The products of a pass that gives the velocity, the text tokens, or both.
    fn pass(&self, image: bool, text: bool) -> Products {
        let (batch, c) = (self.batch, self.width);
        let (n, l) = (self.tokens(), self.text);
        let patch = self.channels * self.patch * self.patch;
        let product = |rows: usize, inputs: usize, outputs: usize| {
            2.0 * (batch * rows) as f64 * (inputs * outputs) as f64
        };
        let wanted = if image { n } else { 0 } + if text { l } else { 0 };
        let mut all = Products {
            first: product(n, patch, c)
                + product(l, self.context, c)
                + product(1, TIME_FEATURES, c),
            inner: product(1, c, c),
            ..Products::default()
        };
        for block in 0..self.blocks {
            // In the last block, tokens nobody waits for are keys and values only.
            let queries = if block + 1 == self.blocks { wanted } else { n + l };
            all.inner += 2.0 * product(1, c, 6 * c);
            all.inner += 2.0 * product(n + l, c, c) + 10.0 * product(queries, c, c);
            all.attention += 2.0 * product(queries, n + l, c);
        }
        if image {
            all.inner += product(1, c, 2 * c) + product(n, c, patch);
        }
        all
    }

    /// The model as a configuration.
    pub fn config(&self) -> TransformerConfig {
        TransformerConfig {
            vocab_size: self.words,
            sample_size: self.side,
            patch_size: self.patch,
            in_channels: self.channels,
            out_channels: self.channels,
            num_layers: self.blocks,
            attention_head_dim: self.width / self.heads,
            num_attention_heads: self.heads,
            joint_attention_dim: self.context,
            caption_projection_dim: self.width,
            pooled_projection_dim: 0,
            pos_embed_max_size: self.side / self.patch,
            text_embedding: false,
            max_text_length: None,
            other: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, for the smallest: 6 blocks of 24·88·192² + 4·88²·192, states 2·24·192², head
    /// 2·24·192·512; times 32.
    #[test]
    fn the_count_is_the_baselines() {
        let nano = WORKLOADS[0];
        assert_eq!((nano.tokens(), nano.config().check().is_ok()), (64, true));
        let blocks = 6.0 * (88.0 * 24.0 * 192.0 * 192.0 + 4.0 * 88.0 * 88.0 * 192.0);
        let ends = 2.0 * 24.0 * 192.0 * (192.0 + 512.0);
        assert_eq!(nano.counted(Mode::Forward), 32.0 * (blocks + ends));
        assert_eq!(nano.counted(Mode::Train), 6.0 * 32.0 * (blocks + ends));
    }

    /// Of what the baseline counts, only the dropped part of the last block and of the head is not
    /// executed; what it leaves out (modulation, patches) is little.
    #[test]
    fn what_is_executed_is_near_the_count() {
        for workload in WORKLOADS {
            let all = workload.batch * workload.text;
            let ratio = |mode, masked| workload.executed(mode, masked) / workload.counted(mode);
            assert!((1.0..1.1).contains(&ratio(Mode::Forward, all)), "{}", workload.name);
            // Two forward passes and their backward passes are six; the head is in one of them.
            assert!((0.5..1.1).contains(&ratio(Mode::Train, all / 2)), "{}", workload.name);
        }
    }

    /// One block, one token of each kind, every width 1 but the two of a patch: by hand.
    #[test]
    fn executed_products_by_hand() {
        let tiny = Workload {
            name: "tiny",
            width: 1,
            heads: 1,
            blocks: 1,
            channels: 2,
            side: 1,
            patch: 1,
            text: 1,
            context: 3,
            words: 5,
            batch: 1,
        };
        let first = 2.0 * (2.0 + 3.0 + TIME_FEATURES as f64);
        // Time 1, modulation 2 x 6, K and V of two tokens 4, all else of one 10.
        let shared = 2.0 * (1.0 + 12.0 + 4.0 + 10.0);
        let (image_head, attention, head) = (2.0 * (2.0 + 2.0), 2.0 * 2.0 * 2.0, 2.0 * 5.0);
        let both = first + shared + 20.0 + image_head + 2.0 * attention + head;
        assert_eq!(tiny.executed(Mode::Forward, 0), both);
        let trunk = 2.0 * (2.0 * first + 3.0 * shared + 3.5 * attention);
        let train = trunk + 3.0 * image_head + 4.0 * head;
        assert_eq!(tiny.executed(Mode::Train, 1), train);
    }
}
