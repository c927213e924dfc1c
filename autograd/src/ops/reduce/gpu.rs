//! Sums and maxima on a GPU: launches of `kernels::reduce::ptx`, which have the CPU's bits.

use kernels::reduce::ptx;
use tensor::{Cuda, DType, Result, Tensor};

/// Elements from which a row is a block's to find the largest in, rather than a warp's.
const WIDE: usize = 1024;

/// Sums of packed elements \[outer, n, inner\] along the middle axis, by the CPU's trees: columns
/// in groups, until one is left; rows by a warp each, or in parts where they are long.
pub(in crate::ops) fn add(
    gpu: &Cuda,
    x: &Tensor,
    [outer, mut n, inner]: [usize; 3],
) -> Result<Tensor> {
    let new = |len: usize, dtype| Tensor::uninit_on(Some(gpu), [len], dtype);
    if n == 0 {
        return Ok(Tensor::zeros_on(Some(gpu), [outer * inner], DType::F32));
    }
    if inner == 1 && n <= ptx::SHORT as usize {
        let mut y = new(outer, DType::F32);
        let kernel = gpu.kernel("sum_rows", ptx::rows)?.input(x).output(&mut y);
        kernel.numbers([outer, n]).run([outer, 1, 1])?;
        return Ok(y);
    }
    if inner == 1 {
        let each = n.div_ceil(ptx::PART as usize);
        let total = outer * each;
        let (mut parts, mut y) = (new(total, DType::F64), new(outer, DType::F32));
        let kernel = gpu.kernel("sum_parts", ptx::row_parts)?.input(x).output(&mut parts);
        kernel.numbers([n, each]).run([total, 1, 1])?;
        let kernel = gpu.kernel("add_parts", ptx::add_parts)?.input(&parts).output(&mut y);
        kernel.number(each).run([outer, 1, 1])?;
        return Ok(y);
    }
    let mut x = x.clone();
    loop {
        let groups = n.div_ceil(ptx::ROWS as usize);
        let outputs = outer * groups * inner;
        let mut y = new(outputs, DType::F32);
        let kernel = gpu.kernel("sum_columns", ptx::columns)?.input(&x).output(&mut y);
        kernel.numbers([outputs, n, inner, groups]).run([outputs, 1, 1])?;
        (x, n) = (y, groups);
        if n == 1 {
            return Ok(x);
        }
    }
}

/// The largest of packed elements \[outer, n, inner\] along the middle axis, and where they are.
pub(super) fn max(
    gpu: &Cuda,
    x: &Tensor,
    [outer, n, inner]: [usize; 3],
) -> Result<(Tensor, Tensor)> {
    let outputs = outer * inner;
    let [mut y, mut at] =
        [DType::F32, DType::I32].map(|dtype| Tensor::uninit_on(Some(gpu), [outputs], dtype));
    let launch = match (inner, n >= WIDE) {
        (1, false) => gpu.kernel("max_rows", || ptx::max_rows(false))?,
        (1, true) => gpu.kernel("max_wide_rows", || ptx::max_rows(true))?,
        _ => gpu.kernel("max_columns", ptx::max_columns)?,
    };
    let launch = launch.input(x).output(&mut y).output(&mut at).numbers([outputs, n]);
    let launch = if inner == 1 { launch } else { launch.number(inner) };
    launch.run([outputs, 1, 1])?;
    Ok((y, at))
}

/// Puts packed numbers \[outer, inner\] to where the maxima are among the zeros of dx.
pub(super) fn spread(
    gpu: &Cuda,
    dy: &Tensor,
    at: &Tensor,
    [outer, n, inner]: [usize; 3],
    dx: &mut Tensor,
) -> Result<()> {
    let launch = gpu.kernel("max_backward", ptx::spread)?.input(dy).input(at).output(dx);
    launch.numbers([outer * inner, n, inner]).run([outer * inner, 1, 1])
}
