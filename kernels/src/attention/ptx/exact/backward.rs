//! Backward, in float32: the formulas of [`Backward`](super::super::Backward).

use std::f32::consts::LOG2_E;

use super::super::bias::Place;
use super::super::{Asking, Bias, Segment, View, Views, finite};
use super::Exact;
use super::tiles::{COLUMNS, EACH, Head, Part, SIDE, Tile, Tiles, of_rows};
use crate::num::Num;
use crate::ptx::{Body, F32, Global, Pred, Reg, Stored, U32};

/// What makes scores probabilities: scale and bias in units of ln 2, as LSE comes.
#[derive(Clone, Copy)]
struct Probability<'k>(Reg<'k, F32>);

impl<'k> Probability<'k> {
    /// p = exp(scale·s + bias − lse).
    fn of(self, s: Reg<'k, F32>, bias: Option<Reg<'k, F32>>, lse: Reg<'k, F32>) -> Reg<'k, F32> {
        let rest = bias.map_or(-lse, |bias| bias.mul_add(bias.lift(LOG2_E.into()), -lse));
        s.mul_add(self.0, rest).exp2_approximate()
    }
}

/// LSE·log₂e.
fn in_log2(lse: Reg<'_, F32>) -> Reg<'_, F32> {
    finite(lse) * LOG2_E
}

/// LSE·log₂e and Δ of a query, zeros where there is none: its q and dO are zeros, and so is what it
/// adds.
fn of_query<'k>(
    [lse, delta]: [Global<'k, F32>; 2],
    at: Reg<'k, U32>,
    exists: Reg<'k, Pred>,
) -> [Reg<'k, F32>; 2] {
    let [lse, delta] = [lse, delta].map(|array| array.at(at).load_where(exists, 0.0));
    [in_log2(lse), delta]
}

/// `x` where the predicate holds, else zero.
fn only<'k>(p: Reg<'k, Pred>, x: Reg<'k, F32>) -> Reg<'k, F32> {
    Reg::select(p, x, x.lift(0.0))
}

pub(super) fn queries<S: Stored>(k: &Body, exact: &Exact) {
    let head = Head::new(k, exact.width);
    let q = View::<S>::parameters(k, "q", head.channel);
    let d_o = View::<F32>::parameters(k, "d_o", head.channel);
    let statistics = ["lse", "delta"].map(|name| k.global::<F32>(name));
    let segments: Vec<_> =
        (0..exact.segments).map(|i| Segment::<S>::parameters(k, i, head.channel)).collect();
    let bias = exact.bias.then(|| Bias::parameters(k, segments.len(), "key", head.number));
    let dq = k.global::<F32>("dq");
    let (queries, heads, scale) = (k.u32("queries"), k.u32("heads"), k.f32("scale"));

    let first_query = k.block(0) * SIDE;
    let tiles = Tiles::new(k, exact.width, [first_query, queries]);
    let [q_tile, d_o_tile, k_tile] = [(); 3].map(|()| Tile::new(k, exact.width));
    let slope_tile = Tile::new(k, SIDE);
    let v_tile = slope_tile.instead(exact.width);
    let q = Part { view: q, first: first_query, end: queries };
    let d_o = Part { view: d_o, first: first_query, end: queries };
    let load_rows = |channel| {
        tiles.load(q_tile, q, channel);
        tiles.load(d_o_tile, d_o, channel);
    };
    let rows = tiles.rows(first_query);
    let of_rows: Vec<_> = rows
        .iter()
        .map(|&row| {
            let at = of_rows(k, head.number, [queries, heads], row);
            of_query(statistics, at, row.lt(queries))
        })
        .collect();
    let to_probability = Probability(scale * LOG2_E);
    let sums = tiles.answer();
    if tiles.are_whole() {
        load_rows(head.first);
    }
    for (number, segment) in segments.iter().enumerate() {
        let end = segment.len;
        k.for_(0, end, SIDE, |first| {
            let n = (end - first).min(SIDE);
            let keys = Part { view: segment.k, first, end };
            let (scores, slopes) = (tiles.scores(), tiles.scores());
            tiles.each_panel(|channel| {
                if !tiles.are_whole() {
                    load_rows(channel);
                }
                tiles.load(k_tile, keys, channel);
                tiles.load(v_tile, Part { view: segment.v, first, end }, channel);
                k.barrier();
                tiles.multiply([q_tile, k_tile], n, &scores);
                tiles.multiply([d_o_tile, v_tile], n, &slopes);
                k.note("dS or the next panel takes the place of V");
                k.barrier();
            });
            let columns = tiles.columns(first);
            let slopes: Vec<_> = (0..EACH)
                .map(|i| {
                    let (i_row, column) = (i / columns.len(), i % columns.len());
                    let (row, [lse, delta]) = (rows[i_row], of_rows[i_row]);
                    let is_key = columns[column].lt(end);
                    let bias = bias.as_ref().map(|bias| {
                        let bias = bias.at(row, bias.first[number] + columns[0]);
                        let bias = bias.plus(COLUMNS[column] as usize);
                        bias.load_where(row.lt(queries) & is_key, 0.0)
                    });
                    let p = to_probability.of(scores[i].get(), bias, lse);
                    only(is_key, p * (slopes[i].get() - delta))
                })
                .collect();
            tiles.store_scores(slope_tile, &slopes);
            if !tiles.are_whole() {
                tiles.load(k_tile, keys, head.first);
            }
            k.barrier();
            tiles.accumulate([slope_tile, k_tile], n, &sums);
            k.note("the next tiles take these places");
            k.barrier();
        });
    }
    sums.iter().for_each(|sum| sum.scale(scale));
    tiles.store(dq, &sums, first_query, [queries, heads], head);
}

pub(super) fn keys<'k, S: Stored>(k: &'k Body, exact: &Exact) {
    let head = Head::new(k, exact.width);
    let [keys, values] = ["k", "v"].map(|name| View::<S>::parameters(k, name, head.channel));
    let padding = k.global::<U32>("padding");
    let segments: Vec<_> =
        (0..exact.segments).map(|i| Asking::<S, F32>::parameters(k, i, head.channel)).collect();
    let bias = exact.bias.then(|| Bias::parameters(k, segments.len(), "query", head.number));
    let [dk, dv] = ["dk", "dv"].map(|name| k.global::<F32>(name));
    let (tokens, heads, scale) = (k.u32("keys"), k.u32("heads"), k.f32("scale"));

    let first_key = k.block(0) * SIDE;
    let len = tokens - padding.at(k.block(2)).load();
    let tiles = Tiles::new(k, exact.width, [first_key, len]);
    let [q_tile, d_o_tile] = [(); 2].map(|()| Tile::new(k, exact.width));
    let [weight_tile, slope_tile] = [(); 2].map(|()| Tile::new(k, SIDE));
    let [k_tile, v_tile] = [weight_tile, slope_tile].map(|tile| tile.instead(exact.width));
    let [keys, values] = [keys, values].map(|view| Part { view, first: first_key, end: len });
    let rows = tiles.rows(first_key);
    let to_probability = Probability(scale * LOG2_E);
    let [dk_sums, dv_sums] = [(); 2].map(|()| tiles.answer());
    for (number, asking) in segments.iter().enumerate() {
        let end = asking.queries;
        k.for_(0, end, SIDE, |first| {
            let n = (end - first).min(SIDE);
            let q = Part { view: asking.q, first, end };
            let d_o = Part { view: asking.d_o, first, end };
            let columns = tiles.columns(first);
            let of_columns = |array: Global<'k, F32>| {
                let first = array.at(of_rows(k, head.number, [end, heads], columns[0]));
                std::array::from_fn::<_, { COLUMNS.len() }, _>(|i| {
                    let at = first.plus(COLUMNS[i] as usize);
                    at.load_where(columns[i].lt(end), 0.0)
                })
            };
            let scores = tiles.scores();
            tiles.add_product((k_tile, keys), (q_tile, q), n, &scores);
            let lse = of_columns(asking.lse).map(in_log2);
            let weights: Vec<_> = (0..EACH)
                .map(|i| {
                    let (i_row, column) = (i / columns.len(), i % columns.len());
                    let (query, is_key) = (columns[column], rows[i_row].lt(len));
                    let bias = bias.as_ref().map(|bias| {
                        let bias = bias.at(bias.first[number] + query, rows[0]).plus(i_row);
                        bias.load_where(query.lt(end) & is_key, 0.0)
                    });
                    only(is_key, to_probability.of(scores[i].get(), bias, lse[column]))
                })
                .collect();
            tiles.store_scores(weight_tile, &weights);
            let (delta, slopes) = (of_columns(asking.delta), tiles.scores());
            tiles.add_product((v_tile, values), (d_o_tile, d_o), n, &slopes);
            // P comes back, so that registers need not hold both.
            let weights = tiles.load_scores(weight_tile);
            let slopes: Vec<_> = (weights.iter().zip(&slopes).enumerate())
                .map(|(i, (p, slope))| *p * (slope.get() - delta[i % columns.len()]))
                .collect();
            tiles.store_scores(slope_tile, &slopes);
            if !tiles.are_whole() {
                tiles.load(q_tile, q, head.first);
                tiles.load(d_o_tile, d_o, head.first);
            }
            k.barrier();
            tiles.accumulate([weight_tile, d_o_tile], n, &dv_sums);
            tiles.accumulate([slope_tile, q_tile], n, &dk_sums);
            k.note("the next tiles take these places");
            k.barrier();
        });
    }
    dk_sums.iter().for_each(|sum| sum.scale(scale));
    tiles.store(dk, &dk_sums, first_key, [tokens, heads], head);
    tiles.store(dv, &dv_sums, first_key, [tokens, heads], head);
}

pub(super) fn bias<S: Stored>(k: &Body, width: u32) {
    let q = Views::<S>::parameters(k, "q");
    let d_o = Views::<F32>::parameters(k, "d_o");
    let [key_views, values] = ["k", "v"].map(|name| Views::<S>::parameters(k, name));
    let statistics = ["lse", "delta"].map(|name| k.global::<F32>(name));
    let padding = k.global::<U32>("padding");
    let place = Place::parameters(k);
    let [queries, keys, heads, batch] =
        ["queries", "keys", "heads", "batch"].map(|name| k.u32(name));
    let scale = k.f32("scale");

    let (first_key, first_query, head) = (k.block(0) * SIDE, k.block(1) * SIDE, k.block(2));
    let tiles = Tiles::new(k, width, [first_query, queries]);
    let [left, right] = [(); 2].map(|()| Tile::new(k, width));
    let (rows, columns) = (tiles.rows(first_query), tiles.columns(first_key));
    let elements: Vec<_> = (0..EACH)
        .map(|i| {
            let (query, key) = (rows[i / columns.len()], columns[i % columns.len()]);
            let (at, exists) = (place.at(head, query, key), query.lt(queries) & key.lt(keys));
            (key, at, exists, place.bias.at(at).load_where(exists, 0.0))
        })
        .collect();
    let to_probability = Probability(scale * LOG2_E);
    let n = (keys - first_key).min(SIDE);
    let sums = tiles.scores();
    k.for_(0, batch, 1, |sample| {
        let (len, channel) = (keys - padding.at(sample).load(), head * width);
        let q = Part { view: q.of(sample, channel), first: first_query, end: queries };
        let d_o = Part { view: d_o.of(sample, channel), first: first_query, end: queries };
        let [key_part, value_part] = [key_views, values].map(|views| Part {
            view: views.of(sample, channel),
            first: first_key,
            end: len,
        });
        let (scores, slopes) = (tiles.scores(), tiles.scores());
        tiles.add_product((left, q), (right, key_part), n, &scores);
        tiles.add_product((left, d_o), (right, value_part), n, &slopes);
        let of_rows: Vec<_> = rows
            .iter()
            .map(|&row| {
                let at = sample.mad(heads, head).mad(queries, row);
                of_query(statistics, at, row.lt(queries))
            })
            .collect();
        for (i, (key, _, _, bias)) in elements.iter().enumerate() {
            let [lse, delta] = of_rows[i / columns.len()];
            let p = to_probability.of(scores[i].get(), Some(*bias), lse);
            sums[i].add(only(key.lt(len), p * (slopes[i].get() - delta)));
        }
    });
    for (sum, (_, at, exists, _)) in sums.iter().zip(&elements) {
        k.if_(*exists, || place.dbias.at(*at).store(sum.get()));
    }
}
