//! Rows picked from a table.

use kernels::gather::{self, ptx};
use kernels::ptx::Storage;
use ptx_vm::{Arg, Machine};

use crate::{assert_bits, numbers, run};

#[test]
fn rows_are_picked_and_their_gradients_summed_in_order() {
    let (rows, width) = (7, 130);
    let ids = [3u32, 0, 3, 6, 3, 0, 2];
    let places: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
    let (table, dy) = (numbers(rows * width, 1.0, 1), numbers(ids.len() * width, 1.0, 2));
    let [mut y, mut dtable] = [vec![0.0; dy.len()], vec![0.0; table.len()]];
    gather::gather(&table, width, &places, &mut y);
    gather::scatter_add(&dy, width, &places, &mut dtable);

    let mut gpu = Machine::new();
    let extent = [width, ids.len(), 1];
    let [table_in, dy_in] = [&table, &dy].map(|x| gpu.upload(x));
    let ids_in = gpu.upload(&ids);
    let (y_out, dtable_out) = (gpu.alloc::<f32>(y.len()), gpu.upload(&vec![0.0f32; table.len()]));
    let args = [table_in.into(), ids_in.into(), y_out.into(), Arg::from(width as u32)];
    run(&mut gpu, &ptx::gather([Storage::F32; 2]), extent, &args);
    assert_bits("rows", &gpu.download(y_out).expect("a buffer"), &y);
    let sizes = [width, ids.len()].map(|n| Arg::from(n as u32));
    let args = [&[dy_in.into(), ids_in.into(), dtable_out.into()][..], &sizes].concat();
    run(&mut gpu, &ptx::scatter_add(), extent, &args);
    assert_bits("gradient", &gpu.download(dtable_out).expect("a buffer"), &dtable);
}
