//! Rows picked from a table and gradients summed back into it, for the GPU.

use crate::ptx::{F32, Kernel, Reg, Storage, U32, with_stored};

/// Threads of a block.
const THREADS: u32 = 128;

/// Copies row `ids[i]` of a table to row i. Parameters: table, ids (u32, below the table's rows),
/// out, width, len (elements of out). The extent of the grid is len.
pub fn gather([from, to]: [Storage; 2]) -> Kernel {
    let name = format!("gather_{}_{}", from.name(), to.name());
    with_stored!(from, From => with_stored!(to, To => {
        Kernel::new(&name, THREADS, [THREADS, 1, 1], |k| {
            let (table, ids) = (k.global::<From>("table"), k.global::<U32>("ids"));
            let out = k.global::<To>("out");
            let (width, len) = (k.u32("width"), k.u32("len"));
            let index = k.block(0).mad(THREADS, k.thread());
            k.if_(index.lt(len), || {
                let id = ids.at(index / width).load();
                out.at(index).store(table.at(id.mad(width, index % width)).load());
            });
        })
    }))
}

/// The places of equal numbers: what [`scatter_add`] goes by. There are as many groups as places,
/// whatever the numbers are, so that its launch is the same for all of them; the last are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Every place, by its number, then in order.
    pub order: Vec<usize>,
    /// Where in the order those of each number that occurs begin, and the end.
    pub starts: Vec<usize>,
    /// The number, and 0 of a group that is empty.
    pub rows: Vec<usize>,
}

impl Groups {
    /// The groups of these numbers.
    pub fn of(ids: &[usize]) -> Self {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&i| ids[i]);
        let mut groups = Groups { order, ..Groups::default() };
        for (place, &i) in groups.order.iter().enumerate() {
            if groups.rows.last() != Some(&ids[i]) {
                groups.rows.push(ids[i]);
                groups.starts.push(place);
            }
        }
        groups.rows.resize(ids.len(), 0);
        groups.starts.resize(ids.len() + 1, ids.len());
        groups
    }
}

/// Places whose rows are loaded before they are added.
const AHEAD: u32 = 4;

/// Row `rows[g]` of the table's gradient: the sum of the rows of dy whose number it is, in their
/// order, as on the CPU. Rows that nobody picked are not written: they have to be zero before.
/// Parameters: dy, order, starts and rows (u32) of the [`Groups`], dtable, width, len (groups times
/// the width). The extent of the grid is len.
///
/// The numbers have been sorted where they come from, on the CPU, so that a thread makes one sum and
/// reads nothing else: no row has two writers, and no float is added atomically.
pub fn scatter_add() -> Kernel {
    Kernel::new("scatter_add", THREADS, [THREADS, 1, 1], |k| {
        let dy = k.global::<F32>("dy");
        let [order, starts, rows] = ["order", "starts", "rows"].map(|name| k.global::<U32>(name));
        let dtable = k.global::<F32>("dtable");
        let (width, len) = (k.u32("width"), k.u32("len"));
        let index = k.block(0).mad(THREADS, k.thread());
        k.if_(index.lt(len), || {
            let (group, column) = (index / width, index % width);
            let (start, end) = (starts.at(group).load(), starts.at(group).plus(1).load());
            let sum = k.var::<F32>(0.0);
            k.for_(start, end, AHEAD, |first| {
                let ahead: Vec<Reg<F32>> = (0..AHEAD)
                    .map(|i| {
                        let inside = (first + i).lt(end);
                        let place = order.at(first).plus(i as usize).load_where(inside, 0);
                        dy.at(place.mad(width, column)).load_where(inside, -0.0)
                    })
                    .collect();
                // −0 changes no sum.
                ahead.into_iter().for_each(|x| sum.add(x));
            });
            k.if_(start.lt(end), || {
                dtable.at(rows.at(group).load().mad(width, column)).store(sum.get());
            });
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_of_places() {
        let groups = Groups::of(&[5, 2, 5, 0, 2, 5]);
        assert_eq!(groups.order, [3, 1, 4, 0, 2, 5]);
        assert_eq!(groups.starts, [0, 1, 3, 6, 6, 6, 6]);
        assert_eq!(groups.rows, [0, 2, 5, 0, 0, 0]);
        assert_eq!(Groups::of(&[]).starts, [0]);
    }
}
