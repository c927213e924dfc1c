//! Backward, in float32: the formulas of [`Backward`](super::super::Backward).

use super::super::bias::Place;
use super::super::{Asking, Bias, Segment, View, Views, finite};
use super::tile::{COLUMNS, ROWS};
use super::{EACH, Exact, Head, Part, Tiles, of_rows};
use crate::num::Num;
use crate::ptx::{Body, F32, Global, Pred, Reg, Stored, U32};

/// p = exp(scale·s + bias − lse).
fn probability<'k>(
    s: Reg<'k, F32>,
    scale: Reg<'k, F32>,
    bias: Option<Reg<'k, F32>>,
    lse: Reg<'k, F32>,
) -> Reg<'k, F32> {
    let score = s * scale;
    (bias.map_or(score, |bias| score + bias) - lse).exp()
}

/// LSE and Δ of a query, zeros where there is none: its q and dO are zeros, and so is what it adds.
fn of_query<'k>(
    [lse, delta]: [Global<'k, F32>; 2],
    at: Reg<'k, U32>,
    exists: Reg<'k, Pred>,
) -> [Reg<'k, F32>; 2] {
    let [lse, delta] = [lse, delta].map(|array| array.at(at).load_where(exists, 0.0));
    [finite(lse), delta]
}

pub(super) fn queries<S: Stored>(k: &Body, exact: &Exact) {
    let head = Head::parameters(k);
    let q = View::<S>::parameters(k, "q", head.channel);
    let d_o = View::<F32>::parameters(k, "d_o", head.channel);
    let statistics = ["lse", "delta"].map(|name| k.global::<F32>(name));
    let segments: Vec<_> =
        (0..exact.segments).map(|i| Segment::<S>::parameters(k, i, head.channel)).collect();
    let bias = exact.bias.then(|| Bias::parameters(k, segments.len(), "key", head.number));
    let dq = k.global::<F32>("dq");
    let (queries, heads, scale) = (k.u32("queries"), k.u32("heads"), k.f32("scale"));

    let first_query = k.block(0) * ROWS;
    let tiles = Tiles::new(k, head.width, [first_query, queries]);
    let q = Part { view: q, first: first_query, end: queries };
    let d_o = Part { view: d_o, first: first_query, end: queries };
    let rows = tiles.rows(first_query);
    let of_rows: Vec<_> = rows
        .iter()
        .map(|&row| {
            let at = of_rows(k, head.number, [queries, heads], row);
            of_query(statistics, at, row.lt(queries))
        })
        .collect();
    let sums = k.vars(EACH, 0.0);
    for (number, segment) in segments.iter().enumerate() {
        let end = segment.len;
        k.for_(0, end, COLUMNS, |first| {
            let keys = Part { view: segment.k, first, end };
            let scores = tiles.multiply(q, keys);
            let slopes = tiles.multiply(d_o, Part { view: segment.v, first, end });
            let columns = tiles.columns(first);
            let slopes: Vec<_> = (0..EACH)
                .map(|i| {
                    let (i_row, key) = (i / columns.len(), columns[i % columns.len()]);
                    let (row, [lse, delta]) = (rows[i_row], of_rows[i_row]);
                    let bias = bias.as_ref().map(|bias| {
                        let bias = bias.at(row, bias.first[number] + key);
                        bias.load_where(row.lt(queries) & key.lt(end), 0.0)
                    });
                    // Columns beyond the end are left out of the product.
                    probability(scores[i].get(), scale, bias, lse) * (slopes[i].get() - delta)
                })
                .collect();
            tiles.store_left(&slopes);
            tiles.load_right(keys, head);
            k.barrier();
            tiles.accumulate((end - first).min(COLUMNS), &sums);
        });
    }
    sums.iter().for_each(|sum| sum.scale(scale));
    tiles.store(dq, &sums, first_query, [queries, heads], head);
}

pub(super) fn keys<S: Stored>(k: &Body, exact: &Exact) {
    let head = Head::parameters(k);
    let [keys, values] = ["k", "v"].map(|name| View::<S>::parameters(k, name, head.channel));
    let padding = k.global::<U32>("padding");
    let segments: Vec<_> =
        (0..exact.segments).map(|i| Asking::<S, F32>::parameters(k, i, head.channel)).collect();
    let bias = exact.bias.then(|| Bias::parameters(k, segments.len(), "query", head.number));
    let [dk, dv] = ["dk", "dv"].map(|name| k.global::<F32>(name));
    let (tokens, heads, scale) = (k.u32("keys"), k.u32("heads"), k.f32("scale"));

    let first_key = k.block(0) * ROWS;
    let len = tokens - padding.at(k.block(2)).load();
    let tiles = Tiles::new(k, head.width, [first_key, len]);
    let [keys, values] = [keys, values].map(|view| Part { view, first: first_key, end: len });
    let rows = tiles.rows(first_key);
    let [dk_sums, dv_sums] = [0, 1].map(|_| k.vars(EACH, 0.0));
    for (number, asking) in segments.iter().enumerate() {
        let end = asking.queries;
        k.for_(0, end, COLUMNS, |first| {
            let q = Part { view: asking.q, first, end };
            let d_o = Part { view: asking.d_o, first, end };
            let scores = tiles.multiply(keys, q);
            let slopes = tiles.multiply(values, d_o);
            let columns = tiles.columns(first);
            let of_columns: Vec<_> = columns
                .iter()
                .map(|&query| {
                    let at = of_rows(k, head.number, [end, heads], query);
                    of_query([asking.lse, asking.delta], at, query.lt(end))
                })
                .collect();
            let (weights, slopes): (Vec<_>, Vec<_>) = (0..EACH)
                .map(|i| {
                    let (key, i_column) = (rows[i / columns.len()], i % columns.len());
                    let (query, [lse, delta]) = (columns[i_column], of_columns[i_column]);
                    let is_key = key.lt(len);
                    let bias = bias.as_ref().map(|bias| {
                        let bias = bias.at(bias.first[number] + query, key);
                        bias.load_where(query.lt(end) & is_key, 0.0)
                    });
                    let p = probability(scores[i].get(), scale, bias, lse);
                    let p = Reg::select(is_key, p, k.value(0.0));
                    (p, p * (slopes[i].get() - delta))
                })
                .unzip();
            let n = (end - first).min(COLUMNS);
            tiles.store_left(&weights);
            tiles.load_right(d_o, head);
            k.barrier();
            tiles.accumulate(n, &dv_sums);
            k.note("dS takes the place of P, and Q that of dO");
            k.barrier();
            tiles.store_left(&slopes);
            tiles.load_right(q, head);
            k.barrier();
            tiles.accumulate(n, &dk_sums);
        });
    }
    dk_sums.iter().for_each(|sum| sum.scale(scale));
    tiles.store(dk, &dk_sums, first_key, [tokens, heads], head);
    tiles.store(dv, &dv_sums, first_key, [tokens, heads], head);
}

pub(super) fn bias<S: Stored>(k: &Body) {
    let width = k.u32("width");
    let q = Views::<S>::parameters(k, "q");
    let d_o = Views::<F32>::parameters(k, "d_o");
    let [key_views, values] = ["k", "v"].map(|name| Views::<S>::parameters(k, name));
    let statistics = ["lse", "delta"].map(|name| k.global::<F32>(name));
    let padding = k.global::<U32>("padding");
    let place = Place::parameters(k);
    let [queries, keys, heads, batch] =
        ["queries", "keys", "heads", "batch"].map(|name| k.u32(name));
    let scale = k.f32("scale");

    let (first_key, first_query, head) = (k.block(0) * COLUMNS, k.block(1) * ROWS, k.block(2));
    let tiles = Tiles::new(k, width, [first_query, queries]);
    let (rows, columns) = (tiles.rows(first_query), tiles.columns(first_key));
    let elements: Vec<_> = (0..EACH)
        .map(|i| {
            let (query, key) = (rows[i / columns.len()], columns[i % columns.len()]);
            let (at, exists) = (place.at(head, query, key), query.lt(queries) & key.lt(keys));
            (key, at, exists, place.bias.at(at).load_where(exists, 0.0))
        })
        .collect();
    let sums = k.vars(EACH, 0.0);
    k.for_(0, batch, 1, |sample| {
        let (len, channel) = (keys - padding.at(sample).load(), head * width);
        let (first, end) = (first_query, queries);
        let q = Part { view: q.of(sample, channel), first, end };
        let d_o = Part { view: d_o.of(sample, channel), first, end };
        let [key_part, value_part] = [key_views, values].map(|views| Part {
            view: views.of(sample, channel),
            first: first_key,
            end: len,
        });
        let scores = tiles.multiply(q, key_part);
        let slopes = tiles.multiply(d_o, value_part);
        let of_rows: Vec<_> = rows
            .iter()
            .map(|&row| {
                let at = sample.mad(heads, head).mad(queries, row);
                of_query(statistics, at, row.lt(queries))
            })
            .collect();
        for (i, (key, _, _, bias)) in elements.iter().enumerate() {
            let [lse, delta] = of_rows[i / columns.len()];
            let p = probability(scores[i].get(), scale, Some(*bias), lse);
            let slope = p * (slopes[i].get() - delta);
            sums[i].add(Reg::select(key.lt(len), slope, k.value(0.0)));
        }
    });
    for (sum, (_, at, exists, _)) in sums.iter().zip(&elements) {
        k.if_(*exists, || place.dbias.at(*at).store(sum.get()));
    }
}
