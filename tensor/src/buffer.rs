//! Where elements live: pooled memory of our own, a file mapped into memory, or a GPU's memory.
//!
//! **Invariant: a typed view is made only of initialised bytes, suitably aligned, of a type for
//! which every bit pattern is a value.** This file needs no `unsafe` for it: blocks are vectors of
//! 64-byte lines that start as zeros, or anonymous maps that the kernel zeroes and pieces of those
//! ([`pool`](crate::pool)), and [`bytemuck`] casts byte slices to `Pod` elements after checking
//! alignment. Memory that comes back from the pool holds stale numbers, not
//! uninitialised ones: reading it is a bug, but not undefined behaviour.

use std::ops::Range;

use bytemuck::Pod;
use memmap2::Mmap;

use crate::cuda::{self, Cuda};
use crate::io::map;
use crate::pool::Block;

/// The bytes behind one or more tensors.
pub(crate) enum Storage {
    /// Memory from the pool, returned to it on drop; and the bytes asked for, of the block's many.
    Pooled(Block, usize),
    /// A file. Read-only: writing to a tensor of it copies the tensor first.
    Mapped(Mmap),
    /// A GPU's memory. Its bytes are not at hand: what wants to see them has asked first.
    Device(cuda::Memory),
}

impl Storage {
    /// `bytes` bytes with unspecified contents.
    ///
    /// In builds with debug assertions every byte is set to `0xFF`, a NaN in each float format,
    /// so that a kernel that leaves elements unwritten shows.
    pub(crate) fn uninit(bytes: usize) -> Self {
        let mut block = Block::take(bytes);
        if cfg!(debug_assertions) {
            block.bytes_mut()[..bytes].fill(0xFF);
        }
        Self::Pooled(block, bytes)
    }

    /// `bytes` zeros; memory fresh from the operating system is not touched.
    pub(crate) fn zeros(bytes: usize) -> Self {
        let mut block = Block::take(bytes);
        if !block.is_zeroed() {
            block.bytes_mut()[..bytes].fill(0);
        }
        Self::Pooled(block, bytes)
    }

    /// A copy of bytes that lie elsewhere, perhaps unaligned.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut block = Block::take(bytes.len());
        block.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Self::Pooled(block, bytes.len())
    }

    /// The bytes, as far as they are in this machine's memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(block, bytes) => &block.bytes()[..*bytes],
            Self::Mapped(map) => map,
            Self::Device(_) => &[],
        }
    }

    /// The bytes for writing, or `None` where they are a file's or a GPU's.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Pooled(block, bytes) => Some(&mut block.bytes_mut()[..*bytes]),
            Self::Mapped(_) | Self::Device(_) => None,
        }
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Device(memory) => memory.bytes(),
            _ => self.bytes().len(),
        }
    }

    /// The addresses of the bytes, in whichever memory they are.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = match self {
            Self::Device(memory) => memory.address().unwrap_or(0) as usize,
            _ => self.bytes().as_ptr().addr(),
        };
        start..start + self.len()
    }

    /// The GPU whose memory it is.
    pub(crate) fn cuda(&self) -> Option<&Cuda> {
        match self {
            Self::Device(memory) => Some(memory.gpu()),
            Self::Pooled(..) | Self::Mapped(_) => None,
        }
    }

    /// Gives back the memory of bytes that can be read from a file again.
    pub(crate) fn unload(&self, bytes: Range<usize>) {
        if let Self::Mapped(map) = self {
            map::unload(map, bytes);
        }
    }

    /// As many whole elements as the bytes hold.
    pub(crate) fn elements<T: Pod>(&self) -> &[T] {
        let bytes = self.bytes();
        bytemuck::cast_slice(&bytes[..bytes.len() / size_of::<T>() * size_of::<T>()])
    }

    /// As many whole elements as the bytes hold, for writing; `None` as for
    /// [`bytes_mut`](Self::bytes_mut).
    pub(crate) fn elements_mut<T: Pod>(&mut self) -> Option<&mut [T]> {
        let bytes = self.bytes_mut()?;
        let whole = bytes.len() / size_of::<T>() * size_of::<T>();
        Some(bytemuck::cast_slice_mut(&mut bytes[..whole]))
    }

    /// The device's name, as errors print it.
    pub(crate) fn device_name(&self) -> String {
        self.cuda().map_or_else(|| "cpu".to_owned(), Cuda::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_cover_whole_elements_only() {
        let mut storage = Storage::zeros(11);
        assert_eq!(storage.elements::<f32>(), &[0.0; 2]);
        assert_eq!(storage.bytes().as_ptr().align_offset(64), 0);
        storage.elements_mut::<u16>().unwrap()[4] = 0x0102;
        assert_eq!(&storage.bytes()[8..10], &0x0102_u16.to_ne_bytes());
        assert_eq!(Storage::copy_of(&[1, 2, 3]).elements::<u8>(), &[1, 2, 3]);
        assert!(Storage::zeros(0).elements::<f64>().is_empty());
    }
}
