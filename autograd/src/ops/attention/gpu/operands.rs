//! Operands of attention as a GPU's kernels take them.

use kernels::ptx::Storage;
use tensor::cuda::Launch;
use tensor::{Cuda, DType, Device, Result, Tensor};

use super::super::super::product::stored;
use super::WIDTHS;
use crate::scope;

/// Elements that kernels read at once, where rows of operands are made of them: copies for tensor
/// cores take 8 of bf16, the others 4. Rows begin at multiples of them.
fn chunk(storage: Storage, width: usize) -> u32 {
    match storage {
        Storage::Bf16 => 8,
        _ if width.is_multiple_of(4) => 4,
        _ => 1,
    }
}

/// How q, k and v go to the kernels: as they are where they are alike, else widened; but in bf16
/// where products of any float go to tensor cores, and those are made for heads of this width.
pub(super) fn storage(operands: &[&Tensor], width: usize) -> Result<Storage> {
    if scope::is_autocast() && WIDTHS.contains(&width) {
        return Ok(Storage::Bf16);
    }
    let first = stored("attention", operands[0])?;
    for x in operands {
        if stored("attention", x)? != first {
            return Ok(Storage::F32);
        }
    }
    Ok(first)
}

/// \[B, S, H·D\] stored so, with adjacent channels, and rows that begin where chunks do.
pub(super) fn prepared(x: &Tensor, storage: Storage, width: usize) -> Tensor {
    let x = x.to_dtype(match storage {
        Storage::F32 => DType::F32,
        Storage::Bf16 => DType::BF16,
        Storage::F16 => DType::F16,
    });
    let chunk = chunk(storage, width);
    let is_chunks = |stride: &usize| stride.is_multiple_of(chunk as usize);
    let is_aligned = x.is_aligned(chunk) && strides(&x).iter().all(is_chunks);
    match (x.strides()[2] == 1 || x.shape()[2] == 1) && is_aligned {
        true => x,
        false => x.contiguous().aligned(chunk),
    }
}

/// Elements from sample to sample and from token to token.
fn strides(x: &Tensor) -> [usize; 2] {
    [0, 1].map(|axis| if x.shape()[axis] > 1 { x.strides()[axis] } else { 0 })
}

/// Adds an operand and its strides.
pub(super) fn view<'a>(launch: Launch<'a>, x: &'a Tensor) -> Launch<'a> {
    launch.view(x).numbers(strides(x))
}

/// How many of each sample's keys are padding.
pub(super) fn padding(gpu: &Cuda, len: &[usize], tokens: usize) -> Result<Tensor> {
    let padding = len.iter().map(|len| (tokens - len) as i32).collect();
    Tensor::from_vec(padding, [len.len()])?.to_device(&Device::Cuda(gpu.clone()))
}
