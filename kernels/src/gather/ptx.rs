//! Rows picked from a table and gradients summed back into it, for the GPU.

use crate::ptx::{F32, Kernel, Storage, U32, with_stored};

/// Threads of a block.
const THREADS: u32 = 128;

/// Copies row `ids[i]` of a table to row i. Parameters: table, ids (u32, below the table's rows),
/// out, width. The extent of the grid is the width by the number of ids along y.
pub fn gather([from, to]: [Storage; 2]) -> Kernel {
    let name = format!("gather_{}_{}", from.name(), to.name());
    with_stored!(from, From => with_stored!(to, To => {
        Kernel::new(&name, THREADS, [THREADS, 1, 1], |k| {
            let (table, ids) = (k.global::<From>("table"), k.global::<U32>("ids"));
            let (out, width) = (k.global::<To>("out"), k.u32("width"));
            let (column, row) = (k.block(0).mad(THREADS, k.thread()), k.block(1));
            k.if_(column.lt(width), || {
                let from = table.at(ids.at(row).load().mad(width, column));
                out.at(row.mad(width, column)).store(from.load());
            });
        })
    }))
}

/// Row v of the table's gradient: the sum of rows of dy whose number is v, in their order, as on
/// the CPU. Rows that nobody picked are not written: they have to be zero before. Parameters: dy,
/// ids (u32), dtable, width, n (numbers). The extent of the grid is the width by n along y.
///
/// The blocks of a number's first place do the whole sum and all others nothing, so that no row has
/// two writers; to know which it is costs a look at the numbers before.
pub fn scatter_add() -> Kernel {
    Kernel::new("scatter_add", THREADS, [THREADS, 1, 1], |k| {
        let (dy, ids) = (k.global::<F32>("dy"), k.global::<U32>("ids"));
        let dtable = k.global::<F32>("dtable");
        let (width, n) = (k.u32("width"), k.u32("n"));
        let (column, place) = (k.block(0).mad(THREADS, k.thread()), k.block(1));
        k.if_(column.lt(width), || {
            let id = ids.at(place).load();
            let earlier = k.var::<U32>(0);
            k.for_(0, place, 1, |i| earlier.set_where(ids.at(i).load().eq(id), 1));
            k.if_(earlier.get().eq(0), || {
                let sum = k.var::<F32>(0.0);
                k.for_(place, n, 1, |i| {
                    k.if_(ids.at(i).load().eq(id), || {
                        sum.add(dy.at(i.mad(width, column)).load());
                    });
                });
                dtable.at(id.mad(width, column)).store(sum.get());
            });
        });
    })
}
