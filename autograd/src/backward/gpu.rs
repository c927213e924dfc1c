//! Gradients of parts of a tensor on a GPU.

use kernels::elementwise::exprs::Add;
use kernels::elementwise::ptx;
use kernels::ptx::Storage;
use tensor::{Cuda, Error, Result, Tensor};

/// Adds `part` to the elements of `sum` from `start` of `axis` on, which alone are read and written.
pub(super) fn add_part(
    gpu: &Cuda,
    sum: &mut Tensor,
    part: &Tensor,
    axis: usize,
    start: usize,
) -> Result<()> {
    *sum = sum.contiguous();
    let (lengths, whole) = (*sum.shape(), sum.strides().to_vec());
    let launch = ptx::Launch::scattered(part.shape(), [part.strides(), &whole, &whole]);
    let launch = launch.map_err(|text| {
        Error::shape("sum of gradients", text).operand("sum", &lengths).operand("part", part)
    })?;
    let kernel = gpu.kernel(&format!("add part {:?}", launch.layout), || {
        ptx::kernel("add", &Add, [Storage::F32; 2], launch.layout)
    })?;
    let kernel = kernel.view(part).update(sum, start * whole[axis]);
    kernel.numbers(launch.numbers.into_iter().map(|n| n as usize)).run([launch.len, 1, 1])
}
