//! Sums and maxima along axes.

use kernels::reduce::{self, ptx};
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, launch, numbers, run};

#[test]
fn sums_of_rows_have_the_bits_of_the_cpu() {
    for [rows, n] in [[5, 1], [3, 63], [2, 2500], [9, 100]] {
        let x = numbers(rows * n, 1.0, 5);
        let mut want = vec![0.0; rows];
        reduce::sum(&x, [rows, n, 1], &mut want);
        let mut gpu = Machine::new();
        let (x, y) = (gpu.upload(&x), gpu.alloc::<f32>(rows));
        let args = [x.into(), y.into(), Arg::from(rows as u32), Arg::from(n as u32)];
        let counts = run(&mut gpu, &ptx::rows(), [rows, 1, 1], &args);
        assert_bits("sum", &gpu.download(y).expect("a buffer"), &want);
        assert_eq!(counts.traffic[&x.address].read, 4 * (rows * n) as u64, "each element once");
    }
}

#[test]
fn long_rows_are_summed_in_parts() {
    for (rows, n) in [(1, ptx::SHORT as usize + 1), (3, ptx::PART as usize + 2100)] {
        let x = numbers(rows * n, 1.0, 6);
        let mut want = vec![0.0; rows];
        reduce::sum(&x, [rows, n, 1], &mut want);
        let mut gpu = Machine::new();
        let (x, y) = (gpu.upload(&x), gpu.alloc::<f32>(rows));
        let each = n.div_ceil(ptx::PART as usize);
        let parts: Buffer<f64> = gpu.alloc(each * rows);
        let sizes = [n, each].map(|n| Arg::from(n as u32));
        let args = [&[x.into(), parts.into()][..], &sizes].concat();
        run(&mut gpu, &ptx::row_parts(), [each * rows, 1, 1], &args);
        let args = [parts.into(), y.into(), Arg::from(each as u32)];
        run(&mut gpu, &ptx::add_parts(), [rows, 1, 1], &args);
        assert_bits("sum", &gpu.download(y).expect("a buffer"), &want);
    }
}

#[test]
fn parts_are_added_in_order() {
    // In order, each 1 is lost to the first part; in any other, some remain.
    let mut parts = vec![1.0f64; 300];
    (parts[0], parts[299]) = (1e16, -1e16);
    let mut gpu = Machine::new();
    let y = gpu.alloc::<f32>(1);
    let args = [gpu.upload(&parts).into(), y.into(), Arg::from(parts.len() as u32)];
    run(&mut gpu, &ptx::add_parts(), [1, 1, 1], &args);
    assert_bits("sum", &gpu.download(y).expect("a buffer"), &[0.0]);
    let broken = ptx::add_parts().weakened();
    assert_eq!(broken.len(), 2, "two barriers");
    for broken in broken {
        launch(&mut gpu, &broken, [1, 1, 1], &args).expect_err("a race");
    }
}

#[test]
fn sums_of_columns_have_the_bits_of_the_cpu() {
    for [outer, n, inner] in [[3, 5, 7], [1, 64, 33], [2, 131, 40]] {
        let x = numbers(outer * n * inner, 1.0, 7);
        let mut want = vec![0.0; outer * inner];
        reduce::sum(&x, [outer, n, inner], &mut want);
        let mut gpu = Machine::new();
        let (mut x, mut n) = (gpu.upload(&x), n);
        loop {
            let groups = n.div_ceil(64);
            let outputs = outer * groups * inner;
            let y: Buffer<f32> = gpu.alloc(outputs);
            let sizes = [outputs, n, inner, groups].map(|n| Arg::from(n as u32));
            let args = [&[x.into(), y.into()][..], &sizes].concat();
            run(&mut gpu, &ptx::columns(), [outputs, 1, 1], &args);
            (x, n) = (y, groups);
            if n == 1 {
                break;
            }
        }
        assert_bits("sum", &gpu.download(x).expect("a buffer"), &want);
    }
}

/// Ties, zeros of both signs, infinities and NaN, in rows and in columns.
#[test]
fn maxima_are_the_first_that_the_cpu_finds() {
    for [outer, n, inner] in [[5, 1, 1], [3, 700, 1], [9, 33, 1], [2, 5, 7], [1, 66, 130]] {
        let mut x = numbers(outer * n * inner, 1.0, 8);
        // Few different values, so that many are equal.
        x.iter_mut().for_each(|x| *x = (*x * 3.0).round() / 3.0);
        let special = [f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY, f32::NAN];
        for (i, value) in special.into_iter().enumerate() {
            let (place, len) = (i * (n * inner / 2 + 1), x.len());
            x[place % len] = value;
        }
        x[n * inner / 2..n * inner].fill(f32::NEG_INFINITY);
        let outputs = outer * inner;
        let (mut y, mut at) = (vec![0.0; outputs], vec![0; outputs]);
        reduce::max(&x, [outer, n, inner], &mut y, &mut at);
        let kernels = match inner {
            1 => [false, true].map(ptx::max_rows).to_vec(),
            _ => vec![ptx::max_columns()],
        };
        let mut gpu = Machine::new();
        let x_in = gpu.upload(&x);
        for kernel in kernels {
            let (y_out, at_out) = (gpu.alloc::<f32>(outputs), gpu.alloc::<u32>(outputs));
            let sizes = [outputs, n, inner].map(|n| Arg::from(n as u32));
            let sizes = if inner == 1 { &sizes[..2] } else { &sizes };
            let args = [&[x_in.into(), y_out.into(), at_out.into()][..], sizes].concat();
            let counts = run(&mut gpu, &kernel, [outputs, 1, 1], &args);
            assert_bits("max", &gpu.download(y_out).expect("a buffer"), &y);
            assert_eq!(gpu.download(at_out).expect("a buffer"), at, "{:?}", kernel.spec().name);
            let read = 4 * (x.len() + outputs) as u64;
            assert_eq!(counts.traffic[&x_in.address].read, read, "each once, the answers again");
        }
        let dy = numbers(outputs, 1.0, 9);
        let mut want = vec![0.0; x.len()];
        reduce::spread(&dy, &at, [outer, n, inner], &mut want);
        let dx = gpu.upload(&vec![0.0f32; x.len()]);
        let args = [gpu.upload(&dy).into(), gpu.upload(&at).into(), dx.into()];
        let args = [&args[..], &[outputs, n, inner].map(|n| Arg::from(n as u32))].concat();
        run(&mut gpu, &ptx::spread(), [outputs, 1, 1], &args);
        assert_bits("spread", &gpu.download(dx).expect("a buffer"), &want);
    }
}

#[test]
fn the_largest_of_a_wide_row_needs_its_barrier() {
    let n = 700;
    let mut gpu = Machine::new();
    let (x, y) = (gpu.upload(&numbers(n, 1.0, 8)), gpu.alloc::<f32>(1));
    let args = [x.into(), y.into(), gpu.alloc::<u32>(1).into(), 1u32.into(), (n as u32).into()];
    let [broken] = &ptx::max_rows(true).weakened()[..] else { panic!("one barrier") };
    launch(&mut gpu, broken, [1, 1, 1], &args).expect_err("a race");
}
