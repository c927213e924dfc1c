//! Attention in float32, of heads of any width and operands of any storage: sums of fused
//! multiply-adds, and the CPU's exponential. Scores exist as tiles here too.
//!
//! A block makes tiles of 128 rows by 64 columns, a thread 8 × 4 elements. Each product along the
//! heads' width goes by panels in shared memory; a tile of P or dS goes there whole, as the left
//! operand of the next product.
//! Answers of heads wider than 64 channels are made 64 channels a block, from the same scores.
//!
//! Parameters are those of the kernels for tensor cores ([`Attention`](super::Attention),
//! [`Backward`](super::Backward)) behind one more, the first: the width of a head. Views may begin
//! anywhere; q, k and v are stored alike, all else is float32. The grid's extent along y is the
//! heads times [`parts`].

mod backward;
mod forward;
mod tile;

use super::View;
use crate::ptx::{
    Body, F32, Global, Kernel, Pred, Reg, Shared, Storage, Stored, U32, Var, WARP, with_stored,
};
use tile::{ALONG, COLUMNS, COLUMNS_EACH, DEPTH, PAD, ROWS, ROWS_EACH, THREADS, add_products};

/// A family of attentions in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exact {
    /// How q, k and v are stored.
    pub operands: Storage,
    /// Segments that a launch goes over.
    pub segments: usize,
    /// Whether a bias is added to scores.
    pub bias: bool,
}

/// Blocks that share the channels of a head.
pub fn parts(width: usize) -> usize {
    width.div_ceil(COLUMNS as usize)
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
    pub fn bias_gradient(operands: Storage) -> Kernel {
        let name = format!("attention_exact_backward_bias_{}", operands.name());
        with_stored!(operands, S => {
            Kernel::new(&name, THREADS, [COLUMNS, ROWS, 1], backward::bias::<S>)
        })
    }

    fn kernel(&self, what: &str, write: impl FnOnce(&Body)) -> Kernel {
        let bias = if self.bias { "_biased" } else { "" };
        let (segments, operands) = (self.segments, self.operands.name());
        let name = format!("attention_exact{what}{bias}_s{segments}_{operands}");
        Kernel::new(&name, THREADS, [ROWS, 1, 1], write)
    }
}

/// Elements of a tile that a thread has.
const EACH: usize = (ROWS_EACH * COLUMNS_EACH) as usize;

/// The head whose answers a block makes, and which of its channels.
#[derive(Clone, Copy)]
struct Head<'k> {
    number: Reg<'k, U32>,
    width: Reg<'k, U32>,
    /// The head's first channel among all,
    channel: Reg<'k, U32>,
    /// and the block's first among the head's.
    first: Reg<'k, U32>,
}

impl<'k> Head<'k> {
    /// Declares the width; the grid's y chooses head and channels.
    fn parameters(k: &'k Body) -> Self {
        let width = k.u32("width");
        let parts = (width + (COLUMNS - 1)) / COLUMNS;
        let number = k.block(1) / parts;
        let first = k.block(1) % parts * COLUMNS;
        Head { number, width, channel: number * width, first }
    }
}

/// Rows of a view from `first` on; those from `end` on are zeros.
#[derive(Clone, Copy)]
struct Part<'k, S> {
    view: View<'k, S>,
    first: Reg<'k, U32>,
    end: Reg<'k, U32>,
}

/// What a block multiplies with.
struct Tiles<'k> {
    k: &'k Body,
    width: Reg<'k, U32>,
    /// Panels of both operands of a product along the width: \[depth\]\[rows + pad\].
    panels: [Shared<'k, F32>; 2],
    /// The left operand of a product along a tile's columns, \[64\]\[128 + pad\],
    left: Shared<'k, F32>,
    /// and the right one, \[64\]\[64 + pad\].
    right: Shared<'k, F32>,
    /// This thread's first row and first column of a tile.
    row: Reg<'k, U32>,
    column: Reg<'k, U32>,
    /// Whether any of this warp's rows is of the problem.
    busy: Reg<'k, Pred>,
}

/// From row to row of what is stored in shared memory by its columns.
const ROW_PITCH: u32 = ROWS + PAD;
const COLUMN_PITCH: u32 = COLUMNS + PAD;

/// Products that are made without a look at the end.
const UNROLLED: u32 = 8;

impl<'k> Tiles<'k> {
    /// Those of a block that answers rows from `first` on, of `rows`.
    fn new(k: &'k Body, width: Reg<'k, U32>, [first, rows]: [Reg<'k, U32>; 2]) -> Self {
        let (thread, across) = (k.thread(), COLUMNS / COLUMNS_EACH);
        let warp_rows = WARP / across * ROWS_EACH;
        Tiles {
            k,
            width,
            panels: [ROW_PITCH, COLUMN_PITCH].map(|pitch| k.shared(DEPTH * pitch)),
            left: k.shared(COLUMNS * ROW_PITCH),
            right: k.shared(COLUMNS * COLUMN_PITCH),
            row: thread / across * ROWS_EACH,
            column: thread % across * COLUMNS_EACH,
            busy: (first + thread / WARP * warp_rows).lt(rows),
        }
    }

    /// This thread's rows, from `first` on.
    fn rows(&self, first: Reg<'k, U32>) -> Vec<Reg<'k, U32>> {
        (0..ROWS_EACH).map(|i| first + self.row + i).collect()
    }

    /// This thread's columns, from `first` on.
    fn columns(&self, first: Reg<'k, U32>) -> Vec<Reg<'k, U32>> {
        (0..COLUMNS_EACH).map(|i| first + self.column + i).collect()
    }

    /// rows·columnsᵀ along the heads' width, row by row. Two barriers a panel: behind the first of
    /// them, what any thread does before this is done.
    fn multiply<A: Stored, B: Stored>(
        &self,
        rows: Part<'k, A>,
        columns: Part<'k, B>,
    ) -> Vec<Var<'k, F32>> {
        let Tiles { k, width, panels: [left, right], .. } = *self;
        let sums = k.vars(EACH, 0.0);
        k.for_(0, width, DEPTH, |depth| {
            self.load_panel(left, ROWS, rows, depth);
            self.load_panel(right, COLUMNS, columns, depth);
            k.barrier();
            self.add([left, right], (width - depth).min(DEPTH), &sums);
            k.note("the next panels take these places");
            k.barrier();
        });
        sums
    }

    /// Copies channels of `len` rows, from `depth` on, to a panel; zeros beyond the width.
    fn load_panel<S: Stored>(
        &self,
        to: Shared<'k, F32>,
        len: u32,
        Part { view, first, end }: Part<'k, S>,
        depth: Reg<'k, U32>,
    ) {
        let (place, along) = (self.k.thread() / ALONG, self.k.thread() % ALONG);
        for further in (0..len).step_by((THREADS / ALONG) as usize) {
            let row = first + (place + further);
            let from = view.data.at(row * view.row_stride);
            for deeper in (0..DEPTH).step_by(ALONG as usize) {
                let channel = depth + (along + deeper);
                let inside = row.lt(end) & channel.lt(self.width);
                let to = to.at((along + deeper).mad(len + PAD, place + further));
                to.store(from.at(channel).load_where(inside, 0.0));
            }
        }
    }

    /// Stores a tile, given row by row, as the left operand.
    fn store_left(&self, tile: &[Reg<'k, F32>]) {
        for (i, column) in (0..COLUMNS_EACH as usize).zip(self.columns(self.k.value(0))) {
            let of_column: Vec<_> = tile.chunks(COLUMNS_EACH as usize).map(|row| row[i]).collect();
            self.left.at(column.mad(ROW_PITCH, self.row)).store_n(&of_column);
        }
    }

    /// Copies 64 rows of a head, the block's channels of them, to the right operand.
    fn load_right<S: Stored>(&self, Part { view, first, end }: Part<'k, S>, head: Head<'k>) {
        let (place, column) = (self.k.thread() / COLUMNS, self.k.thread() % COLUMNS);
        let channel = head.first + column;
        for further in (0..COLUMNS).step_by((THREADS / COLUMNS) as usize) {
            let row = first + (place + further);
            let from = view.data.at(row.mad(view.row_stride, channel));
            let x = from.load_where(row.lt(end) & channel.lt(self.width), 0.0);
            self.right.at((place + further).mad(COLUMN_PITCH, column)).store(x);
        }
    }

    /// sums += left·right along the first `n` of a tile's columns.
    fn accumulate(&self, n: Reg<'k, U32>, sums: &[Var<'k, F32>]) {
        self.add([self.left, self.right], n, sums);
    }

    /// Adds `n` products of rows by columns, stored one behind the other.
    fn add(&self, [a, b]: [Shared<'k, F32>; 2], n: Reg<'k, U32>, sums: &[Var<'k, F32>]) {
        let (a, b) = (a.at(self.row), b.at(self.column));
        let from = |i: Reg<'k, U32>| [a.at(i * ROW_PITCH), b.at(i * COLUMN_PITCH)];
        let whole = n & !(UNROLLED - 1);
        self.k.if_(self.busy, || {
            self.k.for_(0, whole, UNROLLED, |i| {
                let [a, b] = from(i);
                for j in 0..UNROLLED {
                    let a = a.plus((j * ROW_PITCH) as usize);
                    add_products(a, b.plus((j * COLUMN_PITCH) as usize), sums);
                }
            });
            self.k.for_(whole, n, 1, |i| {
                let [a, b] = from(i);
                add_products(a, b, sums);
            });
        });
    }

    /// Stores sums as rows, from `first` on, of a contiguous \[B, `rows`, H·D\].
    fn store(
        &self,
        to: Global<'k, F32>,
        sums: &[Var<'k, F32>],
        first: Reg<'k, U32>,
        [rows, heads]: [Reg<'k, U32>; 2],
        head: Head<'k>,
    ) {
        let columns = self.columns(head.first);
        for (row, sums) in self.rows(first).into_iter().zip(sums.chunks(columns.len())) {
            self.k.if_(row.lt(rows), || {
                let row = self.k.block(2).mad(rows, row).mad(heads, head.number);
                let to = to.at(row.mad(self.width, columns[0]));
                for (i, (column, sum)) in columns.iter().zip(sums).enumerate() {
                    self.k.if_(column.lt(self.width), || to.plus(i).store(sum.get()));
                }
            });
        }
    }
}

/// The index of each row's element of \[B, H, rows\].
fn of_rows<'k>(
    k: &'k Body,
    head: Reg<'k, U32>,
    [rows, heads]: [Reg<'k, U32>; 2],
    row: Reg<'k, U32>,
) -> Reg<'k, U32> {
    k.block(2).mad(heads, head).mad(rows, row)
}
