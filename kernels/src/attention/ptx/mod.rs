//! Attention for the GPU, without the S×S matrix.
//!
//! | kernels | operands | width of a head | arithmetic |
//! |---|---|---|---|
//! | [`Attention`], [`Backward`] | bf16 | 32, 64 (forward also 128) | tensor cores, float32 softmax |
//! | [`Exact`] | float32, bf16, f16 | any | float32 |
//!
//! As on the CPU, segments are attended to as if they were concatenated. A launch answers the
//! queries of one segment over the keys of all. Both families take the same parameters.

mod backward;
mod bias;
pub mod exact;
mod forward;

use crate::num::Num;
use crate::ptx::mma::{self, Sums};
use crate::ptx::rows::{ROW_THREADS, ROWS_PER_BLOCK};
use crate::ptx::tile::{CHUNK, Tile};
use crate::ptx::{B32, Bf16, Body, F32, Global, Kernel, Reg, Shared, Stored, U32, WARP};
pub use exact::Exact;

/// Threads of a block: four warps.
const THREADS: u32 = 128;
/// Rows of a block: queries, or keys where it makes their gradients.
const ROWS: u32 = 64;
/// Rows of a warp.
const WARP_ROWS: u32 = 16;

/// A family of attentions: what is known when its kernel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// D, the width of a head: 32, 64 or 128.
    pub width: u32,
    /// Segments of keys and values.
    pub segments: usize,
    /// Whether a bias is added to scores.
    pub bias: bool,
}

impl Attention {
    /// O and the log-sum-exp of the scores of one segment's queries.
    ///
    /// Views of operands are a pointer to element (0, 0, 0, 0) and the elements from sample to
    /// sample and from token to token, multiples of 8 as the pointers are of 16 bytes. Parameters:
    /// the view of q; for each segment the views of k and v, the number of its keys and how many of
    /// each sample's are padding, from the last one back \[B\] (u32); where there is a bias \[H, Q, K\] (float32) the pointer to the first query's row, the elements
    /// from head to head and from row to row, and each segment's first key; then o \[B, Q, H·D\],
    /// lse \[B, H, Q\] (float32), queries, heads, scale (float32). The extent of the grid is the
    /// queries by heads by samples.
    ///
    /// A block takes 64 queries, 16 for each of four warps, and goes over keys 64 at a time, the
    /// next ones on their way. Exponentials are the hardware's, to about 2 ulp; P is rounded to
    /// bf16 for its product with V.
    ///
    /// # Panics
    /// If there are no such kernels for the width.
    pub fn forward(&self) -> Kernel {
        assert!([32, 64, 128].contains(&self.width), "heads are 32, 64 or 128 wide");
        let bias = if self.bias { "_bias" } else { "" };
        let Attention { width, segments, .. } = *self;
        let name = format!("attention{bias}_d{width}_s{segments}_f32");
        Kernel::new(&name, THREADS, [ROWS, 1, 1], |k| forward::write(k, self))
    }
}

/// The backward pass: P is made again from the scores and LSE, tile by tile.
///
/// ```text
/// Δ = Σ o·do      P = exp(s − LSE)      dS = P∘(dO·Vᵀ − Δ)
/// dQ = scale·dS·K      dK = scale·dSᵀ·Q      dV = Pᵀ·dO
/// ```
///
/// One kernel goes over queries and makes dQ, another goes over keys and makes dK and dV: two
/// products more than one for all, but no sum needs atomics, and the bits are always the same.
/// Source: Dao 2023, "FlashAttention-2", algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backward {
    /// D, the width of a head: 32 or 64.
    pub width: u32,
    /// Segments of keys for dQ, of queries for dK and dV.
    pub segments: usize,
    /// Whether a bias is added to scores.
    pub bias: bool,
}

/// # Panics
/// Methods that make kernels do, if there are none for the width.
impl Backward {
    /// Δ of each query: parameters o and d_o \[B, Q, H·D\], delta \[B, H, Q\] (all float32), rows =
    /// B·Q·H, queries, heads, width. The extent of the grid is the rows.
    pub fn delta() -> Kernel {
        let per_block = [ROWS_PER_BLOCK, 1, 1];
        Kernel::new("attention_delta_f32", ROW_THREADS, per_block, backward::delta)
    }

    /// dQ of one segment. Parameters: the views of q and of the answer's gradient (bf16), lse and
    /// delta \[B, H, Q\], the segments and the bias as [`Attention::forward`] has them, dq \[B, Q,
    /// H·D\], queries, heads, scale. The extent of the grid is the queries by heads by samples.
    pub fn queries(&self) -> Kernel {
        let name = self.name("queries");
        Kernel::new(&name, THREADS, [ROWS, 1, 1], |k| backward::queries(k, self))
    }

    /// dK and dV of one segment. Parameters: the views of k and v, padding \[B\] (u32), for each
    /// segment of queries the views of q and of the answer's gradient, lse, delta and the
    /// number of its queries; where there is a bias the pointer to the first key's column, the
    /// elements from head to head and from row to row, and each segment's first query; dk and dv
    /// \[B, K, H·D\], keys, heads, scale. The extent of the grid is the keys by heads by samples.
    pub fn keys(&self) -> Kernel {
        let name = self.name("keys");
        Kernel::new(&name, THREADS, [ROWS, 1, 1], |k| backward::keys(k, self))
    }

    /// The gradient of the bias between one segment of queries and one of keys: Σ dS over the
    /// samples, in order. Parameters: the views of q, of the answer's gradient, of k and of v;
    /// lse and delta \[B, H, Q\], padding \[B\] (u32); bias and its gradient dbias (float32), the
    /// elements from head to head and from row to row of both, the first query and the first key;
    /// queries, keys, heads, batch, scale. The extent of the grid is the keys by queries by heads.
    ///
    /// Elements that a head's sample has no key for get nothing. The bias is read once and dbias
    /// written once: their tile stays in registers while the samples go by.
    pub fn bias_gradient(width: u32) -> Kernel {
        let name = format!("attention_backward_bias_d{width}");
        Kernel::new(&name, THREADS, [bias::KEYS, ROWS, 1], |k| bias::gradient(k, width))
    }

    fn name(&self, what: &str) -> String {
        assert!([32, 64].contains(&self.width), "heads are 32 or 64 wide");
        let Backward { width, segments, bias } = *self;
        let bias = if bias { "_biased" } else { "" };
        format!("attention_backward_{what}{bias}_d{width}_s{segments}_f32")
    }
}

/// One operand of one head.
#[derive(Clone, Copy)]
struct View<'k, S> {
    data: Global<'k, S>,
    /// Elements from token to token.
    row_stride: Reg<'k, U32>,
}

impl<'k, S: Stored> View<'k, S> {
    /// Declares it: of the block's sample, and of the head that begins at this channel.
    fn parameters(k: &'k Body, name: &str, channel: Reg<'k, U32>) -> Self {
        Views::parameters(k, name).of(k.block(2), channel)
    }
}

/// One operand of all heads.
#[derive(Clone, Copy)]
struct Views<'k, S> {
    data: Global<'k, S>,
    /// Elements from sample to sample,
    batch_stride: Reg<'k, U32>,
    /// and from token to token.
    row_stride: Reg<'k, U32>,
}

impl<'k, S: Stored> Views<'k, S> {
    fn parameters(k: &'k Body, name: &str) -> Self {
        let data = k.global::<S>(name);
        let [batch_stride, row_stride] =
            ["batch_stride", "row_stride"].map(|stride| k.u32(&format!("{name}_{stride}")));
        Views { data, batch_stride, row_stride }
    }

    /// That of one sample, and of the head that begins at a channel.
    fn of(self, sample: Reg<'k, U32>, channel: Reg<'k, U32>) -> View<'k, S> {
        let Views { data, batch_stride, row_stride } = self;
        View { data: data.at(sample.mad(batch_stride, channel)), row_stride }
    }
}

/// One segment of keys and values of one head.
struct Segment<'k, S> {
    k: View<'k, S>,
    v: View<'k, S>,
    /// Keys that are no padding.
    len: Reg<'k, U32>,
}

impl<'k, S: Stored> Segment<'k, S> {
    fn parameters(k: &'k Body, number: usize, channel: Reg<'k, U32>) -> Self {
        let [key, v] = ["k", "v"].map(|n| View::parameters(k, &format!("{n}{number}"), channel));
        let keys = k.u32(&format!("keys{number}"));
        let padding = k.global::<U32>(&format!("padding{number}"));
        Segment { k: key, v, len: keys - padding.at(k.block(2)).load() }
    }
}

/// One segment of queries and gradients of their answers, as its keys see it.
struct Asking<'k, S, G> {
    q: View<'k, S>,
    d_o: View<'k, G>,
    lse: Global<'k, F32>,
    delta: Global<'k, F32>,
    queries: Reg<'k, U32>,
}

impl<'k, S: Stored, G: Stored> Asking<'k, S, G> {
    fn parameters(k: &'k Body, number: usize, channel: Reg<'k, U32>) -> Self {
        let q = View::parameters(k, &format!("q{number}"), channel);
        let d_o = View::parameters(k, &format!("d_o{number}"), channel);
        let [lse, delta] = ["lse", "delta"].map(|name| k.global::<F32>(&format!("{name}{number}")));
        Asking { q, d_o, lse, delta, queries: k.u32(&format!("queries{number}")) }
    }
}

/// Begins to copy `rows` rows of a view, from row `first` on, to `slot` elements into a tile; rows
/// from `end` on become zeros.
fn copy_rows<'k>(
    k: &'k Body,
    tile: &Tile<'k>,
    [rows, width]: [u32; 2],
    view: View<'k, Bf16>,
    [first, end]: [Reg<'k, U32>; 2],
    slot: Reg<'k, U32>,
) {
    let chunks = width / CHUNK;
    let (r, c) = (k.thread() / chunks, k.thread() % chunks);
    for i in (0..rows).step_by((THREADS / chunks) as usize) {
        let row = first + (r + i);
        let from = view.data.at(row.mad(view.row_stride, c * CHUNK));
        tile.chunk(r + i, c).at(slot).copy_async(from, row.lt(end));
    }
}

/// left·rightᵀ for `columns` rows of a tile: 16 × 8 tiles of it, side by side. Both lie along the
/// sum; `right` points to the fragments of the tile's first 16 rows.
fn multiply<'k>(
    k: &'k Body,
    left: &[[Reg<'k, B32>; 4]],
    right: &[Shared<'k, Bf16>],
    columns: u32,
) -> Vec<Sums<'k>> {
    let width = 16 * left.len();
    let sums: Vec<Sums> = (0..columns / 8).map(|_| Sums::new(k)).collect();
    for (left, right) in left.iter().zip(right) {
        for (j, sums) in sums.chunks(2).enumerate() {
            let [a, b, c, d] = right.plus(j * 16 * width).load_matrices(false);
            mma::bf16(&sums[0], *left, [a, b]);
            mma::bf16(&sums[1], *left, [c, d]);
        }
    }
    sums
}

/// sums += bf16(left)·right, where `left` is as sums are, and `right` lies across the sum: pointers
/// to the fragments of the tile's first 16 rows.
fn accumulate<'k>(sums: &[Sums<'k>], left: &[Sums<'k>], right: &[Shared<'k, Bf16>]) {
    let width = 16 * right.len();
    for (i, left) in left.chunks(2).enumerate() {
        let [a, b] = [left[0].pairs(), left[1].pairs()];
        for (right, sums) in right.iter().zip(sums.chunks(2)) {
            let [c, d, e, f] = right.plus(i * 16 * width).load_matrices(true);
            mma::bf16(&sums[0], [a[0], a[1], b[0], b[1]], [c, d]);
            mma::bf16(&sums[1], [a[0], a[1], b[0], b[1]], [e, f]);
        }
    }
}

/// This thread's first row in its block, and its first column in every 8.
fn place(k: &Body) -> [Reg<'_, U32>; 2] {
    let lane = k.thread() % WARP;
    [k.thread() / WARP * WARP_ROWS + lane / 4, lane % 4 * 2]
}

/// Stores 16 × 8 tiles side by side, as rows of one head of a contiguous \[B, `rows`, H·D\].
fn store_rows<'k>(
    k: &'k Body,
    to: Global<'k, F32>,
    sums: &[Sums<'k>],
    first: Reg<'k, U32>,
    [rows, heads]: [Reg<'k, U32>; 2],
) {
    let width = 8 * sums.len() as u32;
    let [row, column] = place(k);
    for half in 0..2 {
        let row = first + row + 8 * half as u32;
        k.if_(row.lt(rows), || {
            let row = k.block(2).mad(rows, row).mad(heads, k.block(1));
            let to = to.at(row.mad(width, column));
            for (j, sums) in sums.iter().enumerate() {
                let pair = &sums.parts()[2 * half..][..2];
                to.plus(8 * j).store_n(&[pair[0].get(), pair[1].get()]);
            }
        });
    }
}

/// What is added to the scores of one head.
struct Bias<'k> {
    data: Global<'k, F32>,
    row_stride: Reg<'k, U32>,
    /// The first key, or the first query, of each segment.
    first: Vec<Reg<'k, U32>>,
}

impl<'k> Bias<'k> {
    /// Declares it; `what` there are `segments` of.
    fn parameters(k: &'k Body, segments: usize, what: &str, head: Reg<'k, U32>) -> Self {
        let data = k.global::<F32>("bias");
        let [head_stride, row_stride] =
            ["bias_head_stride", "bias_row_stride"].map(|name| k.u32(name));
        let first = (0..segments).map(|i| k.u32(&format!("first_{what}{i}"))).collect();
        Bias { data: data.at(head * head_stride), row_stride, first }
    }

    /// That of a query and a key.
    fn at(&self, query: Reg<'k, U32>, key: Reg<'k, U32>) -> Global<'k, F32> {
        self.data.at(query.mad(self.row_stride, key))
    }
}

/// The number itself; zero for −∞, the log-sum-exp of a row that attended to nothing.
fn finite(lse: Reg<'_, F32>) -> Reg<'_, F32> {
    Reg::select(lse.eq(f32::NEG_INFINITY), lse.lift(0.0), lse)
}
