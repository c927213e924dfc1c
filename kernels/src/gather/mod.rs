//! Rows picked from a table by number, and the sum of gradients back into it.
//!
//! ```text
//! y[i] = table[ids[i]]          dtable[v] = Σ dy[i] over i with ids[i] = v, in order of i
//! ```

pub mod ptx;

use crate::{Real, par};

/// Nanoseconds that moving an element takes, for the decision whether to split the work.
const NS: usize = 1;

/// Rows that a task moves.
const ROWS: usize = 64;

/// Copies row `ids[i]` of `table` \[V, `width`\] to row i of `out` \[R, `width`\].
///
/// Panics when a number is not below V, or `out` has not R rows.
pub fn gather<E: Copy + Send + Sync>(table: &[E], width: usize, ids: &[usize], out: &mut [E]) {
    assert_eq!(out.len(), ids.len() * width, "gather: one row for each number");
    if width == 0 {
        return;
    }
    par::chunks_mut(out, ROWS * width, NS * ids.len() * width, |chunk, out| {
        for (out, &id) in out.chunks_exact_mut(width).zip(&ids[chunk * ROWS..]) {
            out.copy_from_slice(&table[id * width..][..width]);
        }
    });
}

/// Writes the gradient of the table: row v of `dtable` is the sum of the rows of `dy` whose number
/// is v, in their order, zero where there is none.
///
/// The numbers are sorted first, stably, so that a row of the table belongs to one task and its sum
/// has one order.
/// Panics when a number is not below V, or `dy` has not R rows.
pub fn scatter_add<T: Real>(dy: &[T], width: usize, ids: &[usize], dtable: &mut [T]) {
    assert_eq!(dy.len(), ids.len() * width, "scatter: one row for each number");
    if width == 0 {
        return;
    }
    let rows = dtable.len() / width;
    assert!(ids.iter().all(|&id| id < rows), "scatter: numbers below {rows}");
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&i| ids[i]);
    let ns = NS * (dy.len() + dtable.len());
    par::chunks_mut(dtable, ROWS * width, ns, |chunk, dtable| {
        dtable.fill(T::ZERO);
        let ids_here = chunk * ROWS..(chunk + 1) * ROWS;
        let first = order.partition_point(|&i| ids[i] < ids_here.start);
        for &i in order[first..].iter().take_while(|&&i| ids[i] < ids_here.end) {
            let row = &mut dtable[(ids[i] - ids_here.start) * width..][..width];
            row.iter_mut().zip(&dy[i * width..]).for_each(|(d, &dy)| *d += dy);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::par::with_threads;
    use crate::random::philox4x32;

    fn ids(len: usize, below: usize) -> Vec<usize> {
        (0..len).map(|i| philox4x32([7, 7], [i as u32, 0, 0, 0])[0] as usize % below).collect()
    }

    #[test]
    fn rows_are_picked_and_their_gradients_summed_in_order() {
        for [rows, table, width] in [[1, 1, 1], [300, 200, 3], [500, 7, 17], [0, 5, 2], [3, 4, 0]] {
            let ids = ids(rows, table);
            let x: Vec<f32> = (0..table * width).map(|i| i as f32).collect();
            let dy: Vec<f32> = (0..rows * width).map(|i| 1.0 / (1.0 + i as f32)).collect();
            for threads in [1, 3] {
                let [mut y, mut dx] = [vec![f32::NAN; rows * width], vec![f32::NAN; x.len()]];
                with_threads(threads, || {
                    gather(&x, width, &ids, &mut y);
                    scatter_add(&dy, width, &ids, &mut dx);
                });
                let mut want = vec![0.0; x.len()];
                for (i, &id) in ids.iter().enumerate() {
                    for c in 0..width {
                        assert_eq!(y[i * width + c], x[id * width + c]);
                        want[id * width + c] += dy[i * width + c];
                    }
                }
                assert_eq!(dx, want);
            }
        }
    }

    #[test]
    #[should_panic(expected = "below 4")]
    fn a_number_beyond_the_table_is_refused() {
        scatter_add(&[1.0f32; 2], 1, &[0, 4], &mut [0.0; 4]);
    }
}
