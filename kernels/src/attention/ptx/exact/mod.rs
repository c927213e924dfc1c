//! Attention in float32, of heads of any width and operands of any storage: sums of fused
//! multiply-adds. Scores exist as tiles here too.
//!
//! A block answers 64 rows and goes over the others 64 at a time. Scores are tiles of 64 by 64, of
//! which a thread has 4 × 8; a tile of P or dS goes to shared memory, as the left operand of the
//! next product, in the place of one that is needed no longer. Tiles of operands lie as their rows
//! do in memory, and are read along and across the heads' width; those of heads wider than 64
//! channels come by panels, and their answers are made 64 channels a block, from the same scores.
//!
//! Exponentials are the hardware's, to about 2 ulp: less than a rounded score costs, and a tenth of
//! the instructions of the CPU's.
//!
//! Parameters are those of the kernels for tensor cores ([`Attention`](super::Attention),
//! [`Backward`](super::Backward)). Views may begin anywhere if the width is no multiple of 4; else
//! pointers and strides are multiples of 4 elements. q, k and v are stored alike, all else is
//! float32. The grid's extent along y is the heads times [`parts`].

mod backward;
mod forward;
mod tiles;

use crate::ptx::{Body, Kernel, Storage, with_stored};
use tiles::{SIDE, THREADS};

/// A family of attentions in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exact {
    /// How q, k and v are stored.
    pub operands: Storage,
    /// D, the width of a head.
    pub width: u32,
    /// Segments that a launch goes over.
    pub segments: usize,
    /// Whether a bias is added to scores.
    pub bias: bool,
}

/// Blocks that share the channels of a head.
pub fn parts(width: usize) -> usize {
    width.div_ceil(SIDE as usize)
}

impl Exact {
    /// O and the log-sum-exp of the scores of one segment's queries, over the keys of all; as
    /// [`Attention::forward`](super::Attention::forward).
    pub fn forward(&self) -> Kernel {
        self.kernel("", |k| with_stored!(self.operands, S => forward::write::<S>(k, self)))
    }

    /// dQ of one segment; as [`Backward::queries`](super::Backward::queries).
    pub fn queries(&self) -> Kernel {
        let write = |k: &Body| with_stored!(self.operands, S => backward::queries::<S>(k, self));
        self.kernel("_backward_queries", write)
    }

    /// dK and dV of one segment; as [`Backward::keys`](super::Backward::keys).
    pub fn keys(&self) -> Kernel {
        let write = |k: &Body| with_stored!(self.operands, S => backward::keys::<S>(k, self));
        self.kernel("_backward_keys", write)
    }

    /// The gradient of the bias between one segment of queries and one of keys; as
    /// [`Backward::bias_gradient`](super::Backward::bias_gradient).
    pub fn bias_gradient(operands: Storage, width: u32) -> Kernel {
        let name = format!("attention_exact_backward_bias_wide{width}_{}", operands.name());
        with_stored!(operands, S => {
            Kernel::new(&name, THREADS, [SIDE, SIDE, 1], |k| backward::bias::<S>(k, width))
        })
    }

    fn kernel(&self, what: &str, write: impl FnOnce(&Body)) -> Kernel {
        let bias = if self.bias { "_biased" } else { "" };
        let Exact { operands, width, segments, .. } = *self;
        let operands = operands.name();
        let name = format!("attention_exact{what}{bias}_wide{width}_s{segments}_{operands}");
        Kernel::new(&name, THREADS, [SIDE, 1, 1], write)
    }
}
