//! The gradient of the bias: of all samples together.

use std::f32::consts::LOG2_E;

use super::backward::probability;
use super::{ROWS, Views, WARP_ROWS, copy_rows, finite, multiply};
use crate::ptx::mma::Sums;
use crate::ptx::tile::{Rows, Side, Tile};
use crate::ptx::{Body, F32, Global, Reg, Shared, U32, WARP};

/// Keys of a block.
pub(super) const KEYS: u32 = 64;

/// The bias and its gradient between a segment of queries and one of keys.
pub(super) struct Place<'k> {
    pub bias: Global<'k, F32>,
    pub dbias: Global<'k, F32>,
    strides: [Reg<'k, U32>; 2],
    first_query: Reg<'k, U32>,
    first_key: Reg<'k, U32>,
}

impl<'k> Place<'k> {
    pub fn parameters(k: &'k Body) -> Self {
        let [bias, dbias] = ["bias", "dbias"].map(|name| k.global::<F32>(name));
        let strides = ["bias_head_stride", "bias_row_stride"].map(|name| k.u32(name));
        let [first_query, first_key] = ["first_query", "first_key"].map(|name| k.u32(name));
        Place { bias, dbias, strides, first_query, first_key }
    }

    /// The index of a head's query and key in both.
    pub fn at(&self, head: Reg<'k, U32>, query: Reg<'k, U32>, key: Reg<'k, U32>) -> Reg<'k, U32> {
        let [head_stride, row_stride] = self.strides;
        let row = (self.first_query + query).mad(row_stride, self.first_key + key);
        head.mad(head_stride, row)
    }
}

pub(super) fn gradient<'k>(k: &'k Body, width: u32) {
    let views = ["q", "d_o", "k", "v"].map(|name| Views::parameters(k, name));
    let [lse, delta] = ["lse", "delta"].map(|name| k.global::<F32>(name));
    let padding = k.global::<U32>("padding");
    let place = Place::parameters(k);
    let [queries, keys, heads, batch] =
        ["queries", "keys", "heads", "batch"].map(|name| k.u32(name));
    let scale = k.f32("scale");
    let (first_key, first_query, head) = (k.block(0) * KEYS, k.block(1) * ROWS, k.block(2));
    let tiles = views.map(|_| Tile::new(k, [1, ROWS, width]));
    let warp_row = k.thread() / WARP * WARP_ROWS;
    let fragments = |tile: &Tile<'k>, side, first| -> Vec<_> {
        let at = |depth| tile.fragment(side, Rows::AlongSum, first, k.value(depth));
        (0..width).step_by(16).map(at).collect()
    };
    let [q, d_o] = [0, 1].map(|i| fragments(&tiles[i], Side::Left, warp_row));
    let [k_tile, v_tile] = [2, 3].map(|i| fragments(&tiles[i], Side::Right, k.value(0)));

    // This lane's elements of the tile: their places, whether they exist, the bias.
    let [row, column] = super::place(k);
    let sums: Vec<Sums> = (0..KEYS / 8).map(|_| Sums::new(k)).collect();
    let elements: Vec<_> = (0..KEYS / 8)
        .flat_map(|j| [(0, 8 * j), (0, 8 * j + 1), (8, 8 * j), (8, 8 * j + 1)])
        .map(|(down, right)| {
            let (query, key) = (first_query + row + down, first_key + column + right);
            let (at, exists) = (place.at(head, query, key), query.lt(queries) & key.lt(keys));
            (key, at, exists, place.bias.at(at).load_where(exists, 0.0))
        })
        .collect();
    let parts = || sums.iter().flat_map(|sums| sums.parts());

    k.for_(0, batch, 1, |sample| {
        let len = keys - padding.at(sample).load();
        let ranges =
            [[first_query, queries], [first_query, queries], [first_key, len], [first_key, len]];
        for ((tile, view), range) in tiles.iter().zip(views).zip(ranges) {
            let view = view.of(sample, head * width);
            copy_rows(k, tile, [ROWS, width], view, range, k.value(0));
        }
        k.commit_copies();
        let rows = [0, 8].map(|down| {
            let query = first_query + row + down;
            let at = sample.mad(heads, head).mad(queries, query);
            let [lse, delta] =
                [lse, delta].map(|array| array.at(at).load_where(query.lt(queries), 0.0));
            (finite(lse) * LOG2_E, delta)
        });
        k.wait_copies(0);
        k.barrier();
        let load = |places: &[Shared<'k, _>]| -> Vec<_> {
            places.iter().map(|place| place.load_matrices(false)).collect()
        };
        let scores = multiply(k, &load(&q), &k_tile, KEYS);
        let slopes = multiply(k, &load(&d_o), &v_tile, KEYS);
        let of = |sums: &[Sums<'k>]| -> Vec<_> {
            sums.iter().flat_map(|sums| sums.parts()).map(|part| part.get()).collect()
        };
        let products = of(&scores).into_iter().zip(of(&slopes));
        for ((i, sum), (s, dp)) in parts().enumerate().zip(products) {
            let ((key, _, _, bias), (lse, delta)) = (elements[i], rows[i % 4 / 2]);
            let p = probability(s, scale, Some(bias), lse);
            k.if_(key.lt(len), || sum.add(p * (dp - delta)));
        }
        k.note("the next sample's rows take these places");
        k.barrier();
    });
    for (sum, (_, at, exists, _)) in parts().zip(&elements) {
        k.if_(*exists, || place.dbias.at(*at).store(sum.get()));
    }
}
