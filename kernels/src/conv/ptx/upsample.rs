//! Weights of the convolution that enlarges, and back: [`Upsample`](super::super::Upsample).
//!
//! An enlargement and its convolution are the transposed convolution of stride 2 by a filter of
//! sums of weights; so are the gradients, whose sums are folded back.

use crate::ptx::{Body, F32, Kernel, Reg, U32};

/// Threads of a block.
const THREADS: u32 = 256;

/// Channels, filters, rows and columns of a filter, from parameters.
struct Sizes<'k> {
    channels: Reg<'k, U32>,
    filters: Reg<'k, U32>,
    rows: Reg<'k, U32>,
    columns: Reg<'k, U32>,
}

impl<'k> Sizes<'k> {
    fn parameters(k: &'k Body) -> Self {
        let [channels, filters, rows, columns] =
            ["channels", "filters", "rows", "columns"].map(|name| k.u32(name));
        Sizes { channels, filters, rows, columns }
    }
}

/// `s[c, o, a + K − 1 − t, b + L − 1 − u] = Σ w[o, c, t, u]` over a, b in {0, 1}. Parameters: w,
/// sums \[C, O, K + 1, L + 1\], channels, filters, rows K, columns L, n (elements of sums). The
/// extent of the grid is n.
pub fn sum_filters() -> Kernel {
    Kernel::new("upsample_sum_filters", THREADS, [THREADS, 1, 1], |k| {
        let (w, sums) = (k.global::<F32>("w"), k.global::<F32>("sums"));
        let (Sizes { channels, filters, rows, columns }, n) = (Sizes::parameters(k), k.u32("n"));
        let index = k.block(0).mad(THREADS, k.thread());
        k.if_(index.lt(n), || {
            let (line, column) = (index / (columns + 1), index % (columns + 1));
            let (plane, row) = (line / (rows + 1), line % (rows + 1));
            let (channel, filter) = (plane / filters, plane % filters);
            let plane = filter.mad(channels, channel);
            let mut sum = k.value::<F32>(0.0);
            // The weights in ascending order; what lies before the first is a huge number.
            for t in [rows - 1 - row, rows - row] {
                for u in [columns - 1 - column, columns - column] {
                    let w = w.at(plane.mad(rows, t).mad(columns, u));
                    sum = sum + w.load_where(t.lt(rows) & u.lt(columns), 0.0);
                }
            }
            sums.at(index).store(sum);
        });
    })
}

/// `dw[o, c, t, u]`, the sum of the gradients of the four sums that the weight is part of.
/// Parameters: dsums, dw, channels, filters, rows, columns, n (elements of dw). The extent of the
/// grid is n.
pub fn fold_filters() -> Kernel {
    Kernel::new("upsample_fold_filters", THREADS, [THREADS, 1, 1], |k| {
        let (dsums, dw) = (k.global::<F32>("dsums"), k.global::<F32>("dw"));
        let (Sizes { channels, filters, rows, columns }, n) = (Sizes::parameters(k), k.u32("n"));
        let index = k.block(0).mad(THREADS, k.thread());
        k.if_(index.lt(n), || {
            let (line, column) = (index / columns, columns - 1 - index % columns);
            let (plane, row) = (line / rows, rows - 1 - line % rows);
            let (filter, channel) = (plane / channels, plane % channels);
            let plane = channel.mad(filters, filter);
            let mut sum = k.value::<F32>(0.0);
            for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let line = plane.mad(rows + 1, row + a);
                sum = sum + dsums.at(line.mad(columns + 1, column + b)).load();
            }
            dw.at(index).store(sum);
        });
    })
}
