//! Rows picked from a table.

use kernels::gather::{self, ptx};
use kernels::ptx::Storage;
use ptx_vm::{Arg, Machine};

use crate::{assert_bits, numbers, run};

#[test]
fn rows_are_picked_and_their_gradients_summed_in_order() {
    let (rows, width) = (7, 130);
    let ids = [3u32, 0, 3, 6, 3, 0, 2, 3, 3];
    let places: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
    let (table, dy) = (numbers(rows * width, 1.0, 1), numbers(ids.len() * width, 1.0, 2));
    let [mut y, mut dtable] = [vec![0.0; dy.len()], vec![0.0; table.len()]];
    gather::gather(&table, width, &places, &mut y);
    gather::scatter_add(&dy, width, &places, &mut dtable);

    let mut gpu = Machine::new();
    let [table_in, dy_in] = [&table, &dy].map(|x| gpu.upload(x));
    let ids_in = gpu.upload(&ids);
    let (y_out, dtable_out) = (gpu.alloc::<f32>(y.len()), gpu.upload(&vec![0.0f32; table.len()]));
    let sizes = [width, y.len()].map(|n| Arg::from(n as u32));
    let args = [&[table_in.into(), ids_in.into(), y_out.into()][..], &sizes].concat();
    run(&mut gpu, &ptx::gather([Storage::F32; 2]), [y.len(), 1, 1], &args);
    assert_bits("rows", &gpu.download(y_out).expect("a buffer"), &y);
    let ptx::Groups { order, starts, rows } = ptx::Groups::of(&places);
    let len = rows.len() * width;
    let [order, starts, rows] =
        [order, starts, rows].map(|x| gpu.upload(&x.iter().map(|&x| x as u32).collect::<Vec<_>>()));
    let sizes = [width, len].map(|n| Arg::from(n as u32));
    let arrays = [dy_in.into(), order.into(), starts.into(), rows.into(), dtable_out.into()];
    run(&mut gpu, &ptx::scatter_add(), [len, 1, 1], &[&arrays[..], &sizes].concat());
    assert_bits("gradient", &gpu.download(dtable_out).expect("a buffer"), &dtable);
}
