//! The tiles of a block, and the products of one k.

use crate::ptx::{F32, Shared, Var};

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Rows and columns of a block's tile,
pub(super) const ROWS: u32 = 128;
pub(super) const COLUMNS: u32 = 64;
/// its panels' depth,
pub(super) const DEPTH: u32 = 16;
/// and a thread's part of it.
pub(super) const ROWS_EACH: u32 = 8;
pub(super) const COLUMNS_EACH: u32 = 4;

/// Elements between the rows of a panel: 16 bytes, so that vectors stay aligned.
pub(super) const PAD: u32 = 4;

/// Neighbours along k that read a sector of 32 bytes.
pub(super) const ALONG: u32 = 8;

/// The products of one k of a thread's rows and columns.
pub(super) fn add_products(a: Shared<F32>, b: Shared<F32>, sums: &[Var<F32>]) {
    let (a, b) = (a.load_n(ROWS_EACH as usize), b.load_n(COLUMNS_EACH as usize));
    for (&a, sums) in a.iter().zip(sums.chunks(b.len())) {
        for (&b, sum) in b.iter().zip(sums) {
            sum.fma(a, b);
        }
    }
}
