//! Attention, backward.
//!
//! Both kernels hold the rows that they answer in registers, as left fragments, and go over the
//! others tile by tile, the next one on its way, as the forward pass does.

use std::f32::consts::LOG2_E;

use super::{
    Asking, Backward, Bias, ROWS, Segment, View, WARP_ROWS, accumulate, copy_rows, finite,
    multiply, place, store_rows,
};
use crate::ptx::mma::Sums;
use crate::ptx::rows::RowLane;
use crate::ptx::tile::{Rows, Side, Tile};
use crate::ptx::{B32, Bf16, Body, F32, Reg, Shared, U32, WARP};

/// Rows of a tile that a kernel goes over: scores and their gradients exist side by side.
const TILE: u32 = 32;

/// Δ: a half-warp takes a row.
pub(super) fn delta(k: &Body) {
    let [o, d_o, delta] = ["o", "d_o", "delta"].map(|name| k.global::<F32>(name));
    let [rows, queries, heads, width] =
        ["rows", "queries", "heads", "width"].map(|name| k.u32(name));
    let lane = RowLane::new(k, rows);
    let [o, d_o] = [o, d_o].map(|array| array.at(lane.row * width));
    let sum = k.var::<F32>(0.0);
    lane.each(width, |at| (at.of(o), at.of(d_o)), |_, (o, d_o)| sum.fma(o, d_o));
    let (head, token) = (lane.row % heads, lane.row / heads);
    let (query, sample) = (token % queries, token / queries);
    let place = delta.at(sample.mad(heads, head).mad(queries, query));
    lane.store_one(place, lane.sum(sum.get()));
}

pub(super) fn queries(k: &Body, backward: &Backward) {
    let width = backward.width;
    let channel = k.block(1) * width;
    let [q, d_o] = ["q", "d_o"].map(|name| View::parameters(k, name, channel));
    let [lse, delta] = ["lse", "delta"].map(|name| k.global::<F32>(name));
    let segments: Vec<_> =
        (0..backward.segments).map(|i| Segment::parameters(k, i, channel)).collect();
    let bias = backward.bias.then(|| Bias::parameters(k, segments.len(), "key", k.block(1)));
    let dq = k.global::<F32>("dq");
    let (queries, heads, scale) = (k.u32("queries"), k.u32("heads"), k.f32("scale"));
    let first_query = k.block(0) * ROWS;
    let [q, d_o] = hold(k, width, [q, d_o], [first_query, queries]);
    let pair = Pair::new(k, width);
    let [row, column] = place(k);
    // LSE·log₂e and Δ of this lane's two rows.
    let rows = [0, 8].map(|down| {
        let row = first_query + row + down;
        let at = k.block(2).mad(heads, k.block(1)).mad(queries, row);
        let [lse, delta] = [lse, delta].map(|array| array.at(at).load_where(row.lt(queries), 0.0));
        [finite(lse) * LOG2_E, delta]
    });
    let exists = [0, 8].map(|down| (first_query + row + down).lt(queries));
    let sums: Vec<Sums> = (0..width / 8).map(|_| Sums::new(k)).collect();
    for (number, segment) in segments.iter().enumerate() {
        let biases = bias.as_ref().map(|bias| {
            [0, 8].map(|down| {
                let row = first_query + row + down;
                bias.at(row, bias.first[number])
            })
        });
        pair.each(number > 0, [segment.k, segment.v], segment.len, |first, [keys, values]| {
            let scores = multiply(k, &q, &keys.along, TILE);
            let slopes = multiply(k, &d_o, &values.along, TILE);
            each(&scores, &slopes, column, |half, key, s, dp| {
                let ([lse, delta], inside) = (rows[half], (first + key).lt(segment.len));
                let bias = biases.map(|biases| {
                    biases[half].at(first + key).load_where(exists[half] & inside, 0.0)
                });
                let p = probability(s, scale, bias, lse);
                let p = Reg::select(inside, p, k.value(0.0));
                [p, p * (dp - delta)]
            });
            accumulate(&sums, &slopes, &keys.across);
        });
    }
    sums.iter().flat_map(|sums| sums.parts()).for_each(|part| part.scale(scale));
    store_rows(k, dq, &sums, first_query, [queries, heads]);
}

/// exp(scale·s + bias − LSE), given LSE·log₂e.
pub(super) fn probability<'k>(
    s: Reg<'k, F32>,
    scale: Reg<'k, F32>,
    bias: Option<Reg<'k, F32>>,
    lse: Reg<'k, F32>,
) -> Reg<'k, F32> {
    let score = s * (scale * LOG2_E);
    let score = bias.map_or(score, |bias| score + bias * LOG2_E);
    (score - lse).exp2_approximate()
}

pub(super) fn keys(k: &Body, backward: &Backward) {
    let width = backward.width;
    let channel = k.block(1) * width;
    let [keys, values] = ["k", "v"].map(|name| View::parameters(k, name, channel));
    let padding = k.global::<U32>("padding");
    let segments: Vec<_> =
        (0..backward.segments).map(|i| Asking::<Bf16, Bf16>::parameters(k, i, channel)).collect();
    let bias = backward.bias.then(|| Bias::parameters(k, segments.len(), "query", k.block(1)));
    let (dk, dv) = (k.global::<F32>("dk"), k.global::<F32>("dv"));
    let (tokens, heads, scale) = (k.u32("keys"), k.u32("heads"), k.f32("scale"));
    let first_key = k.block(0) * ROWS;
    let len = tokens - padding.at(k.block(2)).load();
    let [keys, values] = hold(k, width, [keys, values], [first_key, len]);
    let pair = Pair::new(k, width);
    let [row, column] = place(k);
    let key = first_key + row;
    let exists = [0, 8].map(|down| (key + down).lt(len));
    let of_head = k.block(2).mad(heads, k.block(1));
    let [dk_sums, dv_sums]: [Vec<Sums>; 2] =
        [0, 1].map(|_| (0..width / 8).map(|_| Sums::new(k)).collect());
    for (number, asking) in segments.iter().enumerate() {
        let Asking { q, d_o, queries, .. } = *asking;
        pair.each(number > 0, [q, d_o], queries, |first, [q, d_o]| {
            let scores = multiply(k, &keys, &q.along, TILE);
            let slopes = multiply(k, &values, &d_o.along, TILE);
            // LSE·log₂e and Δ of this lane's columns, and where their biases are.
            let columns: Vec<_> = (0..TILE / 8)
                .flat_map(|j| [8 * j, 8 * j + 1])
                .map(|right| {
                    let query = first + column + right;
                    let (at, inside) = (of_head.mad(queries, query), query.lt(queries));
                    let [lse, delta] = [asking.lse, asking.delta]
                        .map(|array| array.at(at).load_where(inside, 0.0));
                    let bias = bias
                        .as_ref()
                        .map(|bias| (bias.at(bias.first[number] + query, key), inside));
                    (finite(lse) * LOG2_E, delta, bias)
                })
                .collect();
            let next = std::cell::Cell::new(0);
            each(&scores, &slopes, column, |half, _, s, dp| {
                // Scores come row by row: two columns of the first, the same of the second.
                let i = next.replace(next.get() + 1);
                let (lse, delta, bias) = columns[i / 4 * 2 + i % 2];
                let bias = bias.map(|(bias, inside)| {
                    bias.plus(8 * half).load_where(exists[half] & inside, 0.0)
                });
                let p = probability(s, scale, bias, lse);
                let p = Reg::select(exists[half], p, k.value(0.0));
                [p, p * (dp - delta)]
            });
            accumulate(&dv_sums, &scores, &d_o.across);
            accumulate(&dk_sums, &slopes, &q.across);
        });
    }
    dk_sums.iter().flat_map(|sums| sums.parts()).for_each(|part| part.scale(scale));
    store_rows(k, dk, &dk_sums, first_key, [tokens, heads]);
    store_rows(k, dv, &dv_sums, first_key, [tokens, heads]);
}

/// Replaces scores by p and gradients of p by those of the scores, which `f` makes of the row (0 or
/// 1), the column, the score and the gradient.
fn each<'k>(
    scores: &[Sums<'k>],
    slopes: &[Sums<'k>],
    column: Reg<'k, U32>,
    f: impl Fn(usize, Reg<'k, U32>, Reg<'k, F32>, Reg<'k, F32>) -> [Reg<'k, F32>; 2],
) {
    for (j, (scores, slopes)) in (0..).zip(scores.iter().zip(slopes)) {
        for (i, (score, slope)) in (0..).zip(scores.parts().into_iter().zip(slopes.parts())) {
            let column = column + (8 * j + i % 2);
            let [p, ds] = f(i as usize / 2, column, score.get(), slope.get());
            score.set(p);
            slope.set(ds);
        }
    }
}

/// The warp's rows of two views as left fragments along D, through shared memory.
fn hold<'k>(
    k: &'k Body,
    width: u32,
    views: [View<'k, Bf16>; 2],
    range: [Reg<'k, U32>; 2],
) -> [Vec<[Reg<'k, B32>; 4]>; 2] {
    let tiles = views.map(|view| {
        let tile = Tile::new(k, [1, ROWS, width]);
        copy_rows(k, &tile, [ROWS, width], view, range, k.value(0));
        tile
    });
    k.commit_copies();
    k.wait_copies(0);
    k.barrier();
    let warp_row = k.thread() / WARP * WARP_ROWS;
    tiles.map(|tile| {
        let fragment = |depth| {
            let place = tile.fragment(Side::Left, Rows::AlongSum, warp_row, k.value(depth));
            place.load_matrices(false)
        };
        (0..width).step_by(16).map(fragment).collect()
    })
}

/// Two operands that a kernel goes over tile by tile, double-buffered.
struct Pair<'k> {
    k: &'k Body,
    width: u32,
    tiles: [Tile<'k>; 2],
}

/// Where the right fragments of a tile's first rows are.
struct Fragments<'k> {
    /// To be multiplied along D,
    along: Vec<Shared<'k, Bf16>>,
    /// and along its rows.
    across: Vec<Shared<'k, Bf16>>,
}

impl<'k> Pair<'k> {
    fn new(k: &'k Body, width: u32) -> Self {
        Pair { k, width, tiles: [0, 1].map(|_| Tile::new(k, [2, TILE, width])) }
    }

    /// Runs `f` with the first row and the fragments of each tile of two views with `end` rows.
    /// `again` says whether the tiles have been in use before.
    fn each(
        &self,
        again: bool,
        views: [View<'k, Bf16>; 2],
        end: Reg<'k, U32>,
        f: impl Fn(Reg<'k, U32>, [Fragments<'k>; 2]),
    ) {
        let Pair { k, width, ref tiles } = *self;
        if again {
            k.note("the last segment's tiles are free");
            k.wait_copies(0);
            k.barrier();
        }
        let copy = |slot: Reg<'k, U32>, first| {
            for (tile, view) in tiles.iter().zip(views) {
                copy_rows(k, tile, [TILE, width], view, [first, end], slot * (TILE * width));
            }
            k.commit_copies();
        };
        copy(k.value(0), k.value(0));
        let slot = k.var::<U32>(0);
        let zero = k.value::<U32>(0);
        k.for_(0, end, TILE, |first| {
            k.wait_copies(0);
            k.barrier();
            let now = slot.get();
            copy(now ^ 1, first + TILE);
            slot.set(now ^ 1);
            let now = now * (TILE * width);
            let fragments = tiles.each_ref().map(|tile| {
                let at = |rows, [place, depth]: [Reg<'k, U32>; 2]| {
                    tile.fragment(Side::Right, rows, place, depth).at(now)
                };
                let widths = || (0..width).step_by(16).map(|d| k.value::<U32>(d));
                Fragments {
                    along: widths().map(|d| at(Rows::AlongSum, [zero, d])).collect(),
                    across: widths().map(|d| at(Rows::AcrossSum, [d, zero])).collect(),
                }
            });
            f(first, fragments);
        });
    }
}
