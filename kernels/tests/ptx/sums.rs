//! Sums along axes.

use kernels::reduce::{self, ptx};
use ptx_vm::{Arg, Buffer, Machine};

use crate::{assert_bits, numbers, run};

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
    let n = ptx::PART as usize + 2100;
    let x = numbers(n, 1.0, 6);
    let mut want = [0.0];
    reduce::sum(&x, [1, n, 1], &mut want);
    let squares = reduce::sum_squares(&x);
    for (term, want, bound) in
        [(ptx::Term::Itself, want[0], 0.0), (ptx::Term::Square, squares as f32, 1e-5 * squares)]
    {
        let mut gpu = Machine::new();
        let (x, y) = (gpu.upload(&x), gpu.alloc::<f32>(1));
        let parts: Buffer<f64> = gpu.alloc(2);
        let args = [x.into(), parts.into(), Arg::from(n as u32)];
        run(&mut gpu, &ptx::row_parts(term), [2, 1, 1], &args);
        run(&mut gpu, &ptx::add_parts(), [1, 1, 1], &[parts.into(), y.into(), Arg::from(2u32)]);
        let got = gpu.download(y).expect("a buffer")[0];
        assert!(f64::from(got - want).abs() <= bound, "{term:?}: {got} {want}");
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
