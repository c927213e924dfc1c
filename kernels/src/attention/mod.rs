//! Attention over a list of segments, forward and backward, without the S×S matrix.
//!
//! ```text
//! P = softmax(scale·Q·Kᵀ + bias)      O = P·V      LSE = log-sum-exp of the scores' rows, in bits
//! ```
//!
//! Queries, keys and values of several segments (image tokens, text tokens) are attended to as if
//! they were concatenated along the token axis, and never are: each segment keeps its own buffers.
//! Scores exist only as tiles; a running sum, relative to about the maximum so far, makes their
//! softmax exact. The backward pass recomputes P = 2^(score in bits − LSE) tile by tile.
//!
//! Sources: Vaswani et al., "Attention is all you need", 2017, eq. (1); Dao et al.,
//! "FlashAttention", 2022, algorithms 1 and 4; Esser et al., "Scaling rectified flow transformers",
//! 2024, figure 2 (joint attention).
//!
//! # Speed
//!
//! A task is one head of one sample, or some queries of it. It gathers its rows into contiguous
//! memory (a head's rows lie a whole token apart, which in powers of two is always the same cache
//! set), each operand in the forms in which it is multiplied, and then does nothing but products of
//! tiles ([`product`]), by the micro-kernel of [`gemm`](crate::gemm), and rows of powers of two
//! ([`softmax`]).
//!
//! With AVX-512, a forward pass at 1280 tokens, heads of 64, spends 74 % of its time on products,
//! 12 % on the softmax's rows, 8 % on gathering, and 2 % on answers on their way out; at 88 tokens,
//! heads of 32, 42, 23, 21 and 5 %. `docs/speed.md` has the rates.

use crate::Real;
use crate::gemm::WIDTH;
use crate::lane::LANES;

mod backward;
mod forward;
mod head;
mod product;
pub mod ptx;
mod reference;
mod softmax;
#[cfg(test)]
mod tests;

pub use backward::backward;
pub use forward::forward;
pub use reference::{Reference, reference};

/// Bits of a score of one: inside, scores are times log₂ e, so that P is a power of two.
const BITS: f64 = std::f64::consts::LOG2_E;
/// Queries of one tile of scores.
const QUERY_TILE: usize = 96;
/// Keys of one tile of scores: a tile is 102 KiB in f32 and stays in a second-level cache.
const KEY_TILE: usize = WIDTH - LANES;
/// Heads of all samples that keep a machine's threads about equally busy. Of fewer (a VAE has one)
/// each becomes several tasks forward,
const TASKS: usize = 24;
/// of so many queries of each segment, and each task gathers the keys again.
const QUERY_CHUNK: usize = 512;

/// All heads of one operand: element (b, s, h, d) lies at
/// `b·batch_stride + s·row_stride + h·D + d`, so that it may be a part of a fused QKV buffer.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a, T> {
    /// The elements, from that of (0, 0, 0, 0) on.
    pub data: &'a [T],
    /// Distance between samples.
    pub batch_stride: usize,
    /// Distance between tokens.
    pub row_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// A contiguous \[B, `tokens`, `channels`\] operand.
    pub fn contiguous(data: &'a [T], tokens: usize, channels: usize) -> Self {
        View { data, batch_stride: tokens * channels, row_stride: channels }
    }

    /// The `width` channels of one head of one token.
    #[inline(always)]
    fn row(&self, [b, s, h]: [usize; 3], width: usize) -> &'a [T] {
        &self.data[b * self.batch_stride + s * self.row_stride + h * width..][..width]
    }
}

/// One segment of the sequence: S tokens, \[B, S, H·D\] per operand.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a, T> {
    /// S, the tokens of the segment.
    pub tokens: usize,
    /// The queries; `None` where no answer is wanted for these tokens.
    pub q: Option<View<'a, T>>,
    /// The keys.
    pub k: View<'a, T>,
    /// The values.
    pub v: View<'a, T>,
    /// \[B\]: keys of each sample from the first on, the others being padding; `None` for all.
    pub key_len: Option<&'a [usize]>,
}

/// One attention: the joint softmax over the keys of all segments.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a, T> {
    /// B, the samples.
    pub batch: usize,
    /// H, the heads.
    pub heads: usize,
    /// D, the width of a head; at least one.
    pub width: usize,
    /// Factor of Q·Kᵀ: 1/√D, or 1 in T5.
    pub scale: f64,
    /// The segments, in the order of the joint sequence.
    pub segments: &'a [Segment<'a, T>],
    /// \[H, `queries()`, `keys()`\], added to the scores of every sample. In f32, what is below
    /// -2.36e38 is −∞.
    pub bias: Option<&'a [T]>,
}

/// Where the answers of one segment go; empty slices where it has no queries.
#[derive(Debug)]
pub struct Output<'a, T> {
    /// \[B, S, H·D\].
    pub o: &'a mut [T],
    /// \[B, H, S\]: log-sum-exp of the scores in bits, log₂ Σ eˢ; −∞ where there are no keys (and
    /// `o` is zero).
    pub lse: &'a mut [T],
}

/// What the backward pass needs of one segment's forward; empty slices where it had no queries.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a, T> {
    /// \[B, S, H·D\], as the forward pass wrote it.
    pub o: &'a [T],
    /// \[B, H, S\], as the forward pass wrote it.
    pub lse: &'a [T],
    /// \[B, S, H·D\], the gradient of `o`; `None` for zero, which costs nothing.
    pub d_o: Option<&'a [T]>,
}

/// Where the gradients of one segment go, each \[B, S, H·D\].
#[derive(Debug)]
pub struct Gradient<'a, T> {
    /// Of the queries; empty where there are none.
    pub dq: &'a mut [T],
    /// Of the keys; zero for padding.
    pub dk: &'a mut [T],
    /// Of the values; zero for padding.
    pub dv: &'a mut [T],
}

impl<T: Real> Problem<'_, T> {
    /// Queries of all segments.
    pub fn queries(&self) -> usize {
        self.segments.iter().filter(|s| s.q.is_some()).map(|s| s.tokens).sum()
    }

    /// Keys of all segments, padding included.
    pub fn keys(&self) -> usize {
        self.segments.iter().map(|s| s.tokens).sum()
    }

    /// Floating-point operations of the forward products; the backward ones are 5/2 of it.
    pub fn flops(&self) -> usize {
        4 * self.batch * self.heads * self.width * self.queries() * self.keys()
    }

    /// D in whole sixteens: the distance between gathered rows.
    fn padded(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    /// Nanoseconds of `flops` for the decision whether to split the work.
    fn nanoseconds(&self, flops: usize) -> usize {
        flops / 50
    }

    /// Panics where the operands contradict each other.
    fn check(&self) {
        assert!(self.width > 0, "attention: heads have at least one channel");
        for segment in self.segments {
            if let Some(len) = segment.key_len {
                assert_eq!(len.len(), self.batch, "attention: one key length per sample");
                assert!(len.iter().all(|&n| n <= segment.tokens), "attention: key length");
            }
        }
        if let Some(bias) = self.bias {
            let want = self.heads * self.queries() * self.keys();
            assert_eq!(bias.len(), want, "attention: bias is [H, queries, keys]");
        }
    }
}
